"""arena_cross_validate."""

from __future__ import annotations

import argparse
import shlex
import sys
from functools import partial

from arena_pipeline.cli import common

DESCRIPTION = """What Dice to expect, from the annotated scans alone: K adaptations, each on all scans of the support set but one, and scored
on that one (on its own grid: Dice, NSD, HD95), beside zero-shot for structures that the foundation knows.

    arena_cross_validate -d 101 -shots 5
    arena_cross_validate -d 101 -shots 5 --structures liver -methods arena lora fft

Takes about K times as long as one fold of arena_adapt. Can be interrupted and typed again: a finished run is never repeated. Written to
results/DATASET/FOUNDATION/cross_validation/Kshots in the workspace; docs/comparison.md says how to read it."""


def main(argv: list[str] | None = None) -> int:
    options = common.parser(DESCRIPTION)
    add = options.add_argument
    add("-d", dest="dataset_id", type=common.dataset_number, required=True, metavar="ID", help="dataset number, e.g. 101 for raw/Dataset101_NAME")
    add("-shots", type=common.positive_int, required=True, metavar="K", help="size of the support set; each of its scans is left out once")
    add("-s", "--structures", nargs="+", metavar="NAME", help="only these structures (default: all of the plans)")
    add("-methods", "--methods", nargs="+", metavar="NAME", help="methods of adaptation to try (default: the planned one)")
    add("--max_epochs", type=common.positive_int, metavar="N", help="length of the schedule (default: the plans')")
    text = "runs at once, each in a process of its own; 0 or 1: one after the other in this one (default: chosen from cores and memory)"
    add("-np", dest="workers", type=common.whole_number, metavar="N", help=text)
    common.add_foundation(options)
    common.add_device(options)
    command = shlex.join(["arena_cross_validate", *(sys.argv[1:] if argv is None else argv)])
    return common.run(partial(_cross_validate, command=command), options.parse_args(argv), "arena_cross_validate")


def _cross_validate(args: argparse.Namespace, command: str) -> None:
    common.check_first(args.workspace, [args.dataset_id], args.device)
    import pandas as pd  # seconds to import, with what the stage imports: not for -h

    from arena_pipeline.research.cross_validate.cross_validate import cross_validate
    from arena_pipeline.research.cross_validate.expected import summary_sentences

    done = cross_validate(
        args.dataset_id,
        args.shots,
        args.workspace,
        structures=args.structures,
        methods=args.methods,
        max_epochs=args.max_epochs,
        foundation=args.foundation,
        workers=args.workers,
        device=args.device,
        command=command,
    )
    per_scan = done.scans.pivot(index=["structure", "method"], columns="case", values="Dice")
    with pd.option_context("display.width", None, "display.max_columns", None, "display.max_rows", None):
        print("\nDice of every scan, by a model that has not seen it")
        print(per_scan.to_string(float_format=lambda value: f"{value:.3f}", na_rep="-"))
    print()
    for sentence in [*summary_sentences(done.summary), *done.caveats]:
        print(sentence)
    method = done.ranked[0] if done.ranked else None
    if method is not None and len(done.ranked) > 1:
        structures = ["--structures", *args.structures] if args.structures else []
        chosen = args.workspace.command("arena_adapt", "-d", args.dataset_id, "-shots", args.shots, "-method", method, *structures)
        print(f"highest mean Dice: {method}; {chosen}")
    print(f"tables and picture: {done.folder.root}")
