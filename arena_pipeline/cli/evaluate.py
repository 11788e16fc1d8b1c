"""arena_evaluate."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from arena_pipeline.cli import common

if TYPE_CHECKING:
    import pandas as pd

COUNTS_SHOWN = ("absent", "missed", "false_positive", "not_annotated", "in_support")  # where there are any

DESCRIPTION = """\
Scores predicted segmentations against reference segmentations: Dice, IoU, NSD at 1 and 2 mm, HD95 and volume error per case and
structure, on the image's own grid. Files are matched by case, structures by name. Writes nnU-Net's summary.json and a CSV.

A structure that is in neither segmentation is "absent": it has no score, and is not counted as 0. One that only the reference has
is "missed" (Dice 0), one that only the prediction has a "false_positive" (Dice 0). The table's Dice counts all three,
Dice_present leaves the false positives out. Cases that the model was adapted on are marked and left out of the means.

  arena_evaluate -ref arena_workspace/raw/Dataset101_NAME/labelsTs -pred out"""


def main(argv: list[str] | None = None) -> int:
    options = common.parser(DESCRIPTION)
    add = options.add_argument
    add("-ref", "--reference", type=Path, required=True, metavar="PATH", help="reference segmentations, e.g. labelsTs of a raw dataset; or one file")
    add("-pred", "--prediction", type=Path, required=True, metavar="PATH", help="predictions to score, e.g. the -o of arena_predict; or one file")
    described = options.add_mutually_exclusive_group()
    described.add_argument(
        "-d", dest="dataset_id", type=common.dataset_number, metavar="ID", help="dataset whose dataset.json names the labels (default: beside -ref)"
    )
    described.add_argument("-djfile", "--dataset_json", type=Path, metavar="FILE", help="that dataset.json itself")
    add("-o", "--output", type=Path, metavar="FILE", help="the summary (default: summary.json in -pred); the CSV is written beside it")
    add("--structures", nargs="+", metavar="NAME", help="only these (default: all that were predicted)")
    common.add_workers(options)
    common.add_engine(options)
    add("--protocol", choices=("native", "published"), default="native", help="published: Dice as the papers compute it, on the preprocessed grid")
    add("--approximate", action="store_true", help="published: resample native predictions where arena_predict --save_preprocessed was not used")
    scheme = options.add_mutually_exclusive_group()
    scheme.add_argument("-m", "--model", type=Path, metavar="MODEL_FOLDER", help="model whose preprocessing --approximate uses")
    scheme.add_argument("-foundation", "--foundation", metavar="NAME", help="foundation whose preprocessing --approximate uses")
    add("--chill", action="store_true", help="leave out cases that have no prediction instead of failing")
    add("--ignore_split", action="store_true", help="score training cases of the dataset's split too, not only its test cases")
    add("--include_support", action="store_true", help="count cases that the model was adapted on in the means")
    return common.run(_evaluate, options.parse_args(argv), "arena_evaluate")


def _evaluate(args: argparse.Namespace) -> None:
    from arena_pipeline.stages.evaluate import evaluate  # imports pandas, which takes seconds: not for -h

    result = evaluate(**common.keywords(args))
    print(_shown(result.table).to_string(float_format=lambda value: f"{value:.3f}", na_rep="-"))
    print(f"\n{result.protocol}")
    if result.missing:
        print(f"without a prediction, left out: {', '.join(result.missing)}")
    print(f"per case: {result.csv_file}\nsummary:  {result.summary_file}")


def _shown(table: pd.DataFrame) -> pd.DataFrame:
    """The table without useless columns: counts that are all 0, and means without false positives where there are none; metrics.csv has all."""
    empty = [name for name in COUNTS_SHOWN if name in table and not table[name].any()]
    return table.drop(columns=[*empty, *(["Dice_present"] if "false_positive" in empty else [])])
