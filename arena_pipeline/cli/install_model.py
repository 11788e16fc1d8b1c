"""arena_install_model: check a package and install its model in the workspace."""

from __future__ import annotations

import argparse
from pathlib import Path

from arena_pipeline.cli import common
from arena_pipeline.words import pluralize

DESCRIPTION = """\
Checks a package that arena_export_model made, file by file and tensor by tensor, and installs its model in the workspace; then arena_predict
works with it as with a model of one's own. Nothing in a package is ever run. Its checksums tell damage, not who made it: take packages
from people you trust.

  arena_install_model model.zip"""


def main(argv: list[str] | None = None) -> int:
    options = common.parser(DESCRIPTION)
    options.add_argument("package", metavar="FILE", type=Path, help="the package")
    options.add_argument("--overwrite", action="store_true", help="replace the model where there is one of the same dataset, foundation and shots")
    return common.run(_install, options.parse_args(argv), "arena_install_model")


def _install(args: argparse.Namespace) -> None:
    from arena_pipeline.foundations import install_command  # torch takes seconds to import: not for -h
    from arena_pipeline.stages.install_model import install_model

    installed = install_model(args.package, args.workspace, args.overwrite)
    manifest, missing = installed.manifest, installed.missing_foundation
    print(f"installed in {installed.folder}")
    print(f"  {manifest.dataset_name}, {manifest.foundation}, {manifest.method}, {pluralize(manifest.shots, 'shot')}: {', '.join(manifest.folds)}")
    print(f"  licence: {manifest.licence}")
    if missing is not None:
        file = missing.weights.expected_file
        print(f"  its foundation is not here yet: {missing.name}, weights of SHA-256 {manifest.foundation_sha256}")
        print(f"  get {file} ({missing.weights.origin})")
        print(f"next: {args.workspace.command(*install_command(missing))}")
        return
    print(f"next: {args.workspace.command('arena_predict', '-i', 'in/', '-o', 'out/', '-m', str(installed.folder))}")
