"""Preprocessed cases on disk: compressed arrays that patches are read from without unpacking the rest.

CASE.b2nd       image, float32 in [0, 1], (x, y, z), in blosc2 blocks of 16^3
CASE_seg.b2nd   segmentation, uint8 or uint16, on the same grid, UNLABELLED where nobody annotated; absent for a case without labels
CASE.npz        voxel positions to centre patches on, per label and of tissue
CASE.json       what it was made from and how; written last, so a case is complete if and only if this file is there
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from arena_pipeline.errors import DatasetError
from arena_pipeline.foundations import Scheme
from arena_pipeline.io.atomic import replace_when_done
from arena_pipeline.io.damage import DAMAGED
from arena_pipeline.io.filestate import SourceFile, WrittenFile
from arena_pipeline.io.json_files import StoredModel
from arena_pipeline.io.labels import UNLABELLED
from arena_pipeline.preprocess.grid import GridMap
from arena_pipeline.preprocess.positions import draw_positions, label_positions
from arena_pipeline.settings import Frozen

if TYPE_CHECKING:
    import blosc2

Index = tuple[int, int, int]

FORMAT_VERSION = 1
RECORD_ENDING = ".json"
ENDINGS = (RECORD_ENDING, ".npz", "_seg.b2nd", ".b2nd")
MAXIMAL_TISSUE_POSITIONS = 50_000
CHUNK_VOXELS = 64
BLOCK_VOXELS = 16  # a 96^3 patch off the block grid unpacks at most 7^3 blocks, 1.6 times its own voxels; larger blocks more


class Source(Frozen):
    """What a stored case was made from, and by which scheme."""

    scheme: Scheme
    image: SourceFile
    segmentation: SourceFile | None
    ignore_label: int | None = None


class CaseRecord(StoredModel):
    """CASE.json.

    Attributes:
        labels: those present after preprocessing, without the background.
        files: of the case, by the end of their names (_seg.b2nd), as they were written; empty in records of version 0.1.
        source: None for a case made in memory.
    """

    format_version: int = FORMAT_VERSION
    identifier: str
    shape: Index
    has_segmentation: bool
    labels: tuple[int, ...]
    grid: GridMap
    files: dict[str, WrittenFile] = Field(default_factory=dict)
    source: Source | None = None

    @property
    def endings(self) -> tuple[str, ...]:
        """Of the case's files besides the record."""
        return (".b2nd", ".npz", "_seg.b2nd") if self.has_segmentation else (".b2nd", ".npz")


def write_case(folder: Path, identifier: str, image: np.ndarray, segmentation: np.ndarray | None, grid: GridMap, rng: np.random.Generator) -> None:
    """Stores a case made in memory. Each file is written whole or not at all, CASE.json last.

    Args:
        image: (x, y, z) float32 in [0, 1].
        segmentation: (x, y, z) unsigned integers, or None.
        rng: draws which voxel positions are kept.

    Raises:
        DatasetError: image and segmentation differ in shape.
    """
    write_case_record(folder, write_arrays(folder, identifier, (image, segmentation), grid, rng))


def write_arrays(folder: Path, identifier: str, arrays: tuple[np.ndarray, np.ndarray | None], grid: GridMap, rng: np.random.Generator) -> CaseRecord:
    """Everything of `write_case` but CASE.json, whose content is returned; an older CASE.json is removed first."""
    image, segmentation = arrays
    if segmentation is not None and segmentation.shape != image.shape:
        raise DatasetError(
            f"image of shape {image.shape}, segmentation {segmentation.shape}", case=identifier, advice="preprocess both with one GridMap"
        )
    folder.mkdir(parents=True, exist_ok=True)
    discard(folder, identifier)
    tissue = image > (0 if grid.native_start is None else image.min())  # nnU-Net's values are 0 at the mean of the structures
    if segmentation is not None:
        tissue &= segmentation != UNLABELLED
    positions = {"tissue": draw_positions(np.flatnonzero(tissue), MAXIMAL_TISSUE_POSITIONS, image.shape, rng)}
    _write_array(folder / f"{identifier}.b2nd", image)
    if segmentation is not None:
        _write_array(folder / f"{identifier}_seg.b2nd", segmentation)
        positions |= label_positions(segmentation, rng)
    with replace_when_done(folder / f"{identifier}.npz") as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **positions)  # type: ignore[arg-type]  # numpy < 2 has no allow_pickle, which mypy takes them for
    labels = tuple(int(name) for name in positions if name != "tissue")
    record = CaseRecord(identifier=identifier, shape=image.shape, has_segmentation=segmentation is not None, labels=labels, grid=grid)
    return record.model_copy(update={"files": {ending: WrittenFile.of(folder / f"{identifier}{ending}") for ending in record.endings}})


