"""arena_pretrain: makes a foundation's weights from phantoms."""

from __future__ import annotations

import json
import logging
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from arena_pipeline.errors import FoundationError
from arena_pipeline.foundations import FoundationPreset, Scheme, load_preset
from arena_pipeline.io.atomic import replace_when_done, write_json
from arena_pipeline.model.allocator import keep_freed_memory
from arena_pipeline.model.network import build_network, to_device
from arena_pipeline.model.weights import sha256
from arena_pipeline.phantoms import PHANTOM_STRUCTURES, make_phantom
from arena_pipeline.preprocess.case import preprocess_image, preprocess_segmentation
from arena_pipeline.preprocess.store import StoredCase, write_case
from arena_pipeline.pretrain.loop import Pretraining, pretrain
from arena_pipeline.pretrain.patches import PatchSteps, PretrainingVolume
from arena_pipeline.pretrain.settings import PretrainSettings
from arena_pipeline.records import stage, versions

logger = logging.getLogger(__name__)

VARIATION = (0.1, 0.8)  # of the tissues' HU: from nearly real to stronger than real


def pretrain_on_phantoms(foundation: str, output: Path, phantoms: int, settings: PretrainSettings, workers: int = 2) -> Path:
    """Trains `foundation`'s network from random weights on `phantoms` synthetic torsos; returns output/NAME.safetensors.

    A run that was interrupted goes on where its last checkpoint stands. Structures that the preset does not list
    (the heart, for arena_mini) are background.

    Raises:
        FoundationError: `output` holds a run with other settings, or the preset's head has no softmax.
    """
    preset = load_preset(foundation)
    if preset.head != "softmax":
        raise FoundationError(f"foundation {foundation}: pre-training on phantoms wants a softmax head, the preset says {preset.head}")
    keep_freed_memory()
    _claim(output, preset, settings, phantoms)
    with stage("phantoms"):
        volumes = phantom_volumes(output / "phantoms", preset, range(phantoms), settings.seed, workers)
    torch.manual_seed(settings.seed)  # MONAI initialises from the global generator
    network = to_device(build_network(preset.architecture), torch.device("cpu"))
    run = Pretraining(network, settings)
    with stage("pretrain"):
        pretrain(preset, run, PatchSteps([volumes], preset.scheme.patch_size_voxels, settings), output, workers=1)
    weights = output / f"{foundation}.safetensors"
    with replace_when_done(weights) as temporary:
        save_file(_halved(run.averaged_state()), temporary)
    record = {"foundation": foundation, "sha256": sha256(weights), "phantoms": phantoms, "settings": settings.model_dump(), "versions": versions()}
    write_json(output / f"{foundation}.json", record)
    return weights


def phantom_volumes(folder: Path, preset: FoundationPreset, indices: range, seed: int, workers: int) -> list[PretrainingVolume]:
    """Makes and preprocesses the phantoms that `folder` does not hold yet; phantom i depends on (seed, i) alone."""
    missing = [index for index in indices if not StoredCase.exists(folder, _name(index))]
    if missing:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            jobs = [pool.submit(store_phantom, folder, preset.scheme, seed, index) for index in missing]
            for job in tqdm(jobs, desc="phantoms", unit="phantom"):
                job.result()
    channels = {label: preset.structures[name] for name, label in PHANTOM_STRUCTURES.items() if name in preset.structures}
    return [PretrainingVolume(folder, _name(index), channels) for index in indices]


def store_phantom(folder: Path, scheme: Scheme, seed: int, index: int) -> None:
    """Makes phantom `index` on the scheme's own grid and stores it as a preprocessed case."""
    rng = np.random.default_rng((seed, index))
    phantom = make_phantom(rng, scheme.spacing_mm, variation=float(rng.uniform(*VARIATION)))
    image, grid = preprocess_image(phantom.image, scheme)
    write_case(folder, _name(index), image, preprocess_segmentation(phantom.segmentation, grid), grid, rng)


def _halved(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Floats in half precision: the file is half as large, and loading widens them again to the very same values everywhere."""
    return {name: (tensor.half() if tensor.is_floating_point() else tensor).contiguous() for name, tensor in state.items()}


def _name(index: int) -> str:
    return f"phantom_{index:05d}"


def _claim(output: Path, preset: FoundationPreset, settings: PretrainSettings, phantoms: int) -> None:
    """Writes down what the run is, or checks that the run that is there is the same."""
    path = output / "run.json"
    described = preset.model_dump(mode="json", exclude={"weights", "adaptation"})
    wanted = {"preset": described, "settings": settings.model_dump(), "phantoms": phantoms}
    if path.is_file() and json.loads(path.read_text(encoding="utf-8")) != wanted:
        raise FoundationError(f"{path}: this folder holds a run with other settings; give another -o, or the same settings to continue")
    write_json(path, wanted)
