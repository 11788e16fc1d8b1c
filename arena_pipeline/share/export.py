"""An adapted model as one file that can be given away: every part read, validated and written anew without names of cases."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel
from safetensors.torch import save

from arena_pipeline import __version__
from arena_pipeline.errors import PackageError
from arena_pipeline.foundations import FoundationPreset, install_command
from arena_pipeline.io.dataset import CHANNEL_SUFFIX, DatasetJson
from arena_pipeline.model.adapter import AdapterRecord, read_adapter
from arena_pipeline.model.expected import quality_sentences_of_folds
from arena_pipeline.model.model_folder import AdaptedModel
from arena_pipeline.planning import Plans
from arena_pipeline.predict.labels import LabelMap
from arena_pipeline.share.archive import ArchiveWriter, write_archive
from arena_pipeline.share.card import EvaluationSummary, licence_notice, model_card
from arena_pipeline.share.package import ADAPTER, CARD, LABELS, LICENCE, MANIFEST, PLANS, Manifest, is_installed, read_manifest


def write_package(output: Path, model: AdaptedModel, preset: FoundationPreset, evaluation: EvaluationSummary | None) -> Manifest:
    """Writes the model's package, whole or not at all. The same model gives the same bytes.

    Raises:
        AdapterError: an adapter is damaged.
        PackageError: a text that goes into the package names a case.
    """
    with write_archive(output) as package:
        records = [_add_adapter(package, task.record.task, fold, folder) for task in model.tasks for fold, folder in sorted(task.folds.items())]
        return _finish(package, model, preset, records, evaluation)


def _add_adapter(package: ArchiveWriter, task: str, fold: int, folder: Path) -> AdapterRecord:
    """Both files of one fold, read, validated and written anew, so that nothing else that may be in them goes along."""
    adapter = read_adapter(folder)
    record = adapter.record.model_copy(update={"support_ids": (), "support_sha256": None})
    package.add(f"{task}/fold_{fold}/{ADAPTER[0]}", save({name: tensor.contiguous() for name, tensor in adapter.tensors.items()}))
    package.add(f"{task}/fold_{fold}/{ADAPTER[1]}", _json(record))
    return adapter.record


def _finish(
    package: ArchiveWriter, model: AdaptedModel, preset: FoundationPreset, records: Sequence[AdapterRecord], summary: EvaluationSummary | None
) -> Manifest:
    """The rest of the package. The manifest comes last: it has the checksums of all else."""
    manifest = manifest_of(model, preset, records)
    plans = Plans.read(model.path / PLANS)
    package.add(PLANS, _json(_without_case_names(plans, list(manifest.folds))))
    package.add(LABELS, _json(LabelMap.of(plans.labels, {"model": plans.dataset_name, "foundation": preset.name, "licence": preset.licence})))
    package.add(LICENCE, licence_notice(manifest, preset).encode())
    known = quality_sentences_of_folds(folder for task in model.tasks for folder in task.folds.values())
    package.add(CARD, model_card(manifest, preset, records, summary, known).encode())
    manifest = manifest.model_copy(update={"files": dict(package.files)})
    package.add(MANIFEST, _json(manifest))
    return manifest


def manifest_of(model: AdaptedModel, preset: FoundationPreset, records: Sequence[AdapterRecord]) -> Manifest:
    """What is said of a model that is given away; `records` are those of all its folds. No files are listed yet.

    Raises:
        PackageError: a text of the preset or of the dataset's licence names a case.
    """
    plans = Plans.read(model.path / PLANS)
    cases = {case for task in plans.tasks for case in task.candidates} | {case for record in records for case in record.support_ids}
    for text in (preset.title, preset.licence, preset.citation, preset.weights.origin):
        _refuse_cases(f"the preset of {preset.name}", text, cases)
    return Manifest(
        arena_version=__version__,
        dataset_name=plans.dataset_name,
        foundation=preset.name,
        foundation_sha256=records[0].foundation_sha256,
        foundation_install=() if preset.weights.packaged else tuple(install_command(preset)[1:]),
        method=records[0].settings.method,
        shots=records[0].shots,
        folds={task.record.task: tuple(sorted(task.folds)) for task in model.tasks},
        data_licence=_data_licence(model.path, cases),
        licence=records[0].licence,
        files={},
    )


def _without_case_names(plans: Plans, tasks: Sequence[str]) -> Plans:
    """The plans of these tasks without what names cases: candidates, and reasons, which are sentences that list them.

    `max_shots` becomes 0, as for any task that can't be adapted here.
    """
    kept = tuple(task.model_copy(update={"candidates": (), "max_shots": 0}) for task in plans.tasks if task.name in tasks)
    return plans.model_copy(update={"tasks": kept, "reasons": {}})


def _data_licence(model: Path, cases: set[str]) -> str | None:
    """What the dataset says of its licence, a free text that goes into a package.

    Raises:
        PackageError: it names a case.
    """
    if is_installed(model):
        return read_manifest(model / MANIFEST).data_licence
    file = model / "dataset.json"
    if not file.is_file():
        return None
    description = DatasetJson.read(file)
    cases |= {*description.annotated, *(case for split in description.split.values() for case in (*split.train, *split.test))}
    _refuse_cases(f"{file}: its licence", description.licence or "", cases)
    return description.licence


def _refuse_cases(what: str, text: str, cases: set[str]) -> None:
    if named := sorted(case for case in cases if _is_named(case, text)):
        raise PackageError(f"{what} names the case {', '.join(named)}", advice="take the name out of that text, then export again")


def _is_named(case: str, text: str) -> bool:
    """Whether the name stands in the text by itself or in the name of a file, and not as a part of a longer word or number."""
    before, after = (r"(?<!\d\.)", r"(?!\.\d)") if case.isdecimal() else ("", "")  # CC BY 4.0 names no case 4
    return re.search(rf"(?<!\w){before}{re.escape(case)}({CHANNEL_SUFFIX})?(?!\w){after}", text) is not None


def _json(model: BaseModel) -> bytes:
    return (json.dumps(model.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n").encode()
