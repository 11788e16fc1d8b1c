"""Which cases are shown: predictions with their CTs, one file, or the annotated cases of a raw dataset."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from arena_pipeline.errors import ArenaError, DatasetError, ImageError
from arena_pipeline.io.dataset import RawDataset
from arena_pipeline.io.dicom import find_series, only_series
from arena_pipeline.io.geometry import Image
from arena_pipeline.io.images import ImageSource, check_same_grid, read_image, read_segmentation
from arena_pipeline.io.label_names import BACKGROUND, IGNORE
from arena_pipeline.io.labels import labels_present
from arena_pipeline.io.segmentations import aligned
from arena_pipeline.predict.inputs import find_inputs, read_inputs, split_name
from arena_pipeline.predict.labels import JSON_NAME, RGB, LabelMap, colour
from arena_pipeline.predict.outputs import case_files, segmentations
from arena_pipeline.predict.review import ReviewLine, read_review
from arena_pipeline.view.facts import MOST_STRUCTURES

logger = logging.getLogger(__name__)

COMMENT = 6  # NIfTI's code of such an extension
UNNAMED = "label {}"
IGNORE_RGB: RGB = (128, 128, 128)


@dataclass(frozen=True)
class ShownCase:
    """One case before anything large is read.

    Attributes:
        segmentation: None for a CT alone.
        labels: structure -> integer in the segmentation.
        lines: of review.csv.
        origin: what made the segmentation, in words.
    """

    name: str
    ct: ImageSource
    segmentation: Path | None
    labels: Mapping[str, int]
    colours_rgb: Mapping[str, RGB]
    lines: Sequence[ReviewLine] = ()
    origin: str = ""

    @property
    def flags(self) -> list[str]:
        """What to look at, in words."""
        return [f"{line.structure.replace('_', ' ')}: {line.reasons}" for line in self.lines if line.check]

    def read(self) -> tuple[Image, np.ndarray, dict[str, int]]:
        """The CT, the segmentation on its grid (zeros without one), and the integers of the structures in it, at most 255.

        Raises:
            ArenaError: a file can't be read, or the two have different grids.
        """
        image = read_image(self.ct, warn=False)
        if self.segmentation is None:
            return image, np.zeros(image.array.shape, np.uint8), {}
        segmentation = aligned(read_segmentation(self.segmentation), image.geometry)
        check_same_grid(self.name, image.geometry, segmentation.geometry, self.segmentation)
        present = [label for label in labels_present(segmentation.array) if label]
        named = {label: name for name, label in self.labels.items()}
        labels = dict(self.labels) | {UNNAMED.format(label): label for label in present if label not in named}
        if max(labels.values(), default=0) <= MOST_STRUCTURES:
            return image, segmentation.array, labels
        return image, *self._renumbered(segmentation.array, {name: label for name, label in labels.items() if label in present})

    def _renumbered(self, array: np.ndarray, labels: Mapping[str, int]) -> tuple[np.ndarray, dict[str, int]]:
        if len(labels) > MOST_STRUCTURES:
            raise ImageError(f"{len(labels)} structures; a page shows at most {MOST_STRUCTURES}", case=self.name, file=self.segmentation)
        lookup = np.zeros(int(array.max()) + 1, np.uint8)
        for value, label in enumerate(labels.values(), start=1):
            lookup[label] = value
        return lookup[array], {name: value for value, name in enumerate(labels, start=1)}

    def colour_of(self, name: str, value: int) -> RGB:
        return self.colours_rgb.get(name) or colour(value)


def predicted_cases(folder: Path, images: Path | None = None) -> list[ShownCase]:
    """The cases that arena_predict wrote into `folder`, those to look at first at the top.

    Args:
        images: where their CTs are; None: where they were when they were predicted.

    Raises:
        ArenaError: no segmentation there, or not one whose CT is found.
    """
    if not folder.is_dir():
        found = "this is a file" if folder.exists() else "no such file or folder"
        raise DatasetError(found, file=folder, advice="name the folder that arena_predict -o wrote")
    names = sorted(segmentations(folder))
    if not names:
        found = "no segmentation CASE.nii.gz and no CT slices"
        raise DatasetError(found, file=folder, advice="name the folder that arena_predict -o wrote, that of a DICOM series, or a file")
    label_map = LabelMap.read(folder) if (folder / JSON_NAME).is_file() else None
    lines = [line for path in sorted(folder.glob("review*.csv")) for line in read_review(path)]
    order = {case: place for place, case in reversed(list(enumerate(line.case for line in lines if line.check)))}
    sources = _Sources(folder, images)
    cases, missing = [], []
    for name in sorted(names, key=lambda name: (order.get(name, len(lines)), name)):
        try:
            ct = sources.of(name)
        except ArenaError as error:
            missing.append(error)
            continue
        file = case_files(folder, name).segmentation
        cases.append(_predicted(name, ct, file, label_map, [line for line in lines if line.case == name]))
    if not cases:
        raise missing[0]
    for fault in dict.fromkeys(map(str, missing)):  # a folder's fault is that of all its cases
        logger.warning("left out: %s", fault)
    return cases


def one_case(path: Path, images: Path | None = None) -> ShownCase:
    """A segmentation file with its CT, or a CT alone: what has a CT, named or recorded by arena_predict, is a segmentation."""
    parts = split_name(path)
    if parts is None or (images is None and parts[0] not in read_inputs(path.parent)):
        ((name, ct),) = find_inputs(path).items()
        return ShownCase(name, ct, None, {}, {})
    name = parts[0]
    if images is not None and not images.is_dir():
        ((_, ct),) = find_inputs(images).items()
    else:
        ct = _Sources(path.parent, images).of(name)
    label_map = LabelMap.read(path.parent) if (path.parent / JSON_NAME).is_file() else None
    lines = [line for file in sorted(path.parent.glob("review*.csv")) for line in read_review(file) if line.case == name]
    return _predicted(name, ct, path, label_map, lines)


def dicom_case(folder: Path) -> ShownCase | None:
    """The CT alone of a folder with the slices of a DICOM series; None for one that has none, or that arena_predict wrote.

    Raises:
        ImageError: several series.
    """
    if segmentations(folder) or (folder / JSON_NAME).is_file() or not (found := find_series(folder)[0]):
        return None
    series = found[0] if len(found) == 1 else only_series(folder)
    return ShownCase(series.name, series, None, {}, {})


def dataset_cases(raw: RawDataset) -> list[ShownCase]:
    """The training cases and the queries of a raw dataset, with their annotations where they have some."""
    labels = dict(raw.json.structures) | ({IGNORE: raw.json.ignore_label} if raw.json.ignore_label is not None else {})
    colours = {name: colour(label) for name, label in raw.json.structures.items()} | {IGNORE: IGNORE_RGB}
    cases = [*raw.training.values(), *raw.queries.values()]
    return [ShownCase(case.identifier, case.image, case.segmentation, labels, colours, origin=raw.folder.name) for case in cases]


class _Sources:
    """Case -> its CT; each folder of CTs is looked through once."""

    def __init__(self, folder: Path, images: Path | None) -> None:
        self._folder, self._images, self._recorded = folder, images, read_inputs(folder)
        self._found: dict[Path, dict[str, ImageSource]] = {}

    def of(self, case: str) -> ImageSource:
        advice = "name the CTs' folder with -i"
        place = self._images or (Path(self._recorded[case]) if case in self._recorded else None)
        if place is None:
            raise DatasetError("its CT is not recorded here", case=case, file=self._folder, advice=advice)
        if place not in self._found:
            if not place.exists():
                raise DatasetError("its CT is not there any more", case=case, file=place, advice=advice)
            self._found[place] = find_inputs(place)
        if case not in self._found[place]:
            raise DatasetError("no CT of this case", case=case, file=place, advice=advice)
        return self._found[place][case]


def _predicted(name: str, ct: ImageSource, file: Path, label_map: LabelMap | None, lines: Sequence[ReviewLine]) -> ShownCase:
    if label_map is None:
        labels = _labels_inside(file)
        return ShownCase(name, ct, file, labels, {}, lines)
    model = "/".join(Path(label_map.source.get("model", "")).parts[-3:])  # DATASET/FOUNDATION/METHOD: the folders above are private
    origin = ", ".join(part for part in (model, label_map.source.get("foundation", "")) if part)
    return ShownCase(name, ct, file, label_map.structures, label_map.colours_rgb, lines, origin)


def _labels_inside(file: Path) -> dict[str, int]:
    """The names that arena_predict leaves in a NIfTI's comment; none in other files."""
    try:
        extensions = getattr(nib.load(file).header, "extensions", ())
        texts = [extension.get_content() for extension in extensions if extension.get_code() == COMMENT]
        found = json.loads(texts[0])["labels"]
        return {str(name): int(label) for name, label in found.items() if name != BACKGROUND}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, nib.filebasedimages.ImageFileError):
        return {}
