"""Fixtures that the tests share: small real files."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

os.environ.setdefault("MPLBACKEND", "Agg")
if "PYTEST_XDIST_WORKER" in os.environ:
    # Several test processes share the cores: threads inside each would only fight. Set before numpy and torch load.
    for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(_variable, "1")

import nibabel
import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from arena_pipeline.io.dataset import DatasetJson
from arena_pipeline.workspace import ENVIRONMENT_VARIABLE, Workspace

# A shell starts what it puts in the background with Ctrl-C ignored, and so would all commands be that the tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

REAL_DATA_VARIABLE = "ARENA_TEST_DATA"
DEAR = ("cluster", "adapted", "prepared", "browser")
"""Fixtures that take long to make: the tests of one run in one process (pytest -n 2 --dist loadgroup), which makes it once, and first."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for name in DEAR:
            if name in getattr(item, "fixturenames", ()):
                item.add_marker(pytest.mark.xdist_group(f"{item.path.parent.name} {name}"))


@pytest.fixture(autouse=True)
def _no_outer_workspace(monkeypatch: pytest.MonkeyPatch) -> None:
    """A workspace of the person running the tests must not be found by them."""
    monkeypatch.delenv(ENVIRONMENT_VARIABLE, raising=False)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A workspace in a path with a space and letters beyond ASCII, not made yet."""
    return Workspace(tmp_path / "my wörkspace")


@pytest.fixture
def default_workspace(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """The workspace that is found without -w, so that the commands need not name it."""
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(workspace.root))
    return workspace


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20250721)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with real CTs that $ARENA_TEST_DATA names; skips where it is not set."""
    named = os.environ.get(REAL_DATA_VARIABLE)
    if not named or not Path(named).is_dir():
        pytest.skip(f"no real CTs: ${REAL_DATA_VARIABLE} is {named or 'not set'}")
    return Path(named)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """small_disk("256k", read_only=False): the root of a file system of that size. Skips where the tests may mount none."""
    mounted = []

    def mount(size: str, read_only: bool = False) -> Path:
        place = tmp_path / f"disk {len(mounted)}"
        place.mkdir()
        options = f"size={size}{',ro' if read_only else ''}"
        try:
            ended = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], capture_output=True, text=True, check=False)
        except FileNotFoundError:
            pytest.skip("no mount command here")
        if ended.returncode:
            pytest.skip(f"no small file system can be mounted here: {ended.stderr.strip()}")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", "--lazy", str(place)], check=True)  # libraries may keep a file open whose writing failed


@pytest.fixture
def write_nifti() -> Callable[..., Path]:
    """write_nifti(path, array (x, y, z), spacing_mm or 4x4 affine): a .nii.gz file, its folder made."""

    def write(path: Path, array: np.ndarray, spacing_mm: tuple[float, float, float] | np.ndarray = (1.5, 1.5, 1.5)) -> Path:
        affine = np.diag([*spacing_mm, 1.0]) if np.ndim(spacing_mm) == 1 else np.asarray(spacing_mm)
        path.parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(array, affine), path)
        return path

    return write


@pytest.fixture
def tiny_dataset(workspace: Workspace, write_nifti: Callable[..., Path], rng: np.random.Generator) -> Callable[..., Path]:
    """tiny_dataset(dataset_id=901, cases=3, objective="binary", size=24): a raw dataset in the standard layout, with cubes in HU noise.

    Cases case_0, case_1, ... in imagesTr/labelsTr and query_0 in imagesTs/labelsTs; labels liver = 1 (60 HU) and spleen = 2 (110 HU).
    """

    def make(dataset_id: int = 901, cases: int = 3, objective: str = "binary", size: int = 24) -> Path:
        folder = workspace.raw / f"Dataset{dataset_id:03d}_Tiny"
        names = [("Tr", f"case_{index}") for index in range(cases)] + [("Ts", "query_0")]
        for part, name in names:
            segmentation = np.zeros((size, size, size), np.uint8)
            third = size // 3
            segmentation[2:third, 3:third, 4:third] = 1
            segmentation[-third:-2, -third:-3, -third:-4] = 2
            image = rng.normal(-20, 10, segmentation.shape) + np.array([0, 80, 130])[segmentation]
            write_nifti(folder / f"images{part}" / f"{name}_0000.nii.gz", image.astype(np.int16))
            write_nifti(folder / f"labels{part}" / f"{name}.nii.gz", segmentation)
        labels = {"background": 0, "liver": 1, "spleen": 2}
        description = DatasetJson(channel_names={"0": "CT"}, labels=labels, numTraining=cases, file_ending=".nii.gz", objective=objective)
        description.write(folder / "dataset.json")
        return folder

    return make


class SliceWriter(Protocol):
    def __call__(self, folder: Path, hu: np.ndarray, **changes: object) -> list[Path]: ...


@pytest.fixture
def write_ct_series() -> SliceWriter:
    return _write_ct_series


def _write_ct_series(
    folder: Path,
    hu: np.ndarray,
    spacing_mm: tuple[float, float, float] = (0.8, 0.9, 2.5),
    orientation: tuple[float, ...] = (1, 0, 0, 0, 1, 0),
    origin: tuple[float, float, float] = (-5, 7, 3),
    shift_mm: tuple[float, float, float] = (0, 0, 0),
    edit: Callable[[int, Dataset], None] = lambda index, dataset: None,
    study: str = "1.2.826.0.1.3680043.8.498.1",
) -> list[Path]:
    """hu (x, y, z) as a CT series, slice z in file z.dcm: spacing along columns, rows and slices; `shift_mm` (LPS) is added per slice."""
    folder.mkdir(parents=True, exist_ok=True)
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    files = []
    for index, plane in enumerate(np.moveaxis(hu, 2, 0)):
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, f"{study}.2.{index + 1}"
        dataset.file_meta.MediaStorageSOPClassUID, dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPClassUID, dataset.SOPInstanceUID
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = study, f"{study}.2", f"{study}.3"
        dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate, dataset.PatientSex = "Mustermann^Erika", "4711-0815", "19640812", "F"
        dataset.Modality, dataset.ImageType, dataset.SeriesNumber, dataset.InstanceNumber = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"], 2, 100 - index
        dataset.StudyID, dataset.StudyDate, dataset.StudyTime, dataset.AccessionNumber = "5", "20240229", "101112", "ACC99887"
        dataset.ReferringPhysicianName, dataset.Manufacturer, dataset.PatientPosition = "", "Maker", "HFS"
        dataset.PositionReferenceIndicator = ""
        dataset.ImageOrientationPatient = [float(x) for x in orientation]
        position = np.array(origin) + index * (np.cross(row, column) * spacing_mm[2] + np.array(shift_mm))
        dataset.ImagePositionPatient = [float(x) for x in position]
        dataset.PixelSpacing, dataset.SliceThickness = [spacing_mm[1], spacing_mm[0]], spacing_mm[2]
        dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = 1, -1024, "HU"
        dataset.Columns, dataset.Rows = plane.shape
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
        dataset.PixelData = (plane.T + 1024).astype("<u2").tobytes()
        edit(index, dataset)
        files.append(folder / f"{index}.dcm")
        dataset.save_as(files[-1], enforce_file_format=True)
    return files
