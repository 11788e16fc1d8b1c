"""arena_pretrain."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import get_args

from arena_pipeline.cli import common
from arena_pipeline.errors import ArenaError
from arena_pipeline.research.pretrain.settings import PretrainSettings
from arena_pipeline.workspace import DEFAULT_FOLDER, ENVIRONMENT_VARIABLE, Workspace

DESCRIPTION = """Pre-trains a foundation's network, on annotated datasets of the workspace, on synthetic torsos, or on both.

  arena_pretrain -foundation arena_mini -o pretraining --steps 1600        the embedded foundation anew
  arena_pretrain -foundation my_preset.json -d 101 102 103 -o pretraining  one of your own: docs/pretraining.md
  torchrun --nproc_per_node 4 -m arena_pipeline.cli.pretrain ...           the same by several processes

A structure counts in the cases where it is annotated. What is not given below is as in the recipe for the foundation's head: FSEFT's for
a sigmoid, arena_mini's for a softmax. Interrupted, the same command goes on where it stood."""

SETTINGS = ("steps", "epochs", "loss", "batch_size", "learning_rate", "warmup_steps", "cooldown_steps", "variety", "averaging", "seed", "precision")


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    from arena_pipeline.research.pretrain.processes import torchrun_rank  # torch takes seconds to import: not for -h

    if torchrun_rank() == 0:
        return common.run(_print_weights, args, "arena_pretrain", args.output)
    try:
        _pretrain(args)  # the first process prints, logs and records for all
    except ArenaError as error:
        print(f"error in process {torchrun_rank()}: {error}", file=sys.stderr)
        return common.EXIT_USER_ERROR
    return 0


def _parser() -> argparse.ArgumentParser:
    options = common.parser(DESCRIPTION, workspace=False)
    text = f"where the datasets are (default: ${ENVIRONMENT_VARIABLE}, else ./{DEFAULT_FOLDER})"
    options.add_argument("-w", "--workspace", dest="source", type=Workspace.find, default="", metavar="FOLDER", help=text)
    text = "name of the preset whose network is trained, or the JSON file of one of your own"
    options.add_argument("-foundation", "--foundation", default="arena_mini", metavar="NAME", help=text)
    options.add_argument("-d", dest="dataset_ids", type=common.dataset_number, nargs="+", metavar="ID", help="dataset number(s) to train on")
    text = "synthetic torsos to train on (default: 300 without -d, else none)"
    options.add_argument("--phantoms", type=common.positive_int, metavar="N", help=text)
    options.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help="phantoms, checkpoints, log and weights go here")
    options.add_argument("--steps", type=common.positive_int, metavar="N", help="steps of the optimizer (softmax: 1600)")
    options.add_argument(
        "--epochs", type=common.positive_int, metavar="N", help="instead of --steps: times three patches of every volume (sigmoid: 1000)"
    )
    options.add_argument(
        "--loss",
        choices=get_args(PretrainSettings.model_fields["loss"].annotation),
        help="soft Dice, alone or with a cross-entropy (sigmoid: dice, softmax: dice_ce)",
    )
    options.add_argument("--batch_size", type=common.positive_int, metavar="N", help="patches per step, of all processes (sigmoid: 24, softmax: 2)")
    options.add_argument("--learning_rate", type=float, metavar="RATE", help="base rate of AdamW (sigmoid: 0.0001, softmax: 0.002)")
    options.add_argument("--warmup_steps", type=int, metavar="N", help="steps in which the rate rises (sigmoid: 10 epochs, softmax: 100)")
    text = "last steps, in which the rate falls linearly; before them it stays (default: it falls as a cosine from the warm-up on)"
    options.add_argument("--cooldown_steps", type=common.whole_number, metavar="N", help=text)
    text = "share of patches bent smoothly, and of structures brightened and blotched at random, from 0 to 1 (default: 0)"
    options.add_argument("--variety", type=float, metavar="SHARE", help=text)
    options.add_argument("--averaging", type=float, metavar="DECAY", help="of the moving average of the weights (sigmoid: 0, softmax: 0.998)")
    options.add_argument("--seed", type=int, default=0, metavar="N", help="of the phantoms, the first weights and the batches")
    options.add_argument("--phantom_seed", type=common.whole_number, metavar="N", help="of the phantoms, where it is another one")
    text = "safetensors of an earlier pre-training of the same network to start from (default: random weights)"
    options.add_argument("-pretrained_weights", type=Path, metavar="FILE", help=text)
    common.add_device(options)
    common.add_precision(options)
    text = "processes that make the volumes; all but one of them then draw the patches"
    options.add_argument("-np", dest="workers", type=common.whole_number, default=2, metavar="N", help=text)
    return options


def _print_weights(args: argparse.Namespace) -> None:
    print(f"weights: {_pretrain(args)}")


def _pretrain(args: argparse.Namespace) -> Path:
    from arena_pipeline.model.allocator import keep_freed_memory  # not for -h
    from arena_pipeline.research.pretrain.pretrain import pretrain_foundation

    keep_freed_memory()
    phantoms = args.phantoms or (0 if args.dataset_ids else 300)
    typed = common.keywords(args, "source", *SETTINGS) | {"dataset_ids": args.dataset_ids or (), "phantoms": phantoms}
    return pretrain_foundation(**typed, workspace=args.source, changes={name: getattr(args, name) for name in SETTINGS})


if __name__ == "__main__":
    sys.exit(main())
