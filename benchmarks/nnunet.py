"""Models of nnU-Net run by ARENA and by nnU-Net's own predictor: segmentations, seconds and peak memory, in one run.

    make nnunet_env
    python -m benchmarks.nnunet [CT.nii.gz ...] [--python .venv-nnunet/bin/python] [--models plain] [--folds 0 1 2] [--speed 512 512 200]

Printed per model and CT: the share of equal voxels, among all and among those that either calls a structure. The models:
    plain, residual      the tiny ones of tests/fixtures/nnunet, trained for so few steps that they predict background everywhere: each logit's
                         mean is subtracted, so that structures appear, with more borders than in any real model
    ... adapted, N folds each adapted by ARENA to two structures on made-up scans, as arena_export_model --nnunet writes it, one per task:
                         arena_predict with the adapters against nnU-Net on the exported folder
Without a CT, their own case is predicted. --speed: the plain network with random weights, 26 channels, patches of 128^3 of 1.5 mm, on a made-up CT
of that shape and 0.8 x 0.8 x 1.5 mm; at --width 32 it has TotalSegmentator's 31 M parameters. Every prediction has a process of its own; peaks are
those of whole processes, with Python and its libraries.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import nibabel
import numpy as np

from benchmarks.volumes import torso

FIXTURES = Path(__file__).parents[1] / "tests" / "fixtures" / "nnunet"
TRAINED = "nnUNetTrainer__nnUNetPlans__3d_fullres"
KINDS = {"plain": (7.0, 7.0, 9.0), "residual": (6.0, 7.0, 20.0)}  # spacing of the made-up scans, mm
LABELS = {"background": 0, "cyst": 1, "liver": 2}  # one novel to the models, and one of their structures
GIB = 2**30
CHANNELS, PATCH = 26, (128, 128, 128)
WIDTHS = (1, 2, 4, 8, 10, 10)  # channels of each stage, as a multiple of the first one's
Row = dict[str, float]


def theirs(python: Path, folder: Path, pairs: list[tuple[Path, Path]]) -> Row:
    """nnU-Net's segmentations of (CT, file to write)."""
    script = Path(__file__).with_name("nnunet_predictor.py")
    words = [str(word) for word in (python, script, folder, *(path for pair in pairs for path in pair))]
    return json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def ours(folder: Path | None, root: Path, pairs: list[tuple[Path, Path]], structures: list[str] | None = None) -> Row:
    """ARENA's segmentations, by a model folder as a foundation or (None) by the adapters in the workspace `root`. For a process of its own."""
    from arena_pipeline.stages.install_foundation import install_model_folder
    from arena_pipeline.stages.predict import predict
    from arena_pipeline.workspace import Workspace

    workspace, options = Workspace(root), {"dataset_id": 901, "structures": structures}
    if folder is not None:
        preset = install_model_folder(folder, workspace, "installed").record.preset
        options = {"foundation": preset.name, "zero_shot": list(preset.structures)}
    seconds = 0.0
    for ct, output in pairs:
        started = time.perf_counter()
        folder_of_ct = output.with_name(output.name.removesuffix(".nii.gz"))  # a folder each: CTs of several datasets may have the same name
        made = predict(ct, folder_of_ct, workspace, device="cpu", no_postprocessing=True, no_previews=True, **options)  # type: ignore[arg-type]
        seconds += time.perf_counter() - started
        next(iter(made.written.values())).rename(output)
    return {"seconds": seconds, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def in_a_process(*arguments: object) -> Row:
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        return pool.apply(ours, arguments)


def agreement(first: Path, second: Path) -> tuple[float, float]:
    """Share of equal voxels: among all, and among those that either calls a structure."""
    a, b = (np.asarray(nibabel.load(path).dataobj) for path in (first, second))
    either = (a > 0) | (b > 0)
    return float((a == b).mean()), float((a == b)[either].mean()) if either.any() else float("nan")


def fixture(kind: str, root: Path) -> Path:
    """The tiny model with the means of its logits subtracted, and with a reader that takes CTs with an intercept of NaN in the header."""
    import torch

    folder = root / f"Dataset901_{kind}" / TRAINED
    shutil.copytree(FIXTURES / kind, folder)
    plans = json.loads((folder / "plans.json").read_text()) | {"image_reader_writer": "SimpleITKIO"}
    (folder / "plans.json").write_text(json.dumps(plans))
    path, means = folder / "fold_0" / "checkpoint_final.pth", torch.from_numpy(np.load(folder / "expected.npz")["means"])
    content = torch.load(path, weights_only=False)
    last = max(name for name in content["network_weights"] if name.startswith("decoder.seg_layers") and name.endswith("bias"))
    content["network_weights"][last] -= means
    torch.save(content, path)
    return folder


def adapted(kind: str, folder: Path, root: Path, folds: list[int], epochs: int) -> dict[str, Path]:
    """Adapts the tiny model and exports it: structure -> its nnU-Net folder. The workspace is `root`."""
    from arena_pipeline.io.dataset import DatasetJson
    from arena_pipeline.stages.adapt import adapt_dataset
    from arena_pipeline.stages.export_model import export_nnunet
    from arena_pipeline.stages.install_foundation import install_model_folder
    from arena_pipeline.stages.plan_and_preprocess import plan_and_preprocess
    from arena_pipeline.workspace import Workspace

    workspace, raw, rng = Workspace(root), root / "raw" / "Dataset901_Made", np.random.default_rng(0)
    install_model_folder(folder, workspace, "tiny")
    for name in "abc":
        labels = np.zeros((40, 36, 24), np.uint8)
        x, y = rng.integers(2, 8, 2)
        labels[x : x + 10, y : y + 12, 4:14], labels[x + 14 : x + 26, y + 6 : y + 20, 8:20] = 1, 2
        image = rng.normal(30, 8, labels.shape) + np.array([0, -60, 90])[labels]
        for place, array in ((f"imagesTr/{name}_0000", image.astype(np.int16)), (f"labelsTr/{name}", labels)):
            (raw / place).parent.mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(array, np.diag([*KINDS[kind], 1])), raw / f"{place}.nii.gz")
    DatasetJson(channel_names={"0": "CT"}, labels=LABELS, numTraining=3, file_ending=".nii.gz", objective="binary").write(raw / "dataset.json")
    plan_and_preprocess([901], workspace, foundation="tiny", device="cpu", workers=0, fingerprint_workers=0)
    plans = workspace.plans("Dataset901_Made", "tiny")
    content = json.loads(plans.read_text())
    rates = {"learning_rate": 0.02, "decoder_learning_rate": 0.02, "l1_weight": 0.001}
    content["adaptation"] |= rates | {"max_epochs": epochs, "patches_per_volume": 2, "stop_window": 0}
    plans.write_text(json.dumps(content))
    adapt_dataset(901, 2, workspace, folds=folds, device="cpu")
    return {one.task: one.path for one in export_nnunet(901, root / "nnunet", workspace, shots=2)}


