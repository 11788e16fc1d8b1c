"""arena_postprocess."""

from __future__ import annotations

import argparse
from pathlib import Path

from arena_pipeline.cli import common
from arena_pipeline.words import pluralize

DESCRIPTION = """Keeps only the largest connected component of every structure for which the plans say so ("keep_largest").

    arena_postprocess -i ensemble/ -o out/ -m results/Dataset101_NAME/FOUNDATION/arena_5shots

arena_predict does this by itself; this command is for ensembles, and for predictions made with --no_postprocessing."""


def main(argv: list[str] | None = None) -> int:
    options = common.parser(DESCRIPTION)
    options.add_argument("-i", dest="input", type=Path, required=True, metavar="FOLDER", help="segmentations")
    options.add_argument("-o", dest="output", type=Path, required=True, metavar="FOLDER", help="folder for the post-processed segmentations")
    rules = options.add_mutually_exclusive_group(required=True)
    rules.add_argument("-plans", "--plans", type=Path, metavar="PLANS.json", help="the plans that say which structures to treat")
    rules.add_argument("-m", dest="model", type=Path, metavar="MODEL_FOLDER", help="the model that predicted them; its plans.json is used")
    return common.run(_postprocess, options.parse_args(argv), "arena_postprocess")


def _postprocess(args: argparse.Namespace) -> None:
    from arena_pipeline.stages.postprocess import postprocess  # heavy imports: not for -h

    written = postprocess(args.input, args.output, plans=args.plans, model_folder=args.model)
    print(f"{pluralize(len(written), 'segmentation')} written to {args.output}")
