"""arena_preprocess."""

from __future__ import annotations

import argparse

from arena_pipeline.cli import common
from arena_pipeline.words import pluralize

DESCRIPTION = """\
Preprocesses the training cases that the plans need: RAS orientation, the foundation's spacing and intensity window, cropped, in a
compressed format that is quick to read in part. Cases that are stored already are skipped. Follows plans.json as it stands, edited or
not. arena_plan_and_preprocess runs this command too.

  arena_preprocess -d 101"""


def main(argv: list[str] | None = None) -> int:
    options = common.parser(DESCRIPTION)
    common.add_datasets(options)
    common.add_foundation(options)
    add_preprocessing(options)
    common.add_engine(options)
    return common.run(_preprocess, options.parse_args(argv), "arena_preprocess")


def add_preprocessing(options: argparse.ArgumentParser) -> None:
    """How to preprocess: -np, --clean."""
    common.add_workers(options)
    options.add_argument("--clean", action="store_true", help="do everything anew, also what is stored and still right")


def _preprocess(args: argparse.Namespace) -> None:
    from arena_pipeline.stages.preprocess import preprocess  # not for -h

    done = preprocess(**common.keywords(args))
    for entry in done:
        print(f"{pluralize(len(entry.written), 'case')} preprocessed, {len(entry.cases) - len(entry.written)} were there: {entry.folder}")
