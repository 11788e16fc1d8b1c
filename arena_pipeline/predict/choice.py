"""Which model predicts, chosen by a command's arguments."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from arena_pipeline.errors import PlansError
from arena_pipeline.io.images import ImageSource
from arena_pipeline.model.model_folder import DEFAULT_METHOD, AdaptedModel, choose_model, load_model
from arena_pipeline.predict.caveats import warn_of_doubts, warn_of_missing_folds, warn_of_support_cases
from arena_pipeline.predict.predictors import Setup, adapted_setup, zero_shot_setup
from arena_pipeline.workspace import Workspace

FLAGS = {
    "dataset_id": "-d", "shots": "-shots", "foundation": "-foundation", "method": "-method", "folds": "-f", "model_folder": "-m",
    "structures": "--structures",
}  # fmt: skip
NARROWING = ("dataset_id", "shots", "foundation", "method")
SupportIds = dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class ModelChoice:
    """The arguments of `arena_pipeline.stages.predict.predict` that name a model, with their meaning there."""

    dataset_id: int | None = None
    shots: int | None = None
    foundation: str | None = None
    method: str | None = None
    model_folder: str | Path | None = None
    folds: Sequence[int] | None = None
    structures: Sequence[str] | None = None
    zero_shot: Sequence[str] | None = None

    @classmethod
    def split(cls, arguments: Mapping[str, Any]) -> tuple[ModelChoice, dict[str, Any]]:
        """Those of the arguments that choose, and the others."""
        names = {one.name for one in fields(cls)}
        return cls(**{name: value for name, value in arguments.items() if name in names}), {
            name: value for name, value in arguments.items() if name not in names
        }

    def folder(self, workspace: Workspace, input_path: str | Path, output: Path) -> Path:
        """The model's folder, as `choose_model`; its errors have the whole command, with the choice added."""
        if self.model_folder is not None:
            return Path(self.model_folder)
        command = shlex.join(["arena_predict", "-i", str(input_path), "-o", str(output), *workspace.options])
        return choose_model(workspace, command, self.dataset_id, self.shots, self.foundation, self.method or DEFAULT_METHOD)

    def setup(
        self, workspace: Workspace, inputs: Mapping[str, ImageSource], folder: Path | None, device: torch.device, changes: Mapping[str, Any]
    ) -> tuple[Setup, SupportIds]:
        """The networks, and structure -> the inputs that they were adapted on; tells what a user should know of the model.

        Args:
            folder: the adapted model's; None: zero-shot.
            changes: of the planned inference; a None among them changes nothing.

        Raises:
            ArenaError: the arguments contradict each other, or the model can't be used.
        """
        if folder is None:
            return self._zero_shot(workspace, device, changes), {}
        model = load_model(folder, self.folds, self.structures)
        self._require_same(model)
        if self.folds is None:
            warn_of_missing_folds(model)
        warn_of_doubts(model)
        setup = adapted_setup(model, self.structures, workspace, device, changes)
        return setup, warn_of_support_cases(setup.support_ids, inputs, workspace.cases(model.tasks[0].record.dataset_name, model.foundation))

    def _zero_shot(self, workspace: Workspace, device: torch.device, changes: Mapping[str, Any]) -> Setup:
        unused = [FLAGS[name] for name in ("shots", "method", "folds", "model_folder", "structures") if getattr(self, name) is not None]
        if unused:
            raise PlansError(f"--zero_shot uses the foundation as it is and has no adapted model; leave out {', '.join(unused)}")
        dataset = None if self.dataset_id is None else workspace.dataset_name(self.dataset_id)
        return zero_shot_setup(self.zero_shot or (), workspace, self.foundation, dataset, device, changes)

    def _require_same(self, model: AdaptedModel) -> None:
        """Raises PlansError where -m names another model than the options beside it."""
        record = model.tasks[0].record
        method = record.settings.method
        own = dict(zip(NARROWING, (int(record.dataset_name[7:10]), record.shots, record.foundation, method), strict=True))
        if wrong := [name for name in NARROWING if getattr(self, name) not in (None, own[name])]:
            found = ", ".join(f"{FLAGS[name]} {getattr(self, name)}, where the model has {own[name]}" for name in wrong)
            raise PlansError(f"this model is not the one that the other options name: {found}", file=model.path, advice="leave them out, or -m")
