"""arena_convert_dicom."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from arena_pipeline.cli import common
from arena_pipeline.records import stage

DESCRIPTION = """\
Converts DICOM to the standard layout: CT series, and the contours (RTSTRUCT) and segmentations (SEG) that refer to
them, a binary task per structure.

Names of regions differ between planning systems and people. The first run writes roi_names.csv with what each of them
probably means, and stops where it does not know; fill in the rest in any editor or spreadsheet, and run it again.
Can be interrupted and run again: finished cases are kept, and so are converted files that somebody has corrected since.

example: arena_convert_dicom -i planning_cts -d 101"""


def _parser() -> argparse.ArgumentParser:
    options = common.parser(DESCRIPTION)
    options.add_argument("-i", dest="source", type=Path, required=True, metavar="FOLDER", help="DICOM files of all patients, with folders inside")
    options.add_argument("-d", dest="dataset_id", type=common.dataset_number, required=True, metavar="ID", help="number of the new dataset, e.g. 101")
    options.add_argument("-n", dest="name", default="DICOM", metavar="NAME", help="name of the new dataset")
    options.add_argument("--names", type=Path, metavar="CSV", help="the table name -> structure (default: roi_names.csv in the dataset's folder)")
    options.add_argument("--queries", nargs="+", default=(), metavar="CASE", help="cases to keep apart as queries (imagesTs)")
    options.add_argument("--exclude", nargs="+", default=(), metavar="CASE", help="cases to leave out")
    text = "fill slices without contours between drawn ones that overlap and are at most so far apart; 0: leave them empty"
    options.add_argument("--bridge_mm", type=float, default=10.0, metavar="MM", help=text)
    text = "replace a dataset of other structures or of another folder, and converted files that were changed by hand"
    options.add_argument("--overwrite", action="store_true", help=text)
    common.add_workers(options)
    return options


def _convert(args: argparse.Namespace) -> int:
    from dataset_conversion.dicom import convert_dicom  # not for -h
    from dataset_conversion.region_names import UndecidedNames

    try:
        with stage("convert"):
            folder = convert_dicom(**common.keywords(args))
    except UndecidedNames as fault:
        print("\n".join(map(str, fault.rows)))
        raise
    command = ["arena_plan_and_preprocess", "-d", str(args.dataset_id), *args.workspace.options]
    print(f"{folder}\nnext: {shlex.join(command)}")
    return 0


def main(argv: list[str] | None = None) -> int:
    """Returns the exit status."""
    return common.run(_convert, _parser().parse_args(argv), "arena_convert_dicom")
