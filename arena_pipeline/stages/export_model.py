"""arena_export_model: an adapted model as one file that can be given away, or as folders that nnU-Net runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from arena_pipeline.arguments import plain_arguments
from arena_pipeline.errors import PackageError
from arena_pipeline.foundations import load_preset, weights_file
from arena_pipeline.model.model_folder import DEFAULT_METHOD, choose_model, load_model
from arena_pipeline.records import stage
from arena_pipeline.share.card import EvaluationSummary
from arena_pipeline.share.export import write_package
from arena_pipeline.share.nnunet import NnunetFolder, write_nnunet_folders
from arena_pipeline.share.package import Manifest
from arena_pipeline.workspace import Workspace


@plain_arguments
def export_model(
    dataset_id: int,
    output: Path,
    workspace: Workspace,
    *,
    shots: int | None = None,
    method: str = DEFAULT_METHOD,
    foundation: str | None = None,
    folds: Sequence[int] | None = None,
    structures: Sequence[str] | None = None,
    summary: Path | None = None,
    overwrite: bool = False,
) -> Manifest:
    """Writes the model's package to `output`, and returns its manifest. The same model gives the same bytes.

    Args:
        shots, method, foundation: narrow the choice among the dataset's models; one must be left.
        folds, structures: those exported; None: all that are finished.
        summary: summary.json of arena_evaluate, whose means go into the model card.

    Raises:
        AdapterError: no such model or several, or one that is damaged.
        PackageError: `output` is there already, or a text that goes into the package names a case.
    """
    if output.exists() and not overwrite:
        raise PackageError("is there already", file=output, advice="choose another file, or add --overwrite")
    command = workspace.command("arena_export_model", "-o", str(output))
    model = load_model(choose_model(workspace, command, dataset_id, shots, foundation, method), folds, structures)
    preset = load_preset(model.foundation, workspace.foundations)
    known = [name for task in model.tasks for name in task.record.structures]
    evaluation = None if summary is None else EvaluationSummary.read(summary, known)
    with stage("export"):
        return write_package(output, model, preset, evaluation)


@plain_arguments
def export_nnunet(
    dataset_id: int,
    nnunet: Path,
    workspace: Workspace,
    *,
    shots: int | None = None,
    method: str = DEFAULT_METHOD,
    foundation: str | None = None,
    folds: Sequence[int] | None = None,
    structures: Sequence[str] | None = None,
    overwrite: bool = False,
) -> list[NnunetFolder]:
    """Writes the model as nnU-Net v2 model folders into `nnunet`, one per task; for the rest see `export_model`.

    Raises:
        AdapterError: no such model or several, or one that is damaged.
        PackageError: its foundation's licence or network does not allow it, or a folder is there already.
    """
    command = workspace.command("arena_export_model", "--nnunet", str(nnunet))
    model = load_model(choose_model(workspace, command, dataset_id, shots, foundation, method), folds, structures)
    preset = load_preset(model.foundation, workspace.foundations)
    with stage("export"):
        weights = weights_file(preset, workspace.installed_foundation(preset.name))
        return write_nnunet_folders(nnunet, model, preset, weights, overwrite)
