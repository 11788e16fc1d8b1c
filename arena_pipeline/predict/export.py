"""From probabilities on the preprocessed grid to a segmentation on the image's own grid.

A native voxel is looked up at x_ras * native_spacing / scheme_spacing - crop_start, where x_ras is its index after turning
the axes to RAS (corner-aligned, clamped to the resampled volume, like the resampling on the way in). Probabilities are
interpolated linearly; around the crop lies background: probability 0 of every structure, 1 of the background.

Structures are taken one by one into a running maximum, tile by tile of the native grid, so no two structures are ever at
full resolution together. A structure enters a tile only where it can win:

    An interpolated value is a weighted mean, with weights w_i >= 0 that sum to 1, of the values at the surrounding voxels i
    of the preprocessed grid. For a structure to beat the background there, sum w_i (p_i - b_i) > 0, so p_i > b_i at one of
    those i at least; to exceed a threshold t, p_i > t at one of them. (A voxel outside the crop, p = 0 and b = 1, is never
    such an i.) A tile whose source block, all i of all its voxels, has no such i can be left out without changing a label.

So the labels are those of resampling every channel to the native grid and taking the argmax (ties: the lowest label).

A structure that has rivals of its own (a `margin`) enters by its lead over the highest of them, taken after each has been interpolated; for that
it must be ahead of every one of them somewhere in the block.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import reduce
from itertools import product

import numpy as np

from arena_pipeline.preprocess.grid import GridMap

TILE_VOXELS = 64  # edge of a tile: a float32 tile is 1 MiB, which stays in a core's cache
ROUNDING = 1e-5  # the proof above is about real numbers; float32 means of values in [0, 1] stay within this of them


@dataclass(frozen=True)
class _Segment:
    """One axis of a tile: its native voxels, the source voxels they lie between, and the two weights.

    A weight is 0 where its source voxel lies outside the crop.
    """

    native: slice
    source: slice
    lower: np.ndarray
    upper: np.ndarray
    lower_weight: np.ndarray
    upper_weight: np.ndarray

    @property
    def inside(self) -> np.ndarray:
        """(n,) float32: the share of each voxel's weights that lies in the crop, 1 but at its border."""
        return self.lower_weight + self.upper_weight


Tile = tuple[_Segment, _Segment, _Segment]


def _segments(grid: GridMap, axis: int) -> list[_Segment]:
    """The segments along RAS axis `axis` that touch the crop."""
    native_voxels, length = grid.ras_shape[axis], grid.cropped_shape[axis]
    position, held = grid.positions(axis)
    lower = np.floor(position).astype(np.int64)
    fraction = (position - lower).astype(np.float32)
    lower_weight = np.where(held & (lower >= 0) & (lower < length), 1 - fraction, np.float32(0))
    upper_weight = np.where(held & (lower >= -1) & (lower < length - 1), fraction, np.float32(0))
    near, far = np.clip(lower, 0, length - 1), np.clip(lower + 1, 0, length - 1)
    segments = []
    for start in range(0, native_voxels, TILE_VOXELS):
        part = slice(start, min(start + TILE_VOXELS, native_voxels))
        if (lower_weight[part] + upper_weight[part]).any():
            first, stop = int(near[part].min()), int(far[part].max()) + 1
            weights = lower_weight[part], upper_weight[part]
            segments.append(_Segment(part, slice(first, stop), near[part] - first, far[part] - first, *weights))
    return segments


def _tiles(grid: GridMap) -> list[Tile]:
    return list(product(_segments(grid, 0), _segments(grid, 1), _segments(grid, 2)))


def _native_box(tile: Tile) -> tuple[slice, slice, slice]:
    return tile[0].native, tile[1].native, tile[2].native


def _source_box(tile: Tile) -> tuple[slice, slice, slice]:
    return tile[0].source, tile[1].source, tile[2].source


def _interpolate(channel: np.ndarray, tile: Tile, outside: float) -> np.ndarray:
    """`channel` (preprocessed grid, RAS) on the voxels of `tile`, (x, y, z) float32. Element by element the same in every tiling."""
    block = channel[_source_box(tile)]
    for axis in (2, 1, 0):  # the last step handles the most voxels: along x it copies whole planes
        segment = tile[axis]
        along = tuple(slice(None) if a == axis else None for a in range(3))
        low = block.take(segment.lower, axis=axis)
        low *= segment.lower_weight[along]
        high = block.take(segment.upper, axis=axis)
        high *= segment.upper_weight[along]
        low += high
        block = low
    if outside:
        x, y, z = (segment.inside for segment in tile)
        if min(x.min(), y.min(), z.min()) < 1 - ROUNDING:
            block += np.float32(outside) * (1 - x[:, None, None] * y[:, None] * z)
    return block


