"""The picture of a leave-one-out: a point per scan, and below the points their mean with its interval."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from arena_pipeline.io.atomic import replace_when_done

ROW_INCHES, WIDTH_INCHES = 0.35, 8.0


def write_picture(path: Path, scans: pd.DataFrame, summary: pd.DataFrame) -> None:
    """A row per structure, foundation and method; the scan that fits worst has its name."""
    several = summary["foundation"].nunique() > 1
    figure = Figure(figsize=(WIDTH_INCHES, 1.2 + ROW_INCHES * len(summary)), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(summary.itertuples()):
        own = scans[(scans[["structure", "foundation", "method"]] == [row.structure, row.foundation, row.method]).all(axis=1)]
        fitted = own[~own["failed"]]
        axes.plot(fitted["Dice"].astype(float), [place] * len(fitted), "o", color="#0072b2", markersize=4, alpha=0.6)
        axes.plot([row.Dice_low, row.Dice_high], [place + 0.2] * 2, color="#d55e00")
        axes.plot([row.Dice], [place + 0.2], "d", color="#d55e00")
        if isinstance(row.worst_scan, str):
            axes.text(row.worst_Dice, place - 0.12, row.worst_scan, fontsize=6, ha="center", va="bottom", parse_math=False)
    names = [f"{row.structure}, {row.method}" + (f" on {row.foundation}" if several else "") for row in summary.itertuples()]
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.set(xlim=(-0.02, 1.02), ylim=(len(names) - 0.4, -0.6), xlabel="Dice of each left-out scan; below, the mean with its 95 % interval")
    axes.grid(axis="x", linewidth=0.4)
    with replace_when_done(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
