"""arena_review: the pages of arena_view from a server of this computer, with a pen; corrections become training cases."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from arena_pipeline.arguments import plain_arguments
from arena_pipeline.errors import ArenaError
from arena_pipeline.io.dataset import DatasetJson, RawDataset
from arena_pipeline.io.images import read_geometry
from arena_pipeline.io.space import require_writable
from arena_pipeline.predict.labels import JSON_NAME, LabelMap
from arena_pipeline.view.cases import predicted_cases
from arena_pipeline.view.corrections import CORRECTIONS, SavedCorrection, save_correction
from arena_pipeline.view.page import IndexRow, address, case_page, index_page
from arena_pipeline.view.reviewing import ReviewedCase, check_structures
from arena_pipeline.view.server import ReviewServer
from arena_pipeline.view.writing import Neighbours, Shown, structures_in_words
from arena_pipeline.workspace import Workspace


@contextmanager
@plain_arguments
def review(path: str | Path, dataset_id: int, workspace: Workspace, *, images: str | Path | None = None, port: int = 0) -> Iterator[ReviewServer]:
    """A server that listens, for a `with`; call its `serve_forever`.

    Args:
        path: a folder that arena_predict wrote.
        dataset_id: the raw dataset that corrections go to.
        images: where the CTs are; None: where they were when they were predicted.
        port: 0 for any that is free.

    Raises:
        ArenaError: no such dataset, no prediction whose CT is found, a dataset that can't be written.
    """
    server = ReviewServer(_Review(Path(path), workspace, workspace.dataset_name(dataset_id), None if images is None else Path(images)), port)
    try:
        yield server
    finally:
        with server.lock:  # a correction that is being saved is saved
            server.server_close()


class _Review:
    """The cases of one folder of predictions, and the dataset that their corrections go to."""

    def __init__(self, folder: Path, workspace: Workspace, dataset_name: str, images: Path | None) -> None:
        self._workspace, self._dataset_name, self._folder = workspace, dataset_name, folder
        dataset = workspace.raw_dataset(dataset_name)
        check_structures(DatasetJson.read(dataset / "dataset.json"), dataset)
        require_writable(dataset)
        self._cases = {case.name: ReviewedCase(case, dataset) for case in predicted_cases(folder, images)}
        self._voxels = {name: _voxels(case) for name, case in self._cases.items()}
        known = LabelMap.read(folder).source if (folder / JSON_NAME).is_file() else {}
        self._foundation = known.get("foundation")

    def cases(self) -> Mapping[str, int]:
        return self._voxels

    def index(self) -> str:
        raw, _ = RawDataset.survey(self._workspace.raw_dataset(self._dataset_name))
        saved = (raw.json.model_extra or {}).get(CORRECTIONS, {})
        rows = []
        for name, case in self._cases.items():
            words = structures_in_words({line.structure: line.volume_ml for line in case.shown.lines})
            state = "saved" if name in saved else "a training case already" if name in raw.training else ""
            rows.append(IndexRow(name, f"{address(name)}/", [] if state else case.shown.flags, words, state))
        return index_page(f"{self._folder.name}, corrections go to {self._dataset_name}", rows)

    def show(self, case: str) -> Shown:
        names = list(self._cases)
        place = names.index(case)
        before, after = names[place - 1] if place else None, names[place + 1] if place + 1 < len(names) else None
        return self._cases[case].page(Neighbours(before and f"../{address(before)}/", after and f"../{address(after)}/"))

    def page(self, case: str, shown: Shown) -> str:
        return case_page(case, shown.facts, "../", {})

    def save(self, case: str, upload: Path, structures: list[str], changed: bool) -> SavedCorrection:
        correction = self._cases[case].correction(upload, structures, changed)
        return save_correction(correction, self._workspace, self._dataset_name, self._foundation)


def _voxels(case: ReviewedCase) -> int:
    try:
        x, y, z = read_geometry(case.shown.ct).shape
    except ArenaError:
        return 0  # told when its page is opened
    return x * y * z
