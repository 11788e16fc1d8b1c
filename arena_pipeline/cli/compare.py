"""arena_compare."""

from __future__ import annotations

import argparse
import shlex
import sys
from functools import partial

from arena_pipeline.cli import common

DESCRIPTION = """Compares methods on one dataset: adapts each to the same support sets, predicts and scores the same queries (imagesTs with labelsTs),
and writes tables with intervals and tests, and a report.

    arena_compare -d 101 -shots 5 10
    arena_compare -d 101 -shots 5 -methods zero_shot lora arena -s liver -f 0
    arena_compare -d 101 -shots 5 -methods lora arena -s liver --ranks 2 4 8 32 64

Can be interrupted and typed again: a finished run is never repeated. Everything is written to results/DATASET/FOUNDATION/comparison in the
workspace; docs/comparison.md says how to read it."""


def main(argv: list[str] | None = None) -> int:
    options = common.parser(DESCRIPTION)
    add = options.add_argument
    common.add_dataset(options)
    add("-shots", type=common.positive_int, nargs="+", required=True, metavar="K", help="sizes of the support set")
    add("-methods", "--methods", nargs="+", metavar="NAME", help="default: all; an unknown one lists them")
    add("-s", "--structures", nargs="+", metavar="NAME", help="only these structures (default: all of the plans)")
    common.add_folds(options, "folds: each is one seeded draw of the support set", default=[0, 1, 2])
    add("-rank", type=common.positive_int, metavar="R", help="allocated rank of the methods that have one (default: the plans', or the method's own)")
    add("--ranks", type=common.positive_int, nargs="+", default=[], metavar="R", help="also a rank sweep: LoRA and ARENA with each of these ranks")
    add("--max_epochs", type=common.positive_int, metavar="N", help="length of every schedule (default: the plans')")
    add("-queries", "--queries", dest="most_queries", type=common.positive_int, metavar="N", help="only the first N query cases (default: all)")
    add("--protocol", choices=("native", "published"), default="native", help="published: Dice as the papers compute it, on the preprocessed grid")
    add("--finished_only", action="store_true", help="make no run; write the tables of those that are finished")
    common.add_foundation(options)
    common.add_device(options)
    common.add_jobs_at_once(options, "runs", default="chosen from cores and memory")
    command = shlex.join(["arena_compare", *(sys.argv[1:] if argv is None else argv)])
    return common.run(partial(_compare, command=command), options.parse_args(argv), "arena_compare")


def _compare(args: argparse.Namespace, command: str) -> None:
    common.check_first(args.workspace, [args.dataset_id], args.device)
    import pandas as pd  # seconds to import, with what the stage imports: not for -h

    from arena_pipeline.model.allocator import keep_freed_memory
    from arena_pipeline.research.compare.compare import compare

    keep_freed_memory()
    done = compare(**common.keywords(args), command=command)
    with pd.option_context("display.width", None, "display.max_columns", None, "display.max_rows", None):
        for shots, table in done.data.dice.items():
            print(f"\nmean Dice, shots: {shots}")
            print(table.to_string(float_format=lambda value: f"{value:.3f}", na_rep="-"))
    print(f"\n{done.executed} runs made, {done.reused} found finished; a difference counts with its interval only: {done.folder.markdown('tests')}")
    print(f"tables and report: {done.folder.root}")
