"""Resampling a CT to 1.5 mm, compared with other libraries in one run: python -m benchmarks.resample [--shape 512 512 200] [--threads 1 2].

The volume is 0.8 x 0.8 x 2.5 mm, float32, already in memory for all. Each other library has its best setting that gives a float32 volume by
linear interpolation, and the same number of threads:
    ours               resample_linear
    MONAI, float64     Spacing with its defaults; the values of the others are compared with these
    MONAI, float32     Spacing(dtype=float32)
    F.interpolate      torch.nn.functional.interpolate(mode="trilinear", align_corners=True), which stretches the last voxel onto the volume's end:
                       its values are not compared
    SimpleITK          ResampleImageFilter, linear
    TorchIO            Resample, linear, where it is installed (pip install -c constraints.txt -e .[benchmarks]); its grid is its own
    nnU-Net            resample_data_or_seg_to_shape(order=1), after `make nnunet_env`;
    nnU-Net, torch     its resample_torch_fornnunet(mode="linear"); both align the outer edges, so that values are not compared
Each runs in fresh processes, in turn, as many times as --rounds says; memory is the process's peak without its libraries, but with the input
and the result.
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
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.nnunet_here import PACKAGES, use_nnunet
from benchmarks.volumes import SHAPE, SPACING_MM, torso

NEW_MM = (1.5, 1.5, 1.5)
OTHER_GRID = ("F.interpolate", "TorchIO", "nnU-Net", "nnU-Net, torch")
Resample = Callable[[np.ndarray], Any]


def ours(threads: int) -> Resample:
    from arena_pipeline.preprocess.resample import resample_linear

    return lambda volume: resample_linear(volume, SPACING_MM, NEW_MM, threads)


def monai(threads: int, dtype: type = np.float64) -> Resample:
    import torch
    from monai.data import MetaTensor
    from monai.transforms import Spacing

    torch.set_num_threads(threads)
    spacing = Spacing(NEW_MM, dtype=dtype)
    return lambda volume: spacing(MetaTensor(torch.from_numpy(volume)[None], np.diag([*SPACING_MM, 1.0])))[0].numpy()


def monai_float32(threads: int) -> Resample:
    return monai(threads, np.float32)


def interpolate(threads: int) -> Resample:
    import torch

    torch.set_num_threads(threads)

    def run(volume: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            whole = torch.from_numpy(volume)[None, None]
            return torch.nn.functional.interpolate(whole, new_shape(volume.shape), mode="trilinear", align_corners=True)[0, 0].numpy()

    return run


def simpleitk(threads: int) -> Resample:
    import SimpleITK

    resample = SimpleITK.ResampleImageFilter()
    resample.SetNumberOfThreads(threads)
    resample.SetInterpolator(SimpleITK.sitkLinear)
    resample.UseNearestNeighborExtrapolatorOn()  # the last voxel may lie a little outside
    resample.SetOutputSpacing(NEW_MM)

    def run(volume: np.ndarray) -> np.ndarray:
        image = SimpleITK.GetImageFromArray(volume.T)
        image.SetSpacing(SPACING_MM)
        resample.SetSize(new_shape(volume.shape))
        return SimpleITK.GetArrayFromImage(resample.Execute(image)).T

    return run


def torchio(threads: int) -> Resample:
    import SimpleITK
    import torch
    from torchio import Resample, ScalarImage

    torch.set_num_threads(threads)
    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    resample = Resample(NEW_MM)
    return lambda volume: resample(ScalarImage(tensor=torch.from_numpy(volume)[None], affine=np.diag([*SPACING_MM, 1.0]))).data[0].numpy()


def nnunet(threads: int) -> Resample:
    use_nnunet()
    import torch
    from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape

    torch.set_num_threads(threads)
    return lambda volume: resample_data_or_seg_to_shape(volume[None], new_shape(volume.shape), SPACING_MM, NEW_MM, is_seg=False, order=1)[0]


def nnunet_torch(threads: int) -> Resample:
    use_nnunet()
    from nnunetv2.preprocessing.resampling.resample_torch import resample_torch_fornnunet as resample

    return lambda volume: resample(volume[None], new_shape(volume.shape), SPACING_MM, NEW_MM, num_threads=threads, force_separate_z=False)[0]


METHODS: dict[str, Callable[[int], Resample]] = {
    "ours": ours,
    "MONAI, float64": monai,
    "MONAI, float32": monai_float32,
    "F.interpolate": interpolate,
    "SimpleITK": simpleitk,
    "TorchIO": torchio,
    "nnU-Net": nnunet,
    "nnU-Net, torch": nnunet_torch,
}


def new_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(round((n - 1) * old / new) + 1 for n, old, new in zip(shape, SPACING_MM, NEW_MM, strict=True))


def available_methods() -> list[str]:
    """The methods whose packages are installed."""
    lacking = {"TorchIO": find_spec("torchio") is None, "nnU-Net": PACKAGES is None, "nnU-Net, torch": PACKAGES is None}
    return [name for name in METHODS if not lacking.get(name)]


def status_bytes(field: str) -> int:
    """A line of /proc/self/status. Not getrusage: its peak is inherited from the parent process."""
    line = next(text for text in Path("/proc/self/status").read_text().splitlines() if text.startswith(field))
    return int(line.split()[1]) * 1024


def measure(method: str, folder: Path, threads: int) -> None:
    """Prints the better of two times in seconds, and the peak in bytes without the libraries; leaves the result in a file."""
    warnings.simplefilter("ignore")
    resample = METHODS[method](threads)
    resample(np.zeros((8, 9, 10), np.float32))  # loads what is loaded on first use
    before = status_bytes("VmRSS")
    volume, seconds, result = np.load(folder / "volume.npy"), [], None
    for _ in range(2):
        del result
        started = time.perf_counter()
        result = resample(volume)
        seconds.append(time.perf_counter() - started)
    peak = status_bytes("VmHWM") - before
    np.save(folder / f"{method}.npy", result)
    print(min(seconds), peak)


def run(shape: tuple[int, int, int], threads: int, rounds: int) -> str:
    """A markdown table."""
    found: dict[str, list[tuple[float, int]]] = {name: [] for name in available_methods()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "volume.npy", np.ascontiguousarray(torso(shape)[0].astype(np.float32)))
        limits = {f"{library}_NUM_THREADS": str(threads) for library in ("OMP", "MKL", "OPENBLAS")}
        for _ in range(rounds):
            for method, results in found.items():
                command = [sys.executable, "-m", "benchmarks.resample", "--measure", method, name, "--threads", str(threads)]
                ended = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | limits)
                seconds, peak = ended.stdout.split()[-2:]
                results.append((float(seconds), int(peak)))
        reference = np.load(folder / "MONAI, float64.npy")
        apart = {method: np.abs(np.load(folder / f"{method}.npy") - reference).max() for method in found if method not in OTHER_GRID}
    title = f"{' x '.join(map(str, shape))} to {' x '.join(map(str, reference.shape))}, {threads} thread(s)"
    rows = [f"| {title} | time | ours is faster by | peak memory | apart |", "|---|---|---|---|---|"]
    for method, results in found.items():
        ratios = [theirs[0] / own[0] for theirs, own in zip(results, found["ours"], strict=True)]
        seconds, peak = min(results)[0], max(result[1] for result in results)
        difference = f"{apart[method]:.4f} HU" if method in apart else "-"
        rows.append(f"| {method} | {seconds:.2f} s | {min(ratios):.1f} to {max(ratios):.1f} x | {peak / 2**30:.2f} GiB | {difference} |")
    return "\n".join(rows)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    options.add_argument("--shape", type=int, nargs=3, default=SHAPE, help="input (default: 512 512 200)")
    options.add_argument("--threads", type=int, nargs="+", default=sorted({1, os.cpu_count() or 1}))
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--measure", nargs=2, metavar=("METHOD", "FOLDER"), help=argparse.SUPPRESS)
    args = options.parse_args()
    if args.measure:
        measure(args.measure[0], Path(args.measure[1]), args.threads[0])
    else:
        print("\n\n".join(run(tuple(args.shape), threads, args.rounds) for threads in args.threads))


if __name__ == "__main__":
    main()
