"""CASE_probabilities.npz: what --save_probabilities leaves and arena_ensemble reads.

Keys: every channel by its name ("background" for a softmax, then the structures), float16 on the CT's own grid, (x, y, z);
and "description", the JSON of a `Description`. Channels are written and read one at a time: full-resolution maps of all
structures are never in memory together.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import ValidationError

from arena_pipeline.errors import ImageError
from arena_pipeline.io.atomic import replace_when_done
from arena_pipeline.io.damage import DAMAGED
from arena_pipeline.settings import Frozen

SUFFIX = "_probabilities.npz"
DESCRIPTION = "description"


class Description(Frozen):
    """How the channels of a file become a segmentation.

    Attributes:
        labels: structure -> integer of those that are written; other channels only compete.
        activation: "softmax": argmax over all channels; "sigmoid": the highest above `threshold`.
    """

    labels: dict[str, int]
    activation: Literal["sigmoid", "softmax"]
    threshold: float


@contextmanager
def write_probabilities(path: Path, description: Description) -> Iterator[Callable[[str, np.ndarray], None]]:
    """Yields what adds one channel, (x, y, z) float32 on the native grid, stored as float16 (steps of at most 0.0005), by its name.

    The file appears at `path` when the block succeeds.
    """
    with replace_when_done(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:

        def write(name: str, array: np.ndarray) -> None:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)

        def add(name: str, probability: np.ndarray) -> None:
            write(name, probability.astype(np.float16))

        write(DESCRIPTION, np.array(description.model_dump_json()))
        yield add


class ProbabilityFile:
    """An open file; channels are read when asked for."""

    def __init__(self, path: Path) -> None:
        """Raises ImageError for a file that is not one."""
        self.path = path
        try:
            self._file = np.load(path, allow_pickle=False)
            self.description = Description.model_validate(json.loads(str(self._file[DESCRIPTION])))
        except (*DAMAGED, ValidationError) as error:
            raise ImageError(f"not a file of probabilities ({error})", file=path, advice="make it with arena_predict --save_probabilities") from None
        self.channels = tuple(name for name in self._file.files if name != DESCRIPTION)

    def read(self, channel: str) -> np.ndarray:
        """(x, y, z) float32. Raises ImageError if that part of the file is damaged."""
        try:
            return np.asarray(self._file[channel], dtype=np.float32)
        except DAMAGED as error:
            raise ImageError(f"channel {channel} can't be read ({error})", file=self.path, advice="predict this case again") from None
