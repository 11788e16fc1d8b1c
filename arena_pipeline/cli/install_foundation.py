"""arena_install_foundation: check a downloaded checkpoint and install it in the workspace."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from arena_pipeline.cli import common
from arena_pipeline.errors import ArenaError
from arena_pipeline.words import listed

if TYPE_CHECKING:
    from arena_pipeline.stages.install_foundation import Installation

DESCRIPTION = """\
Checks the published weights of a foundation, tensor by tensor, and installs them in the workspace. arena_info lists the foundations,
where to get their files, and their licences. A foundation that is installed already is replaced only if the new file is whole and fits.

  arena_install_foundation fseft fseft.pth

A model folder of nnU-Net v2, and with it each of TotalSegmentator's, is a foundation too: a plain or residual U-Net for CT. Its own plans.json
says how images are prepared.

  arena_install_foundation ~/.totalsegmentator/nnunet/results/Dataset291_TotalSegmentator_part1_organs_1559subj -n organs"""

NAMES_SHOWN = 5


def main(argv: list[str] | None = None) -> int:
    options = common.parser(DESCRIPTION)
    text = "of the foundation, e.g. fseft; or the JSON file of a preset of your own; or the model folder of nnU-Net"
    options.add_argument("name", metavar="NAME", help=text)
    options.add_argument("file", metavar="FILE", type=Path, nargs="?", help="the downloaded checkpoint: .pth, .pt or .safetensors")
    options.add_argument("-n", dest="new_name", metavar="NAME", help="what a model folder is called here (default: its dataset's name)")
    options.add_argument("-f", dest="fold", metavar="FOLD", help="fold of a model folder: 0 to 4 or all (default: the only one, else 0)")
    text = "read a file that PyTorch's safe loader refuses; it may run any code, so only for a file whose maker you trust"
    options.add_argument("--trust_checkpoint", action="store_true", help=text)
    return common.run(_install, options.parse_args(argv), "arena_install_foundation")


def _install(args: argparse.Namespace) -> None:
    from arena_pipeline.stages.install_foundation import install_foundation, install_model_folder  # torch takes seconds to import: not for -h

    if args.file is None and not Path(args.name).is_dir() and "/" not in args.name:
        raise ArenaError("FILE is missing", advice=f"arena_install_foundation {args.name} FILE, or name the folder of an nnU-Net model instead")
    if args.file is None:
        installation = install_model_folder(Path(args.name), args.workspace, args.new_name, args.fold)
    elif args.new_name or args.fold:
        raise ArenaError("-n and -f are for a model folder of nnU-Net, which is named without a FILE")
    else:
        installation = install_foundation(args.name, args.file, args.workspace, args.trust_checkpoint)
    print_installation(installation)
    command = args.workspace.command("arena_plan_and_preprocess", "-d", "NUMBER", "-foundation", installation.record.name)
    print(f"next: {command}")


def print_installation(installation: Installation) -> None:
    """What was read, what holds for it, and what comes next, for a person."""
    record, preset = installation.record, installation.record.preset
    print(f"{record.name}: {preset.title}")
    print(f"  read {record.source_file} ({record.source_bytes / 1e6:,.1f} MB, SHA-256 {record.source_sha256})")
    print(f"  {record.matched} matched, {record.missing} missing, {len(record.unexpected)} unexpected")
    if record.unexpected:
        print(f"  unexpected, not used: {listed(record.unexpected, NAMES_SHOWN)}")
    if record.ignored:
        print(f"  ignored: {record.ignored} tensors of heads that are not used")
    if preset.pretrained_parts == "encoder":
        print("  an encoder alone: the decoder and the head are new, and trained for every task")
    elif preset.head == "none":
        print("  no usable head: every task gets a new one")
    print(f"  licence: {record.licence}")
    print(f"  cite: {preset.citation}")
    print(f"installed in {installation.folder}")
