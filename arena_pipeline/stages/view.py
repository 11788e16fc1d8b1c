"""arena_view: a page per case, and one of all of them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from arena_pipeline.arguments import plain_arguments
from arena_pipeline.errors import ArenaError, DatasetError
from arena_pipeline.io.atomic import write_text
from arena_pipeline.io.dataset import RawDataset
from arena_pipeline.io.images import estimated_voxels
from arena_pipeline.io.lock import locked
from arena_pipeline.io.space import require_space
from arena_pipeline.view.cases import ShownCase, dataset_cases, dicom_case, one_case, predicted_cases
from arena_pipeline.view.page import IndexRow, address, case_page, index_page
from arena_pipeline.view.writing import Neighbours, show_case, structures_in_words
from arena_pipeline.workspace import Workspace

logger = logging.getLogger(__name__)

FOLDER, INDEX = "view", "index.html"
BYTES_PER_VOXEL = 0.7  # of a compressed CT in base64; low, so that nobody is refused wrongly


@dataclass(frozen=True)
class WrittenPages:
    """`index`: the page of all cases; `pages`: name of the file -> a case's page."""

    index: Path
    pages: dict[str, Path]


@plain_arguments
def view(
    path: str | Path | None,
    workspace: Workspace,
    *,
    images: str | Path | None = None,
    output_folder: str | Path | None = None,
    dataset_ids: Sequence[int] | None = None,
    cases: Sequence[str] | None = None,
) -> WrittenPages:
    """Writes VIEW/CASE.html for every case, and VIEW/index.html; each opens from the file, without a server or a network.

    Args:
        path: a folder that arena_predict wrote, a segmentation in one, or a CT, which may be a DICOM series; None: the raw datasets of the workspace.
        images: where the CTs of `path` are; None: where they were when they were predicted.
        output_folder: None: view/ beside the segmentations or the CT, or in the workspace.
        dataset_ids: of the workspace, only these datasets.
        cases: only these.

    Raises:
        ArenaError: nothing to show, or no room. A case that can't be read does not stop the others; the error at the end names all of them.
    """
    place, found = _find(path, workspace, images, dataset_ids)
    if cases is not None:
        if unknown := sorted(set(cases) - {case.name for case in found}):
            raise DatasetError(f"no case {', '.join(unknown)}; there: {', '.join(case.name for case in found)}", file=place)
        found = [case for case in found if case.name in cases]
    folder = Path(output_folder) if output_folder is not None else place / FOLDER
    require_space(folder, round(BYTES_PER_VOXEL * sum(estimated_voxels(case.ct) for case in found)), "the pages")
    with locked(folder):
        return _write(found, folder, Path(path).name if path is not None else workspace.root.name)


def _find(
    path: str | Path | None, workspace: Workspace, images: str | Path | None, dataset_ids: Sequence[int] | None
) -> tuple[Path, list[ShownCase]]:
    """Where the pages belong, and the cases."""
    given = None if images is None else Path(images)
    if path is None:
        names = workspace.dataset_names() if dataset_ids is None else [workspace.dataset_name(number) for number in dataset_ids]
        found = [case for name in names for case in dataset_cases(RawDataset.survey(workspace.raw_dataset(name))[0])]
        if not found:
            raise DatasetError("no raw dataset with a case", file=workspace.raw, advice="name what is to be shown, or another workspace with -w")
        return workspace.root, found
    if Path(path).is_file():
        return Path(path).parent, [one_case(Path(path), given)]
    if (ct := dicom_case(Path(path))) is not None:
        return Path(path).absolute().parent, [ct]
    return Path(path), predicted_cases(Path(path), given)


def _write(found: Sequence[ShownCase], folder: Path, title: str) -> WrittenPages:
    names = _page_names(found)
    pages, rows, failed = dict[str, Path](), list[IndexRow](), list[str]()
    with tqdm(found, unit="case", disable=None) as bar:
        for place, case in enumerate(bar):
            bar.set_description(case.name)
            before, after = names[place - 1] if place else None, names[place + 1] if place + 1 < len(names) else None
            try:
                shown = show_case(case, Neighbours(before and address(before), after and address(after)))
            except (ArenaError, OSError) as error:
                logger.error("not shown: %s: %s", case.name, error)
                failed.append(f"{case.name}: {error}")
                continue
            pages[names[place]] = folder / names[place]
            write_text(pages[names[place]], case_page(case.name, shown.facts, INDEX, shown.volumes))
            words = structures_in_words({one.name: one.ml for one in shown.facts.structures})
            rows.append(IndexRow(case.name, address(names[place]), case.flags, words))
            del shown
    if rows:
        write_text(folder / INDEX, index_page(title, rows))
    if failed:
        raise DatasetError(f"{len(failed)} of {len(found)} cases not shown: " + "; ".join(failed))
    return WrittenPages(folder / INDEX, pages)


def _page_names(found: Sequence[ShownCase]) -> list[str]:
    """A page per case; of cases with one name in several datasets each has its dataset's in front."""
    names = [case.name for case in found]
    return [f"{case.name if names.count(case.name) == 1 else f'{case.origin}_{case.name}'}.html" for case in found]
