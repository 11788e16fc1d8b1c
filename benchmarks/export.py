"""Export to the native grid against resampling every map, in one run: python benchmarks/export.py [--shape 512 512 200].

Fourteen structures of a torso (organs, lungs, and a rib cage around all of them) as smooth softmax maps on the 1.5 mm grid, to
be labelled on a 0.8 x 0.8 x 2.5 mm grid. Compared with `RunningMaximum`:
    all_maps   every map to the native grid by the same interpolation, then argmax: labels must be identical
    interpolate   the same by torch's interpolate(mode="trilinear"), all maps at once
    nnunet, nnunet_torch   the logits by nnU-Net's two functions for this, then argmax, as nnU-Net does (after `make nnunet_env`)
    scipy      every map by scipy.ndimage.affine_transform (order 1), then argmax: an interpolation written by others
The middle three align the volume's outer edges, not the voxel centres, so that labels at borders differ. All use --threads threads.
Each runs in a process of its own; the memory is that beyond the maps, with the result.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from arena_pipeline.predict.export import RunningMaximum, restore_probability
from arena_pipeline.preprocess.grid import GridMap
from benchmarks.nnunet_here import PACKAGES, use_nnunet

NATIVE_MM, SCHEME_MM = (0.8, 0.8, 2.5), (1.5, 1.5, 1.5)
STRUCTURES = 14
# Centre and half-axes as shares of the half field of view: liver, spleen, kidneys, stomach, aorta, cava, pancreas, duodenum,
# gallbladder, oesophagus, adrenal, lungs. The fourteenth is the rib cage.
ORGANS = (
    ((0.3, 0.1, -0.25), (0.35, 0.4, 0.25)), ((-0.45, -0.2, -0.25), (0.12, 0.16, 0.15)), ((0.3, -0.3, -0.5), (0.12, 0.12, 0.2)),
    ((-0.3, -0.3, -0.5), (0.12, 0.12, 0.2)), ((-0.2, 0.2, -0.3), (0.22, 0.22, 0.2)), ((-0.03, -0.2, -0.1), (0.05, 0.05, 0.9)),
    ((0.07, -0.15, -0.4), (0.05, 0.05, 0.5)), ((-0.05, 0.05, -0.5), (0.25, 0.08, 0.08)), ((0.15, 0.05, -0.55), (0.1, 0.08, 0.12)),
    ((0.3, 0.35, -0.45), (0.07, 0.09, 0.08)), ((-0.02, -0.1, 0.4), (0.04, 0.04, 0.5)), ((0.4, 0.0, 0.4), (0.3, 0.5, 0.45)),
    ((-0.4, 0.0, 0.4), (0.3, 0.5, 0.45)),
)  # fmt: skip


def make_grid(shape: tuple[int, int, int]) -> GridMap:
    """A RAS grid of `shape`, cropped by a tenth on either side of x and y (the air around a patient)."""
    resampled = tuple(round((n - 1) * old / new) + 1 for n, old, new in zip(shape, NATIVE_MM, SCHEME_MM, strict=True))
    start = (resampled[0] // 10, resampled[1] // 10, 0)
    return GridMap(
        native_shape=shape,
        axes=(0, 1, 2),
        flips=(False, False, False),
        native_spacing_mm=NATIVE_MM,
        scheme_spacing_mm=SCHEME_MM,
        resampled_shape=resampled,
        crop_start=start,
        crop_stop=(resampled[0] - start[0], resampled[1] - start[1], resampled[2]),
    )


def make_maps(grid: GridMap) -> np.ndarray:
    """(15, x, y, z) float32 softmax maps, the background first."""
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n, dtype=np.float32) for n in grid.cropped_shape], indexing="ij", sparse=True)
    ripple = 0.08 * np.sin(23 * x) * np.sin(19 * y) * np.sin(29 * z)
    maps = np.zeros((STRUCTURES + 1, *grid.cropped_shape), dtype=np.float32)
    for channel, (centre, half) in enumerate(ORGANS, start=1):
        radius = sum(((axis - c) / h) ** 2 for axis, c, h in zip((x, y, z), centre, half, strict=True))
        maps[channel] = 6 * np.clip(1 + ripple - np.sqrt(radius), -3, 3)
    wall = np.abs(np.sqrt((x / 0.9) ** 2 + (y / 0.8) ** 2) - 1) * 20
    maps[STRUCTURES] = np.clip(6 * (np.cos(40 * z) - wall), -18, 18)
    np.exp(maps, out=maps)
    maps /= maps.sum(axis=0)
    return maps


def running_maximum(maps: np.ndarray, grid: GridMap) -> np.ndarray:
    maximum = RunningMaximum(grid, maps[0], torch.get_num_threads())
    for label in range(1, len(maps)):
        maximum.add(label, maps[label])
    return maximum.segmentation


def all_maps(maps: np.ndarray, grid: GridMap) -> np.ndarray:
    full = _room_for_all(maps, grid)
    for channel, probability in enumerate(maps):
        full[..., channel] = restore_probability(probability, grid, outside=float(channel == 0))
    return _argmax(full)


def interpolate(maps: np.ndarray, grid: GridMap) -> np.ndarray:
    return _placed(torch.nn.functional.interpolate(torch.from_numpy(maps)[None], _native_crop(grid)[1], mode="trilinear")[0], grid)


def nnunet(maps: np.ndarray, grid: GridMap) -> np.ndarray:
    use_nnunet()
    from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape as resample

    return _placed(torch.as_tensor(resample(np.log(maps), _native_crop(grid)[1], SCHEME_MM, NATIVE_MM, order=1)), grid)


def nnunet_torch(maps: np.ndarray, grid: GridMap) -> np.ndarray:
    use_nnunet()
    from nnunetv2.preprocessing.resampling.resample_torch import resample_torch_fornnunet as resample

    shape, threads = _native_crop(grid)[1], torch.get_num_threads()
    return _placed(resample(torch.from_numpy(np.log(maps)), shape, SCHEME_MM, NATIVE_MM, num_threads=threads, force_separate_z=False), grid)


def _native_crop(grid: GridMap) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Where the cropped volume begins on the native grid, and its shape there."""
    ends = [[round(at * new / old) for at, new, old in zip(ats, SCHEME_MM, NATIVE_MM, strict=True)] for ats in (grid.crop_start, grid.crop_stop)]
    stop = [min(end, n) for end, n in zip(ends[1], grid.native_shape, strict=True)]
    return tuple(ends[0]), tuple(end - start for start, end in zip(ends[0], stop, strict=True))


