"""Corner-aligned resampling, one axis after the other.

The first voxel's centre stays where it is: x_in = x_out * new / old, clamped at the last voxel, and there are
round((n - 1) * old / new) + 1 voxels. That is MONAI's Spacing, which the published foundations were trained behind; a
half-pixel resampler gives another size and other values. Trilinear interpolation is separable, so three passes over one
axis each give the same values as one pass over eight neighbours, at a fraction of the time and memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise, product

import numpy as np

from arena_pipeline.io.labels import UNLABELLED
from arena_pipeline.io.nearest import Sampling, Triple, effective_spacing, resampled_size, take_nearest


def resample_linear(array: np.ndarray, spacing_old: Triple, spacing_new: Triple, threads: int = 1) -> np.ndarray:
    """Trilinear interpolation to another spacing.

    Args:
        array: (x, y, z) of any real type, in any memory order; a view is fine.
        spacing_old, spacing_new: mm along (x, y, z).
        threads: used within one pass.

    Returns:
        (x', y', z') float32, in the memory order of `array`.
    """
    spacing_new = effective_spacing(spacing_old, spacing_new)
    sizes = [resampled_size(n, old, new) for n, old, new in zip(array.shape, spacing_old, spacing_new, strict=True)]
    # the axis that shrinks most goes first: the passes after it have less to do, and less is held at once
    for axis in sorted(range(3), key=lambda a: sizes[a] / array.shape[a]):
        if spacing_new[axis] != spacing_old[axis]:
            array = _along(array, axis, sizes[axis], spacing_new[axis] / spacing_old[axis], threads)
    return array.astype(np.float32, copy=False)


def resample_annotated(array: np.ndarray, axes: Sequence[Sampling]) -> np.ndarray:
    """`take_nearest` of labels among which are UNLABELLED voxels: where the nearest is one, the nearest annotated one in the new voxel.

    So slices annotated here and there are not lost between the planes of a coarser grid.
    """
    result = take_nearest(array, axes)
    reach = [range(-int(axis.step / 2 + 0.5), int(axis.step / 2 + 0.5) + 1) if axis.step > 1 else range(1) for axis in axes]
    for offsets in sorted(product(*reach), key=lambda offset: sum(o * o for o in offset)):
        indices = [axis.nearest + offset for axis, offset in zip(axes, offsets, strict=True)]
        inside = [
            (abs(index - axis.positions) <= axis.step / 2) & (index >= 0) & (index < n)
            for index, axis, n in zip(indices, axes, array.shape, strict=True)
        ]
        missing = (result == UNLABELLED) & np.logical_and.outer(np.logical_and.outer(inside[0], inside[1]), inside[2])
        where = np.nonzero(missing)
        result[where] = array[tuple(index[axis] for index, axis in zip(indices, where, strict=True))]
    return result


def neighbours(n_in: int, n_out: int, step: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lower and upper neighbour and the upper's weight of the positions 0, step, 2 step, ..., clamped to n_in voxels."""
    position = np.minimum(np.arange(n_out) * step, n_in - 1)
    lower = np.minimum(position.astype(np.intp), max(n_in - 2, 0))
    return lower, np.minimum(lower + 1, n_in - 1), (position - lower).astype(np.float32)


def _along(array: np.ndarray, axis: int, n_out: int, step: float, threads: int) -> np.ndarray:
    """One pass, plane by plane in memory order: the temporaries are single planes, which stay in the processor's cache."""
    order = sorted(range(3), key=lambda a: -abs(array.strides[a]))
    source, along = array.transpose(order), order.index(axis)
    lower, upper, weight = neighbours(array.shape[axis], n_out, step)
    shape = list(source.shape)
    shape[along] = n_out
    target = np.empty(shape, dtype=np.float32)
    if along == 0:
        _in_threads(partial(_between_planes, source, target, lower, upper, weight), n_out, threads)
    else:
        weight = weight if along == 2 else weight[:, None]
        _in_threads(partial(_within_planes, source, target, (lower, upper, weight, along - 1)), len(source), threads)
    return target.transpose(np.argsort(order))


def _between_planes(source: np.ndarray, target: np.ndarray, lower: np.ndarray, upper: np.ndarray, weight: np.ndarray, planes: range) -> None:
    for plane in planes:
        low = source[lower[plane]].astype(np.float32, copy=False)
        np.subtract(source[upper[plane]].astype(np.float32, copy=False), low, out=target[plane])
        target[plane] *= weight[plane]
        target[plane] += low


def _within_planes(source: np.ndarray, target: np.ndarray, where: tuple[np.ndarray, np.ndarray, np.ndarray, int], planes: range) -> None:
    lower, upper, weight, axis = where
    for plane in planes:
        values = source[plane].astype(np.float32)
        low = values.take(lower, axis)
        result = target[plane]
        values.take(upper, axis, out=result, mode="clip")  # mode: "raise" would go through a buffer
        result -= low
        result *= weight
        result += low


def _in_threads(work: Callable[[range], None], count: int, threads: int) -> None:
    if threads <= 1:
        work(range(count))
        return
    bounds = np.linspace(0, count, threads + 1).astype(int)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, [range(start, stop) for start, stop in pairwise(bounds)]))
