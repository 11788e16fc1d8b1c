"""An nnU-Net v2 model folder, DatasetNNN_NAME/TRAINER__PLANS__CONFIGURATION, as a preset and the checkpoint that belongs to it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import RootModel, ValidationError

from arena_pipeline.errors import FoundationError
from arena_pipeline.foundations.presets import INSTALLED_RECORD, OWN_NAME, FoundationPreset, Weights, preset_names
from arena_pipeline.io.filestate import SourceFile
from arena_pipeline.io.json_files import read_model
from arena_pipeline.model.nnunet_plans import architecture_of, configuration_of, scheme_of, structures_of
from arena_pipeline.workspace import Workspace

CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth")
HOMES = ("TOTALSEG_WEIGHTS_PATH", "TOTALSEG_HOME_DIR")
OWN_DATASETS = re.compile(r"Dataset(29[1-578]|83[1-7])_TotalSegmentator_(part[1-5]_[a-z]+|total_[36]mm)_\d+subj(_v\d+)?")  # of versions 2 and 3
NOT_STATED = "not stated"
PREFERENCE = 20  # after the foundations that ARENA was published with, before an encoder alone
CITATION = "Isensee et al., nnU-Net, Nature Methods 18 (2021) 203"
TOTALSEGMENTATOR_CITATION = "Wasserthal et al., TotalSegmentator, Radiology: Artificial Intelligence 5 (2023) e230024; " + CITATION


@dataclass(frozen=True)
class NnunetModel:
    """What a model folder gives.

    Attributes:
        folder: TRAINER__PLANS__CONFIGURATION.
        checkpoint: of the fold that was chosen.
        configuration, trainer: what the checkpoint must say of itself, and who trained it.
        choices: what was decided where the folder leaves a choice, in sentences.
    """

    preset: FoundationPreset
    folder: Path
    checkpoint: Path
    configuration: str
    trainer: str
    choices: tuple[str, ...]


@dataclass(frozen=True)
class FoundModel:
    """A model folder of TotalSegmentator's that is not installed. `problem` is what keeps it from being used."""

    folder: Path
    structures: int
    licence: str
    problem: str | None
    next_command: str | None


def read_nnunet_folder(folder: Path, name: str | None = None, fold: str | None = None) -> NnunetModel:
    """The preset of a model folder, and which checkpoint to read.

    Args:
        folder: of one configuration, or the dataset's folder above it where there is only one.
        name: of the foundation; None: the dataset's name without DatasetNNN_.
        fold: "0" to "4" or "all"; None: the only one, else 0, else all.

    Raises:
        FoundationError: no nnU-Net v2 model, several where one is meant, or one that can't be used; says why and what to do.
    """
    folder = _model_folder(folder.expanduser().absolute())
    trainer, configuration_name = folder.name.split("__")[0], folder.name.split("__")[-1]
    plans, dataset = (_read(folder / file) for file in ("plans.json", "dataset.json"))
    canonical = is_totalsegmentator(folder)
    try:
        configuration = configuration_of(plans, configuration_name)
        structures = structures_of(dataset)
        architecture = architecture_of(configuration, len(structures) + 1)
        scheme = scheme_of(plans, configuration, canonical)
    except FoundationError as error:
        raise FoundationError(error.found, file=folder, advice=error.advice) from None
    except (KeyError, TypeError, IndexError, ValueError, AttributeError) as error:
        found = f"plans.json or dataset.json is not as nnU-Net v2 writes it ({type(error).__name__}: {error})"
        raise FoundationError(found, file=folder, advice=COPY_ADVICE) from None
    checkpoint, choices = _checkpoint(folder, fold)
    if canonical:
        choices += ("images are turned to RAS first, as TotalSegmentator does",)
    content = {
        "name": _name(name, str(plans.get("dataset_name", folder.parent.name))),
        "title": f"nnU-Net {configuration_name} of {plans.get('dataset_name', folder.parent.name)}, {checkpoint.parent.name.replace('_', ' ')}",
        "architecture": architecture,
        "scheme": scheme,
        "head": "softmax",
        "structures": structures,
        "weights": Weights(
            expected_file=str(checkpoint.relative_to(folder.parents[1])), layout="nnunet", origin=f"the nnU-Net model {folder.parent.name}"
        ),
        "preference": PREFERENCE,
        "licence": str(dataset.get("licence") or dataset.get("license") or NOT_STATED),
        "citation": str(dataset.get("reference") or (TOTALSEGMENTATOR_CITATION if canonical else CITATION)),
    }
    try:
        preset = FoundationPreset.model_validate(content)
    except ValidationError as error:
        raise FoundationError(f"the model can't be used: {error.errors(include_url=False)[0]['msg']}", file=folder, advice=COPY_ADVICE) from None
    return NnunetModel(preset, folder, checkpoint, configuration_name, trainer, choices)


COPY_ADVICE = "copy the model folder again from where it was trained or downloaded"


def is_totalsegmentator(folder: Path) -> bool:
    """Whether it is one of TotalSegmentator's own, which sees images turned to RAS whatever plans.json says of the reader.

    Somebody's own training that only has TotalSegmentator in its name is none.
    """
    own = OWN_DATASETS.fullmatch(folder.parent.name) is not None
    return own or ".totalsegmentator" in folder.parts or any(place.absolute() in folder.parents for place in _places())


