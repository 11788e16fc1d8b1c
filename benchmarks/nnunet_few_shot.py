"""nnU-Net v2 itself on the support sets and queries of arena_compare, to compare with another program on the same few scans.

    make nnunet_env
    python -m benchmarks.nnunet_few_shot -w WORKSPACE -d 201 -shots 5 -f 0 1 2 -s spinal_cord [-queries 36] [--iterations 500]

Its own planner, preprocessing, augmentation, network and inference (with mirroring), on all scans of the support set; each structure has a training
of its own, as with adaptations. nnU-Net's schedule is 250,000 iterations, for a GPU. On a CPU the budget has to be smaller: --iterations (default
500, with nnU-Net's falling rate) and --memory_gb, the memory that its planner plans for (default 2 instead of 8: a smaller patch). Both are printed
with the scores: a Dice from here says what nnU-Net does within that budget, and no more. Predictions are scored on the CT's own grid, as those of
arena_compare are.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from arena_pipeline.adapt.job import FoldJob, read_planned_dataset
from arena_pipeline.evaluate.held_out import native_case_scores, read_reference
from arena_pipeline.io.dataset import RawDataset
from arena_pipeline.io.images import read_image, read_segmentation, write_image, write_segmentation
from arena_pipeline.research.compare.queries import Query, queries_of
from arena_pipeline.workspace import Workspace

DATASET_ID = 900
MEASURES = ("Dice", "NSD_2mm", "HD95_mm")


def write_raw(folder: Path, job: FoldJob, raw: RawDataset, queries: tuple[Query, ...]) -> None:
    """The support set and the queries as a raw dataset of nnU-Net; the structure is 1."""
    (label,) = job.task.structures.values()
    for case in dict.fromkeys(job.support_ids):
        source = raw.training[case]
        image = read_image(source.image)
        write_image(folder / "imagesTr" / f"{case}_0000.nii.gz", image)
        reference = read_reference(Path(str(source.segmentation)), source.image)
        write_segmentation(folder / "labelsTr" / f"{case}.nii.gz", (reference.array == label).astype(np.uint8), image.geometry)
    for query in queries:
        write_image(folder / "imagesTs" / f"{query.case}_0000.nii.gz", read_image(query.image))
    content: dict[str, object] = {"channel_names": {"0": "CT"}, "labels": {"background": 0, job.task.name: 1}, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(
        json.dumps(content | {"numTraining": len(set(job.support_ids)), "overwrite_image_reader_writer": "NibabelIO"})
    )


def run(job: FoldJob, raw: RawDataset, queries: tuple[Query, ...], args: argparse.Namespace) -> tuple[list[dict[str, object]], dict[str, object]]:
    """The scores of the queries, and nnU-Net's plan and training time."""
    (label,) = job.task.structures.values()
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        for name in ("imagesTr", "labelsTr", "imagesTs"):
            (folder / "raw" / f"Dataset{DATASET_ID}_FewShot" / name).mkdir(parents=True)
        write_raw(folder / "raw" / f"Dataset{DATASET_ID}_FewShot", job, raw, queries)
        side = str(Path(__file__).with_name("nnunet_run.py"))
        budget = [str(DATASET_ID), str(args.iterations), str(args.memory_gb), args.device]
        subprocess.run([str(args.python), side, work, *budget], check=True, stdout=sys.stderr)
        rows = []
        for query in queries:
            found = read_segmentation(folder / "predictions" / f"{query.case}.nii.gz").array * label
            reference = read_reference(query.reference, query.image)
            ((status, values),) = native_case_scores(reference, found, job.task, query.structures, query.ignore_label).values()
            rows.append({"structure": job.task.name, "shots": job.shots, "fold": job.fold, "case": query.case, "status": status}
                        | {name: values[name] for name in MEASURES})  # fmt: skip
        return rows, json.loads((folder / "facts.json").read_text())


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    add = options.add_argument
    add("-w", dest="workspace", type=Workspace.find, default="", metavar="FOLDER")
    add("-d", dest="dataset_id", type=int, required=True, metavar="ID", help="planned for a foundation, with the binary objective")
    add("-shots", type=int, required=True, metavar="K")
    add("-f", dest="folds", type=int, nargs="+", default=[0, 1, 2], metavar="FOLD")
    add("-s", dest="structures", nargs="+", required=True, metavar="NAME")
    add("-queries", type=int, metavar="N", help="only the first N, as arena_compare -queries")
    add("--iterations", type=int, default=500, metavar="N")
    add("--memory_gb", type=float, default=2, metavar="GB", help="the memory that nnU-Net plans for")
    add("-device", default="cpu")
    add("--python", type=Path, default=Path(".venv-nnunet/bin/python"), help="that of the environment with nnunetv2")
    add("-o", dest="output", type=Path, default=Path("nnunet_few_shot.csv"), help="a row per structure, fold and query case")
    args = options.parse_args()
    planned = read_planned_dataset(args.dataset_id, args.workspace, None)
    raw = RawDataset.open(args.workspace.raw_dataset(planned.plans.dataset_name))
    every: list[dict[str, object]] = []
    print(
        "| structure | shots | fold | queries | Dice | iterations | patch | minutes of training |\n| --- | --- | --- | --- | --- | --- | --- | --- |"
    )
    for job in planned.jobs(args.shots, args.folds, args.structures, {}):
        rows, facts = run(job, raw, queries_of(job.task, raw, args.queries), args)
        every += rows
        with open(args.output, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(every[0]))
            writer.writeheader()
            writer.writerows(every)
        dice = np.nanmean([float(str(row["Dice"])) for row in rows])
        took = f"{args.iterations} of {facts['batch_size']} patches | {facts['patch_size']} | {float(str(facts['training_seconds'])) / 60:.1f}"
        print(f"| {job.task.name} | {job.shots} | {job.fold} | {len(rows)} | {dice:.3f} | {took} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
