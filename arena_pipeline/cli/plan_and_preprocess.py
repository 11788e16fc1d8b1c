"""arena_plan_and_preprocess: the first of the three commands."""

from __future__ import annotations

import argparse

from arena_pipeline.cli import common
from arena_pipeline.cli.plan import add_planning, print_planned
from arena_pipeline.cli.preprocess import add_preprocessing
from arena_pipeline.words import pluralize

USUAL_SHOTS = 5

DESCRIPTION = """\
Makes a raw dataset ready for adaptation: measures it (fingerprint), decides all settings (plans) and preprocesses the training cases.
The dataset is raw/DatasetXXX_NAME in the workspace: made by a converter, or any nnU-Net v2 raw dataset of CTs. Run it again whenever the
dataset changed: only what is missing or outdated is done.

  arena_plan_and_preprocess -d 101"""


def main(argv: list[str] | None = None) -> int:
    options = common.parser(DESCRIPTION)
    common.add_datasets(options)
    add_planning(options)
    text = "the same for the fingerprint alone (default: chosen from cores and memory)"
    options.add_argument("-npfp", dest="fingerprint_workers", type=common.whole_number, metavar="N", help=text)
    add_preprocessing(options)
    text = "first read and check every file, as arena_verify_dataset does, and stop where one can't be used"
    options.add_argument("--verify_dataset_integrity", action="store_true", help=text)
    return common.run(_plan_and_preprocess, options.parse_args(argv), "arena_plan_and_preprocess")


def _plan_and_preprocess(args: argparse.Namespace) -> None:
    common.check_first(args.workspace, args.dataset_ids, args.device)
    from arena_pipeline.stages.plan_and_preprocess import plan_and_preprocess  # torch takes seconds to import: not for -h

    prepared = plan_and_preprocess(**common.keywords(args))
    foundation = [] if args.foundation is None else ["-foundation", args.foundation]
    for number, (dataset_id, (planned, stored)) in enumerate(zip(args.dataset_ids, prepared, strict=True)):
        print(end="\n" if number else "")
        print_planned(planned)
        print(f"{pluralize(len(stored.written), 'case')} preprocessed, {len(stored.cases) - len(stored.written)} were there: {stored.folder}")
        shots = min(USUAL_SHOTS, max(task.max_shots for task in planned.plans.tasks))
        print(f"next: {args.workspace.command('arena_adapt', '-d', dataset_id, '-shots', shots, *foundation)}")
