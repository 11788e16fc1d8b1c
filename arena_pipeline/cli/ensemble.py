"""arena_ensemble."""

from __future__ import annotations

import argparse
from pathlib import Path

from arena_pipeline.cli import common
from arena_pipeline.words import pluralize

DESCRIPTION = """Averages the probabilities of several predictions of the same CTs and writes the segmentations of the mean.

    arena_predict -i in/ -o out_a/ -d 101 -shots 5 --save_probabilities
    arena_predict -i in/ -o out_b/ -d 101 -shots 10 --save_probabilities
    arena_ensemble -i out_a out_b -o out/

The folds of one model are averaged by arena_predict itself; this is for different models."""


def main(argv: list[str] | None = None) -> int:
    options = common.parser(DESCRIPTION)
    text = "folders that arena_predict --save_probabilities wrote"
    options.add_argument("-i", dest="inputs", type=Path, nargs="+", required=True, metavar="FOLDER", help=text)
    options.add_argument("-o", dest="output", type=Path, required=True, metavar="FOLDER", help="folder for the segmentations")
    return common.run(_ensemble, options.parse_args(argv), "arena_ensemble")


def _ensemble(args: argparse.Namespace) -> None:
    from arena_pipeline.stages.ensemble import ensemble  # heavy imports: not for -h

    written = ensemble(args.inputs, args.output)
    print(f"{pluralize(len(written), 'segmentation')} written to {args.output}, each the mean of {len(args.inputs)} predictions")
