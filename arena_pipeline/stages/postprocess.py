"""arena_postprocess: the plans' post-processing on a folder of segmentations."""

from __future__ import annotations

import logging
from pathlib import Path

from arena_pipeline.arguments import plain_arguments
from arena_pipeline.errors import DatasetError, PlansError
from arena_pipeline.io.dataset import check_case_name
from arena_pipeline.io.images import read_segmentation, write_segmentation
from arena_pipeline.io.labels import labels_present
from arena_pipeline.planning import Plans
from arena_pipeline.predict.inputs import find_images
from arena_pipeline.predict.labels import JSON_NAME, LabelMap
from arena_pipeline.predict.outputs import write_segmentations
from arena_pipeline.predict.postprocess import APPLIED_KEY, applied_in_words, postprocess_segmentation_

logger = logging.getLogger(__name__)


@plain_arguments
def postprocess(
    input_folder: str | Path, output_folder: str | Path, *, plans: str | Path | None = None, model_folder: str | Path | None = None
) -> dict[str, Path]:
    """Keeps the largest component of the structures for which the plans say so; returns case -> written file.

    Args:
        plans: a plans.json, or `model_folder`: the folder that holds one.

    Raises:
        PlansError: neither or both are given, or the segmentations have labels that the plans do not have.
        DatasetError: no segmentations, or input and output are one folder.
    """
    if (plans is None) == (model_folder is None):
        raise PlansError("nothing says which structures to treat, or two things do", advice="give either -plans PLANS.json or -m MODEL_FOLDER")
    rules = Plans.read(Path(plans) if plans is not None else Path(str(model_folder)) / "plans.json")
    source, out = Path(input_folder), Path(output_folder)
    inputs = find_images(source)
    for case, path in inputs.items():
        check_case_name(case, path)
    if out.resolve() in {path.parent.resolve() for path in inputs.values()}:
        raise DatasetError("input and output are the same folder", file=out, advice="choose another output folder")
    label_map = _label_map(source, rules)
    return write_segmentations(out, label_map, inputs, "postprocess", lambda case, target: _write_case(case, inputs[case], target, rules))


def _label_map(source: Path, plans: Plans) -> LabelMap:
    """That of the folder, whose integers must be the plans', with what is applied now and was before; one of the plans where there is none."""
    if not (source.is_dir() and (source / JSON_NAME).is_file()):
        return LabelMap.of(plans.labels, {"post-processed by the plans of": plans.dataset_name})
    there = LabelMap.read(source)
    if wrong := [name for name, label in there.structures.items() if plans.labels.get(name) != label]:
        found = f"{', '.join(wrong)} not numbered as in the plans of {plans.dataset_name}"
        raise PlansError(found, file=source / JSON_NAME, advice="use the plans that predicted them")
    before = there.source.get(APPLIED_KEY, "").split(", ")
    keep = {name: flag or name in before for task in plans.tasks for name, flag in task.keep_largest.items() if name in there.structures}
    return there.model_copy(update={"source": there.source | applied_in_words(keep)})


def _write_case(case: str, path: Path, target: Path, plans: Plans) -> None:
    labels = {name: label for name, label in plans.labels.items() if label}
    image = read_segmentation(path)
    segmentation = image.array.copy(order="K")
    unknown = sorted(set(labels_present(segmentation)) - {0, *labels.values()})
    if unknown:
        found = f"labels {unknown} are not in the plans of {plans.dataset_name} ({labels})"
        raise PlansError(found, case=case, file=path, advice="use the plans that predicted it")
    keep = {name: flag for task in plans.tasks for name, flag in task.keep_largest.items()}
    removed = postprocess_segmentation_(segmentation, labels, keep, case)
    logger.info("%s: removed voxels: %s", case, ", ".join(f"{name} {count}" for name, count in removed.items()) or "no structure is to be treated")
    write_segmentation(target, segmentation, image.geometry, labels)
