"""The main memory that arena_predict takes for a whole-body CT: python -m benchmarks.memory [--shape 512 512 1000].

Two runs, each in a process of its own, on a made-up body of 0.8 x 0.8 x 1.0 mm with 14 structures as one multi-class task:
    arena_mini     the command as it is typed, zero-shot with the embedded foundation (4 mm)
    1.5 mm         three folds at the published foundations' 1.5 mm and 96^3, with post-processing and preview. The network is one
                   convolution that tells intensities apart: its structures are as ragged as the noise, and what is measured is the
                   memory of everything but a network
"Peak" is that of the process, with Python and its libraries; "before" is what it had when the network had been loaded.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

from benchmarks.volumes import torso

SPACING_MM = (0.8, 0.8, 1.0)
STRUCTURES = 14
LEAST_SLICES = 100
GIB = 2**30


class EstimateHandler(logging.Handler):
    """Keeps the memory that the run says it will take, and the memory that it has at that moment."""

    estimate = ""
    before = 0

    def emit(self, record: logging.LogRecord) -> None:
        if "beside the network" in record.getMessage():
            self.estimate = record.getMessage().partition("at most ")[2].partition(";")[0]
            self.before = psutil.Process().memory_info().rss


def arena_mini(ct: Path, output: Path, save_probabilities: bool) -> None:
    from arena_pipeline.foundations import load_preset
    from arena_pipeline.stages.predict import predict
    from arena_pipeline.workspace import Workspace

    names = list(load_preset("arena_mini").structures)
    workspace = Workspace(output / "workspace")
    predict(ct, output / "out", workspace, foundation="arena_mini", zero_shot=names, save_probabilities=save_probabilities, device="cpu")


def fine(ct: Path, output: Path, save_probabilities: bool) -> None:
    import torch

    from arena_pipeline.foundations import Scheme
    from arena_pipeline.io.steps import run_through
    from arena_pipeline.predict.case import CaseSettings, PredictionTask
    from arena_pipeline.predict.job import OutputOptions, PredictionJob, predict_file
    from arena_pipeline.predict.labels import LabelMap
    from arena_pipeline.predict.predictors import Setup

    labels = {f"structure_{number}": number for number in range(1, STRUCTURES + 1)}
    network = torch.nn.Conv3d(1, STRUCTURES + 1, 1).requires_grad_(False)
    levels = torch.linspace(0, 1, STRUCTURES + 1)
    network.weight.copy_((400 * levels)[:, None, None, None, None])  # -200 (x - level)^2 without the term that all channels share
    network.bias.copy_(-200 * levels**2)
    task = PredictionTask("multiclass", labels, labels, "softmax", (lambda: network,) * 3)
    scheme = Scheme(spacing_mm=(1.5, 1.5, 1.5), window_hu=(-175, 250), patch_size_voxels=(96, 96, 96))
    setup = Setup((task,), CaseSettings(scheme, torch.device("cpu"), window_batch=2), labels, dict.fromkeys(labels, True), {})
    job = PredictionJob(output / "out", setup, LabelMap.of(labels, {}), OutputOptions(save_probabilities=save_probabilities))
    run_through(predict_file("body", ct, output / "out" / "body.nii.gz", job))


RUNS = {"arena_mini": arena_mini, "1.5 mm": fine}


def measure(name: str, ct: Path, output: Path, save_probabilities: bool) -> tuple[str, int, int, float]:
    """The memory that the run said it would take, bytes before, peak bytes, seconds."""
    handler = EstimateHandler()
    logging.getLogger("arena_pipeline").addHandler(handler)
    logging.getLogger("arena_pipeline").setLevel(logging.DEBUG)
    started = time.perf_counter()
    RUNS[name](ct, output, save_probabilities)
    return handler.estimate, handler.before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, time.perf_counter() - started


def write_ct(path: Path, shape: tuple[int, int, int]) -> None:
    """Writes the made-up body, repeated along z to the length asked for. Two corners are tissue, so that nothing can be cropped.
    Uncompressed, so that unpacking is not measured."""
    import nibabel

    part, _ = torso((shape[0], shape[1], min(LEAST_SLICES, shape[2])))
    whole = np.empty(shape, np.int16, order="F")
    for start in range(0, shape[2], part.shape[2]):
        whole[:, :, start : start + part.shape[2]] = part[:, :, : shape[2] - start]
    whole[0, 0, 0] = whole[-1, -1, -1] = 0
    nibabel.save(nibabel.Nifti1Image(whole, np.diag([*SPACING_MM, 1.0])), path)


def run(shape: tuple[int, int, int], names: list[str], save_probabilities: bool) -> str:
    """A markdown table."""
    rows = ["| run | said beforehand | before, GiB | peak, GiB | beside the network, GiB | time |", "|---|---|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            pool.apply(write_ct, (folder / "body.nii", shape))
            for kind in names:
                estimate, before, peak, seconds = pool.apply(measure, (kind, folder / "body.nii", folder / kind, save_probabilities))
                numbers = f"{before / GIB:.2f} | {peak / GIB:.2f} | {(peak - before) / GIB:.2f}"
                rows.append(f"| {kind} | {estimate} | {numbers} | {seconds:.0f} s |")
    return "\n".join(rows)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    options.add_argument("--shape", type=int, nargs=3, default=(512, 512, 1000), help="shape of the CT (default: 512 512 1000)")
    options.add_argument("--run", choices=tuple(RUNS), nargs="+", default=list(RUNS), help="which (default: both)")
    options.add_argument("--save_probabilities", action="store_true", help="with arena_predict --save_probabilities")
    args = options.parse_args()
    print(run(tuple(args.shape), args.run, args.save_probabilities))


if __name__ == "__main__":
    main()
