"""An iteration of an adaptation and a volume's windows, with and without our speed-ups: python -m benchmarks.step [-device cuda] [--rounds 5].

Whole iterations, as arena_adapt runs them: patches drawn from a stored volume, forward, backward, the optimizer's step and ARENA's; then windows as
arena_predict runs them, one to eight at once. All variants of one network take turns in one run:

    MONAI            MONAI's own network, channels last, in float32 (TF32 on a GPU)
    before           ours in float32, torch's own instance norms
    float32          the same with norms that stay channels last
    bfloat16         autocast; torch's norms
    now              autocast, and norms that stay channels last: what every command does on such a GPU
    compiled         `now` under torch.compile, which no command uses: this is to see whether it would help

The last two columns compare a step's gradients (cosine) and the logits (largest difference) with those in float32. On a GPU feature_size is 48, with
six patches of 96^3; else it is 12, with two of 64^3, and only the first three variants run: a processor without instructions for bfloat16 is 50
times as slow in it (--variants names others).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from arena_pipeline.adapt.batches import SupportVolume
from arena_pipeline.adapt.loop import Adaptation, accumulate_gradients
from arena_pipeline.adapt.prepare import prepare_
from arena_pipeline.foundations import FoundationPreset, load_preset
from arena_pipeline.model.allocator import keep_freed_memory
from arena_pipeline.model.architectures import SwinUnetr
from arena_pipeline.model.architectures.channels_last import ChannelsLastInstanceNorm
from arena_pipeline.model.device import pick_device, to_device
from arena_pipeline.model.precision import Precision
from arena_pipeline.planning import TaskPlan
from arena_pipeline.preprocess.store import StoredCase, write_case
from arena_pipeline.settings import AdaptationSettings, PrecisionName
from benchmarks.export import make_grid
from benchmarks.network import FULL, SMALL, monai_channels_last, patches_of

NOVEL = TaskPlan(
    name="new", structures={"new": 1}, kind="novel", train_decoder=True, head="new", keep_largest={"new": True}, candidates=("a",), max_shots=1
)
VARIANTS: dict[str, tuple[PrecisionName, bool, bool]] = {  # precision, norms that stay channels last, compiled
    "MONAI": ("fp32", False, False),
    "before": ("fp32", False, False),
    "float32": ("fp32", True, False),
    "bfloat16": ("bf16", False, False),
    "now": ("bf16", True, False),
    "compiled": ("bf16", True, True),
}
Call = tuple[str, int]  # (variant, 0): a step; (variant, n): windows, n at once
WINDOWS_AT_ONCE = (1, 2, 4, 8)
ITERATIONS = 4  # per epoch; only after an epoch is the device waited for


def variant(name: str, preset: FoundationPreset, device: torch.device, patches: int) -> tuple[nn.Module, AdaptationSettings]:
    precision, channels_last, compiled = VARIANTS[name]
    torch.manual_seed(0)
    architecture = cast(SwinUnetr, preset.architecture)
    network = to_device(monai_channels_last(architecture) if name == "MONAI" else architecture.build(), device)
    for module in network.modules():
        if isinstance(module, ChannelsLastInstanceNorm) and not channels_last:
            module.__class__ = nn.InstanceNorm3d
    if compiled:
        network.compile()
    return network, AdaptationSettings(precision=precision, patches_per_volume=patches, micro_batch=patches, max_epochs=10**6, stop_window=0)


def steps(network: nn.Module, preset: FoundationPreset, settings: AdaptationSettings, case: StoredCase) -> Iterator[None]:
    """An epoch of ITERATIONS at every `next`."""
    device = next(network.parameters()).device
    trainable = prepare_(network, preset, NOVEL, settings, torch.Generator().manual_seed(0), ITERATIONS)
    network.to(device)
    support = [SupportVolume.open(case, [1])] * ITERATIONS
    adaptation = Adaptation(network, trainable, support, settings, preset.scheme.patch_size_voxels, np.random.default_rng(0))
    batches = adaptation._draw()
    while True:
        adaptation._epoch(0, batches)
        yield


@contextmanager
def stored(size: int) -> Iterator[StoredCase]:
    """A volume of noise with a cube in it."""
    images, segmentations = patches_of(1, size)
    with tempfile.TemporaryDirectory() as folder:
        write_case(Path(folder), "a", images[0, 0].numpy(), segmentations[0].numpy(), make_grid((size,) * 3), np.random.default_rng(0))
        yield StoredCase.open(Path(folder), "a")


def fidelity(network: nn.Module, images: Tensor, segmentations: Tensor, precision: Precision) -> tuple[Tensor, Tensor]:
    """Gradients of everything, as one vector, and logits."""
    network.requires_grad_(True).zero_grad()
    accumulate_gradients(network, images, segmentations, precision=precision)
    gradients = torch.cat([p.grad.flatten().cpu() for p in network.parameters() if p.grad is not None])
    network.zero_grad()
    with torch.no_grad(), precision.autocast():
        return gradients, network(images.to(precision.device)).float().cpu()


def predict(network: nn.Module, windows: Tensor, at_once: int, precision: Precision) -> None:
    with torch.inference_mode(), precision.autocast():
        for part in windows.split(at_once):
            network(part.to(precision.device)).float().cpu()


def compare(device: torch.device, rounds: int, architecture: SwinUnetr, patches: int, size: int, windows: int, names: Sequence[str]) -> str:
    """A markdown table."""
    preset = load_preset("arena_mini").model_copy(update={"architecture": architecture, "structures": {}})
    preset = preset.model_copy(update={"scheme": preset.scheme.model_copy(update={"patch_size_voxels": (size,) * 3})})
    volume, batch = torch.rand(windows, 1, size, size, size), patches_of(1, size)
    found, calls, peaks = dict[str, tuple[Tensor, Tensor]](), dict[Call, Callable[[], object]](), dict[str, float]()
    with stored(2 * size) as case:
        for name in names:
            network, settings = variant(name, preset, device, patches)
            precision = Precision.of(settings.precision, device)
            found[name] = fidelity(network, *batch, precision)
            iterations = steps(network, preset, settings, case)
            calls[name, 0] = lambda iterations=iterations: next(iterations)  # type: ignore[misc]
            for count in WINDOWS_AT_ONCE:
                calls[name, count] = lambda n=network, k=count, p=precision: predict(n, volume, k, p)  # type: ignore[misc]
        best = in_turn(calls, rounds, peaks, device)
    whole = f"{torch.cuda.get_device_name(device) if device.type == 'cuda' else device}, feature_size {architecture.feature_size}, {size}^3"
    columns = [whole, f"step of {patches} patches", "faster by", "peak memory"]
    columns += [f"{windows} windows, {count} at once" for count in WINDOWS_AT_ONCE] + ["gradients", "logits"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name in names:
        step, before = best[name, 0] / ITERATIONS, best[names[0] if "before" not in names else "before", 0] / ITERATIONS
        gradients, logits = (torch.stack((found["float32" if "float32" in names else names[0]][part], found[name][part])).double() for part in (0, 1))
        cells = [name, f"{step:.3f} s", f"{before / step:.2f} x", f"{peaks[name]:.1f} GiB" if name in peaks else "-"]
        cells += [f"{best[name, count]:.2f} s" for count in WINDOWS_AT_ONCE]
        cells += [f"{float(nn.functional.cosine_similarity(*gradients, dim=0)):.6f}", f"{float((logits[0] - logits[1]).abs().max()):.1e}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def in_turn(calls: dict[Call, Callable[[], object]], rounds: int, peaks: dict[str, float], device: torch.device) -> dict[Call, float]:
    """Each call's seconds in its best round, after one to warm up; puts the GiB that steps take at their peak into `peaks`."""
    seconds: dict[Call, float] = {}
    for number in range(rounds + 1):
        for (name, count), call in calls.items():
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            started = time.perf_counter()
            call()
            if number:
                seconds[name, count] = min(seconds.get((name, count), float("inf")), time.perf_counter() - started)
            if device.type == "cuda" and not count:
                peaks[name] = torch.cuda.max_memory_allocated(device) / 2**30
    return seconds


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    options.add_argument("-device", default="cpu")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--variants", nargs="+", choices=tuple(VARIANTS), help="default: all on a GPU, else those in float32")
    args = options.parse_args()
    device = pick_device(args.device)
    keep_freed_memory()
    on_gpu = device.type == "cuda"
    names = args.variants or [name for name, (precision, *_) in VARIANTS.items() if on_gpu or precision == "fp32"]
    print(compare(device, args.rounds, *((FULL, 6, 96, 80) if on_gpu else (SMALL, 2, 64, 8)), names))


if __name__ == "__main__":
    main()
