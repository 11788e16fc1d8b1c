"""arena_convert_totalsegmentator."""

from __future__ import annotations

import argparse

from arena_pipeline.cli import common

DESCRIPTION = """\
Converts a raw TotalSegmentator folder (v1 or v2, found out by itself) to the standard layout, a binary task per structure.

A mask file that is missing means "not annotated" in that subject, an empty one means "absent". CTs are linked or copied unchanged.
Can be interrupted and run again: finished subjects are kept, and so are converted files that somebody has corrected since.
conversion_report.json lists overlapping masks, ignored masks and
what was left out. Where subjects fail, all others are converted and the command ends with an error that names those that are not.

example: arena_convert_totalsegmentator -i Totalsegmentator_dataset -d 101 --structures spleen heart_myocardium"""


def main(argv: list[str] | None = None) -> int:
    options = common.parser(DESCRIPTION)
    common.add_conversion(options, "the folder with sXXXX/ct.nii.gz and meta.csv", "TotalSegmentator")
    options.add_argument("--structures", nargs="+", metavar="NAME", help="structures to convert (default: all that have a mask file)")
    split = "meta: meta.csv's train and val to imagesTr, test to imagesTs; published: the few-shot split of the FSEFT paper, per structure"
    options.add_argument("--split", choices=("meta", "published"), default="meta", help=split)
    options.add_argument("--exclude_defective", action="store_true", help="leave out the subjects known to be defective")
    return common.run(_convert, options.parse_args(argv), "arena_convert_totalsegmentator")


def _convert(args: argparse.Namespace) -> None:
    from dataset_conversion.totalsegmentator import convert_totalsegmentator  # not for -h

    common.convert(convert_totalsegmentator, args)
