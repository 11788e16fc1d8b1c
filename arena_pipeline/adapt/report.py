"""training_log.csv, a row per finished epoch, and the picture progress.png."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from arena_pipeline.adapt.loop import Epoch
from arena_pipeline.adapt.schedule import smoothed
from arena_pipeline.io.atomic import replace_when_done
from arena_pipeline.io.space import full_disk_as_no_space
from arena_pipeline.model.architectures import layer_label


@contextmanager
def training_log(path: Path, earlier: Sequence[Epoch] = ()) -> Iterator[Callable[[Epoch], None]]:
    """Yields what adds an epoch to a CSV file as it ends: epoch, loss, learning_rate, effective_rank (sum), then one column per matrix.

    An existing file is replaced by one with the `earlier` epochs.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("w", newline="", encoding="utf-8")
    writer = csv.writer(file)

    def add(epoch: Epoch) -> None:
        ranks = epoch.effective_rank
        with full_disk_as_no_space(path):
            if not file.tell():
                writer.writerow(["epoch", "loss", "learning_rate", "effective_rank", *ranks])
            writer.writerow([epoch.epoch, f"{epoch.loss:.6f}", f"{epoch.learning_rate:.8f}", sum(ranks.values()), *ranks.values()])
            file.flush()

    try:
        for epoch in earlier:
            add(epoch)
        yield add
    finally:
        with full_disk_as_no_space(path):  # closing tries once more to write what did not fit
            file.close()


def plot_progress(path: Path, epochs: Sequence[Epoch], smoothing: int, title: str) -> None:
    """The loss with its running mean above, the effective rank of every matrix over the epochs below."""
    figure = Figure(figsize=(8, 7), layout="constrained")
    loss_axes, rank_axes = figure.subplots(2, 1, sharex=True, height_ratios=(1, 1.2))
    losses = [epoch.loss for epoch in epochs]
    index = np.arange(len(epochs))
    loss_axes.plot(index, losses, color="0.7", label="epoch")
    loss_axes.plot(index, [smoothed(losses[: i + 1], smoothing) for i in index], color="C0", label=f"mean of {smoothing} epochs")
    loss_axes.set(ylabel="loss", title=title)
    loss_axes.legend(frameon=False)
    names = list(epochs[-1].effective_rank)
    if names:
        ranks = np.array([[epoch.effective_rank[name] for epoch in epochs] for name in names])
        image = rank_axes.imshow(
            ranks, aspect="auto", interpolation="nearest", cmap="viridis", vmin=0, extent=(-0.5, len(epochs) - 0.5, len(names) - 0.5, -0.5)
        )
        rank_axes.set_yticks(range(len(names)), [layer_label(name) for name in names], fontsize=7)
        figure.colorbar(image, ax=rank_axes, label="effective rank")
    else:
        rank_axes.text(0.5, 0.5, "this method has no rank", ha="center", transform=rank_axes.transAxes)
    rank_axes.set_xlabel("epoch")
    rank_axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    with replace_when_done(path) as temporary:
        figure.savefig(temporary, dpi=110)