def found_models(workspace: Workspace) -> Iterator[FoundModel]:
    """TotalSegmentator's own models on this machine of which no checkpoint is a foundation of the workspace, whatever that is called."""
    installed = list(_installed_sources(workspace))
    for folder in sorted({model for place in _places() for dataset in place.glob("Dataset*") for model in _configurations(dataset)}):
        try:
            preset = read_nnunet_folder(folder).preset
        except FoundationError as error:
            yield FoundModel(folder, 0, "unknown", error.found, None)
            continue
        checkpoints = [path for name in CHECKPOINTS for path in folder.glob(f"fold_*/{name}")]
        if not any(source.is_still(path) for source in installed for path in checkpoints):
            command = workspace.command("arena_install_foundation", str(folder))
            yield FoundModel(folder, len(preset.structures), preset.licence, None, command)


def _installed_sources(workspace: Workspace) -> Iterator[SourceFile]:
    """The checkpoints that the workspace's foundations were read from; of hundreds of MB, hashed only where size but not time is the same."""
    for path in workspace.foundations.glob(f"*/{INSTALLED_RECORD}"):
        with suppress(OSError, ValueError, KeyError, TypeError):  # a damaged record is told where the foundations are listed
            record = json.loads(path.read_text(encoding="utf-8"))
            yield SourceFile(
                name=record["source_file"],
                bytes=record["source_bytes"],
                modified_ns=record.get("source_modified_ns", 0),
                changed_ns=record.get("source_changed_ns"),
                sha256=record["source_sha256"],
            )


def _places() -> list[Path]:
    """Where TotalSegmentator keeps its models."""
    places = [Path(os.environ[HOMES[0]])] if os.environ.get(HOMES[0]) else []
    home = Path(os.environ.get(HOMES[1]) or Path.home() / ".totalsegmentator")
    return [*places, home / "nnunet" / "results"]


def _configurations(folder: Path) -> Iterator[Path]:
    return (path.parent for path in sorted(folder.glob("*__*__*/plans.json")))


def _model_folder(folder: Path) -> Path:
    if (folder / "plans.json").is_file() and folder.name.count("__") == 2:
        return folder
    inside = list(_configurations(folder))
    if len(inside) == 1:
        return inside[0]
    if inside:
        raise FoundationError(f"several models: {', '.join(path.name for path in inside)}", file=folder, advice="name the folder of one of them")
    if any(folder.glob("**/plans.pkl")) or any(folder.glob("**/*.model")):
        raise FoundationError("a model of nnU-Net v1 (plans.pkl), expected one of v2", file=folder, advice="train it again with nnU-Net v2")
    if not folder.is_dir():
        raise FoundationError("no such folder", file=folder, advice="name a folder such as DatasetNNN_NAME/nnUNetTrainer__nnUNetPlans__3d_fullres")
    raise FoundationError(
        "no plans.json in a folder named TRAINER__PLANS__CONFIGURATION, expected an nnU-Net v2 model folder",
        file=folder,
        advice="name a folder such as DatasetNNN_NAME/nnUNetTrainer__nnUNetPlans__3d_fullres, as nnU-Net or TotalSegmentator made it",
    )


def _read(path: Path) -> dict[str, Any]:
    return read_model(path, RootModel[dict[str, Any]], FoundationError, f"no such file; {COPY_ADVICE}", COPY_ADVICE).root


def _checkpoint(folder: Path, fold: str | None) -> tuple[Path, tuple[str, ...]]:
    folds = {path.name.removeprefix("fold_"): path for path in sorted(folder.glob("fold_*")) if any((path / name).is_file() for name in CHECKPOINTS)}
    if not folds:
        raise FoundationError(f"no fold_*/{CHECKPOINTS[0]}", file=folder, advice=COPY_ADVICE)
    if fold is not None and fold not in folds:
        raise FoundationError(f"no fold {fold}, it has: {', '.join(folds)}", file=folder, advice="name one of them with -f")
    chosen = fold or next((name for name in (*(folds if len(folds) == 1 else ()), "0", "all") if name in folds), next(iter(folds)))
    said: tuple[str, ...] = () if fold or len(folds) == 1 else (f"fold {chosen} of {', '.join(folds)} is taken; -f names another",)
    path = next(folds[chosen] / name for name in CHECKPOINTS if (folds[chosen] / name).is_file())
    if path.name != CHECKPOINTS[0]:
        said += (f"{path.name} is taken: training was not finished",)
    return path, said


def _name(asked: str | None, dataset_name: str) -> str:
    name = asked or re.sub(r"[^A-Za-z0-9_-]", "_", re.sub(r"^Dataset\d+_", "", dataset_name))
    if OWN_NAME.fullmatch(name) is None:
        raise FoundationError(f"-n {name}: expected letters, digits, - and _ alone, since folders get this name")
    if name in preset_names():
        raise FoundationError(f"{name} is the name of a foundation of the package", advice="give this one another name with -n")
    return name
