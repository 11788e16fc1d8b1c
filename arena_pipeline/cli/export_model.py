"""arena_export_model: an adapted model as one file to give away."""

from __future__ import annotations

import argparse
from pathlib import Path

from arena_pipeline.cli import common
from arena_pipeline.words import pluralize

DESCRIPTION = """\
Writes an adapted model into one file that others install with arena_install_model: adapters, plans, label map, licence, model card and
checksums. No scan, name of a case, path, user or host goes into it; the names of the dataset and of its structures do. The foundation does not:
whoever installs the model needs it too.

  arena_export_model -d 101 -shots 5 -o model.zip"""


def main(argv: list[str] | None = None) -> int:
    """Returns the exit status."""
    options = common.parser(DESCRIPTION)
    options.add_argument("-d", dest="dataset_id", type=common.dataset_number, required=True, metavar="ID", help="dataset the model was adapted on")
    options.add_argument("-o", dest="output", type=Path, required=True, metavar="FILE", help="the package, e.g. model.zip")
    options.add_argument("-shots", type=common.positive_int, metavar="K", help="the model adapted on K shots (when there are several)")
    options.add_argument("-method", default="arena", metavar="NAME", help="the model adapted by this method")
    options.add_argument("-foundation", "--foundation", metavar="NAME", help="the model adapted from this foundation (when there are several)")
    options.add_argument(
        "-f", dest="folds", type=common.whole_number, nargs="+", metavar="FOLD", help="folds to export (default: all that are adapted)"
    )
    options.add_argument("--structures", nargs="+", metavar="NAME", help="only these structures (default: all of the model)")
    text = "summary.json of arena_evaluate for this model: its means go into the model card, its cases do not"
    options.add_argument("--summary", type=Path, metavar="FILE", help=text)
    options.add_argument("--overwrite", action="store_true", help="replace the file where it is there")
    return common.run(_export, options.parse_args(argv), "arena_export_model")


def _export(args: argparse.Namespace) -> None:
    from arena_pipeline.stages.export_model import export_model  # torch takes seconds to import: not for -h

    export = export_model(**common.keywords(args))
    manifest = export.manifest
    print(f"{export.file}: {export.file.stat().st_size / 1e6:,.1f} MB, {len(manifest.files) + 1} files")
    print(f"  {manifest.dataset_name}, {manifest.foundation}, {manifest.method}, {pluralize(manifest.shots, 'shot')}")
    for task, folds in manifest.folds.items():
        print(f"  {task}: fold{'s' if len(folds) > 1 else ''} {', '.join(map(str, folds))}")
    print(f"  licence: {manifest.licence}")
    print(f"next: arena_install_model {export.file}, where it is to be used; MODEL_CARD.md in it says the rest")
