"""Resampling a CT to 1.5 mm against MONAI's Spacing, in one run: python benchmarks/resample.py [--shape 512 512 200].

The volume is 0.8 x 0.8 x 2.5 mm, float32, already in memory for both. MONAI's Spacing runs as it is by default (float64, all
threads); `resample_linear` with one thread and with all. Each runs in a fresh process; memory is the process's peak beyond its
libraries, so the input and the result count. Prints times and memory as ratios, and the largest difference in HU.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

try:
    from benchmarks.volumes import SHAPE, SPACING_MM, torso
except ImportError:  # started as a file
    from volumes import SHAPE, SPACING_MM, torso  # type: ignore[import-not-found,no-redef]

NEW_MM = (1.5, 1.5, 1.5)
METHODS = ("monai", "one thread", "all threads")


def monai() -> Callable[[np.ndarray], np.ndarray]:
    import torch
    from monai.data import MetaTensor
    from monai.transforms import Spacing

    spacing = Spacing(NEW_MM)
    return lambda volume: spacing(MetaTensor(torch.from_numpy(volume)[None], np.diag([*SPACING_MM, 1.0])))[0].numpy()


def ours(threads: int) -> Callable[[np.ndarray], np.ndarray]:
    from arena_pipeline.preprocess.resample import resample_linear

    return lambda volume: resample_linear(volume, SPACING_MM, NEW_MM, threads)


def status_bytes(field: str) -> int:
    """A line of /proc/self/status. Not getrusage: its peak is inherited from the parent process."""
    line = next(text for text in Path("/proc/self/status").read_text().splitlines() if text.startswith(field))
    return int(line.split()[1]) * 1024


def measure(method: str, folder: Path, repeats: int) -> None:
    """Prints the best time in seconds and the peak in bytes beyond the libraries; leaves the result in a file."""
    warnings.simplefilter("ignore")
    resample = monai() if method == "monai" else ours(1 if method == "one thread" else os.cpu_count() or 1)
    resample(np.zeros((8, 9, 10), np.float32))  # whatever is loaded on first use
    before = status_bytes("VmRSS")
    volume = np.load(folder / "volume.npy")
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        result = resample(volume)
        seconds.append(time.perf_counter() - started)
        if len(seconds) < repeats:
            del result
    peak = status_bytes("VmHWM") - before
    np.save(folder / f"{method}.npy", result)
    print(min(seconds), peak)


def run(shape: tuple[int, int, int], repeats: int) -> str:
    """A markdown table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "volume.npy", np.ascontiguousarray(torso(shape)[0].astype(np.float32)))
        found = {}
        for method in METHODS:
            command = [sys.executable, __file__, "--measure", method, name, "--repeats", str(repeats)]
            seconds, peak = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
            found[method] = float(seconds), int(peak)
        reference = np.load(folder / "monai.npy")
        title = f"resampling {' x '.join(map(str, shape))} to {' x '.join(map(str, reference.shape))}"
        rows = [f"| {title} | time | faster | peak memory | of MONAI's | apart |", "|---|---|---|---|---|---|"]
        for method, (seconds, peak) in found.items():
            ratio, share = found["monai"][0] / seconds, peak / found["monai"][1]
            apart = np.abs(np.load(folder / f"{method}.npy") - reference).max()
            rows.append(f"| {method} | {seconds:.2f} s | {ratio:.1f} x | {peak / 2**30:.2f} GiB | {share:.2f} | {apart:.4f} HU |")
    return "\n".join(rows)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    options.add_argument("--shape", type=int, nargs=3, default=SHAPE, help="input (default: 512 512 200)")
    options.add_argument("--repeats", type=int, default=3, help="of which the best counts (default: 3)")
    options.add_argument("--measure", nargs=2, metavar=("METHOD", "FOLDER"), help=argparse.SUPPRESS)
    args = options.parse_args()
    if args.measure:
        measure(args.measure[0], Path(args.measure[1]), args.repeats)
    else:
        print(run(tuple(args.shape), args.repeats))


if __name__ == "__main__":
    main()
