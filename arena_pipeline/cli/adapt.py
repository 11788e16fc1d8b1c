"""arena_adapt."""

from __future__ import annotations

import argparse

from arena_pipeline.cli import common

DESCRIPTION = """Adapts the foundation to a dataset: every fold of every structure (binary objective) or of the one multi-class task.

    arena_adapt -d 101 -shots 5

Run arena_plan_and_preprocess first. Adapters, logs and plots are written to results/ in the workspace; arena_predict uses them.
After an interruption, the same command with --continue goes on from the last finished epoch and gives the same adapter. After a kill it goes
on from the last epoch that was saved, at most some minutes earlier."""


def main(argv: list[str] | None = None) -> int:
    options = common.parser(DESCRIPTION)
    common.add_datasets(options)
    options.add_argument("-shots", type=common.positive_int, required=True, metavar="K", help="annotated scans to adapt on, per fold")
    text = "folds: each is one seeded draw of the support set (default: 0 1 2; where the plans have each fold leave one scan out: all)"
    common.add_folds(options, text)
    options.add_argument("--structures", nargs="+", metavar="NAME", help="only these structures (default: all of the plans)")
    common.add_foundation(options)
    common.add_method(options, "what is adapted, and how (default: the plans', arena); one of")
    text = "allocated rank of each update (default: the plans', 8 as published for arena; 12 for lora and adalora)"
    options.add_argument("-rank", type=common.positive_int, metavar="R", help=text)
    options.add_argument("--max_epochs", type=common.positive_int, metavar="N", help="length of the schedule (default: the plans')")
    unfinished = options.add_mutually_exclusive_group()
    unfinished.add_argument("--overwrite", action="store_true", help="adapt finished folds again")
    text = "go on with folds that were interrupted or killed, from their last epoch that was saved"
    unfinished.add_argument("--continue", dest="continue_unfinished", action="store_true", help=text)
    common.add_device(options)
    common.add_precision(options)
    common.add_jobs_at_once(options, "folds")
    return common.run(_adapt, options.parse_args(argv), "arena_adapt")


def _adapt(args: argparse.Namespace) -> None:
    common.check_first(args.workspace, args.dataset_ids, args.device)
    from arena_pipeline.model.allocator import keep_freed_memory
    from arena_pipeline.model.expected import quality_sentences
    from arena_pipeline.stages.adapt import adapt_dataset  # torch takes seconds to import: not for -h

    keep_freed_memory()

    for dataset_id in args.dataset_ids:
        model = adapt_dataset(dataset_id, **common.keywords(args, "dataset_ids"))
        command = ["arena_predict", "-i", "FOLDER_WITH_CTS", "-o", "OUTPUT_FOLDER", "-d", str(dataset_id), "-shots", str(args.shots)]
        method = model.name.rpartition("_")[0]
        command += [] if method == "arena" else ["-method", method]
        for sentence in quality_sentences(model):
            print(sentence)
        print(f"adapted model: {model}\nnext: {args.workspace.command(*command)}")
