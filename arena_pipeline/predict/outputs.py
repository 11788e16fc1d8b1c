"""The folder that arena_predict writes: held for one command, with room, and what an earlier run left in it."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from arena_pipeline.errors import ArenaError, DatasetError, ImageError
from arena_pipeline.io.atomic import remove_unfinished
from arena_pipeline.io.damage import damage
from arena_pipeline.io.images import ImageSource, check_same_grid, read_geometry, read_segmentation
from arena_pipeline.io.lock import locked, numbered_part
from arena_pipeline.io.space import require_space
from arena_pipeline.predict.preview import PREVIEW_FOLDER
from arena_pipeline.predict.probabilities import SUFFIX
from arena_pipeline.preprocess.masks import PREPROCESSED_FOLDER
from arena_pipeline.words import counted, without_advice

logger = logging.getLogger(__name__)

SEGMENTATION_BYTES_PER_VOXEL = 0.002  # compressed; these two are low, so that nobody is refused wrongly
PROBABILITY_BYTES_PER_VOXEL = 0.02  # and structure, compressed


@contextmanager
def held(folder: Path, cases: Sequence[str], part: int, parts: int) -> Iterator[None]:
    """Holds the folder, or this command's part of it, and removes what a killed run left half-written of these cases.

    Raises:
        FolderInUse: another command writes there.
        NoSpace: nothing can be written there.
    """
    with locked(folder, numbered_part(part, parts)):
        endings = {folder: (".nii.gz", SUFFIX), folder / PREVIEW_FOLDER: (".png",), folder / PREPROCESSED_FOLDER: (".npz",)}
        for place, ends in endings.items():
            for path in remove_unfinished(place, [f"{case}{end}" for case in cases for end in ends]):
                logger.info("removing %s, left by an interrupted run", path)
        yield


def require_room(folder: Path, inputs: Mapping[str, ImageSource], outputs: Mapping[str, Path], probability_maps: int) -> None:
    """Checks the disk for the segmentations that are not there yet, each with so many maps of probabilities.

    Raises:
        NoSpace: they do not fit.
    """
    missing = [source for case, source in inputs.items() if not outputs[case].is_file()]
    each = SEGMENTATION_BYTES_PER_VOXEL + PROBABILITY_BYTES_PER_VOXEL * probability_maps
    require_space(folder, int(each * sum(_voxels(source) for source in missing)), f"predicting {counted(len(missing), 'case')}")


def is_complete(case: str, source: ImageSource, output: Path, others: Sequence[Path]) -> bool:
    """Whether the segmentation and everything else asked for is there and whole: files are read, not just looked at."""
    if not all(path.is_file() for path in (output, *others)):
        return False
    try:
        check_same_grid(case, read_geometry(source), read_segmentation(output).geometry, output)
    except (ImageError, DatasetError) as error:
        logger.info("%s: predicted again: %s", case, without_advice(error))
        return False
    damaged = [reason for path in others if (reason := damage(path)) is not None]
    if damaged:
        logger.info("%s: predicted again: %s", case, "; ".join(damaged))
    return not damaged


def _voxels(source: ImageSource) -> int:
    """0 for an image whose header can't be read, which is told when its turn comes."""
    try:
        return math.prod(read_geometry(source).shape)
    except ArenaError:
        return 0
