"""Zero-shot Dice of a packaged foundation, per structure: on unseen phantoms and, if one is given, on a real TotalSegmentator CT.

    python -m benchmarks.foundation --phantoms 20 --subject TOTALSEGMENTATOR/s9001

Scores are on the preprocessed grid (the network's own), argmax over all of its channels. Columns, per set of volumes:
    Dice      mean over the volumes that show the structure, however little of it
    in        the number of these volumes
    invented  number of volumes that do not show it, but in which it is predicted
    all       mean over all volumes in which it is shown or predicted; an invented one counts 0
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from arena_pipeline.evaluate.metrics import overlap
from arena_pipeline.foundations import FoundationPreset, load_preset, read_preset, weights_file
from arena_pipeline.io.images import read_image, read_segmentation
from arena_pipeline.model.adapted import AdaptedNetwork
from arena_pipeline.model.allocator import keep_freed_memory
from arena_pipeline.model.out_of_memory import FittingBatch
from arena_pipeline.predict.windows import Bundle, Windows, means_over_bundles
from arena_pipeline.preprocess.case import preprocess_image, preprocess_segmentation
from arena_pipeline.research.phantoms import PHANTOM_STRUCTURES, make_phantom

UNSEEN_SEED = 10_000
# names of TotalSegmentator v1 that together are one structure of the foundation
BONES = ("vertebrae_*", "rib_*", "hip_*", "femur_*", "sacrum", "humerus_*", "scapula_*", "clavicula_*")
UNIONS = {"lung_right": ("lung_*_right",), "lung_left": ("lung_*_left",), "bone": BONES}

Reference = dict[str, np.ndarray]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    options.add_argument("--foundation", default="arena_mini", help="a name, or the JSON file of a preset of your own, with --weights")
    options.add_argument("--weights", type=Path, help="another file than the packaged one")
    options.add_argument("--phantoms", type=int, default=20)
    options.add_argument("--subject", type=Path, nargs="*", default=[], help="folders with ct.nii.gz and segmentations/")
    args = options.parse_args()
    keep_freed_memory()
    preset = read_preset(Path(args.foundation)) if args.foundation.endswith(".json") else load_preset(args.foundation)
    network = AdaptedNetwork(preset, args.weights or weights_file(preset, Path("nowhere")), torch.device("cpu"))
    tables = {f"{args.phantoms} unseen phantoms": summary(scores(network, phantom_cases(preset, args.phantoms)), preset)}
    for subject in args.subject:
        tables[subject.name] = summary(scores(network, [real_case(preset, subject)]), preset)
    print(pd.concat(tables, axis=1).to_string(float_format=lambda value: f"{value:.3f}", na_rep="-"))


def phantom_cases(preset: FoundationPreset, count: int) -> Iterator[tuple[np.ndarray, Reference]]:
    """Phantoms of a seed that no pre-training uses, (volume, masks) on the preprocessed grid."""
    for index in tqdm(range(count), desc="phantoms"):
        phantom = make_phantom(np.random.default_rng((UNSEEN_SEED, index)), preset.scheme.spacing_mm)
        volume, grid = preprocess_image(phantom.image, preset.scheme)
        labels = preprocess_segmentation(phantom.segmentation, grid)
        yield volume, {name: labels == PHANTOM_STRUCTURES[name] for name in preset.structures}


def real_case(preset: FoundationPreset, subject: Path) -> tuple[np.ndarray, Reference]:
    """A TotalSegmentator v1 subject; structures of which a mask is missing are left out."""
    volume, grid = preprocess_image(read_image(subject / "ct.nii.gz"), preset.scheme)
    masks = {}
    for name in preset.structures:
        parts = [sorted((subject / "segmentations").glob(f"{pattern}.nii.gz")) for pattern in UNIONS.get(name, (name,))]
        if all(parts):
            union = np.any([read_segmentation(file).array > 0 for files in parts for file in files], axis=0)
            masks[name] = preprocess_segmentation(union.astype(np.uint8), grid) > 0
    return volume, masks


def scores(network: AdaptedNetwork, cases: Iterable[tuple[np.ndarray, Reference]]) -> pd.DataFrame:
    """A row per case and structure: its status (see arena_pipeline.evaluate.metrics) and Dice."""
    preset, rows = network.preset, []
    for volume, masks in cases:
        windows = Windows(preset.scheme.patch_size_voxels, 0.25, "softmax", FittingBatch(2), torch.device("cpu"))
        probabilities = means_over_bundles([Bundle(network.select(None), (0,))], volume, windows)[0]
        winner = probabilities.argmax(0)
        for name, mask in masks.items():
            counts = overlap(mask, winner == preset.structures[name])
            rows.append({"structure": name, "status": counts.status, "Dice": counts.dice})
    return pd.DataFrame(rows)


def summary(rows: pd.DataFrame, preset: FoundationPreset) -> pd.DataFrame:
    """A row per structure, then their mean."""
    shown = rows[rows.status.isin(("scored", "missed"))].groupby("structure")
    table = pd.DataFrame(
        {
            "Dice": shown.Dice.mean(),
            "in": shown.size(),
            "invented": rows[rows.status == "false_positive"].groupby("structure").size(),
            "all": rows.groupby("structure").Dice.mean(),
        }
    ).reindex(list(preset.structures))
    counts = table[["in", "invented"]].fillna(0).astype(int).astype(str)
    table.loc["mean"] = table[["Dice", "all"]].mean()
    return table.assign(**counts.reindex(table.index, fill_value=""))


if __name__ == "__main__":
    main()
