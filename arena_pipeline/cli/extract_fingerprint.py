"""arena_extract_fingerprint."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from arena_pipeline.cli import common
from arena_pipeline.words import pluralize

if TYPE_CHECKING:
    from arena_pipeline.fingerprint import Fingerprint
    from arena_pipeline.fingerprint.models import Level

SHOWN_FINDINGS: dict[Level, int] = {"warning": 20, "fixed": 5, "info": 10}

DESCRIPTION = """\
Reads and checks every training case of a dataset and measures it: grids, intensities, volumes and components of every structure, and how
well all that fits the foundation. Writes dataset_fingerprint.json, whose findings say in plain sentences what can be mended.
arena_plan_and_preprocess runs this command too.

  arena_extract_fingerprint -d 101"""


def main(argv: list[str] | None = None) -> int:
    options = common.parser(DESCRIPTION)
    common.add_datasets(options)
    common.add_foundation(options)
    common.add_workers(options)
    options.add_argument("--clean", action="store_true", help="measure again, although no file has changed")
    text = "first read and check every file, as arena_verify_dataset does, and stop where one can't be used"
    options.add_argument("--verify_dataset_integrity", action="store_true", help=text)
    return common.run(_extract, options.parse_args(argv), "arena_extract_fingerprint")


def _extract(args: argparse.Namespace) -> None:
    from arena_pipeline.stages.extract_fingerprint import extract_fingerprint  # not for -h
    from arena_pipeline.stages.verify_dataset import require_integrity

    for dataset_id in args.dataset_ids if args.verify_dataset_integrity else ():
        require_integrity(dataset_id, args.workspace, args.workers)
    fingerprints = extract_fingerprint(**common.keywords(args, "verify_dataset_integrity"))
    for fingerprint in fingerprints:
        _print(fingerprint)
        print(f"written: {args.workspace.fingerprint(fingerprint.dataset_name)}")


def _print(fingerprint: Fingerprint) -> None:
    from arena_pipeline.fingerprint.findings import finding_lines

    print(f"{fingerprint.dataset_name}: {pluralize(fingerprint.n_training, 'training case')}, {pluralize(len(fingerprint.structures), 'structure')}")
    for line in finding_lines(fingerprint.findings, SHOWN_FINDINGS):
        print(f"  {line}")
    if not fingerprint.findings:
        print(f"  nothing to note: the data suits {fingerprint.foundation}")
