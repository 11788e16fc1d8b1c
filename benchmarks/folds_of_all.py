"""Exactly K scans: do three seeds of all of them predict new scans better, or folds that leave scans out? And is the expected Dice right?

    python -m benchmarks.folds_of_all -o FOLDER -raw DATASET -s NAME ... [-shots 5] [--pools 3] [-queries 15]

From the training cases of DATASET: --pools pools of K scans each, as K scans that one user has, and -queries other scans. Both ensembles of each
pool predict the queries. The same command goes on where an earlier one stopped. FOLDER/out/POOL/seeds and leave_one_out have a review.csv each:
python -m benchmarks.review_flags DATASET/labelsTr FOLDER/out/*/seeds
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from arena_pipeline.adapt.job import read_planned_dataset
from arena_pipeline.evaluate.held_out import native_case_scores, read_reference
from arena_pipeline.io.atomic import write_json
from arena_pipeline.io.dataset import CHANNEL_SUFFIX, Case, RawDataset
from arena_pipeline.io.images import read_segmentation
from arena_pipeline.model.expected import EXPECTED
from arena_pipeline.research.compare.statistics import estimate
from arena_pipeline.stages.adapt import adapt_dataset
from arena_pipeline.stages.plan_and_preprocess import plan_and_preprocess
from arena_pipeline.stages.predict import predict
from arena_pipeline.workspace import Workspace

FIRST_DATASET_ID = 901
MODES = ("seeds", "leave_one_out")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    options.add_argument("-o", dest="output", type=Path, required=True, help="where everything goes")
    options.add_argument("-raw", type=Path, required=True, help="a dataset in the standard layout, whose training cases are taken")
    options.add_argument("-s", dest="structures", nargs="+", required=True)
    options.add_argument("-shots", type=int, default=5)
    options.add_argument("--pools", type=int, default=3)
    options.add_argument("-queries", type=int, default=15)
    options.add_argument("--max_epochs", type=int)
    args = options.parse_args()
    source = RawDataset.open(args.raw)
    cases = sorted(name for name in source.training if all(source.json.is_annotated(name, one) for one in args.structures))
    random.Random(0).shuffle(cases)
    queries, rest = cases[: args.queries], cases[args.queries :]
    rows = []
    for pool in range(args.pools):
        scans = [source.training[name] for name in rest[pool * args.shots : (pool + 1) * args.shots]]
        rows += rows_of_pool(pool, scans, source, [source.training[name] for name in queries], args)
        print(report(pd.DataFrame(rows)), flush=True)


def rows_of_pool(pool: int, scans: Sequence[Case], source: RawDataset, queries: Sequence[Case], args: argparse.Namespace) -> list[dict[str, object]]:
    """A row per mode, structure and query, with the expected Dice."""
    rows, number = [], FIRST_DATASET_ID + pool
    name = f"Dataset{number}_Pool"
    for mode in MODES:
        workspace = Workspace(args.output / mode)
        make_dataset(workspace.raw_dataset(name), scans, source)
        plan_and_preprocess([number], workspace, workers=0, fingerprint_workers=0)
        foundation = read_planned_dataset(number, workspace, None).preset.name
        plans = workspace.plans(name, foundation)
        write_json(plans, json.loads(plans.read_text(encoding="utf-8")) | {"folds_of_all": mode})
        model = adapt_dataset(number, args.shots, workspace, structures=args.structures, max_epochs=args.max_epochs, continue_unfinished=True)
        out, planned = args.output / "out" / str(pool) / mode, read_planned_dataset(number, workspace, None).plans
        images = args.output / "queries"
        images.mkdir(exist_ok=True)
        for query in queries:
            link(images / query.image.name, query.image)
        predict(images, out, workspace, model_folder=model, structures=args.structures, continue_prediction=True, no_previews=True)
        for structure in args.structures:
            task = planned.task(structure)
            told = model / structure / EXPECTED
            known = json.loads(told.read_text(encoding="utf-8"))["expected"][0] if told.is_file() else {}
            expected = {key: known.get(key) for key in ("Dice", "Dice_low", "Dice_high")}
            for query in queries:
                reference = read_reference(Path(str(query.segmentation)), query.image)
                found = read_segmentation(out / f"{query.identifier}.nii.gz").array
                ((_, values),) = native_case_scores(reference, found, task, [structure], source.json.ignore_label).values()
                of_query = {"pool": pool, "mode": mode, "structure": structure, "case": query.identifier, "Dice": values["Dice"]}
                rows.append(of_query | {f"expected_{key}": value for key, value in expected.items()})
    return rows


def make_dataset(folder: Path, scans: Sequence[Case], source: RawDataset) -> None:
    """A raw dataset of these scans alone: links to their files, and a dataset.json."""
    ending = source.json.file_ending
    for sub in ("imagesTr", "labelsTr"):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    for scan in scans:
        link(folder / "imagesTr" / f"{scan.identifier}{CHANNEL_SUFFIX}{ending}", scan.image)
        link(folder / "labelsTr" / f"{scan.identifier}{ending}", Path(str(scan.segmentation)))
    names = [scan.identifier for scan in scans]
    annotated = {name: value for name, value in source.json.annotated.items() if name in names}
    source.json.model_copy(update={"numTraining": len(scans), "annotated": annotated, "split": {}}).write(folder / "dataset.json")


def link(place: Path, target: Path) -> None:
    if not place.exists():
        place.symlink_to(target.resolve())


def report(rows: pd.DataFrame) -> str:
    """Markdown: per structure both means, their difference with its interval over pools and queries, and what was expected."""
    lines = [
        "| structure | pools | seeds | leave_one_out | difference | expected Dice of each pool, and the true mean |",
        "|---|---|---|---|---|---|",
    ]
    for structure, own in rows.groupby("structure", sort=False):
        table = own.pivot(index=["mode", "pool"], columns="case", values="Dice")
        pools = sorted(set(table.loc[MODES[0]].index) & set(table.loc[MODES[1]].index)) if set(MODES) <= set(own["mode"]) else []
        if not pools:
            continue
        seeds, out = (table.loc[mode].loc[pools].to_numpy(dtype=float) for mode in MODES)
        found = estimate((out - seeds)[None])
        left = own[own["mode"] == MODES[1]].groupby("pool")
        told = [
            f"{of.expected_Dice.iloc[0]:.3f} [{of.expected_Dice_low.iloc[0]:.3f}, {of.expected_Dice_high.iloc[0]:.3f}]: {of.Dice.mean():.3f}"
            for _, of in left
            if of.expected_Dice.iloc[0] is not None
        ]
        means = f"{np.nanmean(seeds):.3f} | {np.nanmean(out):.3f}"
        lines.append(f"| {structure} | {len(pools)} | {means} | {found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}] | {'; '.join(told)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