def untrained(root: Path, width: int) -> Path:
    """A model folder with random weights, of the form of TotalSegmentator's."""
    import torch

    from arena_pipeline.foundations import Scheme
    from arena_pipeline.foundations.nnunet_scheme import NnunetScheme
    from arena_pipeline.model.architectures.unet import PlainUNet
    from arena_pipeline.share.nnunet_plans import nnunet_plans, nnunet_tensors

    architecture = PlainUNet(
        out_channels=CHANNELS,
        features_per_stage=tuple(width * one for one in WIDTHS),
        kernel_sizes=((3, 3, 3),) * 6,
        strides=((1, 1, 1), *((2, 2, 2),) * 5),
        blocks_per_stage=(2,) * 6,
        decoder_convolutions=(2,) * 5,
    )
    scheme = Scheme(spacing_mm=(1.5,) * 3, window_hu=(-1000, 1000), patch_size_voxels=PATCH, nnunet=NnunetScheme(mean_hu=0, std_hu=400))
    torch.manual_seed(0)
    plans = nnunet_plans("Dataset902_Large", architecture, scheme)
    labels = {"background": 0, **{f"structure_{number}": number for number in range(1, CHANNELS)}}
    folder = root / "Dataset902_Large" / TRAINED
    (folder / "fold_0").mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps({"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 1, "file_ending": ".nii.gz"}))
    content = {"network_weights": nnunet_tensors(architecture.build().state_dict(), architecture), "trainer_name": "nnUNetTrainer"}
    content |= {"init_args": {"configuration": "3d_fullres"}, "inference_allowed_mirroring_axes": None}
    torch.save(content, folder / "fold_0" / "checkpoint_final.pth")
    return folder


def report(name: str, cts: list[Path], outputs: list[tuple[Path, Path]], rows: tuple[Row, Row]) -> None:
    """A line of a markdown table."""
    shares = [agreement(*pair) for pair in outputs]
    both = " ".join(f"{100 * every:.3f}" for every, _ in shares), " ".join(f"{100 * structures:.2f}" for _, structures in shares)
    seconds, peaks = ([row[key] for row in rows] for key in ("seconds", "peak"))
    speed = f"{seconds[0]:.1f} s, {seconds[1]:.1f} s, {seconds[1] / seconds[0]:.2f}x"
    memory = f"{peaks[0] / GIB:.2f}, {peaks[1] / GIB:.2f} GiB, {peaks[0] / peaks[1]:.2f}"
    print(f"| {name} | {len(cts)} | {both[0]} | {both[1]} | {speed} | {memory} |", flush=True)


def compare(name: str, python: Path, folder: Path, cts: list[Path], root: Path, adapter_of: str | None = None) -> None:
    """`adapter_of`: the structure whose adapters in the workspace `root` predict, instead of the folder."""
    out = Path(tempfile.mkdtemp(dir=root))
    outputs = [(out / f"ours_{number}.nii.gz", out / f"theirs_{number}.nii.gz") for number in range(len(cts))]
    other = theirs(python, folder, list(zip(cts, (pair[1] for pair in outputs), strict=True)))
    asked = (None, root, *([list(zip(cts, (pair[0] for pair in outputs), strict=True))]), [adapter_of])
    own = in_a_process(*asked) if adapter_of else in_a_process(folder, root / "workspace", asked[2])
    if adapter_of:  # nnU-Net's labels are consecutive: there the structure is 1, and all others are the foundation's
        for mine, their in outputs:
            for path in (mine, their):
                image = nibabel.load(path)
                array = np.asarray(image.dataobj)
                nibabel.save(nibabel.Nifti1Image((array == (LABELS[adapter_of] if path == mine else 1)).astype(np.uint8), image.affine), path)
    report(name, cts, outputs, (own, other))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    options.add_argument("cts", type=Path, nargs="*", metavar="CT.nii.gz")
    options.add_argument("--python", type=Path, default=Path(".venv-nnunet/bin/python"), help="one with nnunetv2 (default: that of make nnunet_env)")
    options.add_argument("--folds", type=int, nargs="*", default=[0], help="of the adapted models (default: 0); no number: none are adapted")
    options.add_argument("--epochs", type=int, default=40, help="epochs of the adapted models (default: 40)")
    options.add_argument("--models", nargs="*", choices=tuple(KINDS), default=list(KINDS), help="which of the tiny ones (default: both)")
    options.add_argument("--speed", type=int, nargs=3, metavar="VOXELS", help="also an untrained network on a made-up CT of this shape")
    options.add_argument("--width", type=int, default=32, help="channels of its first stage (default: 32)")
    args = options.parse_args()
    print("| model | CTs | same voxels, % | of structures, % | ARENA, nnU-Net | peak memory |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for kind in args.models:
            folder, cts = fixture(kind, root), args.cts or [FIXTURES / kind / "case.nii.gz"]
            compare(kind, args.python, folder, cts, root)
            place = root / f"adapted_{kind}"
            for structure, exported in (adapted(kind, folder, place, args.folds, args.epochs) if args.folds else {}).items():
                one = [place / "raw" / "Dataset901_Made" / "imagesTr" / "c_0000.nii.gz"]
                compare(f"{kind}, adapted to {structure}, {len(args.folds)} folds", args.python, exported, [*one, *args.cts], place, structure)
            shutil.rmtree(root / "workspace")
        if args.speed:
            image, _ = torso(tuple(args.speed))
            nibabel.save(nibabel.Nifti1Image(image.astype(np.int16), np.diag([0.8, 0.8, 1.5, 1.0])), root / "large.nii.gz")
            shape = " x ".join(map(str, args.speed))
            compare(f"width {args.width}, {CHANNELS} channels, {shape}", args.python, untrained(root, args.width), [root / "large.nii.gz"], root)


if __name__ == "__main__":
    main()
