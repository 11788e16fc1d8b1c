"""Six 96^3 crops of one volume, as an iteration of adaptation needs them, in one run: python benchmarks/crops.py [--shape 512 512 200].

Compared on one CT of 0.8 x 0.8 x 2.5 mm and its segmentation, both .nii.gz:
    stored            this package: the case preprocessed once, crops read from its compressed file
    chain anew        MONAI's chain from the file on, run anew for every iteration, as FSEFT does
    CacheDataset      MONAI's CacheDataset: the chain's fixed part kept in memory, RandCropByPosNegLabel per iteration
    CacheDataset + indices   the same, with the voxels to centre on computed once (FgBgToIndices)
    batchgenerators   its random crop of the preprocessed case, which is in memory uncompressed; its crops are not centred on the structure
Also printed: the seconds that each needs once to get ready, the import of its libraries included.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

try:
    from benchmarks.volumes import SHAPE, SPACING_MM, torso
except ImportError:  # started as a file
    from volumes import SHAPE, SPACING_MM, torso  # type: ignore[import-not-found,no-redef]

PATCH = (96, 96, 96)
CROPS = 6
STRUCTURE = 1


def fixed_transforms() -> list[Any]:
    from monai import transforms as mt

    both = ["image", "label"]
    return [
        mt.LoadImaged(both, ensure_channel_first=True),
        mt.Orientationd(both, axcodes="RAS", labels=None),
        mt.Spacingd(both, pixdim=(1.5, 1.5, 1.5), mode=("bilinear", "nearest")),
        mt.ScaleIntensityRanged("image", -175, 250, b_min=0.0, b_max=1.0, clip=True),
        mt.Lambdad("label", lambda label: (label == STRUCTURE).float()),
        mt.CropForegroundd(both, source_key="image", allow_smaller=True),
        mt.SpatialPadd(both, PATCH),
    ]


def random_crops(with_indices: bool = False) -> Any:
    from monai.transforms import RandCropByPosNegLabeld

    where = {"fg_indices_key": "label_fg_indices", "bg_indices_key": "label_bg_indices"} if with_indices else {"image_key": "image"}
    return RandCropByPosNegLabeld(["image", "label"], "label", PATCH, pos=1, neg=1, num_samples=CROPS, **where)


def stored(files: dict[str, str], folder: Path) -> Callable[[], Any]:
    from arena_pipeline.adapt.batches import SupportVolume
    from arena_pipeline.foundations import Scheme
    from arena_pipeline.io.images import read_image, read_segmentation
    from arena_pipeline.preprocess.case import preprocess_image, preprocess_segmentation
    from arena_pipeline.preprocess.store import StoredCase, write_case
    from arena_pipeline.settings import AdaptationSettings

    scheme = Scheme(spacing_mm=(1.5, 1.5, 1.5), window_hu=(-175, 250), patch_size_voxels=PATCH)
    volume, grid = preprocess_image(read_image(files["image"]), scheme)
    segmentation = preprocess_segmentation(read_segmentation(files["label"]).array, grid)
    rng = np.random.default_rng(0)
    write_case(folder, "case", volume, segmentation, grid, rng)
    support = SupportVolume.open(StoredCase.open(folder, "case"), [STRUCTURE])
    settings = AdaptationSettings(patches_per_volume=CROPS)
    return lambda: support.patches(PATCH, settings, rng)


def batchgenerators(files: dict[str, str], folder: Path) -> Callable[[], Any]:
    from batchgenerators.augmentations.crop_and_pad_augmentations import crop

    from arena_pipeline.preprocess.store import StoredCase

    case = StoredCase.open(folder, "case")  # written by `stored`
    image, label = (np.ascontiguousarray(part)[None] for part in (case.image(), case.segmentation() == STRUCTURE))
    return lambda: crop([image] * CROPS, [label] * CROPS, PATCH, crop_type="random")


def chain_anew(files: dict[str, str], folder: Path) -> Callable[[], Any]:
    from monai.transforms import Compose

    chain = Compose([*fixed_transforms(), random_crops()])
    return lambda: chain(dict(files))


def cache_dataset(files: dict[str, str], folder: Path, with_indices: bool = False) -> Callable[[], Any]:
    from monai.data import CacheDataset
    from monai.transforms import FgBgToIndicesd

    extra = [FgBgToIndicesd("label", image_key="image")] if with_indices else []
    cached = CacheDataset([files], [*fixed_transforms(), *extra, random_crops(with_indices)], progress=False, num_workers=1)
    return lambda: cached[0]


def cache_dataset_indices(files: dict[str, str], folder: Path) -> Callable[[], Any]:
    return cache_dataset(files, folder, with_indices=True)


METHODS: dict[str, tuple[Callable[[dict[str, str], Path], Callable[[], Any]], int]] = {  # what prepares it, and iterations per measured round
    "stored": (stored, 10),
    "chain anew": (chain_anew, 1),
    "CacheDataset": (cache_dataset, 3),
    "CacheDataset + indices": (cache_dataset_indices, 10),
    "batchgenerators": (batchgenerators, 10),
}


def run(shape: tuple[int, int, int], rounds: int) -> str:
    """A markdown table. The methods take turns, so that other work of the machine slows down all of them alike."""
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = {part: str(folder / f"{part}.nii.gz") for part in ("image", "label")}
        for array, path in zip(torso(shape), files.values(), strict=True):
            nib.save(nib.Nifti1Image(array, np.diag([*SPACING_MM, 1.0])), path)
        once, draws = {}, {}
        for method, (prepare, _) in METHODS.items():
            started = time.perf_counter()
            draws[method] = prepare(files, folder)
            once[method] = time.perf_counter() - started
        best = take_turns(draws, rounds)
    title = f"six crops of 96^3 from one CT of {' x '.join(map(str, shape))}"
    rows = [f"| {title} | per iteration | stored is faster by | once before |", "|---|---|---|---|"]
    for method, seconds in best.items():
        rows.append(f"| {method} | {1000 * seconds:.0f} ms | {seconds / best['stored']:.1f} x | {once[method]:.1f} s |")
    return "\n".join(rows)


def take_turns(draws: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Seconds per iteration of every method, each in its best round."""
    best = dict.fromkeys(draws, float("inf"))
    for _ in range(rounds):
        for method, draw in draws.items():
            iterations = METHODS[method][1]
            started = time.perf_counter()
            for _ in range(iterations):
                draw()
            best[method] = min(best[method], (time.perf_counter() - started) / iterations)
    return best


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    options.add_argument("--shape", type=int, nargs=3, default=SHAPE, help="shape of the CT (default: 512 512 200)")
    options.add_argument("--rounds", type=int, default=3, help="number of rounds, of which the best counts (default: 3)")
    args = options.parse_args()
    print(run(tuple(args.shape), args.rounds))


if __name__ == "__main__":
    main()
