"""arena_info: show the workspace and what each thing in it still needs."""

from __future__ import annotations

import argparse
from pathlib import Path

from arena_pipeline.cli import common
from arena_pipeline.errors import DatasetError
from arena_pipeline.stages.info import DatasetState, ModelState, WorkspaceReport, info
from arena_pipeline.words import duration, listed, pluralize

DESCRIPTION = """Show what the workspace holds: foundations (pre-trained networks), datasets and adapted models.
Under each is the exact command that takes it further. Nothing is changed."""


def main(argv: list[str] | None = None) -> int:
    options = common.parser(DESCRIPTION)
    text = "instead: how far arena_predict is in this folder, how fast, and until when"
    options.add_argument("-o", dest="output", type=Path, metavar="FOLDER", help=text)
    args = options.parse_args(argv)
    return common.run(_info if args.output is None else _print_progress, args, "arena_info")


def _print_progress(args: argparse.Namespace) -> None:
    from arena_pipeline.predict.journal import progress  # not for the rest

    found = progress(args.output)
    if found is None:
        fault = "no journal of a prediction" if args.output.is_dir() else "no such folder"
        raise DatasetError(fault, file=args.output, advice="give the -o of an arena_predict")
    done = f"{found.predicted} predicted" + (f", {found.earlier} by earlier commands" if found.earlier else "")
    print(f"{pluralize(found.total, 'case')}: {done}, {found.failed} failed, {found.left} left")
    for who, (number, seconds) in found.by.items():
        print(f"  {who}: {pluralize(number, 'case')}, {seconds:.1f} s each")
    if found.cases_per_hour is not None and found.hours_left is not None:
        print(f"{found.cases_per_hour:.0f} cases per hour, about {duration(3600 * found.hours_left)} left")
    elif not any(command.alive for command in found.commands):
        print("nobody is at work there" + ("; the same arena_predict with --continue_prediction goes on" if found.left else ""))


def _info(args: argparse.Namespace) -> None:
    report = info(workspace=args.workspace)
    print(f"workspace {report.root}{'' if report.exists else ' (not there yet; the first command that writes makes it)'}")
    _print_foundations(report)
    print("\ndatasets")
    for dataset in report.datasets:
        _print_dataset(dataset)
    if not report.datasets:
        print(f"  none in {report.root / 'raw'}: convert one, or put a folder DatasetXXX_NAME in the standard layout there")
        _print_next("arena_convert_totalsegmentator -h")
    print("\nadapted models")
    for model in report.models:
        _print_model(model)
    if not report.models:
        print("  none")


def _print_foundations(report: WorkspaceReport) -> None:
    print("\nfoundations")
    for foundation in report.foundations:
        default = " (used when none is named)" if foundation.name == report.default_foundation else ""
        print(f"  {foundation.name}{default}: {foundation.title}")
        print(f"    {pluralize(foundation.structures, 'structure')}; licence {foundation.licence}")
        print(f"    weights: {foundation.weights}")
        _print_next(foundation.next_command)
    if report.found_models:
        print("\nmodels of TotalSegmentator on this machine, not installed as foundations")
    for model in report.found_models:
        print(f"  {model.folder.parent.name}, {model.folder.name}")
        print(f"    problem: {model.problem}" if model.problem else f"    {pluralize(model.structures, 'structure')}; licence {model.licence}")
        _print_next(model.next_command)


def _print_dataset(dataset: DatasetState) -> None:
    print(f"  {dataset.name}")
    if dataset.problem:
        print(f"    problem: {dataset.problem}")
        return
    cases, queries = pluralize(dataset.training, "annotated case"), pluralize(dataset.queries, "query", "queries")
    print(f"    {cases}, {queries}; {dataset.objective}: {listed(dataset.structures)}")
    if dataset.failed_verification:
        print(f"    {dataset.failed_verification}")
    _print_next(dataset.next_command)
    for prepared in dataset.prepared:
        tasks = pluralize(prepared.tasks, "task")
        print(f"    for {prepared.foundation}: {tasks} planned, {prepared.cases_stored} of {prepared.cases_needed} cases preprocessed")
        if prepared.problem:
            print(f"      problem: {prepared.problem}")
        _print_next(prepared.next_command, indent=6)


def _print_model(model: ModelState) -> None:
    origin = ", installed from a package" if model.installed else ""
    print(f"  {model.dataset}, {model.foundation}, {model.method}, {pluralize(model.shots, 'shot')}{origin}: {model.folder}")
    for task, numbers in model.folds.items():
        epochs = sorted(set(model.epochs.get(task, ())))
        length = f"{epochs[0]} to {epochs[-1]} epochs" if len(epochs) > 1 else pluralize(epochs[0], "epoch") if epochs else ""
        print(f"    adapted: {task}, {_folds(numbers)}" + (f" ({length})" if length else ""))
    rest = (("begun only", model.unfinished), ("of other plans, not used", model.of_other_plans), ("not adapted", model.missing))
    for text, folds in rest:
        for task, numbers in folds.items():
            print(f"    {text}: {task}, {_folds(numbers)}")
    for task, faults in model.failed.items():
        for fold, fault in faults.items():
            print(f"    failed, left out of every average: {task}, {_folds((fold,))}: {fault}")
    if model.failed:
        print("      check the annotations of these support sets, or lower the rates in plans.json; arena_adapt --overwrite tries again")
    _print_next(model.next_command)


def _folds(numbers: tuple[int, ...]) -> str:
    return f"fold{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


def _print_next(command: str | None, indent: int = 4) -> None:
    if command is not None:
        print(f"{' ' * indent}next: {command}")
