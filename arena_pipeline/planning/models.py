"""plans.json: what was decided for one dataset and one foundation. A person may edit it; an unknown key is an error."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from arena_pipeline.errors import PlansError, UnknownStructure
from arena_pipeline.foundations import Scheme
from arena_pipeline.io.dataset import Objective
from arena_pipeline.io.json_files import StoredModel, read_model
from arena_pipeline.io.label_names import check_structure_names
from arena_pipeline.model.architectures import Architecture
from arena_pipeline.settings import AdaptationSettings, Frozen, PrecisionName
from arena_pipeline.words import listed, similar

MULTICLASS_TASK = "multiclass"
FEWEST_SCANS, MOST_LEFT_OUT = 3, 5  # scans of which one can be left out; folds that leave scans out
LISTED_TASKS = 10  # in the message of an error
MEND_ADVICE = "mend it, or delete it and run arena_plan again"


class TaskPlan(Frozen):
    """One task: what one adapter per fold is trained for.

    Attributes:
        name: the structure of a binary task, "multiclass" for the one multi-class task.
        structures: structure -> its integer in the dataset's segmentations; a binary task has one.
        kind: "base" where the foundation was pre-trained on all of them, else "novel".
        train_decoder: whether the whole decoder is trained, or frozen.
        head: "pretrained" starts from the foundation's rows of these structures, "new" from random weights.
        keep_largest: structure -> whether only the largest 26-connected component of a prediction is kept.
        candidates: training cases that a support set may be drawn from, in the order that the draw rule uses; one that the
            published list has twice stays so, since the draw depends on it.
        max_shots: the largest support set that can be drawn; 0: the task can't be adapted.
    """

    name: str
    structures: dict[str, int] = Field(min_length=1)
    kind: Literal["base", "novel"]
    train_decoder: bool
    head: Literal["pretrained", "new"]
    keep_largest: dict[str, bool]
    candidates: tuple[str, ...]
    max_shots: int = Field(ge=0)

    @model_validator(mode="after")
    def _check(self) -> TaskPlan:
        if set(self.keep_largest) != set(self.structures):
            found = ", ".join(self.keep_largest) or "none"
            raise ValueError(f"keep_largest: expected an entry for each of {', '.join(self.structures)}, found {found}")
        if self.max_shots > len(self.candidates):
            raise ValueError(f"max_shots: {self.max_shots} is more than the {len(self.candidates)} candidates")
        return self

    @property
    def activation(self) -> Literal["sigmoid", "softmax"]:
        """Of the task's output: one channel with a sigmoid, or background and structures with a softmax."""
        return "sigmoid" if list(self.structures) == [self.name] else "softmax"

    @property
    def out_channels(self) -> int:
        return 1 if self.activation == "sigmoid" else len(self.structures) + 1


class InferencePlan(Frozen):
    """The sliding window.

    Attributes:
        overlap: of neighbouring windows, as a share of the patch.
        window_batch: windows that the network sees at once; None: decided by the machine that predicts.
        threshold: probability above which a voxel belongs to a binary task's structure.
        precision: of the network, as in AdaptationSettings.
    """

    overlap: float = Field(0.25, ge=0, lt=1)
    window_batch: int | None = Field(None, ge=1)
    threshold: float = Field(0.5, gt=0, lt=1)
    precision: PrecisionName = "auto"


class WorkersPlan(Frozen):
    """Processes that preprocess cases, and threads that export predictions; None: decided by the machine that does it."""

    preprocess: int | None = Field(None, ge=1)
    export: int | None = Field(None, ge=1)


class Plans(StoredModel):
    """plans.json; plans/README.md explains every key.

    Attributes:
        foundation_sha256: of the weights file that the plans were made for.
        folds_of_all: what the folds are where a support set takes all candidates of a task: "seeds" (all of them in every fold) or "leave_one_out"
            (each of up to five folds leaves out one of them, of more than five scans every fifth, and is scored on those to say what Dice to expect).
        reasons: path of a decision, e.g. "tasks.liver.train_decoder" -> why, in a sentence.
    """

    plans_version: Literal[1] = 1
    dataset_name: str
    foundation: str
    foundation_sha256: str
    objective: Objective
    labels: dict[str, int]
    scheme: Scheme
    tasks: tuple[TaskPlan, ...]
    adaptation: AdaptationSettings
    inference: InferencePlan
    workers: WorkersPlan
    folds_of_all: Literal["seeds", "leave_one_out"] = "seeds"
    reasons: dict[str, str]

    @model_validator(mode="after")
    def _check(self) -> Plans:
        check_structure_names(self.labels)
        names = [task.name for task in self.tasks]
        if len(set(names)) != len(names):
            raise ValueError("tasks: two tasks have the same name")
        for task in self.tasks:
            wrong = [name for name, label in task.structures.items() if self.labels.get(name) != label]
            if wrong:
                raise ValueError(f"tasks.{task.name}.structures: {', '.join(wrong)} has another number in labels, or none")
            if self.objective == "multiclass" and task.name != MULTICLASS_TASK:
                raise ValueError(f"tasks.{task.name}: a multi-class objective has one task, named {MULTICLASS_TASK}")
            if self.objective == "binary" and task.activation != "sigmoid":
                raise ValueError(f"tasks.{task.name}: a binary task has one structure, and its name")
        return self

    def leave_out_folds(self, task: TaskPlan, shots: int) -> int:
        """How many folds of `task` there are that leave scans out, each scan once; 0: the folds are draws, or of all scans alike."""
        scans = len(set(task.candidates))
        return min(scans, MOST_LEFT_OUT) if self.folds_of_all == "leave_one_out" and shots == len(task.candidates) and scans >= FEWEST_SCANS else 0

    def task(self, name: str) -> TaskPlan:
        """Raises UnknownStructure listing the tasks there are."""
        for task in self.tasks:
            if task.name == name:
                return task
        known = [task.name if list(task.structures) == [task.name] else f"{task.name} ({', '.join(task.structures)})" for task in self.tasks]
        meant = similar(name, [task.name for task in self.tasks])
        guess = f"did you mean {meant}? " if meant else ""
        raise UnknownStructure(f"unknown task {name}", advice=f"{guess}the plans of {self.dataset_name} have: {listed(known, LISTED_TASKS)}")

    @classmethod
    def read(cls, path: Path, architecture: Architecture | None = None) -> Plans:
        """Raises PlansError naming the file, the key and what is wrong with it; with `architecture` also where that can't take the patch."""
        plans = read_model(path, cls, PlansError, "no such file; make plans with arena_plan_and_preprocess -d NUMBER", MEND_ADVICE)
        try:
            if architecture is not None:
                architecture.check_patch(plans.scheme.patch_size_voxels)
        except ValueError as error:
            raise PlansError(str(error), file=path, advice=MEND_ADVICE) from None
        return plans