def discard(folder: Path, identifier: str) -> None:
    """Removes a case, its record first."""
    for ending in ENDINGS:
        (folder / f"{identifier}{ending}").unlink(missing_ok=True)


def write_case_record(folder: Path, record: CaseRecord) -> None:
    """CASE.json, which makes a case complete."""
    record.write(folder / f"{record.identifier}.json")


def read_case_record(folder: Path, identifier: str) -> CaseRecord | None:
    """CASE.json, or None where the case is not complete or was made by another version."""
    record = CaseRecord.read_if_valid(folder / f"{identifier}.json")
    if record is None or record.identifier != identifier:  # a copy under another name: its record would lead to the other case's files
        return None
    complete = record.format_version == FORMAT_VERSION and all((folder / f"{identifier}{ending}").is_file() for ending in record.endings)
    return record if complete else None


def is_whole(folder: Path, record: CaseRecord) -> bool:
    """Whether the case's files are what was written: files that changed after the record are read and compared by their checksums."""
    return not _changed(folder, record)


def stored_fault(folder: Path, identifier: str) -> str | None:
    """What is wrong with a stored case, in words; None for a whole one, and where there is none."""
    left = [ending for ending in ENDINGS if (folder / f"{identifier}{ending}").exists()]
    if not left:
        return None
    record = read_case_record(folder, identifier)
    if record is not None:
        changed = _changed(folder, record)
        return f"damaged: {', '.join(changed)}" if changed else None
    if RECORD_ENDING not in left:
        return f"incomplete: no {identifier}{RECORD_ENDING}"
    return f"{identifier}{RECORD_ENDING} is damaged or of another version, or files that it names are gone"


def _changed(folder: Path, record: CaseRecord) -> list[str]:
    """Names of the case's files that are not what was written."""
    place = folder / f"{record.identifier}{RECORD_ENDING}"
    names = {ending: f"{record.identifier}{ending}" for ending in record.endings}
    return [name for ending, name in names.items() if ending not in record.files or not record.files[ending].is_still(folder / name, place)]


def _check_sizes(folder: Path, record: CaseRecord) -> None:
    for ending in record.endings:
        path, written = folder / f"{record.identifier}{ending}", record.files.get(ending)
        if written is not None and (found := path.stat().st_size) != written.bytes:
            raise _damaged(record.identifier, path, f"{found:,} bytes, expected {written.bytes:,}")


