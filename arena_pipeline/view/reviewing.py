"""What arena_review shows and saves: predictions in the integers of the dataset that their corrections go to, and what a browser sends back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from arena_pipeline.errors import DatasetError, ImageError
from arena_pipeline.io.dataset import DatasetJson, RawDataset
from arena_pipeline.io.geometry import Geometry
from arena_pipeline.io.images import check_same_grid, estimated_voxels, grid_difference, read_geometry, read_image, read_segmentation
from arena_pipeline.io.labels import labels_present
from arena_pipeline.io.segmentations import aligned
from arena_pipeline.io.space import require_writable
from arena_pipeline.predict.labels import JSON_NAME, LabelMap
from arena_pipeline.view.cases import ShownCase, predicted_cases
from arena_pipeline.view.corrections import CORRECTIONS, Correction, SavedCorrection, save_correction
from arena_pipeline.view.facts import MOST_STRUCTURES, ReviewFacts
from arena_pipeline.view.page import IndexRow, address, case_page, index_page
from arena_pipeline.view.volumes import ShownGrid
from arena_pipeline.view.writing import Neighbours, PageContent, page_content, structures_in_words
from arena_pipeline.workspace import Workspace


@dataclass(frozen=True)
class ReviewedCase:
    """A predicted case, and the dataset: its folder is read anew for every page, since corrections change it."""

    shown: ShownCase
    dataset: Path

    def page(self, neighbours: Neighbours) -> PageContent:
        """The facts and volumes of the page, at full resolution; where the dataset has an annotation of this case, that replaces the prediction.

        Raises:
            ArenaError: a file can't be read, or the dataset has too many structures.
        """
        raw, _ = RawDataset.survey(self.dataset)
        check_structures(raw.json, self.dataset)
        image, predicted, labels = self.shown.read()
        segmentation, annotated = _in_dataset(predicted, labels, raw.json)
        state = ""
        case = raw.training.get(self.shown.name)
        if case is not None and case.segmentation is not None and self._same_ct(case.image, image.array):
            there = aligned(read_segmentation(case.segmentation), image.geometry)
            check_same_grid(self.shown.name, image.geometry, there.geometry, case.segmentation)
            known = [name for name in raw.json.structures if raw.json.is_annotated(self.shown.name, name)]
            segmentation = _annotated_over(segmentation, there.array, [raw.json.labels[name] for name in known])
            annotated = [name for name in raw.json.structures if name in known or name in annotated]
            state = _state(raw.json, self.shown.name)
        facts = ReviewFacts(dataset=raw.folder.name, annotated=tuple(annotated), state=state)
        grid = ShownGrid.of(image.geometry, most_bytes=None)
        return page_content(self.shown, image, grid, (segmentation, raw.json.structures), neighbours, facts)

    def correction(self, upload: Path, structures: Sequence[str], changed: bool) -> Correction:
        """The NIfTI file in RAS that a browser has sent, after its grid, type and labels are checked.

        Args:
            structures: those that are annotated in the whole scan; the voxels of others become background.

        Raises:
            ArenaError: it can't be a correction of this case.
        """
        description = DatasetJson.read(self.dataset / "dataset.json")
        description.require_structures(list(structures))
        if not structures:
            raise DatasetError("no structure is ticked, so nothing would be annotated", case=self.shown.name)
        geometry = read_geometry(self.shown.ct)
        grid = ShownGrid.of(geometry, most_bytes=None)
        array = _uploaded(self.shown.name, upload, grid.geometry)
        known = {0, *description.structures.values()}
        if unknown := sorted(set(labels_present(array)) - known):
            raise ImageError(f"labels {unknown}, which the dataset does not have", case=self.shown.name)
        kept = [name for name in description.structures if name in structures]
        lookup = np.zeros(256, np.uint8)
        for name in kept:
            lookup[description.labels[name]] = description.labels[name]
        native = np.ascontiguousarray(grid.order.undo(lookup[array]))
        return Correction(self.shown.name, self.shown.ct, native, kept, changed, self.shown.origin)

    def _same_ct(self, there: Path, array: np.ndarray) -> bool:
        return bool(np.array_equal(read_image(there, warn=False).array, array))


class Review:
    """The cases of one folder of predictions, and the dataset that their corrections go to."""

    def __init__(self, folder: Path, workspace: Workspace, dataset_name: str, images: Path | None) -> None:
        self._workspace, self._dataset_name, self._folder = workspace, dataset_name, folder
        dataset = workspace.raw_dataset(dataset_name)
        check_structures(DatasetJson.read(dataset / "dataset.json"), dataset)
        require_writable(dataset)
        self._cases = {case.name: ReviewedCase(case, dataset) for case in predicted_cases(folder, images)}
        self._voxels = {name: estimated_voxels(case.shown.ct) for name, case in self._cases.items()}
        known = LabelMap.read(folder).source if (folder / JSON_NAME).is_file() else {}
        self._foundation = known.get("foundation")

    def cases(self) -> Mapping[str, int]:
        """Case -> voxels of its CT."""
        return self._voxels

    def index(self) -> str:
        """The page of all cases."""
        raw, _ = RawDataset.survey(self._workspace.raw_dataset(self._dataset_name))
        saved = (raw.json.model_extra or {}).get(CORRECTIONS, {})
        rows = []
        for name, case in self._cases.items():
            words = structures_in_words({line.structure: line.volume_ml for line in case.shown.lines})
            state = "saved" if name in saved else "a training case already" if name in raw.training else ""
            rows.append(IndexRow(name, f"{address(name)}/", [] if state else case.shown.flags, words, state))
        return index_page(f"{self._folder.name}, corrections go to {self._dataset_name}", rows)

    def show(self, case: str) -> PageContent:
        """Facts and volumes as they are now."""
        names = list(self._cases)
        place = names.index(case)
        before, after = names[place - 1] if place else None, names[place + 1] if place + 1 < len(names) else None
        return self._cases[case].page(Neighbours(before and f"../{address(before)}/", after and f"../{address(after)}/"))

    def page(self, case: str, shown: PageContent) -> str:
        return case_page(case, shown.facts, "../", {})

    def save(self, case: str, upload: Path, structures: list[str], changed: bool) -> SavedCorrection:
        """Raises ArenaError for what can't be a correction of the case."""
        correction = self._cases[case].correction(upload, structures, changed)
        return save_correction(correction, self._workspace, self._dataset_name, self._foundation)


