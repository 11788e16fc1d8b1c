"""arena_view."""

from __future__ import annotations

import argparse
from pathlib import Path

from arena_pipeline.cli import common
from arena_pipeline.words import memory_size, pluralize

DESCRIPTION = """Shows cases in a browser: slices in CT windows, structures with their colours and volumes, what to look at first, 3D.

    arena_view out/                   what arena_predict -o out/ wrote: out/view/index.html and a page per case
    arena_view out/case.nii.gz        one of them
    arena_view scan.nii.gz            a CT alone; a folder with the slices of one DICOM series likewise
    arena_view -w WORKSPACE -d 101    the annotated cases of a raw dataset, into WORKSPACE/view/

Each page is one file with the scan inside. It opens without a server or a network, and holds patients' images: keep it as you keep those."""


def main(argv: list[str] | None = None) -> int:
    options = common.parser(DESCRIPTION)
    text = "folder that arena_predict wrote, a segmentation in it, or a CT, a file or a DICOM folder (default: the workspace's raw datasets)"
    options.add_argument("path", type=Path, nargs="?", metavar="OUT", help=text)
    text = "the CTs, where they have been moved since they were predicted"
    options.add_argument("-i", dest="images", type=Path, metavar="CTS", help=text)
    options.add_argument("-o", dest="output_folder", type=Path, metavar="FOLDER", help="folder for the pages (default: view/ beside what is shown)")
    text = "of the workspace only these datasets, e.g. 101"
    options.add_argument("-d", dest="dataset_ids", type=common.dataset_number, nargs="+", metavar="ID", help=text)
    options.add_argument("--cases", nargs="+", metavar="CASE", help="only these cases")
    args = options.parse_args(argv)
    if args.path is not None and args.dataset_ids is not None:
        options.error("-d chooses among the workspace's datasets; leave it or OUT out")
    return common.run(_view, args, "arena_view")


def _view(args: argparse.Namespace) -> None:
    from arena_pipeline.stages.view import view  # heavy imports: not for -h

    written = view(**common.keywords(args))
    size = memory_size(sum(page.stat().st_size for page in written.pages.values()))
    print(f"{pluralize(len(written.pages), 'page')} written ({size} together); open {written.index}")
