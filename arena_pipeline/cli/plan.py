"""arena_plan."""

from __future__ import annotations

import argparse
import textwrap
from typing import TYPE_CHECKING

from arena_pipeline.cli import common
from arena_pipeline.words import listed, pluralize

if TYPE_CHECKING:
    from arena_pipeline.fingerprint.models import Level
    from arena_pipeline.planning import TaskPlan
    from arena_pipeline.stages.plan import WrittenPlans

DESCRIPTION = """\
Decides, from a dataset's fingerprint and the chosen foundation, all that adaptation and prediction need to know, and writes it with
the reason of every decision to plans.json, which may be edited. arena_plan_and_preprocess runs this command too.

  arena_plan -d 101"""

LINE_WIDTH = 120
SHOWN_FINDINGS: dict[Level, int] = {"warning": 10, "fixed": 3, "info": 5}


def main(argv: list[str] | None = None) -> int:
    options = common.parser(DESCRIPTION)
    common.add_datasets(options)
    add_planning(options)
    return common.run(_plan, options.parse_args(argv), "arena_plan")


def add_planning(options: argparse.ArgumentParser) -> None:
    """What to plan for: -foundation, -device, --objective."""
    common.add_foundation(options)
    common.add_device(options)
    text = "one binary task per structure, or one multi-class task of all (default: as dataset.json says; multi-class where it says nothing)"
    options.add_argument("--objective", choices=("binary", "multiclass"), help=text)


def _plan(args: argparse.Namespace) -> None:
    common.check_first(args.workspace, args.dataset_ids, args.device)
    from arena_pipeline.stages.plan import plan  # torch takes seconds to import: not for -h

    planned = plan(**common.keywords(args))
    for entry in planned:
        print_planned(entry)


def print_planned(planned: WrittenPlans) -> None:
    """What was decided for one dataset, and what was found in it, for a person."""
    from arena_pipeline.fingerprint.findings import finding_lines

    plans = planned.plans
    print(f"{plans.dataset_name}, adapted from {plans.foundation}")
    groups: dict[str, list[str]] = {}
    for task in plans.tasks:
        if task.max_shots:
            groups.setdefault(_words(task), []).append(task.name)
    for words, names in groups.items():
        print(f"  {words}")
        print(textwrap.fill(", ".join(names), LINE_WIDTH, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False))
    if skipped := [task.name for task in plans.tasks if not task.max_shots]:
        print(f"  not adaptable, no usable training case: {listed(skipped)}")
    for line in finding_lines(planned.findings, SHOWN_FINDINGS):
        print(f"  {line}")
    print(f"plans, with the reason of every decision: {planned.file}")
    if planned.backup:
        print(f"the plans that were there are kept as {planned.backup}")


def _words(task: TaskPlan) -> str:
    """The decisions for a task; tasks with the same ones are listed together."""
    kept = sum(task.keep_largest.values())
    several = len(task.structures) > 1
    largest = f"largest component kept of {kept}" if several else "keeps the largest component" if kept else "keeps all components"
    decoder, shots = "decoder trained" if task.train_decoder else "decoder frozen", pluralize(task.max_shots, "shot")
    return f"{task.kind}{f', {len(task.structures)} structures' if several else ''}: {decoder}, {task.head} head, {largest}, up to {shots}"