def restore_probability(channel: np.ndarray, grid: GridMap, outside: float = 0.0) -> np.ndarray:
    """One probability map on the native grid.

    Args:
        channel: (x, y, z) float32 on the preprocessed (RAS, resampled, cropped) grid.
        outside: the value around the crop: 0 for a structure, 1 for the background.

    Returns:
        float32 array of grid.native_shape, native axis order.
    """
    _check_shape(channel, grid)
    native = np.full(grid.native_shape, outside, dtype=np.float32, order="F")
    view = grid.axis_order.apply(native)
    for tile in _tiles(grid):
        view[_native_box(tile)] = _interpolate(channel, tile, outside)
    return native


class RunningMaximum:
    """Builds a native segmentation from one structure's probabilities at a time.

        maximum = RunningMaximum(grid, background)          # softmax: background is the first channel
        maximum = RunningMaximum(grid, 0.5)                 # independent binary tasks: the highest above the threshold
        maximum.add(1, spleen); maximum.add(2, liver)
        maximum.segmentation

    Args:
        grid: where the probabilities lie.
        rival: what a structure must exceed: the background's probabilities (preprocessed grid), or a threshold.
        workers: threads that share the tiles.
        dtype: of the segmentation, np.uint8 or np.uint16.
    """

    def __init__(self, grid: GridMap, rival: np.ndarray | float, workers: int = 1, dtype: type = np.uint8) -> None:
        if isinstance(rival, np.ndarray):
            _check_shape(rival, grid)
        self.grid = grid
        self.segmentation: np.ndarray = np.zeros(grid.native_shape, dtype=dtype, order="F")
        self._rival = rival
        self._tiles = _tiles(grid)
        self._best: dict[int, np.ndarray] = {}  # only of tiles that some structure has entered
        self._last_label = 0
        self._workers = workers

    def add(self, label: int, probability: np.ndarray, rivals: Sequence[np.ndarray] = ()) -> None:
        """Takes in one structure. `probability` is (x, y, z) float32 on the preprocessed grid and may be freed afterwards.

        Args:
            rivals: alike; what counts is how far `probability` leads over the highest of them.

        Raises:
            ValueError: labels do not come in ascending order (which is what makes the lowest win a tie), or a wrong shape.
        """
        _check_shape(probability, self.grid)
        if not self._last_label < label <= np.iinfo(self.segmentation.dtype).max:
            raise ValueError(f"label {label} after {self._last_label}: labels must ascend and fit {self.segmentation.dtype}")
        self._last_label = label
        with ThreadPoolExecutor(self._workers) as pool:
            list(pool.map(lambda number: self._add_to_tile(number, label, probability, rivals), range(len(self._tiles))))

    def finish(self) -> None:
        """Gives back the memory of the probabilities won so far: no structure will follow."""
        self._best.clear()

    def _add_to_tile(self, number: int, label: int, probability: np.ndarray, rivals: Sequence[np.ndarray]) -> None:
        tile = self._tiles[number]
        if not self._can_win(probability, rivals, tile):
            return
        value = _interpolate(probability, tile, 0)
        if rivals:
            value -= reduce(np.maximum, (_interpolate(rival, tile, 1) for rival in rivals))
        best = self._best.get(number)
        if best is None:
            best = self._first_best(tile)
        wins = value > best
        if wins.any():
            np.copyto(best, value, where=wins)
            np.copyto(self.grid.axis_order.apply(self.segmentation)[_native_box(tile)], label, where=wins, casting="unsafe")
        self._best[number] = best

    def _can_win(self, probability: np.ndarray, rivals: Sequence[np.ndarray], tile: Tile) -> bool:
        box = _source_box(tile)
        least = (self._rival[box] if isinstance(self._rival, np.ndarray) else self._rival) - np.float32(ROUNDING)
        own = probability[box]
        return all((own - rival[box] > least).any() for rival in rivals) if rivals else bool((own > least).any())

    def _first_best(self, tile: Tile) -> np.ndarray:
        if isinstance(self._rival, np.ndarray):
            return _interpolate(self._rival, tile, 1)
        return np.full([s.native.stop - s.native.start for s in tile], self._rival, dtype=np.float32)


def _check_shape(channel: np.ndarray, grid: GridMap) -> None:
    if channel.shape != grid.cropped_shape:
        raise ValueError(f"probabilities of shape {channel.shape}, but the preprocessed grid is {grid.cropped_shape}")
