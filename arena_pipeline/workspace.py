"""The workspace: the one place where every path is spelled.

workspace/
  raw/Dataset101_Name/            imagesTr labelsTr imagesTs labelsTs dataset.json
  preprocessed/Dataset101_Name/   dataset_fingerprint.json, dataset_audit.json, per foundation: plans.json and the cases
  results/Dataset101_Name/        per foundation, method and shots: the adapters of every task and fold
  foundations/NAME/               weights.safetensors foundation.json
  logs/                           one log and one JSON record per command run
"""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from arena_pipeline.errors import DatasetError

ENVIRONMENT_VARIABLE = "ARENA_WORKSPACE"
DEFAULT_FOLDER = "arena_workspace"
TRAINING_LOG, PROGRESS = "training_log.csv", "progress.png"
CHECKPOINT = "checkpoint.pt"  # in the folder of a fold whose adaptation is not finished
ATTEMPTS = "attempts.json"  # in the folder of a fold of which an adaptation has not learned
ROI_NAMES = "roi_names.csv"  # in the folder of a dataset from DICOM: which structure each name of a region means
ADAPTER_RECORD = "adapter.json"  # in the folder of a fold whose adaptation is finished
DATASET_FOLDER = re.compile(r"Dataset(\d{3})_([A-Za-z0-9_-]+)")
MODEL_FOLDER = re.compile(r"(?P<method>.+)_(?P<shots>\d+)shots")
FOLD_FOLDER = re.compile(r"fold_(\d+)")


@dataclass(frozen=True)
class Workspace:
    """Paths below one root folder. Nothing is created until it is written."""

    root: Path

    def __str__(self) -> str:
        return str(self.root)

    @classmethod
    def find(cls, folder: str | Path | None = None) -> Workspace:
        """The workspace that a command uses: `folder`, else $ARENA_WORKSPACE, else ./arena_workspace."""
        return cls(Path(folder or os.environ.get(ENVIRONMENT_VARIABLE) or DEFAULT_FOLDER).absolute())

    @property
    def options(self) -> list[str]:
        """What a command needs to find this workspace: -w and its folder, or nothing where it is the one found without being named."""
        return [] if self.root == Workspace.find().root else ["-w", str(self.root)]

    def command(self, *words: str | int) -> str:
        """A command line that can be pasted; it names the workspace unless that is the one found without being named."""
        return shlex.join([*(str(word) for word in words), *self.options])

    @property
    def raw(self) -> Path:
        return self.root / "raw"

    @property
    def preprocessed(self) -> Path:
        return self.root / "preprocessed"

    @property
    def results(self) -> Path:
        return self.root / "results"

    @property
    def foundations(self) -> Path:
        return self.root / "foundations"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    def dataset_names(self) -> list[str]:
        """Folder names of the raw datasets there are, sorted."""
        if not self.raw.is_dir():
            return []
        return sorted(p.name for p in self.raw.iterdir() if p.is_dir() and DATASET_FOLDER.fullmatch(p.name))

    def dataset_name(self, dataset_id: int) -> str:
        """Folder name of the dataset with this number.

        Raises:
            DatasetError: none or several have it.
        """
        found = [name for name in self.dataset_names() if number_of(name) == dataset_id]
        if len(found) == 1:
            return found[0]
        if found:
            raise DatasetError(
                f"dataset {dataset_id}: {len(found)} folders in {self.raw} have this number ({', '.join(found)})", advice="rename all but one"
            )
        known = ", ".join(self.dataset_names()) or "none"
        raise DatasetError(
            f"dataset {dataset_id}: no folder Dataset{dataset_id:03d}_NAME in {self.raw} (there: {known})",
            advice=(
                "convert one with arena_convert_totalsegmentator, arena_convert_flare22 or arena_convert_dicom, copy an nnU-Net raw dataset there, "
                "or name another workspace with -w"
            ),
        )

    def raw_dataset(self, dataset_name: str) -> Path:
        return self.raw / dataset_name

    def replaced(self, dataset_name: str) -> Path:
        """The folder of the annotations and dataset.json that corrections have taken the place of."""
        return self.raw_dataset(dataset_name) / "replaced"

    def preprocessed_dataset(self, dataset_name: str) -> Path:
        return self.preprocessed / dataset_name

    def fingerprint(self, dataset_name: str) -> Path:
        return self.preprocessed_dataset(dataset_name) / "dataset_fingerprint.json"

    def audit(self, dataset_name: str) -> Path:
        """What arena_verify_dataset found."""
        return self.preprocessed_dataset(dataset_name) / "dataset_audit.json"

    def corrected(self, dataset_name: str) -> Path:
        """The folder of the corrected copies that arena_verify_dataset --fix makes; in it labelsTr and labelsTs."""
        return self.preprocessed_dataset(dataset_name) / "corrected"

    def plans(self, dataset_name: str, foundation: str) -> Path:
        return self.preprocessed_dataset(dataset_name) / foundation / "plans.json"

    def cases(self, dataset_name: str, foundation: str) -> Path:
        """The folder of the stored preprocessed cases."""
        return self.preprocessed_dataset(dataset_name) / foundation / "cases"

    def model(self, dataset_name: str, foundation: str, method: str, shots: int) -> Path:
        """The folder that arena_predict calls a model: plans and, per task and fold, an adapter."""
        return self.results / dataset_name / foundation / f"{method}_{shots}shots"

    def comparison(self, dataset_name: str, foundation: str) -> ComparisonFolder:
        """What arena_compare writes."""
        return ComparisonFolder(self.results / dataset_name / foundation / "comparison")

    def cross_validation(self, dataset_name: str, foundation: str | None, shots: int) -> ComparisonFolder:
        """What arena_cross_validate writes: runs and their tables, laid out as those of a comparison; None: the tables of several foundations."""
        return ComparisonFolder(self.results / dataset_name / (foundation or "") / "cross_validation" / f"{shots}shots")

    def installed_foundation(self, foundation: str) -> Path:
        return self.foundations / foundation


