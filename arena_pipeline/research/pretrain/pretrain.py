"""arena_pretrain: makes a foundation's weights from annotated datasets, from phantoms, or from both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from safetensors.torch import save_file
from torch import Tensor

from arena_pipeline.arguments import plain_arguments
from arena_pipeline.errors import DatasetError, FoundationError
from arena_pipeline.foundations import FoundationPreset, Weights, find_preset
from arena_pipeline.io.atomic import remove_unfinished, replace_when_done, write_json
from arena_pipeline.io.dataset import RawDataset
from arena_pipeline.io.filestate import file_sha256
from arena_pipeline.io.json_files import read_model
from arena_pipeline.io.lock import all_locked, locked
from arena_pipeline.io.workers import loader_death_as_worker_died
from arena_pipeline.model.architectures import FIRST_FAMILY
from arena_pipeline.model.device import to_device
from arena_pipeline.model.weights import load_foundation_network
from arena_pipeline.records import note, stage, versions
from arena_pipeline.research.pretrain.loop import Pretraining, pretrain
from arena_pipeline.research.pretrain.patches import PatchSteps
from arena_pipeline.research.pretrain.processes import process_group
from arena_pipeline.research.pretrain.settings import PretrainSettings, make_settings
from arena_pipeline.research.pretrain.volumes import (
    Volumes,
    check_annotations,
    dataset_volumes,
    open_datasets,
    phantom_volumes,
    preprocess_volumes,
    store_phantoms,
    volumes_sha256,
    warn_of_empty_structures,
)
from arena_pipeline.settings import Frozen
from arena_pipeline.workspace import Workspace

PHANTOMS = "phantoms"


@plain_arguments
def pretrain_foundation(
    foundation: str,
    output: Path,
    workspace: Workspace,
    dataset_ids: Sequence[int] = (),
    phantoms: int = 0,
    changes: Mapping[str, Any] | None = None,
    device: str = "auto",
    workers: int = 2,
    phantom_seed: int | None = None,
    pretrained_weights: Path | None = None,
) -> Path:
    """Trains `foundation`'s network; returns output/NAME.safetensors, with its preset beside it as NAME.json.

    An interrupted run goes on from its last checkpoint. Several processes, started by torchrun, share every batch and train as
    a single one would.

    Args:
        foundation: name of a preset, or the JSON file of one's own.
        dataset_ids: raw datasets in `workspace`, each drawn from as often as the others. A structure of the foundation counts in the
            volumes where it is annotated.
        phantoms: synthetic torsos to train on, as one more dataset.
        changes: settings that replace those of the recipe for the foundation's head; see `make_settings`.
        device: auto, cpu, cuda or mps.
        workers: processes that make the volumes; in training this process and the others, one less, draw the patches. Per process of torchrun.
        phantom_seed: seed of the phantoms; None: that of the run.
        pretrained_weights: safetensors of an earlier pre-training of this network to start from, instead of random weights.

    Raises:
        ArenaError: `output` holds another run, the data can't train this head, a setting makes no sense, or the weights are not this network's.
    """
    preset = find_preset(foundation, workspace.foundations)
    preset.require_head()
    raws = open_datasets(dataset_ids, workspace)
    if not raws and not phantoms:
        raise DatasetError("nothing to train on: name datasets of the workspace with -d, or a number of --phantoms")
    start = None if pretrained_weights is None else load_foundation_network(preset, pretrained_weights)  # wrong weights: refused before any work
    with process_group(device) as (processes, own_device), locked(output) if processes.is_first else nullcontext():
        volumes = {raw.folder.name: dataset_volumes(raw, preset, workspace) for raw in raws}
        if phantoms:
            volumes[PHANTOMS] = phantom_volumes(output / PHANTOMS, preset, range(phantoms))
        check_annotations(preset, volumes)
        settings = make_settings(preset.head, sum(map(len, volumes.values())), changes or {})
        places, clip_to_unit = processes.places(settings.batch_size), preset.scheme.nnunet is None
        batches = PatchSteps(list(volumes.values()), preset.scheme.patch_size_voxels, settings, places, clip_to_unit)
        if processes.is_first:
            with stage("preprocess"), all_locked([workspace.preprocessed_dataset(raw.folder.name) for raw in raws]):
                for raw in raws:
                    preprocess_volumes(raw, preset, volumes[raw.folder.name], workers)
            _store(preset, settings, raws, volumes, output, (phantom_seed, pretrained_weights), workers)
        processes.wait()
        note("device", str(own_device))
        torch.manual_seed(settings.seed)  # MONAI initialises from the global generator
        network = preset.architecture.build() if start is None else start
        run = Pretraining(to_device(network, own_device), settings, processes)
        with stage("pretrain"), loader_death_as_worker_died(f"pre-training {preset.name}"):
            pretrain(preset, run, batches, output, workers=max(0, workers - 1))
        if processes.is_first:
            _write(preset, run, volumes, output)
    return output / f"{preset.name}.safetensors"


def _store(
    preset: FoundationPreset,
    settings: PretrainSettings,
    raws: list[RawDataset],
    volumes: dict[str, Volumes],
    output: Path,
    origin: tuple[int | None, Path | None],
    workers: int,
) -> None:
    """Checks that `output` holds no other run, then makes the phantoms that are not stored yet. `origin`: seed of the phantoms, first weights."""
    for folder in (output, output / PHANTOMS):
        remove_unfinished(folder)
    phantom_seed, start = origin
    wanted = RunDescription(
        preset=_identity(preset),
        settings=settings,
        phantoms=len(volumes.get(PHANTOMS, ())),
        phantom_seed=phantom_seed,
        pretrained_weights=None if start is None else file_sha256(start),
        datasets={raw.folder.name: volumes_sha256(volumes[raw.folder.name]) for raw in raws},
    )
    _claim(output, wanted)
    if wanted.phantoms:
        with stage("phantoms"):
            seed = settings.seed if phantom_seed is None else phantom_seed
            store_phantoms(output / PHANTOMS, preset, range(wanted.phantoms), seed, workers)
    warn_of_empty_structures(preset, volumes)


def _identity(preset: FoundationPreset) -> dict[str, Any]:
    """The part of the preset that pre-training depends on. Keys that older presets lack are left out where they have the old meaning."""
    content = preset.model_dump(mode="json", exclude={"weights", "adaptation"})
    if preset.architecture.family == FIRST_FAMILY:
        del content["architecture"]["family"]
    if preset.scheme.nnunet is None:
        del content["scheme"]["nnunet"]
    if preset.scheme.outside_body == "kept":
        del content["scheme"]["outside_body"]
    return content


class RunDescription(Frozen):
    """run.json: all that a run depends on, so that only the same run is continued in its folder.

    Attributes:
        preset: the foundation, without the keys that do not matter to its pre-training.
        phantom_seed: seed of the phantoms; None: that of the run.
        pretrained_weights: SHA-256 of the weights that it starts from; None: random ones.
        datasets: folder name -> `volumes_sha256` of the volumes drawn from it.
    """

    preset: dict[str, Any]
    settings: PretrainSettings
    phantoms: int
    phantom_seed: int | None = None
    pretrained_weights: str | None = None
    datasets: dict[str, str] = Field(default_factory=dict)


def _claim(output: Path, wanted: RunDescription) -> None:
    """Writes run.json, or checks that the one that is there is of the same run."""
    path = output / "run.json"
    if path.is_file():
        found = read_model(path, RunDescription, FoundationError, "no such file", "give another -o")
        differing = ", ".join(name for name in RunDescription.model_fields if getattr(found, name) != getattr(wanted, name))
        if differing:
            raise FoundationError(
                f"{path}: this folder holds a run with other settings (differing: {differing}); give another -o, or the same settings to continue"
            )
    write_json(path, wanted.model_dump())


def _write(preset: FoundationPreset, run: Pretraining, volumes: dict[str, Volumes], output: Path) -> None:
    """The weights, the preset that installs them, and the record of how they came to be."""
    weights = output / f"{preset.name}.safetensors"
    with replace_when_done(weights) as temporary:
        save_file(_halved(run.averaged_state()), temporary)
    origin = Weights(expected_file=weights.name, layout="arena", origin="trained with arena_pretrain; pretraining.json beside it says on what")
    write_json(output / f"{preset.name}.json", preset.model_copy(update={"weights": origin}).model_dump(mode="json"))
    record = {
        "foundation": preset.name,
        "sha256": file_sha256(weights),
        "volumes": {name: len(entries) for name, entries in volumes.items()},
        "settings": run.settings.model_dump(),
        "processes": run.processes.size,
        "device": str(run.device),
        "versions": versions(),
    }
    write_json(output / "pretraining.json", record)


def _halved(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Floats in half precision: the file is half as large, and every reader gets the same values from it."""
    return {name: (tensor.half() if tensor.is_floating_point() else tensor).contiguous() for name, tensor in state.items()}
