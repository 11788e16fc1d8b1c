"""Predictions on the preprocessed grid, as the network made them: what the published protocol is computed on.

One CASE.npz per case: a boolean array (x, y, z) per structure under the structure's name, and under "grid" the GridMap as
JSON text. Masks and not a label map, because the structures of binary tasks may overlap before they are merged.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from arena_pipeline.errors import ImageError
from arena_pipeline.io.atomic import replace_when_done
from arena_pipeline.io.damage import DAMAGED
from arena_pipeline.preprocess.grid import GridMap

PREPROCESSED_FOLDER = "preprocessed"
_GRID = "grid"
_PREFIX = "structure/"


def masks_file(predictions: Path, case: str) -> Path:
    """Where the masks of a case lie in a folder of predictions."""
    return predictions / PREPROCESSED_FOLDER / f"{case}.npz"


def write_masks(path: Path, masks: Mapping[str, np.ndarray], grid: GridMap) -> None:
    """Writes one boolean mask (x, y, z) per structure, each of the grid's cropped shape; whole file or none.

    Raises:
        ImageError: a mask is not on the grid.
    """
    for structure, mask in masks.items():
        if mask.shape != tuple(grid.cropped_shape):
            raise ImageError(f"the mask of {structure} has shape {mask.shape}, its grid {tuple(grid.cropped_shape)}", file=path)
    arrays = {_PREFIX + structure: np.asarray(mask, dtype=bool) for structure, mask in masks.items()}
    with replace_when_done(path) as temporary, open(temporary, "wb") as file:
        arrays[_GRID] = np.array(grid.model_dump_json())
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # mypy takes the arrays for allow_pickle


def read_masks(path: Path, structures: tuple[str, ...]) -> tuple[dict[str, np.ndarray], GridMap]:
    """The masks of these structures, and the grid they lie on.

    Raises:
        ImageError: unreadable, or a structure is not in it.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            missing = [s for s in structures if _PREFIX + s not in stored]
            if missing:
                known = ", ".join(name[len(_PREFIX) :] for name in stored.files if name != _GRID)
                raise ImageError(f"no mask of {', '.join(missing)}", file=path, advice=f"it has: {known}")
            grid = GridMap.model_validate_json(str(stored[_GRID]))
            return {s: stored[_PREFIX + s] for s in structures}, grid
    except (*DAMAGED, ValidationError) as error:
        raise ImageError(
            f"not a readable file of preprocessed masks ({error})", file=path, advice="predict the case again with --save_preprocessed"
        ) from None