def number_of(dataset_name: str) -> int:
    """101 of Dataset101_NAME."""
    return int(dataset_name[7:10])


def fold_folder(model: Path, task: str, fold: int) -> Path:
    """The folder of one fold of one task inside a model folder."""
    return model / task / f"fold_{fold}"


def fold_folders(model: Path, task: str) -> dict[int, Path]:
    """Fold -> its folder, of those there are, finished or not, in the order of their numbers."""
    found = {int(match[1]): folder for folder in (model / task).glob("fold_*") if (match := FOLD_FOLDER.fullmatch(folder.name))}
    return dict(sorted(found.items()))


@dataclass(frozen=True)
class ComparisonFolder:
    """What arena_compare writes below `root`; docs/comparison.md explains each file.

    `run` in the methods below is the name of a method with its shots, arena_5shots, and in a rank sweep its rank, arena_rank2_5shots.
    """

    root: Path

    @property
    def report(self) -> Path:
        return self.root / "report.html"

    @property
    def description(self) -> Path:
        return self.root / "comparison.json"

    def table(self, name: str) -> Path:
        """runs, summary, tests, differences, ranks, efficiency, or dice_5shots."""
        return self.root / f"{name}.csv"

    def markdown(self, name: str) -> Path:
        """The table for people, where there is one."""
        return self.root / f"{name}.md"

    def finished_run(self, run: str, task: str, fold: int) -> Path:
        """The record of a finished run."""
        return fold_folder(self.root / "runs" / run, task, fold).with_suffix(".json")

    def finished_runs(self) -> list[Path]:
        """The records there are."""
        return list((self.root / "runs").glob("*/*/fold_*.json"))

    def model(self, run: str) -> Path:
        """The model folder of a run of the rank sweep."""
        return self.root / "adapters" / run

    def predictions(self, run: str, task: str, fold: int) -> Path:
        """The folder of a run's segmentations of the queries, CASE.nii.gz."""
        return fold_folder(self.root / "predictions" / run, task, fold)
