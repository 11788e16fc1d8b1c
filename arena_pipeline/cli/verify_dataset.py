"""arena_verify_dataset."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from arena_pipeline.cli import common
from arena_pipeline.words import pluralize

if TYPE_CHECKING:
    from arena_pipeline.fingerprint.audit import DatasetAudit
    from arena_pipeline.fingerprint.models import Level

EXIT_NOT_USABLE = 1
SHOWN_LINES: dict[Level, int] = {"error": 1_000_000, "warning": 20, "fixed": 5, "info": 3}

DESCRIPTION = """\
Reads every file of a raw dataset and says what is wrong with it, in a sentence each. Errors keep a case from being used, warnings may spoil
results, "fixed" is mended whenever the file is read. Writes dataset_audit.json; the raw files are never changed.
Ends with 0 where the dataset can be used, with 1 where it has errors.

  arena_verify_dataset -d 101"""


def main(argv: list[str] | None = None) -> int:
    options = common.parser(DESCRIPTION)
    common.add_datasets(options)
    common.add_workers(options)
    common.add_engine(options)
    text = "also write corrected copies of the segmentations that are fixed in reading, for other programs, to preprocessed/DATASET/corrected"
    options.add_argument("--fix", action="store_true", help=text)
    return common.run(_verify, options.parse_args(argv), "arena_verify_dataset")


def _verify(args: argparse.Namespace) -> int:
    from arena_pipeline.stages.verify_dataset import verify_dataset  # not for -h

    audits = verify_dataset(**common.keywords(args))
    for audit in audits:
        _print(audit)
        if args.fix and audit.of_level("fixed"):
            print(f"  corrected copies: {args.workspace.corrected(audit.dataset_name)}")
        print(f"written: {args.workspace.audit(audit.dataset_name)}")
    return 0 if all(audit.usable for audit in audits) else EXIT_NOT_USABLE


def _print(audit: DatasetAudit) -> None:
    from arena_pipeline.fingerprint.findings import finding_lines

    print(f"{audit.dataset_name}: {pluralize(audit.checked, 'case')} checked")
    for line in finding_lines(audit.findings, SHOWN_LINES):
        print(f"  {line}")
    print("  usable" if audit.usable else "  not usable as it is: mend the errors, then run this again")
