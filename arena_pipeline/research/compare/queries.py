"""The query set of a comparison: annotated cases that no support set is drawn from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from arena_pipeline.errors import DatasetError
from arena_pipeline.evaluate.cases import is_query
from arena_pipeline.io.dataset import DatasetJson, RawDataset
from arena_pipeline.planning import TaskPlan
from arena_pipeline.preprocess.store import read_case_record


@dataclass(frozen=True)
class Query:
    """One annotated case.

    Attributes:
        structures: those of the task that are annotated in it and that it is a query for.
        ignore_label: the value of voxels that nobody annotated; None: there are none.
    """

    case: str
    image: Path
    reference: Path
    structures: tuple[str, ...]
    ignore_label: int | None = None

    def files(self, stored: Path) -> tuple[str | None, str | None, tuple[str, ...]]:
        """What a score of this case depends on: the SHA-256 of both files as they were preprocessed into `stored`, and its structures."""
        record = read_case_record(stored, self.case)
        if record is None or record.source is None or record.source.segmentation is None:
            return None, None, self.structures
        return record.source.image.sha256, record.source.segmentation.sha256, self.structures


def queries_of(task: TaskPlan, raw: RawDataset, most: int | None) -> tuple[Query, ...]:
    """The test cases of the split in dataset.json where it has any, else all of imagesTs; sorted, the first `most` of them.

    A case counts for the structures that are annotated in it.

    Raises:
        DatasetError: there is no query.
    """
    found = []
    for name, case in sorted((raw.training | raw.queries).items()):
        structures = tuple(one for one in task.structures if _is_scored(raw.json, name, one, name in raw.queries))
        if structures and case.segmentation is not None and name not in task.candidates:
            found.append(Query(name, case.image, case.segmentation, structures, raw.json.ignore_label))
    if not found:
        raise DatasetError(
            f"{task.name}: no query in {raw.folder}, so nothing can be compared",
            advice="put CTs that were kept apart into imagesTs and their segmentations into labelsTs, under the same names",
        )
    return tuple(found[:most])


def _is_scored(description: DatasetJson, case: str, structure: str, in_test_folder: bool) -> bool:
    split = description.split.get(structure) or description.split.get("*")
    listed = split is not None and bool(split.test)
    return (in_test_folder or listed) and is_query(description, case, structure) and description.is_annotated(case, structure)
