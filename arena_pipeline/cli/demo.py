"""arena_demo (make demo): the whole job on data it makes itself, through the same commands that a person types."""

from __future__ import annotations

import importlib
import shlex
import time
from pathlib import Path

from arena_pipeline.cli import common

DESCRIPTION = """Runs the whole job on phantoms of small children, which the embedded foundation has never seen (it knows adults only).
Both raw layouts are converted, planned and preprocessed; a base and a novel structure are adapted from 5 shots; unseen
phantoms are predicted and evaluated, without and with adaptation.

Prints every command before it runs. Everything is written below -o and kept: a second run keeps the phantoms and the adapters."""

BASE, NOVEL = "inferior_vena_cava", "heart_ventricle_left"
TOTALSEGMENTATOR, FLARE22 = 101, 102
SHOTS, QUERIES, SEED = 5, 4, 20_000  # a seed that no pre-training uses


def main(argv: list[str] | None = None) -> int:
    options = common.parser(DESCRIPTION, workspace=False)
    options.add_argument("-o", dest="output", type=Path, default=Path("demo"), metavar="FOLDER", help="folder for everything the demo makes")
    options.add_argument("--again", action="store_true", help="adapt again where adapters are there")
    options.add_argument("--max_epochs", type=common.positive_int, metavar="N", help="length of each adaptation (default: the plans')")
    args = options.parse_args(argv)
    started = time.monotonic()
    for command in _commands(args.output, args.max_epochs, args.again):  # each logs and records its own run
        print(f"\n$ {shlex.join(command)}", flush=True)
        module = importlib.import_module(f"arena_pipeline.cli.{command[0].removeprefix('arena_')}")
        status = module.main(command[1:])
        if status:
            print(f"the demo stops here: {command[0]} ended with status {status}")
            return int(status)
    _print_result(args.output, time.monotonic() - started)
    return 0


def _commands(folder: Path, max_epochs: int | None, again: bool) -> list[list[str]]:
    """What a person would type, in order."""
    workspace = ["-w", str(folder / "workspace")]
    raw, flare = str(folder / "raw_totalsegmentator"), str(folder / "raw_flare22")
    queries = folder / "workspace" / "raw" / f"Dataset{TOTALSEGMENTATOR}_TotalSegmentator"
    phantoms = ["--spacing", "3", "3", "3", "--field_of_view", "chest_abdomen", "--size", "0.6", "--seed", str(SEED), "-np", "2"]
    model = ["-d", str(TOTALSEGMENTATOR), "-shots", str(SHOTS)]
    adaptation = [] if max_epochs is None else ["--max_epochs", str(max_epochs)]
    predicted, zero_shot = str(folder / "predicted"), str(folder / "predicted_zero_shot")
    reference = ["-ref", str(queries / "labelsTs"), "-d", str(TOTALSEGMENTATOR), *workspace]
    return [
        ["arena_make_phantoms", "-o", raw, "-n", str(SHOTS + QUERIES), "--test", str(QUERIES), "--layout", "totalsegmentator", *phantoms],
        ["arena_make_phantoms", "-o", flare, "-n", "3", "--test", "1", "--layout", "flare22", *phantoms],
        ["arena_convert_totalsegmentator", "-i", raw, "-d", str(TOTALSEGMENTATOR), *workspace],
        ["arena_convert_flare22", "-i", flare, "-d", str(FLARE22), *workspace],
        ["arena_plan_and_preprocess", "-d", str(TOTALSEGMENTATOR), str(FLARE22), *workspace],
        ["arena_adapt", *model, "-f", "0", "--structures", BASE, NOVEL, *adaptation, *(["--overwrite"] if again else []), *workspace],
        ["arena_predict", "-i", str(queries / "imagesTs"), "-o", predicted, *model, *workspace],
        ["arena_predict", "-i", str(queries / "imagesTs"), "-o", zero_shot, "-d", str(TOTALSEGMENTATOR), "--zero_shot", BASE, *workspace],
        ["arena_evaluate", "-pred", predicted, *reference],
        ["arena_evaluate", "-pred", zero_shot, *reference],
    ]


def _print_result(folder: Path, seconds: float) -> None:
    import pandas as pd  # seconds to import: not for -h

    def mean_dice(predicted: str, structure: str) -> str:
        table = pd.read_csv(folder / predicted / "metrics.csv")
        scored = table[(table["structure"] == structure) & (table["status"] != "not_annotated")]
        return f"{scored['Dice'].mean():.3f}"

    rows = [
        (BASE, "base", mean_dice("predicted_zero_shot", BASE), mean_dice("predicted", BASE)),
        (NOVEL, "novel", "not possible", mean_dice("predicted", NOVEL)),
    ]
    print(f"\nmean Dice on {QUERIES} unseen phantoms of children, one fold of {SHOTS} shots, {seconds / 60:.1f} minutes in all\n")
    print(f"{'structure':24}{'kind':8}{'zero-shot':>14}{'adapted':>10}")
    for structure, kind, before, after in rows:
        print(f"{structure:24}{kind:8}{before:>14}{after:>10}")
    print("\npictures of the queries:")
    for picture in sorted((folder / "predicted" / "previews").glob("*.png")):
        print(f"  {picture}")
    print(f"loss and rank of each adaptation: {folder / 'workspace' / 'results'}/**/progress.png")
    print("to try next: all three folds (leave out -f); for the base structure -method fft (docs/results.md has what each method gave)")
