"""What a foundation is pre-trained on: phantoms, and the annotated cases of raw datasets, preprocessed in the foundation's scheme."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from arena_pipeline.errors import DatasetError, FoundationError
from arena_pipeline.foundations import FoundationPreset, Scheme
from arena_pipeline.io.dataset import RawDataset
from arena_pipeline.io.parallel import Needs, map_jobs
from arena_pipeline.preprocess.case import preprocess_image, preprocess_segmentation
from arena_pipeline.preprocess.dataset import preprocess_dataset
from arena_pipeline.preprocess.store import StoredCase, read_case_record, write_case
from arena_pipeline.research.phantoms import PHANTOM_STRUCTURES, make_phantom
from arena_pipeline.research.pretrain.patches import PretrainingVolume
from arena_pipeline.workspace import Workspace

logger = logging.getLogger(__name__)

VARIATION = (0.1, 0.8)  # of the tissues' HU: from nearly real to stronger than real
NAMES_SHOWN = 5

Volumes = list[PretrainingVolume]


def store_phantoms(folder: Path, preset: FoundationPreset, indices: range, seed: int, workers: int) -> None:
    """Makes and preprocesses the phantoms that `folder` does not hold yet; phantom i depends on (seed, i) alone.

    Raises:
        FoundationError: some could not be made; the others are stored.
    """
    missing = [index for index in indices if not StoredCase.exists(folder, _name(index))]
    if not missing:
        return
    jobs = {_name(index): index for index in missing}
    results = map_jobs(partial(store_phantom, folder, preset.scheme, seed), jobs, Needs("phantoms", workers, unit="phantom", folders=[folder]))
    if faults := [str(error) for _, error in results if error is not None]:
        raise FoundationError(f"{len(faults)} of {len(jobs)} phantoms are not made: {'; '.join(faults[:NAMES_SHOWN])}")


def phantom_volumes(folder: Path, preset: FoundationPreset, indices: range) -> Volumes:
    """The phantoms that `store_phantoms` stores. A structure of theirs that the preset does not list (the heart, for arena_mini) is background."""
    targets, annotated = _targets_and_annotated(preset, PHANTOM_STRUCTURES)
    return [PretrainingVolume(folder, _name(index), targets, annotated) for index in indices]


def store_phantom(folder: Path, scheme: Scheme, seed: int, index: int) -> None:
    """Makes phantom `index` on the scheme's own grid and stores it as a preprocessed case."""
    rng = np.random.default_rng((seed, index))
    phantom = make_phantom(rng, scheme.spacing_xyz_mm, variation=float(rng.uniform(*VARIATION)))
    image, grid = preprocess_image(phantom.image, scheme)
    write_case(folder, _name(index), image, preprocess_segmentation(phantom.segmentation, grid), grid, rng)


def dataset_volumes(raw: RawDataset, preset: FoundationPreset, workspace: Workspace) -> Volumes:
    """The cases of imagesTr with at least one annotated structure of the foundation; `preprocess_volumes` stores them.

    Queries of the dataset's split are left out. A label that the foundation has no structure for is background.

    Raises:
        DatasetError: there is no such case.
    """
    if not set(raw.json.structures) & set(preset.structures):
        raise DatasetError(
            f"{raw.folder.name}: none of its labels ({', '.join(raw.json.structures)}) is a structure of foundation {preset.name} "
            f"({', '.join(preset.structures)}); give them the same names in dataset.json or in the preset, or leave the dataset out"
        )
    folder = workspace.cases(raw.folder.name, preset.name)
    queries = {case for split in raw.json.split.values() for case in split.test}
    volumes = []
    for case in raw.training:
        labels = {name: label for name, label in raw.json.structures.items() if raw.json.is_annotated(case, name)}
        targets, annotated = _targets_and_annotated(preset, labels)
        if targets and case not in queries:
            volumes.append(PretrainingVolume(folder, case, targets, annotated))
    if not volumes:
        raise DatasetError(f"{raw.folder.name}: every case of imagesTr is a query of its split, or has no structure of {preset.name} annotated")
    if len(volumes) < len(raw.training):
        text = "%s: %d of %d cases are used, the others being queries of its split or without an annotated structure"
        logger.info(text, raw.folder.name, len(volumes), len(raw.training))
    return volumes


