"""arena_predict."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path

from arena_pipeline.cli import common
from arena_pipeline.errors import DatasetError
from arena_pipeline.io import endings
from arena_pipeline.predict.options import OutputOptions
from arena_pipeline.words import pluralize

DESCRIPTION = """Segments CTs with an adapted model, or with the foundation as it is.

    arena_predict -i in/ -o out/                                the one adapted model there is
    arena_predict -i scan.nii.gz -o out/ -d 101 -shots 5        a certain one
    arena_predict -i in/ -o out/ --zero_shot spleen liver       without adaptation

Takes .nii, .nii.gz, .nrrd, .mha and .mhd, named CASE or CASE_0000, and folders of DICOM series, whose
cases are named after the folders and get a DICOM-SEG too. Writes CASE.nii.gz on each CT's own grid, previews/CASE.png, and labels.json
(names, integers, colours) with labels.txt (the same for ITK-SNAP).
The same command may run any number of times at once, on any machines that see the folders: they share the cases, and arena_info -o FOLDER
tells how far they are."""

SEGMENTATION_ENDING = ".nii.gz"
OTHER_ENDINGS = (*endings.IMAGES, ".dcm")  # of a name that must mean a file: a folder of that name would surprise
LINES_SHOWN = 5  # of the review; the file has all


def main(argv: list[str] | None = None) -> int:
    options = common.parser(DESCRIPTION)
    options.add_argument("-i", dest="input_path", type=Path, required=True, metavar="CT", help="a CT, or a folder of CTs or of DICOM series")
    text = "folder for the segmentations; for one CT also a file, NAME.nii.gz"
    options.add_argument("-o", dest="output_folder", type=Path, required=True, metavar="FOLDER", help=text)
    _add_choice_of_model(options)
    text = "predict these base structures without adaptation; with -d by that dataset's integers and post-processing plans"
    options.add_argument("--zero_shot", nargs="+", metavar="NAME", help=text)
    _add_outputs(options)
    text = "step of the sliding window, as a share of the patch: 1 - overlap (default: as planned, 0.75)"
    options.add_argument("-step_size", type=float, metavar="SHARE", help=text)
    options.add_argument("-num_parts", type=common.positive_int, default=1, metavar="N", help="split the cases between N runs ...")
    options.add_argument("-part_id", type=int, default=0, metavar="P", help="... of which this is number P, from 0")
    common.add_device(options)
    common.add_precision(options)
    common.add_jobs_at_once(options, "CTs")
    args = options.parse_args(argv)
    if args.step_size is not None and not 0 < args.step_size <= 1:
        options.error(f"-step_size: expected above 0 and at most 1, found {args.step_size}")
    return common.run(_predict, args, "arena_predict")


def _add_choice_of_model(options: argparse.ArgumentParser) -> None:
    text = "dataset the model was adapted on (needed only when there are several models)"
    options.add_argument("-d", dest="dataset_id", type=common.dataset_number, metavar="ID", help=text)
    options.add_argument("-shots", type=common.positive_int, metavar="K", help="the model adapted on K shots (when there are several)")
    common.add_method(options, "the model adapted by this method (default: arena); one of")
    common.add_folds(options, "folds to average (default: all that are adapted)")
    text = "the model's folder, instead of -d, -shots, -method and -foundation"
    options.add_argument("-m", dest="model_folder", type=Path, metavar="MODEL_FOLDER", help=text)
    options.add_argument("--structures", nargs="+", metavar="NAME", help="only these structures (default: all of the model)")
    common.add_foundation(options)


def _add_outputs(options: argparse.ArgumentParser) -> None:
    options.add_argument("--continue_prediction", action="store_true", help="keep segmentations that are there and whole")
    for one in fields(OutputOptions):
        if one.default is None:  # left to the prediction, unless one of the two is typed
            either = options.add_mutually_exclusive_group()
            either.add_argument(f"--{one.name}", action="store_true", default=None, help=one.metadata["help"])
            either.add_argument(f"--no_{one.name}", dest=one.name, action="store_false", default=None, help="not that")
        else:
            options.add_argument(f"--{one.name}", action="store_true", help=one.metadata["help"])


def _predict(args: argparse.Namespace) -> None:
    zero_shot_dataset = [] if args.zero_shot is None or args.dataset_id is None else [args.dataset_id]  # an adapted model needs no raw dataset
    common.check_first(args.workspace, zero_shot_dataset, args.device, args.input_path)
    from arena_pipeline.stages.predict import predict, predict_to_file  # torch takes seconds to import: not for -h

    if args.output_folder.name.lower().endswith(SEGMENTATION_ENDING) and not args.output_folder.is_dir():
        summary = predict_to_file(output_file=args.output_folder, **common.keywords(args, "output_folder"))
    elif args.output_folder.name.lower().endswith(OTHER_ENDINGS) and not args.output_folder.is_dir():
        raise DatasetError(f"-o takes a folder or NAME{SEGMENTATION_ENDING}", file=args.output_folder, advice="choose one of the two")
    else:
        summary = predict(**common.keywords(args))
    kept = f", {len(summary.kept)} kept" if summary.kept else ""
    structures = ", ".join(f"{name} = {label}" for name, label in summary.labels.items())
    print(f"{pluralize(len(summary.written), 'segmentation')} written to {args.output_folder}{kept}; {structures}")
    to_check = [line for line in summary.review if line.check]
    if to_check:
        where = f" ({summary.review_file})" if summary.review_file is not None else ""
        print(f"{len(to_check)} of {len(summary.review)} results to look at first{where}:")
        for line in to_check[:LINES_SHOWN]:
            print(f"  {line.case}, {line.structure}: {line.reasons}")
