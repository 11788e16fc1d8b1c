"""arena_ensemble: folders of saved probabilities to one folder of segmentations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from arena_pipeline.arguments import plain_arguments
from arena_pipeline.errors import DatasetError, ImageError
from arena_pipeline.io.images import read_geometry, write_segmentation
from arena_pipeline.predict.ensemble import ensemble_segmentation
from arena_pipeline.predict.inputs import SEGMENTATION_ENDING
from arena_pipeline.predict.labels import JSON_NAME, LabelMap
from arena_pipeline.predict.outputs import write_segmentations
from arena_pipeline.predict.probabilities import SUFFIX, ProbabilityFile


@plain_arguments
def ensemble(input_folders: Sequence[str | Path], output_folder: str | Path) -> dict[str, Path]:
    """Averages CASE_probabilities.npz over the folders and writes OUT/CASE.nii.gz; returns case -> file.

    The grid is that of CASE.nii.gz in the first folder. Nothing is post-processed: see arena_postprocess.

    Raises:
        DatasetError: a folder without probabilities, or with other cases than the first.
        ImageError: files of one case that don't belong together.
    """
    folders, out = [Path(folder) for folder in input_folders], Path(output_folder)
    cases = _common_cases(folders)
    if out.resolve() in {folder.resolve() for folder in folders}:
        raise DatasetError("the ensemble would overwrite one of its members", file=out, advice="choose another output folder")
    labels = _labels(cases, folders[0])
    label_map = LabelMap.of(labels, {"ensemble of": ", ".join(str(folder) for folder in folders)}, _support_ids(labels, folders))
    return write_segmentations(out, label_map, cases, "ensemble", lambda case, target: _write_case(case, target, folders))


def _labels(cases: Sequence[str], folder: Path) -> dict[str, int]:
    """The integers of all cases. ImageError where some were predicted with others."""
    labels = {case: ProbabilityFile(folder / f"{case}{SUFFIX}").description.labels for case in cases}
    for case, own in labels.items():
        if own != labels[cases[0]]:
            found = f"labels {own}, where {cases[0]} has {labels[cases[0]]}"
            raise ImageError(found, case=case, file=folder, advice="ensemble the cases of one model at a time, each into a folder of its own")
    return labels[cases[0]]


def _write_case(case: str, target: Path, folders: list[Path]) -> None:
    files = [ProbabilityFile(folder / f"{case}{SUFFIX}") for folder in folders]
    segmentation = ensemble_segmentation(case, files)
    member = folders[0] / f"{case}{SEGMENTATION_ENDING}"
    if not member.is_file():
        raise ImageError(f"no {member}", case=case, advice="its header says where the ensemble lies, keep it beside the probabilities")
    geometry = read_geometry(member)
    if geometry.shape != segmentation.shape:
        raise ImageError(f"{member} has shape {geometry.shape}, its probabilities {segmentation.shape}", case=case, advice="predict this case again")
    write_segmentation(target, segmentation, geometry, files[0].description.labels)


def _support_ids(labels: Iterable[str], folders: list[Path]) -> dict[str, tuple[str, ...]]:
    """Structure -> the cases that any member was adapted on, as far as the members' label maps say."""
    members = [LabelMap.read(folder).support_ids for folder in folders if (folder / JSON_NAME).is_file()]
    return {name: tuple(sorted({case for member in members for case in member.get(name, ())})) for name in labels}


def _common_cases(folders: list[Path]) -> list[str]:
    if not folders:
        raise DatasetError("no folder to ensemble", advice="name at least one with -i")
    found = {folder: {path.name[: -len(SUFFIX)] for path in folder.glob(f"*{SUFFIX}")} for folder in folders}
    first = found[folders[0]]
    for folder, cases in found.items():
        if not cases:
            raise DatasetError(f"no CASE{SUFFIX} in it", file=folder, advice="make them with arena_predict --save_probabilities")
    for folder, cases in found.items():
        if cases != first:
            names = ", ".join(sorted(cases ^ first)[:5])
            raise DatasetError(
                f"other cases than in {folders[0]}: {names} in one of them only", file=folder, advice="predict them in both, or move them away"
            )
    return sorted(first)
