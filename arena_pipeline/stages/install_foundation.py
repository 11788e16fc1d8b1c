"""arena_install_foundation: a downloaded checkpoint becomes a foundation of the workspace."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from arena_pipeline.arguments import plain_arguments
from arena_pipeline.errors import FoundationError
from arena_pipeline.foundations import INSTALLED_RECORD, FoundationPreset, find_preset, load_preset, preset_names
from arena_pipeline.io.atomic import remove_unfinished, replace_when_done
from arena_pipeline.io.filestate import file_sha256
from arena_pipeline.io.json_files import StoredModel
from arena_pipeline.io.lock import locked
from arena_pipeline.model.checkpoints import Match, read_foundation
from arena_pipeline.model.nnunet_checkpoint import read_nnunet_checkpoint
from arena_pipeline.model.nnunet_folder import read_nnunet_folder
from arena_pipeline.model.weights import load_foundation_network
from arena_pipeline.records import stage, versions
from arena_pipeline.workspace import Workspace

logger = logging.getLogger(__name__)

WEIGHTS, RECORD = "weights.safetensors", INSTALLED_RECORD


class FoundationRecord(StoredModel):
    """foundation.json, beside the weights.

    Attributes:
        preset: as it was when the weights were installed.
        source_file, source_bytes, source_sha256: the checkpoint that they were read from.
        source_modified_ns, source_changed_ns: its times then, as in `SourceFile`: arena_info recognises it without reading it.
        trusted: whether --trust_checkpoint was given.
        weights_sha256: of weights.safetensors, by which plans and adapters know them.
        matched, missing: weights of the network's pre-trained parts that the checkpoint filled and did not fill (always 0).
        ignored: tensors of heads in the checkpoint that are not used.
        unexpected: the checkpoint's other tensors without a place in the network, by their names there.
        installed: date and time.
    """

    name: str
    preset: FoundationPreset
    source_file: str
    source_bytes: int
    source_sha256: str
    trusted: bool
    weights_sha256: str
    matched: int
    missing: int
    ignored: int
    unexpected: tuple[str, ...]
    licence: str
    installed: str
    versions: dict[str, str]
    source_modified_ns: int = 0  # 0 and None: a record of version 0.1
    source_changed_ns: int | None = None


@dataclass(frozen=True)
class Installation:
    """What was installed, and where. `replaced`: the SHA-256 of other weights that were there before, or None."""

    record: FoundationRecord
    folder: Path
    replaced: str | None


@plain_arguments
def install_foundation(name: str, file: Path, workspace: Workspace, trust_checkpoint: bool = False) -> Installation:
    """Installs the checkpoint `file` as the foundation `name` in the workspace. What is there is replaced only by a valid one.

    Args:
        name: of a preset in plans/, or a JSON file with a preset of one's own.
        trust_checkpoint: read a file even if that runs code which it names.

    Raises:
        FoundationError: an unknown name, one whose weights come with the package, or a file that does not fit; says which would.
    """
    preset = find_preset(name)
    if preset.weights.packaged is not None:
        raise FoundationError(f"foundation {name} comes with the package ({preset.weights.packaged})", advice="use it as it is")
    return install_preset(preset, file, workspace, trust_checkpoint)


@plain_arguments
def install_model_folder(folder: Path, workspace: Workspace, name: str | None = None, fold: str | None = None) -> Installation:
    """Installs an nnU-Net v2 model folder, TotalSegmentator's among them, as a foundation of the workspace.

    Args:
        name: of the foundation; None: the dataset's name.
        fold: "0" to "4" or "all"; None: the only one, else 0, else all.

    Raises:
        FoundationError: no such model, or one that can't be used as it is; nothing is installed then.
    """
    with stage("read"):
        model = read_nnunet_folder(folder, name, fold)
        found = read_nnunet_checkpoint(model)
    for choice in model.choices:
        logger.info("%s: %s", model.preset.name, choice)
    target = workspace.installed_foundation(model.preset.name)
    with stage("write"), locked(target):
        return _write(model.preset, model.checkpoint, found, target, False)


def install_preset(preset: FoundationPreset, file: Path, workspace: Workspace, trust_checkpoint: bool = False) -> Installation:
    """`install_foundation` for a preset that need not be among the known ones."""
    folder = workspace.installed_foundation(preset.name)
    with stage("read"):
        found = read_foundation(preset, file, trust_checkpoint)
    _warn_of_another_name(preset, file)
    with stage("write"), locked(folder):
        return _write(preset, file, found, folder, trust_checkpoint)


def _write(preset: FoundationPreset, file: Path, found: Match, folder: Path, trusted: bool) -> Installation:
    remove_unfinished(folder)
    previous = file_sha256(folder / WEIGHTS) if (folder / WEIGHTS).is_file() else None
    with replace_when_done(folder / WEIGHTS) as weights:
        save_file({name: _stored(tensor) for name, tensor in found.tensors.items()}, weights)
        load_foundation_network(preset, weights)  # raises before anything is replaced
        state = file.stat()
        record = FoundationRecord(
            name=preset.name,
            preset=preset,
            source_file=file.name,
            source_bytes=state.st_size,
            source_modified_ns=state.st_mtime_ns,
            source_changed_ns=state.st_ctime_ns,
            source_sha256=file_sha256(file),
            trusted=trusted,
            weights_sha256=file_sha256(weights),
            matched=found.matched,
            missing=len(found.missing),
            ignored=len(found.ignored),
            unexpected=found.unexpected,
            licence=preset.licence,
            installed=datetime.now(timezone.utc).astimezone().isoformat(timespec="seconds"),
            versions=versions(),
        )
        # The weights take their place last: without them nothing here counts as installed.
        record.write(folder / RECORD)
    replaced = previous if previous != record.weights_sha256 else None
    if replaced:
        text = "%s: other weights were here (SHA-256 %s...), and plans and adapters made with those need them back"
        logger.warning(text, preset.name, replaced[:12])
    return Installation(record, folder, replaced)


def _stored(tensor: Tensor) -> Tensor:
    """A copy, since safetensors stores no views into shared memory; in a type that `read_tensors` accepts."""
    if not tensor.is_floating_point():
        return tensor.long().contiguous().clone()
    return (tensor.float() if tensor.dtype == torch.float64 else tensor).contiguous().clone()


def _warn_of_another_name(preset: FoundationPreset, file: Path) -> None:
    """SuPreM's and CLIP-Driven's files can't be told apart by their tensors, only by their names."""
    if file.name == preset.weights.expected_file:
        return
    for name in preset_names():
        if load_preset(name).weights.expected_file == file.name:
            text = "%s is what the authors of %s call their file; it fits %s too and is installed as that, check that it is meant"
            logger.warning(text, file.name, name, preset.name)
