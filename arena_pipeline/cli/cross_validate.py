"""arena_cross_validate."""

from __future__ import annotations

import argparse
import shlex
import sys
from functools import partial
from typing import TYPE_CHECKING

from arena_pipeline.cli import common

if TYPE_CHECKING:
    from arena_pipeline.research.cross_validate.cross_validate import CrossValidation

DESCRIPTION = """What Dice to expect, from the annotated scans alone: K adaptations, each on all scans of the support set but one, and scored
on that one (on its own grid: Dice, NSD, HD95), beside zero-shot for structures that the foundation knows.

    arena_cross_validate -d 101 -shots 5
    arena_cross_validate -d 101 -shots 5 --structures liver -methods arena lora fft -foundation arena_mini suprem_swinunetr

With several methods or foundations (each planned by arena_plan_and_preprocess) it ranks them, says which differences mean anything, and gives the
command for the first. Takes about K times as long as one fold of arena_adapt, for each. Can be interrupted and typed again: a finished run is never
repeated. Written to results/DATASET/FOUNDATION/cross_validation/Kshots in the workspace, of several foundations to
results/DATASET/cross_validation/Kshots; docs/comparison.md says how to read it."""


def main(argv: list[str] | None = None) -> int:
    options = common.parser(DESCRIPTION)
    add = options.add_argument
    common.add_dataset(options)
    add("-shots", type=common.positive_int, required=True, metavar="K", help="size of the support set; each of its scans is left out once")
    add("-s", "--structures", nargs="+", metavar="NAME", help="only these structures (default: all of the plans)")
    add("-methods", "--methods", nargs="+", metavar="NAME", help="methods of adaptation to try (default: the planned one)")
    add("--max_epochs", type=common.positive_int, metavar="N", help="length of the schedule (default: the plans')")
    text = "pre-trained networks to try; arena_info lists them (default: the most preferred one that the dataset is planned for)"
    add("-foundation", "--foundation", nargs="+", metavar="NAME", help=text)
    common.add_device(options)
    common.add_jobs_at_once(options, "runs", default="chosen from cores and memory")
    command = shlex.join(["arena_cross_validate", *(sys.argv[1:] if argv is None else argv)])
    return common.run(partial(_cross_validate, command=command), options.parse_args(argv), "arena_cross_validate")


def _cross_validate(args: argparse.Namespace, command: str) -> None:
    common.check_first(args.workspace, [args.dataset_id], args.device)
    import pandas as pd  # seconds to import, with what the stage imports: not for -h

    from arena_pipeline.research.cross_validate.cross_validate import cross_validate
    from arena_pipeline.research.cross_validate.expected import summary_sentences
    from arena_pipeline.research.cross_validate.ranking import ranking_sentences

    done = cross_validate(**common.keywords(args), command=command)
    per_scan = done.scans.pivot(index=["structure", "foundation", "method"], columns="case", values="Dice")
    with pd.option_context("display.width", None, "display.max_columns", None, "display.max_rows", None):
        print("\nDice of every scan, by a model that has not seen it")
        print(per_scan.to_string(float_format=lambda value: f"{value:.3f}", na_rep="-"))
    print()
    for sentence in [*summary_sentences(done.summary), *done.caveats]:
        print(sentence)
    if len(done.ranked) > 1:
        print("\n".join(["", *ranking_sentences(done.ranked), f"to use the first: {_chosen(args, done)}"]))
    print(f"tables and picture: {done.folder.root}")


def _chosen(args: argparse.Namespace, done: CrossValidation) -> str:
    """The command that makes what is ranked first of all scans; zero-shot only has to be used."""
    from arena_pipeline.research.compare.published import ZERO_SHOT

    first = done.ranked.iloc[0]
    structures = args.structures or list(dict.fromkeys(done.scans["structure"]))
    foundation = ["-foundation", first["foundation"]] if args.foundation else []
    if first["method"] == ZERO_SHOT:
        return args.workspace.command("arena_predict", "-i", "FOLDER", "-o", "OUTPUT", "--zero_shot", *structures, "-d", args.dataset_id, *foundation)
    epochs = ["--max_epochs", args.max_epochs] if args.max_epochs else []
    asked = ["--structures", *args.structures] if args.structures else []
    options = ["-d", args.dataset_id, "-shots", args.shots, "-method", first["method"], *foundation, *epochs, *asked]
    return args.workspace.command("arena_adapt", *options)
