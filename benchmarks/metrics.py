"""Surface distances of one organ against MONAI's, in one run: python benchmarks/metrics.py [--size 512 512 200].

Reference and prediction are a blob of a liver's size in a whole CT and a distorted copy of it. Compared: NSD at
1 and 2 mm and HD95 from one `surface_distances`, against `compute_surface_dice(use_subvoxels=True)` for both tolerances and
`compute_hausdorff_distance`. Prints values, ratios of time, and the ratio of peak memory (each in a process of its own).
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
import warnings
from collections.abc import Callable

import numpy as np
from scipy.ndimage import gaussian_filter, zoom

SPACING_MM = (0.8, 0.8, 2.5)
TOLERANCES_MM = (1.0, 2.0)


def organ_pair(shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A blob about a third of the field of view wide, and a copy with a surface a few voxels off here and there."""
    rng = np.random.default_rng(0)
    axes = np.meshgrid(*[np.linspace(-1, 1, n, dtype=np.float32) for n in shape], indexing="ij", sparse=True)
    radius = sum((axis / width) ** 2 for axis, width in zip(axes, (0.35, 0.25, 0.4), strict=True))
    coarse = [gaussian_filter(rng.normal(size=(32, 32, 32)), 2).astype(np.float32) for _ in range(2)]
    waves = [zoom(c / c.std(), [n / 32 for n in shape], order=1) for c in coarse]
    return radius + 0.2 * waves[0] < 1, radius + 0.2 * waves[0] + 0.03 * waves[1] < 1


def ours(reference: np.ndarray, prediction: np.ndarray) -> list[float]:
    """NSD at both tolerances and HD95 (weighted by area)."""
    from arena_pipeline.evaluate.surface import surface_distances

    distances = surface_distances(reference, prediction, SPACING_MM)
    return [*(distances.nsd(t) for t in TOLERANCES_MM), distances.hd95()]


def monai(reference: np.ndarray, prediction: np.ndarray) -> list[float]:
    """The same by MONAI; its HD95 counts surface voxels."""
    import torch
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice

    batch = [torch.from_numpy(mask)[None, None].float() for mask in (prediction, reference)]
    options = {"include_background": True, "spacing": list(SPACING_MM)}
    nsd = [float(compute_surface_dice(*batch, [t], use_subvoxels=True, **options)) for t in TOLERANCES_MM]
    return [*nsd, float(compute_hausdorff_distance(*batch, percentile=95, **options))]


METHODS: dict[str, Callable[[np.ndarray, np.ndarray], list[float]]] = {"arena": ours, "monai": monai}


def measure(name: str, file: str, repeats: int) -> tuple[list[float], float, int]:
    """Values, the best time in seconds, and the growth of this process's peak memory in bytes."""
    warnings.simplefilter("ignore")
    pair = np.load(file)  # made in another process, whose own peak would hide this one's
    METHODS[name](pair[0, :9, :9, :9], pair[1, :9, :9, :9])  # imports are not measured
    METHODS[name](*organ_pair((32, 32, 32)))  # nor are tables that are built on first use
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        values = METHODS[name](*pair)
        seconds.append(time.perf_counter() - start)
    return values, min(seconds), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024


def main() -> None:
    """Measures both and prints the comparison."""
    options = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    options.add_argument("--size", type=int, nargs=3, default=(512, 512, 200), metavar="N")
    options.add_argument("--repeats", type=int, default=2)
    args = options.parse_args()
    results = {}
    for name in METHODS:
        with tempfile.TemporaryDirectory() as folder, multiprocessing.get_context("spawn").Pool(1) as pool:
            file = f"{folder}/pair.npy"
            np.save(file, np.stack(organ_pair(tuple(args.size))))
            results[name] = pool.apply(measure, (name, file, args.repeats))
        values, seconds, memory = results[name]
        print(f"{name}: NSD 1 mm {values[0]:.6f}, NSD 2 mm {values[1]:.6f}, HD95 {values[2]:.3f} mm; {seconds:.2f} s, +{memory / 2**20:.0f} MiB")
    (own, own_seconds, own_memory), (other, other_seconds, other_memory) = results["arena"], results["monai"]
    print(f"time: {other_seconds / own_seconds:.1f} times faster than MONAI; extra memory: {own_memory / max(other_memory, 1):.3f} of MONAI's")
    print(f"largest difference in NSD: {max(abs(a - b) for a, b in zip(own[:2], other[:2], strict=True)):.1e}")


if __name__ == "__main__":
    main()