def check_structures(description: DatasetJson, folder: Path) -> None:
    """Raises DatasetError for more structures than a page can hold."""
    if len(description.labels) > MOST_STRUCTURES:
        raise DatasetError(f"{len(description.labels)} labels; a page holds at most {MOST_STRUCTURES}", file=folder)


def _uploaded(case: str, upload: Path, expected: Geometry) -> np.ndarray:
    """Its voxels, read only where its header is that of the case's page: a small file can't unpack to a large one."""
    found = read_geometry(upload)
    if (difference := grid_difference(expected, found)) is not None:
        raise ImageError(f"what was sent is on another grid: {difference}", case=case, advice="open the page again")
    if found.header is None or found.header.get_data_dtype() != np.uint8:
        raise ImageError("what was sent has not one byte per voxel", case=case, advice="open the page again")
    return read_segmentation(upload).array


def _in_dataset(predicted: np.ndarray, labels: dict[str, int], description: DatasetJson) -> tuple[np.ndarray, list[str]]:
    """The prediction by the dataset's integers, and the structures that it is about; others are not shown."""
    lookup = np.zeros(int(predicted.max()) + 1, np.uint8)
    for name, label in labels.items():
        if name in description.structures and label < len(lookup):
            lookup[label] = description.structures[name]
    return lookup[predicted], [name for name in description.structures if name in labels]


def _annotated_over(segmentation: np.ndarray, there: np.ndarray, labels: Sequence[int]) -> np.ndarray:
    """The prediction, with what is annotated already in the place of what was predicted of the same structures."""
    merged = np.where(np.isin(segmentation, labels), 0, segmentation).astype(np.uint8)
    annotated = np.isin(there, labels)
    merged[annotated] = there[annotated]
    return merged


def _state(description: DatasetJson, case: str) -> str:
    entry = (description.model_extra or {}).get(CORRECTIONS, {}).get(case)
    return "A training case already: its annotation is shown." if entry is None else f"Saved on {entry['saved'].replace('T', ' at ')[:19]}."
