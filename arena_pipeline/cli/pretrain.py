"""arena_pretrain."""

from __future__ import annotations

import argparse
from pathlib import Path

from arena_pipeline.cli import common

DESCRIPTION = """Pre-trains a foundation's network from scratch on synthetic torsos, as arena_mini was made.

    arena_pretrain -foundation arena_mini -o pretraining --steps 1600

Interrupted, the same command goes on where it stood."""


def main(argv: list[str] | None = None) -> int:
    options = common.parser(DESCRIPTION, workspace=False)
    options.add_argument("-foundation", "--foundation", default="arena_mini", metavar="NAME", help="preset whose network is trained")
    options.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help="phantoms, checkpoints, log and weights go here")
    options.add_argument("--phantoms", type=common.positive_int, default=300, metavar="N", help="synthetic torsos to train on")
    options.add_argument("--steps", type=common.positive_int, default=1600, metavar="N", help="steps of the optimizer")
    options.add_argument("--batch_size", type=common.positive_int, default=2, metavar="N", help="patches per step")
    options.add_argument("--learning_rate", type=float, default=2e-3, metavar="RATE", help="base rate of AdamW")
    options.add_argument("--averaging", type=float, default=0.998, help="decay of the moving average of the weights")
    options.add_argument("--seed", type=int, default=0, help="of the phantoms, the first weights and the batches")
    common.add_workers(options)
    args = options.parse_args(argv)
    return common.run(_pretrain, args, "arena_pretrain", args.output)


def _pretrain(args: argparse.Namespace) -> None:
    from arena_pipeline.pretrain.settings import PretrainSettings
    from arena_pipeline.stages.pretrain import pretrain_on_phantoms  # torch takes seconds to import: not for -h

    settings = PretrainSettings(
        steps=args.steps, loss="dice_ce", learning_rate=args.learning_rate, batch_size=args.batch_size, averaging=args.averaging, seed=args.seed
    )
    print(f"weights: {pretrain_on_phantoms(args.foundation, args.output, args.phantoms, settings, args.workers or 2)}")