@dataclass(frozen=True, eq=False)
class StoredCase:
    """A stored case, memory-mapped: opening it reads nothing but its record."""

    folder: Path
    record: CaseRecord
    _image: blosc2.NDArray
    _segmentation: blosc2.NDArray | None
    _positions: dict[str, np.ndarray] = field(default_factory=dict)

    @staticmethod
    def exists(folder: Path, identifier: str) -> bool:
        return read_case_record(folder, identifier) is not None

    @classmethod
    def open(cls, folder: Path, identifier: str, threads: int = 1) -> StoredCase:
        """`threads`: for unpacking.

        Raises:
            DatasetError: the case is not stored there, not completely, or its files are damaged.
        """
        record = read_case_record(folder, identifier)
        if record is None:
            raise DatasetError(
                f"not preprocessed in {folder}, or not completely", case=identifier, advice="run arena_preprocess (or arena_plan_and_preprocess)"
            )
        _check_sizes(folder, record)
        image = _open_array(folder / f"{identifier}.b2nd", record, threads)
        segmentation = _open_array(folder / f"{identifier}_seg.b2nd", record, threads) if record.has_segmentation else None
        return cls(folder, record, image, segmentation)

    @property
    def identifier(self) -> str:
        return self.record.identifier

    @property
    def shape(self) -> Index:
        return self.record.shape

    @property
    def grid(self) -> GridMap:
        return self.record.grid

    @property
    def labels(self) -> tuple[int, ...]:
        """Labels present, ascending, without the background."""
        return self.record.labels

    def image(self) -> np.ndarray:
        """The whole image, (x, y, z) float32."""
        return self._unpacked(".b2nd", lambda: self._image[:])

    def segmentation(self) -> np.ndarray:
        """The whole segmentation, (x, y, z), UNLABELLED where nobody annotated; DatasetError for a case without one."""
        array = self._require_segmentation()
        return self._unpacked("_seg.b2nd", lambda: array[:])

    def image_patch(self, start: Index, size: Index) -> np.ndarray:
        """`size` voxels (x, y, z) from `start`, which may be negative; zero outside the volume. A fresh array."""
        return self._unpacked(".b2nd", lambda: _patch(self._image, start, size))

    def segmentation_patch(self, start: Index, size: Index) -> np.ndarray:
        """Like `image_patch`; DatasetError for a case without a segmentation."""
        array = self._require_segmentation()
        return self._unpacked("_seg.b2nd", lambda: _patch(array, start, size))

    def positions(self, label: int) -> np.ndarray:
        """(n, 3) int32 voxels of this label: all, or a uniform draw of 20,000; n = 0 where it is absent."""
        return self._stored_positions(str(label)) if label in self.labels else np.zeros((0, 3), np.int32)

    @property
    def tissue_positions(self) -> np.ndarray:
        """(n, 3) int32 annotated voxels with intensity > 0: all, or a uniform draw of 50,000."""
        return self._stored_positions("tissue")

    def _stored_positions(self, name: str) -> np.ndarray:
        if name not in self._positions:
            path = self.folder / f"{self.identifier}.npz"
            try:
                with np.load(path, allow_pickle=False) as stored:
                    self._positions[name] = stored[name]
            except DAMAGED as error:
                raise _damaged(self.identifier, path, error) from None
        return self._positions[name]

    def _unpacked(self, ending: str, read: Callable[[], np.ndarray]) -> np.ndarray:
        """blosc2 notices a damaged block when it unpacks it."""
        try:
            return read()
        except RuntimeError as error:
            raise _damaged(self.identifier, self.folder / f"{self.identifier}{ending}", error) from None

    def _require_segmentation(self) -> blosc2.NDArray:
        if self._segmentation is None:
            raise DatasetError("stored without a segmentation", case=self.identifier, advice="a support case needs one in labelsTr")
        return self._segmentation


def _write_array(path: Path, array: np.ndarray) -> None:
    import blosc2  # takes half a second: not for those who only predict

    chunk, block = (tuple(min(edge, n) for n in array.shape) for edge in (CHUNK_VOXELS, BLOCK_VOXELS))
    settings = {"codec": blosc2.Codec.LZ4, "clevel": 5, "filters": [blosc2.Filter.SHUFFLE], "nthreads": 1}
    with replace_when_done(path) as temporary:
        blosc2.asarray(np.ascontiguousarray(array), urlpath=str(temporary), mode="w", chunks=chunk, blocks=block, cparams=settings)


def _open_array(path: Path, record: CaseRecord, threads: int) -> blosc2.NDArray:
    import blosc2

    try:
        array = blosc2.open(str(path), mode="r", mmap_mode="r", dparams={"nthreads": threads})
    except (OSError, RuntimeError, ValueError) as error:
        raise _damaged(record.identifier, path, error) from None
    if tuple(array.shape) != record.shape:
        raise _damaged(record.identifier, path, f"shape {tuple(array.shape)}, expected {record.shape}")
    return array


def _damaged(identifier: str, path: Path, reason: object) -> DatasetError:
    advice = f"delete {path.parent / identifier}.json and run arena_preprocess again"
    return DatasetError(f"damaged ({reason})", case=identifier, file=path, advice=advice)


def _patch(array: blosc2.NDArray, start: Index, size: Index) -> np.ndarray:
    from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd  # imports torch: not for the workers that only write cases

    patch: np.ndarray = crop_and_pad_nd(array, [[first, first + length] for first, length in zip(start, size, strict=True)])
    return patch
