"""The Dice that annotating only every fifth slice costs (the rest is nnU-Net's `ignore`): paired with full annotation of the same scans and folds.

    python -m benchmarks.sparse_annotation -o FOLDER [-raw DATASET] [--structures NAME ...] [-f 0 1 2] [--one_scan] [--max_epochs N]

Without -raw it makes phantoms of small children. Every fourth annotated case is a query, annotated in full, and in no support set. --one_scan adds
one scan annotated in full, which is as much work as five on every fifth slice. The same command goes on where an earlier one stopped, and also
counts the finished runs of other folds and structures.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from arena_pipeline.io.dataset import CHANNEL_SUFFIX, RawDataset, StructureSplit
from arena_pipeline.io.images import read_segmentation, write_segmentation
from arena_pipeline.io.label_names import IGNORE
from arena_pipeline.research.compare.compare import compare
from arena_pipeline.research.compare.statistics import estimate, interval_meaning
from arena_pipeline.research.phantoms.make_phantoms import make_phantoms
from arena_pipeline.stages.plan_and_preprocess import plan_and_preprocess
from arena_pipeline.workspace import Workspace
from dataset_conversion.totalsegmentator import convert_totalsegmentator

EVERY = 5
SHOTS = 5
PHANTOMS, SEED = 24, 60_000  # a seed that neither pre-training nor the choice of a schedule has seen
PHANTOM_STRUCTURES = ("inferior_vena_cava", "heart_ventricle_left")
FULL, SPARSE = 901, 902


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    options.add_argument("-o", dest="output", type=Path, required=True, help="where everything goes")
    options.add_argument("-raw", type=Path, help="a dataset in the standard layout (default: phantoms)")
    options.add_argument("--structures", nargs="+", help="default: all that have enough cases")
    options.add_argument("-f", dest="folds", type=int, nargs="+", default=[0, 1, 2])
    options.add_argument("--max_epochs", type=int, help="a shorter schedule than the plans'")
    options.add_argument("--one_scan", action="store_true", help="also one scan annotated in full")
    args = options.parse_args()
    workspace = Workspace(args.output)
    source = RawDataset.open(args.raw or _phantoms(args.output))
    queries = tuple(source.training)[3::4]
    tables = []
    for dataset_id, name, shots in ((FULL, "full", [1, SHOTS] if args.one_scan else [SHOTS]), (SPARSE, "sparse", [SHOTS])):
        _make_dataset(source, workspace.raw_dataset(f"Dataset{dataset_id}_{name}"), queries, EVERY if name == "sparse" else 1)
        plan_and_preprocess([dataset_id], workspace, workers=0, fingerprint_workers=0)
        asked = {"methods": ["arena"], "structures": args.structures, "folds": args.folds, "max_epochs": args.max_epochs}
        compared = compare(dataset_id, shots, workspace, **asked, workers=0)
        tables.append(compared.data.runs.assign(annotation=name))
    print(report(pd.concat(tables)))


def _phantoms(folder: Path) -> Path:
    """Makes phantoms in `folder`; returns them as a dataset in the standard layout."""
    make_phantoms(
        folder / "phantoms", PHANTOMS, "totalsegmentator", seed=SEED, spacing_mm=(3.0, 3.0, 3.0), field_of_view="chest_abdomen", size=0.6, workers=0
    )
    return convert_totalsegmentator(folder / "phantoms", Workspace(folder / "source"), 900, structures=PHANTOM_STRUCTURES, workers=0)


def _make_dataset(source: RawDataset, folder: Path, queries: Sequence[str], every: int) -> None:
    """`source` with a split that holds `queries` back. Other cases keep every `every`-th axial slice (first ones differ); the rest is `ignore`."""
    labels, ending = source.json.labels | ({IGNORE: max(source.json.labels.values()) + 1} if every > 1 else {}), source.json.file_ending
    support = tuple(case for case in source.training if case not in queries)
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number, (name, case) in enumerate(source.training.items()):
        image, label = folder / "imagesTr" / f"{name}{CHANNEL_SUFFIX}{ending}", folder / "labelsTr" / f"{name}{ending}"
        if not image.exists():
            image.symlink_to(case.image.resolve())
        if not label.exists():
            segmentation = read_segmentation(str(case.segmentation))
            if name in support and every > 1:
                axial = int(np.flatnonzero(nib.io_orientation(segmentation.geometry.affine)[:, 0] == 2)[0])
                unlabelled = np.arange(segmentation.array.shape[axial]) % every != number % every
                np.moveaxis(segmentation.array, axial, 0)[unlabelled] = labels[IGNORE]
            write_segmentation(label, segmentation.array, segmentation.geometry)
    if not (folder / "dataset.json").is_file():
        split = {"*": StructureSplit(train=support, test=queries)}
        changes = {"labels": labels, "objective": "binary", "numTraining": len(source.training), "split": split}
        source.json.model_copy(update=changes).write(folder / "dataset.json")


def report(runs: pd.DataFrame) -> str:
    """A Markdown table: the Dice of each way to annotate, and how much less that is than of five scans in full, paired; failed fits are counted."""
    ways = {"five scans in full": ("full", SHOTS), f"five, every {EVERY}th slice": ("sparse", SHOTS), "one scan in full": ("full", 1)}
    lines = [
        f"95 % intervals {interval_meaning(runs['fold'].nunique())}; few folds tell little about other support sets",
        "| structure | annotated | folds | queries | Dice | less than in full | failed fits |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for structure, rows in runs.groupby("structure", sort=False):
        scores = {}
        for way, (kind, shots) in ways.items():
            cells = rows[(rows["annotation"] == kind) & (rows["shots"] == shots)]
            if cells.empty:
                continue
            scores[way] = cells.pivot(index="fold", columns="case", values="Dice")
            mean, less = (estimate(table.to_numpy(float)[None]) for table in (scores[way], scores["five scans in full"] - scores[way]))
            failed = int(cells.groupby("fold")["failed"].first().sum())
            lines.append(
                f"| {structure} | {way} | {mean.folds} | {mean.cases} | {mean.mean:.3f} [{mean.low:.3f}, {mean.high:.3f}] | "
                f"{less.mean:.3f} [{less.low:.3f}, {less.high:.3f}] | {failed} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
