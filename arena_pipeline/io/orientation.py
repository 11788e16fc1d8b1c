"""Turning an array to RAS and back, exactly: axes are only permuted and flipped, no voxel is copied or changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import nibabel as nib
import numpy as np

Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class AxisOrder:
    """How a native array becomes a RAS one.

    Attributes:
        axes: native axis that becomes the RAS axis x, y, z.
        flips: whether it runs backwards, per RAS axis.
    """

    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]

    @classmethod
    def of(cls, affine: np.ndarray) -> AxisOrder:
        """The order of a grid with this affine (4, 4), voxel -> mm in RAS+; an oblique axis goes to the patient axis it is nearest to."""
        target = nib.orientations.io_orientation(affine)  # per native axis: RAS axis, direction
        source = [int(native) for native in np.argsort(target[:, 0])]
        flips = [bool(target[native, 1] < 0) for native in source]
        return cls((source[0], source[1], source[2]), (flips[0], flips[1], flips[2]))

    def ordered(self, values: Sequence[Number]) -> tuple[Number, Number, Number]:
        """Three values along the native axes, such as shape or spacing, along the RAS axes."""
        x, y, z = (values[axis] for axis in self.axes)
        return x, y, z

    def apply(self, array: np.ndarray) -> np.ndarray:
        """A RAS view of a native array."""
        return array.transpose(self.axes)[self._slices]

    def undo(self, array: np.ndarray) -> np.ndarray:
        """A native view of a RAS array: `order.undo(order.apply(array))` is `array`."""
        inverse = np.argsort(self.axes)
        return array[self._slices].transpose(inverse)

    @property
    def _slices(self) -> tuple[slice, ...]:
        return tuple(slice(None, None, -1 if flip else None) for flip in self.flips)


def to_ras(array: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, AxisOrder]:
    """A view of `array` with its axes pointing right, anterior and superior, and how to undo it."""
    order = AxisOrder.of(affine)
    return order.apply(array), order
