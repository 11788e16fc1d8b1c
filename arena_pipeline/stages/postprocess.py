"""arena_postprocess: the plans' post-processing on a folder of segmentations."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from tqdm import tqdm

from arena_pipeline.errors import DatasetError, PlansError
from arena_pipeline.io.atomic import replace_when_done
from arena_pipeline.io.images import labels_present, read_segmentation, write_segmentation
from arena_pipeline.io.lock import locked
from arena_pipeline.planning import Plans
from arena_pipeline.predict.inputs import SEGMENTATION_ENDING, find_images
from arena_pipeline.predict.labels import ITK_SNAP_NAME, JSON_NAME, LabelMap
from arena_pipeline.predict.postprocess import postprocess_segmentation_
from arena_pipeline.records import stage

logger = logging.getLogger(__name__)


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
        raise PlansError("say which structures to treat: either -plans PLANS.json or -m MODEL_FOLDER")
    rules = Plans.read(Path(plans) if plans is not None else Path(str(model_folder)) / "plans.json")
    source, out = Path(input_folder), Path(output_folder)
    inputs = find_images(source)
    if out.resolve() in {path.parent.resolve() for path in inputs.values()}:
        raise DatasetError(f"{out}: input and output are the same folder; choose another output folder")
    labels = _labels(source, rules)
    written = {}
    with locked(out), tqdm(inputs.items(), unit="case", disable=None) as bar:
        for case, path in bar:
            bar.set_description(case)
            with stage("postprocess"):
                written[case] = _one_case(case, path, out / f"{case}{SEGMENTATION_ENDING}", (labels, rules))
        for name in (JSON_NAME, ITK_SNAP_NAME):
            if (source / name).is_file():
                with replace_when_done(out / name) as temporary:
                    shutil.copyfile(source / name, temporary)
    return written


def _labels(source: Path, plans: Plans) -> dict[str, int]:
    """The plans' integers; a labels.json beside the segmentations must agree."""
    if source.is_dir() and (source / JSON_NAME).is_file():
        there = LabelMap.read(source).structures
        if wrong := [name for name, label in there.items() if plans.labels.get(name) != label]:
            faults = f"{', '.join(wrong)} not numbered as in the plans of {plans.dataset_name}"
            raise PlansError(f"{source / JSON_NAME}: {faults}; use the plans that predicted them")
    return {name: label for name, label in plans.labels.items() if label}


def _one_case(case: str, path: Path, target: Path, rules: tuple[dict[str, int], Plans]) -> Path:
    labels, plans = rules
    image = read_segmentation(path)
    segmentation = image.array.copy(order="K")
    unknown = sorted(set(labels_present(segmentation)) - {0, *labels.values()})
    if unknown:
        faults = f"labels {unknown} in {path} are not in the plans of {plans.dataset_name} ({labels})"
        raise PlansError(f"{case}: {faults}; use the plans that predicted it")
    keep = {name: flag for task in plans.tasks for name, flag in task.keep_largest.items()}
    removed = postprocess_segmentation_(segmentation, labels, keep)
    logger.info("%s: removed voxels: %s", case, ", ".join(f"{name} {count}" for name, count in removed.items()) or "no structure is to be treated")
    write_segmentation(target, segmentation, image.geometry, labels)
    return target
