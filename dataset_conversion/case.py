"""One case of a conversion: its job, files and record. A worker process needs no more."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Literal

import numpy as np
from nibabel.spatialimages import HeaderDataError

from arena_pipeline.io.atomic import replace_when_done
from arena_pipeline.io.dataset import CHANNEL_SUFFIX
from arena_pipeline.io.filestate import WrittenFile
from arena_pipeline.io.geometry import Geometry, Image
from arena_pipeline.io.images import write_image, write_segmentation
from arena_pipeline.io.json_files import StoredModel
from arena_pipeline.io.nifti import is_gzip
from arena_pipeline.settings import Frozen

ENDING = ".nii.gz"


class ConversionJob(Frozen):
    """One case to convert; each converter adds where its labels come from.

    Attributes:
        part: "Tr" for training cases, "Ts" for queries.
        dataset: the dataset folder written to.
        image: the raw CT.
        labels: structure -> integer, as in dataset.json.
        kept: files below `dataset` that somebody has changed since they were converted: they are not written again.
    """

    identifier: str
    part: Literal["Tr", "Ts"]
    dataset: Path
    image: Path
    labels: dict[str, int]
    kept: tuple[str, ...] = ()

    def inputs(self) -> list[Path]:
        """Every raw file this case is made from."""
        return [self.image]

    def copied_bytes(self, device: int) -> int:
        """How many bytes of the CT have to be copied to that device (its st_dev): none if the raw file can be linked there."""
        state = self.image.stat() if self.image.is_file() else None
        return state.st_size if state is not None and state.st_dev != device else 0

    @property
    def image_out(self) -> Path:
        return self.dataset / f"images{self.part}" / f"{self.identifier}{CHANNEL_SUFFIX}{ENDING}"

    @property
    def segmentation_out(self) -> Path:
        return self.dataset / f"labels{self.part}" / f"{self.identifier}{ENDING}"

    @property
    def record(self) -> Path:
        return self.dataset / "conversion" / f"{self.identifier}.json"

    def is_kept(self, path: Path) -> bool:
        return path.relative_to(self.dataset).as_posix() in self.kept

    def state(self) -> str:
        """A digest of the job and of its files' sizes and times: unchanged means that converting again gives the same."""
        files = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in self.inputs() if path.is_file()]
        return hashlib.sha256(json.dumps([self.model_dump(mode="json", exclude={"dataset", "kept"}), files]).encode()).hexdigest()


class MaskOverlap(Frozen):
    """Voxels that two masks of one case both claim."""

    kept_by: str
    taken_from: str
    voxels: int


class CaseReport(StoredModel):
    """conversion/CASE.json.

    Attributes:
        outputs: file relative to the dataset folder -> its state as written; without the files that somebody has changed since.
        voxels: how many every annotated structure has, 0 where it is absent; None without a segmentation.
        ignored: raw masks that were not used, and other things worth knowing.
        labels: the job's; None in records of older versions.
    """

    identifier: str
    part: Literal["Tr", "Ts"]
    state: str
    outputs: dict[str, WrittenFile]
    voxels: dict[str, int] | None
    overlaps: tuple[MaskOverlap, ...] = ()
    ignored: tuple[str, ...] = ()
    labels: dict[str, int] | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """The files that the case consists of, whoever wrote them."""
        image = f"images{self.part}/{self.identifier}{CHANNEL_SUFFIX}{ENDING}"
        return (image,) if self.voxels is None else (image, f"labels{self.part}/{self.identifier}{ENDING}")


def place_image(job: ConversionJob, image: Image) -> None:
    """Puts the CT in place: the raw file itself (linked where the disk allows it, else copied), or, if other readers would refuse it, a new one."""
    if job.is_kept(job.image_out):
        return
    if not _opens_everywhere(job.image, image.geometry):
        write_image(job.image_out, image)
        return
    with replace_when_done(job.image_out) as temporary:
        temporary.unlink()
        try:
            os.link(job.image.resolve(), temporary)
        except OSError:  # another disk, or a file system without links
            shutil.copyfile(job.image, temporary)


def place_segmentation(job: ConversionJob, segmentation: np.ndarray, geometry: Geometry) -> None:
    """Writes the label map on the CT's grid, with the names of its labels."""
    if not job.is_kept(job.segmentation_out):
        write_segmentation(job.segmentation_out, segmentation, geometry, {"background": 0, **job.labels})


def save_report(job: ConversionJob, **facts: object) -> CaseReport:
    """Writes the case's record, after its files: only then is the case done."""
    written = [path for path in (job.image_out, job.segmentation_out) if path.is_file() and not job.is_kept(path)]
    outputs = {path.relative_to(job.dataset).as_posix(): WrittenFile.of(path) for path in written}
    own = {"identifier": job.identifier, "part": job.part, "state": job.state(), "outputs": outputs, "labels": job.labels}
    report = CaseReport.model_validate({**own, **facts})
    report.write(job.record)
    return report


def _opens_everywhere(path: Path, geometry: Geometry) -> bool:
    """Whether nibabel and SimpleITK both open the file: it is really gzip, its scaling is a number, and sform or qform has right angles."""
    header = geometry.header
    if not is_gzip(path) or header is None:
        return False
    try:
        header.get_slope_inter()
    except HeaderDataError:
        return False
    return geometry.is_orthonormal or int(header["qform_code"]) > 0
