"""arena_convert_flare22."""

from __future__ import annotations

import argparse

from arena_pipeline.cli import common

DESCRIPTION = """\
Converts a raw FLARE'22 folder to the standard layout, one multi-class task.

FLARE22_Tr_XXXX become training cases, FLARETs_XXXX (tuning) queries. CTs are linked or copied unchanged, labels renumbered 1, 2, ...
Can be interrupted and run again: finished cases are kept, and so are converted files that somebody has corrected since.
Where cases fail, all others are converted and the command ends with
an error that names those that are not.

example: arena_convert_flare22 -i FLARE22Train -d 102"""


def main(argv: list[str] | None = None) -> int:
    options = common.parser(DESCRIPTION)
    common.add_conversion(options, "the folder with images/ and labels/ (or train/ and tuning/)", "FLARE22")
    options.add_argument("--structures", nargs="+", metavar="NAME", help="structures of the task (default: the nine of the paper)")
    return common.run(_convert, options.parse_args(argv), "arena_convert_flare22")


def _convert(args: argparse.Namespace) -> None:
    from dataset_conversion.flare22 import convert_flare22  # not for -h

    common.convert(convert_flare22, args)