def _placed(full: torch.Tensor, grid: GridMap) -> np.ndarray:
    """The argmax over maps of the cropped volume, in the whole one."""
    (start, shape), labels = _native_crop(grid), np.zeros(grid.native_shape, np.uint8)
    labels[tuple(slice(first, first + n) for first, n in zip(start, shape, strict=True))] = full.argmax(dim=0).numpy()
    return labels


def scipy(maps: np.ndarray, grid: GridMap) -> np.ndarray:
    from scipy.ndimage import affine_transform

    ratio = np.divide(NATIVE_MM, SCHEME_MM)
    full = _room_for_all(maps, grid)
    for channel, probability in enumerate(maps):
        resampled = np.full(grid.resampled_shape, float(channel == 0), dtype=np.float32)
        resampled[grid.crop] = probability
        affine_transform(resampled, ratio, output_shape=grid.native_shape, output=full[..., channel], order=1, mode="nearest")
    return _argmax(full)


def _room_for_all(maps: np.ndarray, grid: GridMap) -> np.ndarray:
    """(x, y, z, channels), each channel in one piece and x fastest, as images are."""
    return np.empty((*grid.native_shape, len(maps)), dtype=np.float32, order="F")


def _argmax(full: np.ndarray) -> np.ndarray:
    """By torch, which does not copy all maps first as numpy does."""
    return torch.from_numpy(full.T).argmax(dim=0).numpy().T.astype(np.uint8)


METHODS: dict[str, Callable[[np.ndarray, GridMap], np.ndarray]] = {
    one.__name__: one for one in (running_maximum, all_maps, interpolate, nnunet, nnunet_torch, scipy)
}


def measure(name: str, folder: Path, grid: GridMap, repeats: int, threads: int) -> tuple[float, int]:
    """The best time in seconds, and the growth of this process's peak memory in bytes; the labels are left in a file."""
    torch.set_num_threads(threads)
    maps = np.load(folder / "maps.npy")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        labels = METHODS[name](maps, grid)
        seconds.append(time.perf_counter() - started)
    extra = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    np.save(folder / f"{name}.npy", labels)
    return min(seconds), extra


def run(shape: tuple[int, int, int], repeats: int, methods: list[str], threads: int) -> str:
    """A markdown table."""
    grid = make_grid(shape)
    rows = [f"| export, {threads} thread(s) | time, ratio | extra memory | voxels labelled otherwise |", "|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as name, multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        folder = Path(name)
        np.save(folder / "maps.npy", make_maps(grid))
        results = {method: pool.apply(measure, (method, folder, grid, repeats, threads)) for method in methods}
        ours = np.load(folder / f"{methods[0]}.npy")
        for method, (seconds, extra) in results.items():
            differing = int((np.load(folder / f"{method}.npy") != ours).sum())
            ratio = seconds / results[methods[0]][0]
            rows.append(f"| {method} | {ratio:.1f} x ({seconds:.2f} s) | {extra / 2**30:.2f} GiB | {differing:,} of {ours.size:,} |")
    return "\n".join(rows)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    options.add_argument("--shape", type=int, nargs=3, default=(512, 512, 200), help="native grid (default: 512 512 200)")
    options.add_argument("--repeats", type=int, default=3, help="number of repeats, of which the best counts (default: 3)")
    options.add_argument("--without_scipy", action="store_true", help="leave out the slow comparison")
    options.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = options.parse_args()
    left_out = {"scipy"} if args.without_scipy else set()
    left_out |= {"nnunet", "nnunet_torch"} if PACKAGES is None else set()
    print(run(tuple(args.shape), args.repeats, [name for name in METHODS if name not in left_out], args.threads))


if __name__ == "__main__":
    main()
