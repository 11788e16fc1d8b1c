"""What correcting two scans is worth: predict, correct the two that review.csv puts first, adapt again, score other scans.

    python -m benchmarks.review_loop -raw DATASET -o FOLDER --structures mandible [--draws 0 1 2] [--shots 3]

For each draw and structure: `shots` annotated scans of imagesTr are the support set, ten others are predicted. The labels
that the dataset has of those stand in for a person's corrections: they are sent to the server of arena_review as its page sends them. Queries are
the annotated cases of imagesTs. One fold, since with exactly K scans all folds share their support set. When the command is run again, finished
draws are read from FOLDER/loop.csv.
"""

from __future__ import annotations

import argparse
import gzip
import http.client
import random
import shutil
import threading
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import nibabel as nib
import numpy as np
import pandas as pd

from arena_pipeline.io.dataset import Case, DatasetJson, RawDataset
from arena_pipeline.io.images import read_segmentation
from arena_pipeline.stages.adapt import adapt_dataset
from arena_pipeline.stages.evaluate import evaluate
from arena_pipeline.stages.plan_and_preprocess import plan_and_preprocess
from arena_pipeline.stages.predict import predict
from arena_pipeline.stages.review import review
from arena_pipeline.view.server import ReviewServer
from arena_pipeline.view.volumes import ShownGrid
from arena_pipeline.workspace import Workspace

PREDICTED, CORRECTED, DATASET_ID = 10, 2, 901


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    options.add_argument("-raw", type=Path, required=True, help="a dataset in the standard layout, with queries")
    options.add_argument("-o", dest="output", type=Path, required=True, help="where everything goes")
    options.add_argument("--structures", nargs="+", required=True)
    options.add_argument("--draws", type=int, nargs="+", default=[0, 1, 2])
    options.add_argument("--shots", type=int, default=3)
    options.add_argument("--queries", type=int, default=36, help="the most queries, taken in the order of their names")
    options.add_argument("--max_epochs", type=int, help="epochs of both adaptations (default: the preset's)")
    args = options.parse_args()
    table = args.output / "loop.csv"
    args.output.mkdir(parents=True, exist_ok=True)
    done = pd.read_csv(table) if table.is_file() else pd.DataFrame(columns=["structure", "draw", "case", "before", "after"])
    for structure in args.structures:
        for draw in args.draws:
            if not ((done.structure == structure) & (done.draw == draw)).any():
                rows = _loop(
                    RawDataset.open(args.raw), structure, draw, args.shots, (args.queries, args.max_epochs), args.output / f"{structure}_{draw}"
                )
                done = pd.concat([done, rows], ignore_index=True)
                done.to_csv(table, index=False)
    means = done.groupby(["structure", "draw"], sort=False)[["before", "after"]].mean()
    print(means.assign(difference=means.after - means.before, queries=done.groupby(["structure", "draw"], sort=False).size()).round(3).to_string())


def _loop(source: RawDataset, structure: str, draw: int, shots: int, limits: tuple[int, int | None], folder: Path) -> pd.DataFrame:
    """A row per query: its Dice before and after. `limits`: the most queries, and epochs or None."""
    most_queries, epochs = limits
    cases = [case for name, case in source.training.items() if source.json.is_annotated(name, structure)]
    random.Random(draw).shuffle(cases)
    shutil.rmtree(folder, ignore_errors=True)
    workspace = Workspace(folder)
    raw = workspace.raw_dataset(f"Dataset{DATASET_ID}_Loop")
    label = source.json.structures[structure]
    for case in cases[:shots]:
        _copy_case(case, raw, label, source.json.file_ending)
    for case in cases[shots : shots + PREDICTED]:
        _copy_image(case, folder / "pool", source.json.file_ending)
    queries = [case for name, case in source.queries.items() if case.segmentation is not None and source.json.is_annotated(name, structure)]
    for case in queries[:most_queries]:
        _copy_image(case, folder / "queries", source.json.file_ending)
        _copy_label(case, folder / "references", label, source.json.file_ending)
    description = {"channel_names": {"0": "CT"}, "labels": {"background": 0, structure: 1}, "numTraining": shots, "objective": "binary"}
    DatasetJson(**description, file_ending=source.json.file_ending).write(raw / "dataset.json")  # type: ignore[arg-type]
    before = _adapt_and_score(workspace, shots, raw, epochs)
    predicted = predict(folder / "pool", folder / "predicted", workspace, dataset_id=DATASET_ID, shots=shots, no_previews=True)
    first = list(dict.fromkeys(line.case for line in predicted.review))[:CORRECTED]
    with review(folder / "predicted", DATASET_ID, workspace) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for name in first:
            _correct(server, name, source.training[name], structure, label)
        server.shutdown()
    after = _adapt_and_score(workspace, shots + CORRECTED, raw, epochs)
    return pd.DataFrame([{"structure": structure, "draw": draw, "case": case, "before": before[case], "after": after[case]} for case in before])


def _adapt_and_score(workspace: Workspace, shots: int, raw: Path, epochs: int | None) -> dict[str, float]:
    plan_and_preprocess([DATASET_ID], workspace, workers=0, fingerprint_workers=0)
    adapt_dataset(DATASET_ID, shots, workspace, folds=[0], max_epochs=epochs)
    out = workspace.root / f"out_{shots}"
    predict(workspace.root / "queries", out, workspace, dataset_id=DATASET_ID, shots=shots, no_previews=True)
    scores = evaluate(workspace.root / "references", out, dataset_json=raw / "dataset.json", workers=0).scores
    return {score.case: score.metrics["Dice"] for score in scores}


def _correct(server: ReviewServer, name: str, case: Case, structure: str, label: int) -> None:
    """What the page of arena_review does when a person has drawn the label over the prediction and saves it."""
    place, connection = urlsplit(server.address).path + name, http.client.HTTPConnection(server.host)
    connection.request("GET", f"{place}/labels")
    shown = nib.Nifti1Image.from_bytes(gzip.decompress(connection.getresponse().read()))
    truth = read_segmentation(_label_of(case))
    drawn = ShownGrid.of(truth.geometry, most_bytes=None).cut((truth.array == label).astype(np.uint8))
    body = gzip.compress(nib.Nifti1Image(np.asfortranarray(drawn), shown.affine).to_bytes(), 1)
    question = urlencode([("structure", structure), ("changed", "true")])
    connection.request("POST", f"{place}/labels?{question}", body, {"Content-Type": "application/octet-stream"})
    answer = connection.getresponse()
    text = answer.read().decode()
    if answer.status != 200:
        raise RuntimeError(text)
    print(text)


def _label_of(case: Case) -> Path:
    if case.segmentation is None:
        raise ValueError(f"{case.identifier} has no label")
    return case.segmentation


def _copy_case(case: Case, raw: Path, label: int, ending: str) -> None:
    _copy_image(case, raw / "imagesTr", ending)
    _copy_label(case, raw / "labelsTr", label, ending)


def _copy_image(case: Case, folder: Path, ending: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(case.image, folder / f"{case.identifier}_0000{ending}")


def _copy_label(case: Case, folder: Path, label: int, ending: str) -> None:
    image = nib.load(_label_of(case))
    folder.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image((np.asarray(image.dataobj) == label).astype(np.uint8), image.affine), folder / f"{case.identifier}{ending}")


if __name__ == "__main__":
    main()
