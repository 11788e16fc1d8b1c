"""arena_convert_flare22."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from arena_pipeline.cli import common
from arena_pipeline.records import stage

DESCRIPTION = """\
Converts a raw FLARE'22 folder to the standard layout, one multi-class task.

FLARE22_Tr_XXXX become training cases, FLARETs_XXXX (tuning) queries. CTs are linked or copied unchanged, labels renumbered 1, 2, ...
Can be interrupted and run again: finished cases are kept, and so are converted files that somebody has corrected since.
Where cases fail, all others are converted and the command ends with
an error that names those that are not.

example: arena_convert_flare22 -i FLARE22Train -d 102"""


def _parser() -> argparse.ArgumentParser:
    options = common.parser(DESCRIPTION)
    options.add_argument(
        "-i", dest="source", type=Path, required=True, metavar="RAW", help="the folder with images/ and labels/ (or train/ and tuning/)"
    )
    options.add_argument("-d", dest="dataset_id", type=common.dataset_number, required=True, metavar="ID", help="number of the new dataset, e.g. 102")
    options.add_argument("-n", dest="name", default="FLARE22", metavar="NAME", help="name of the new dataset")
    options.add_argument("--structures", nargs="+", metavar="NAME", help="structures of the task (default: the nine of the paper)")
    options.add_argument("--exclude", nargs="+", default=(), metavar="CASE", help="cases to leave out")
    text = "replace a dataset of other structures that has this number, and converted files that were changed by hand"
    options.add_argument("--overwrite", action="store_true", help=text)
    common.add_workers(options)
    return options


def _convert(args: argparse.Namespace) -> int:
    from dataset_conversion.flare22 import convert_flare22  # not for -h

    with stage("convert"):
        folder = convert_flare22(**common.keywords(args))
    command = ["arena_plan_and_preprocess", "-d", str(args.dataset_id), *args.workspace.options]
    print(f"{folder}\nnext: {shlex.join(command)}")
    return 0


def main(argv: list[str] | None = None) -> int:
    """Returns the exit status."""
    return common.run(_convert, _parser().parse_args(argv), "arena_convert_flare22")
