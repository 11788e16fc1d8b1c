"""arena_convert_dicom."""

from __future__ import annotations

import argparse
from pathlib import Path

from arena_pipeline.cli import common

DESCRIPTION = """\
Converts DICOM to the standard layout: CT series, and the contours (RTSTRUCT) and segmentations (SEG) that refer to
them, a binary task per structure.

Names of regions differ between planning systems and people. The first run writes roi_names.csv with what each of them
probably means, and stops where it does not know; fill in the rest in any editor or spreadsheet, and run it again.
Can be interrupted and run again: finished cases are kept, and so are converted files that somebody has corrected since.

example: arena_convert_dicom -i planning_cts -d 101"""


def main(argv: list[str] | None = None) -> int:
    options = common.parser(DESCRIPTION)
    common.add_conversion(options, "DICOM files of all patients, with folders inside", "DICOM")
    options.add_argument("--names", type=Path, metavar="CSV", help="the table name -> structure (default: roi_names.csv in the dataset's folder)")
    options.add_argument("--queries", nargs="+", default=(), metavar="CASE", help="cases to keep apart as queries (imagesTs)")
    text = "fill slices without contours between drawn ones that overlap and are at most so far apart; 0: leave them empty"
    options.add_argument("--bridge_mm", type=float, default=10.0, metavar="MM", help=text)
    return common.run(_convert, options.parse_args(argv), "arena_convert_dicom")


def _convert(args: argparse.Namespace) -> None:
    from dataset_conversion.dicom import convert_dicom  # not for -h
    from dataset_conversion.region_names import UndecidedNames

    try:
        common.convert(convert_dicom, args)
    except UndecidedNames as fault:
        print("\n".join(map(str, fault.rows)))
        raise