def preprocess_volumes(raw: RawDataset, preset: FoundationPreset, volumes: Volumes, workers: int) -> None:
    """Preprocesses those that are not stored yet, in the foundation's scheme."""
    processes = workers if workers > 1 else 0  # one worker: done in this process, since another would only have to be started
    preprocess_dataset(raw, preset.scheme, volumes[0].folder, processes, [volume.identifier for volume in volumes])


def check_annotations(preset: FoundationPreset, datasets: dict[str, Volumes]) -> None:
    """Checks that the head can be trained on these volumes.

    Raises:
        FoundationError: a structure is annotated nowhere, or one that a softmax needs is not annotated in a volume.
    """
    names = sorted(preset.structures, key=lambda name: preset.structures[name])
    everywhere = [volume for volumes in datasets.values() for volume in volumes]
    never = [name for row, name in enumerate(names) if not any(volume.annotated[row] for volume in everywhere)]
    if never:
        raise FoundationError(
            f"foundation {preset.name}: {', '.join(never)} annotated in no volume of {', '.join(datasets)}, so the head could not learn them; "
            f"add a dataset that has them, or pre-train with a preset of your own that does not list them"
        )
    if preset.head != "softmax":
        return
    partial = [(dataset, volume) for dataset, volumes in datasets.items() for volume in volumes if not all(volume.annotated)]
    if partial:
        dataset, volume = partial[0]
        lacking = [name for row, name in enumerate(names) if not volume.annotated[row]]
        raise FoundationError(
            f"foundation {preset.name}: {volume.identifier} of {dataset} has {', '.join(lacking)} not annotated ({len(partial)} volumes lack "
            f"some), but in a softmax every voxel is one of the structures or background, so all must be annotated in every volume; "
            f"take a preset with a sigmoid head, or leave these cases or datasets out"
        )


def warn_of_empty_structures(preset: FoundationPreset, datasets: dict[str, Volumes]) -> None:
    """Logs the structures that are annotated but occur in no stored volume."""
    present = set()
    for volume in (volume for volumes in datasets.values() for volume in volumes):
        present |= {volume.targets.get(label) for label in volume.case.labels}
    empty = [name for name, channel in preset.structures.items() if _target(preset, channel) not in present]
    if empty:
        logger.warning("%s: no volume contains %s, so the network will learn that there is none", preset.name, ", ".join(empty))


def volumes_sha256(volumes: Volumes) -> str:
    """SHA-256 of all that the patches of a dataset depend on: the stored cases, their order, files and annotations."""
    digest = hashlib.sha256()
    for volume in volumes:
        record = read_case_record(volume.folder, volume.identifier)
        source = record.source if record is not None else None
        files = [file.sha256 for file in (source.image, source.segmentation) if file is not None] if source is not None else []
        digest.update(repr((volume.identifier, sorted(volume.targets.items()), volume.annotated, files)).encode())
    return digest.hexdigest()


def open_datasets(dataset_ids: Sequence[int], workspace: Workspace) -> list[RawDataset]:
    """The datasets, each once and sorted, so that the patches do not depend on the order given."""
    names = [workspace.dataset_name(dataset_id) for dataset_id in sorted(set(dataset_ids))]
    return [RawDataset.open(workspace.raw_dataset(name)) for name in names]


def _targets_and_annotated(preset: FoundationPreset, labels: dict[str, int]) -> tuple[dict[int, int], tuple[bool, ...]]:
    """`targets` and `annotated` of a volume in which these structures are annotated."""
    targets = {label: _target(preset, preset.structures[name]) for name, label in labels.items() if name in preset.structures}
    names = sorted(preset.structures, key=lambda name: preset.structures[name])
    return targets, tuple(name in labels for name in names)


def _target(preset: FoundationPreset, channel: int) -> int:
    """The value of a channel in the targets, where 0 is background: a softmax has a channel for that, a sigmoid has none."""
    return channel if preset.head == "softmax" else channel + 1


def _name(index: int) -> str:
    return f"phantom_{index:05d}"
