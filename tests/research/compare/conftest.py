"""A small comparison with real files: two structures, four methods, two numbers of shots, two folds, seven query cases."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from arena_pipeline.research.compare import tables
from arena_pipeline.research.compare.report.page import render
from arena_pipeline.research.compare.report_data import Example, ReportData, TrainingLogFile

CASES = tuple(f"q{number}" for number in range(7))
MATRICES = ("swinViT.layers1.0.blocks.0.attn.qkv.key", "swinViT.layers1.0.blocks.0.attn.qkv.value")
GAINS = {"zero_shot": 0.0, "linear_probe": 0.01, "lora": 0.02, "arena": 0.05}
Build = Callable[..., ReportData]


@pytest.fixture(scope="session")
def build_report_data(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Values with the shape of a real comparison; its arguments leave parts out."""

    def build(
        structures: tuple[tuple[str, str], ...] = (("liver", "base"), ("atrium", "novel")),
        methods: tuple[str, ...] = tuple(GAINS),
        shots: tuple[int, ...] = (5, 10),
        ranks: tuple[int, ...] = (2, 16),
        published: float | None = 0.5,
        files: bool = True,
    ) -> ReportData:
        folder = tmp_path_factory.mktemp("comparison")
        runs = tables.runs_table([row for structure in structures for method in methods for row in _rows(*structure, method, shots, ranks)])
        summary = tables.summary_table(runs, lambda shots, method, members: published if method == "arena" else None)
        differences = tables.difference_table(runs)
        facts = {
            "title": "Dataset007_Small",
            "methods": list(methods),
            "published_source": "a paper" if published else None,
            "queries": {name: list(CASES) for name, _ in structures},
            "settings": {"arena_5shots": {"rank": 8, "learning_rate": 0.001}},
            "machine": {"cores": 2},
        }
        return ReportData(
            facts=facts,
            runs=runs,
            summary=summary,
            tests=tables.contrast_table(differences, runs),
            differences=differences,
            ranks=tables.rank_table(runs),
            efficiency=tables.efficiency_table(runs),
            dice={k: tables.dice_table(summary, k) for k in shots},
            training_logs=_training_logs(folder, structures, methods) if files else [],
            examples=[_example(folder, structures[0][0])] if files else [],
        )

    return build


@pytest.fixture(scope="session")
def report_data(build_report_data: Build) -> ReportData:
    """All parts."""
    return build_report_data()


@pytest.fixture(scope="session")
def report_page(report_data: ReportData) -> str:
    """The report of `report_data`."""
    return render(report_data)


def _rows(structure: str, kind: str, method: str, shots: tuple[int, ...], ranks: tuple[int, ...]) -> list[dict[str, object]]:
    """The rows of one method and structure; Dice grows with the method's gain, the shots and the case's number."""
    if method == "zero_shot" and kind == "novel":
        return []
    rows: list[dict[str, object]] = []
    own_rank = {"arena": 8, "lora": 4}.get(method)
    for rank in (own_rank, *(ranks if own_rank else ())):
        for k in (0,) if method == "zero_shot" else shots:
            for fold in (0,) if method == "zero_shot" else (0, 1):
                for place, case in enumerate(CASES):
                    dice = 0.6 + GAINS[method] * (1 + 0.1 * place) + 0.01 * k + 0.02 * place + 0.001 * fold - (0 if rank == own_rank else 0.05)
                    row = {"method": method, "rank": rank, "default_rank": rank == own_rank, "shots": k, "kind": kind, "task": structure}
                    row |= {"structure": structure, "fold": fold, "case": case, "status": "scored", "Dice": dice, "NSD_2mm": dice, "HD95_mm": 4.0}
                    if method != "zero_shot":
                        row |= {"epochs": 6 - fold, "stop_reason": "early stopping", "seconds": 12.0, "peak_memory_mib": 900.0}
                        row |= {"trained_parameters": 1000 * (own_rank or 1), "effective_rank": rank, "allocated_rank": rank and 2 * rank}
                    rows.append(row)
    return rows


def _training_logs(folder: Path, structures: tuple[tuple[str, str], ...], methods: tuple[str, ...]) -> list[TrainingLogFile]:
    """Of 5 shots; fold 0 has six epochs, fold 1 five; ARENA's second matrix loses an entry per epoch."""
    logs = []
    for place, (structure, _) in enumerate(structures):
        for method in methods:
            for fold in (0, 1) if method != "zero_shot" else ():
                path = folder / f"{method}_{place}_{fold}" / "training_log.csv"
                path.parent.mkdir()
                ranks = {"arena": lambda epoch: f",8,{8 - epoch}", "lora": lambda epoch: ",4,4"}.get(method, lambda epoch: "")
                lines = [f"{epoch},{0.5 - 0.05 * epoch - 0.01 * fold:.6f},0.001,0{ranks(epoch)}" for epoch in range(6 - fold)]
                head = "epoch,loss,learning_rate,effective_rank" + ("," + ",".join(MATRICES) if ranks(0) else "")
                path.write_text("\n".join([head, *lines]) + "\n", encoding="utf-8")
                logs.append(TrainingLogFile(method, {"lora": 4}.get(method, 8), 5, structure, fold, path))
    return logs


def _example(folder: Path, structure: str) -> Example:
    """A block of 40 x 20 x 30 mm at the patient's right, in an LPS array of 2 mm; the prediction is 4 mm further to the left."""
    affine = np.diag([-2.0, -2.0, 2.0, 1.0])
    reference = np.zeros((80, 70, 60), np.uint8)
    reference[10:30, 20:30, 15:30] = 3
    files = {"ct": np.where(reference, 50, -20).astype(np.int16), "reference": reference, "prediction": np.roll(reference, 2, axis=0)}
    paths = {}
    for name, array in files.items():
        paths[name] = folder / f"{name}.nii.gz"
        nib.save(nib.Nifti1Image(array, affine), paths[name])
    return Example("best", "arena", 5, structure, 3, "q6", 0.9, paths["ct"], paths["reference"], paths["prediction"], (-175.0, 250.0))
