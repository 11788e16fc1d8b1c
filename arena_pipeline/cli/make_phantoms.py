"""arena_make_phantoms."""

from __future__ import annotations

import argparse
from pathlib import Path

from arena_pipeline.cli import common

DESCRIPTION = """\
Makes CT-like phantoms (torsos with random anatomy, in HU) with their segmentations, as a raw dataset to convert.

No two look alike: build, fat, contrast phase, spacing, orientation and field of view vary. Case number i of a seed is always the
same. Can be interrupted and run again: finished cases are kept.

example: arena_make_phantoms -o phantoms -n 20 --layout totalsegmentator --test 5"""
FIELDS_OF_VIEW = ("torso", "abdomen_pelvis", "abdomen", "chest", "chest_abdomen")


def main(argv: list[str] | None = None) -> int:
    options = common.parser(DESCRIPTION, workspace=False)
    options.add_argument("-o", dest="output", type=Path, required=True, metavar="FOLDER", help="the raw dataset's folder, made if missing")
    options.add_argument("-n", dest="number", type=common.positive_int, required=True, metavar="N", help="phantoms to make")
    options.add_argument("--layout", required=True, choices=("totalsegmentator", "flare22"), help="how folders and files are laid out")
    options.add_argument(
        "--test", type=common.whole_number, default=0, metavar="N", help="the last N are queries (split test; FLARE'22: tuning cases)"
    )
    options.add_argument("--seed", type=common.whole_number, default=0, help="another seed makes other people")
    options.add_argument("--start", type=common.whole_number, default=1, metavar="INDEX", help="number of the first case")
    options.add_argument(
        "--spacing", dest="spacing_mm", type=float, nargs=3, metavar=("X", "Y", "Z"), help="voxel size of all in mm, e.g. 3 3 3 (default: varied)"
    )
    options.add_argument("--field_of_view", choices=FIELDS_OF_VIEW, help="part of the body in all (default: varied)")
    options.add_argument("--size", type=float, default=1.0, metavar="FACTOR", help="size of the bodies: 1 for adults, 0.6 for small children")
    options.add_argument(
        "--unannotated", dest="unannotated_share", type=float, default=0.0, metavar="SHARE", help="share of mask files left out (totalsegmentator)"
    )
    options.add_argument("-np", dest="workers", type=common.whole_number, default=1, metavar="N", help=common.WORKERS_HELP)
    args = options.parse_args(argv)
    return common.run(_make, args, "arena_make_phantoms", args.output)


def _make(args: argparse.Namespace) -> None:
    from arena_pipeline.research.phantoms.make_phantoms import make_phantoms  # not for -h

    images = make_phantoms(**common.keywords(args) | {"spacing_mm": tuple(args.spacing_mm) if args.spacing_mm else None})
    print(f"{len(images)} phantoms in {args.output}")
