"""arena_export_model: an adapted model as one file to give away, or as nnU-Net v2 model folders."""

from __future__ import annotations

import argparse
from pathlib import Path

from arena_pipeline.cli import common
from arena_pipeline.words import pluralize

DESCRIPTION = """\
Writes an adapted model into one file that others install with arena_install_model: adapters, plans, label map, licence, model card and
checksums. No scan, name of a case, path, user or host goes into it; the names of the dataset and of its structures do. The foundation does not:
whoever installs the model needs it too.

  arena_export_model -d 101 -shots 5 -o model.zip

A model whose foundation came from an nnU-Net or TotalSegmentator folder can also be written with its foundation, adapters merged, as nnU-Net v2
model folders, one per task, for nnUNetv2_predict_from_modelfolder and other programs of nnU-Net:

  arena_export_model -d 101 -shots 5 --nnunet OUT"""


def main(argv: list[str] | None = None) -> int:
    options = common.parser(DESCRIPTION)
    common.add_dataset(options, "dataset the model was adapted on")
    target = options.add_mutually_exclusive_group(required=True)
    target.add_argument("-o", dest="output", type=Path, metavar="FILE", help="the package, e.g. model.zip")
    target.add_argument("--nnunet", type=Path, metavar="FOLDER", help="where nnU-Net model folders go, DatasetNNN_STRUCTURE each")
    options.add_argument("-shots", type=common.positive_int, metavar="K", help="the model adapted on K shots (when there are several)")
    options.add_argument("-method", default="arena", metavar="NAME", help="the model adapted by this method")
    options.add_argument("-foundation", "--foundation", metavar="NAME", help="the model adapted from this foundation (when there are several)")
    common.add_folds(options, "folds to export (default: all that are adapted)")
    options.add_argument("--structures", nargs="+", metavar="NAME", help="only these structures (default: all of the model)")
    text = "summary.json of arena_evaluate for this model: its means go into the model card, its cases do not"
    options.add_argument("--summary", type=Path, metavar="FILE", help=text)
    options.add_argument("--overwrite", action="store_true", help="replace the file, or the folders, where they are there")
    args = options.parse_args(argv)
    if args.nnunet is not None and args.summary is not None:
        options.error("--summary goes into the model card of a package (-o), which nnU-Net's folders don't have")
    return common.run(_export if args.nnunet is None else _export_nnunet, args, "arena_export_model")


def _export(args: argparse.Namespace) -> None:
    from arena_pipeline.stages.export_model import export_model  # torch takes seconds to import: not for -h

    manifest = export_model(**common.keywords(args, "nnunet"))
    print(f"{args.output}: {args.output.stat().st_size / 1e6:,.1f} MB, {len(manifest.files) + 1} files")
    print(f"  {manifest.dataset_name}, {manifest.foundation}, {manifest.method}, {pluralize(manifest.shots, 'shot')}")
    for task, folds in manifest.folds.items():
        print(f"  {task}: fold{'s' if len(folds) > 1 else ''} {', '.join(map(str, folds))}")
    print(f"  licence: {manifest.licence}")
    print(f"next: arena_install_model {args.output}, where it is to be used; MODEL_CARD.md in it says the rest")


def _export_nnunet(args: argparse.Namespace) -> None:
    from arena_pipeline.stages.export_model import export_nnunet  # torch takes seconds to import: not for -h

    for folder in export_nnunet(**common.keywords(args, "output", "summary")):
        labels = ", ".join(f"{number} {name}" for name, number in folder.labels.items() if number)
        print(f"{folder.path}: fold{'s' if len(folder.folds) > 1 else ''} {', '.join(map(str, folder.folds))}; labels: {labels}")
    folds = " ".join(map(str, folder.folds))
    print(f"next: nnUNetv2_predict_from_modelfolder -i CTS -o SEGMENTATIONS -m {folder.path} -f {folds}, where nnU-Net is installed")
