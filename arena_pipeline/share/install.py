"""A package that somebody made becomes a model folder, whole and checked, or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from arena_pipeline.errors import ArenaError, PackageError
from arena_pipeline.foundations import FoundationPreset
from arena_pipeline.io.json_files import LARGEST_FILE_BYTES
from arena_pipeline.io.lock import all_locked, locked
from arena_pipeline.model.adapter import read_adapter
from arena_pipeline.model.adapter_checks import network_faults
from arena_pipeline.model.checkpoints import skeleton
from arena_pipeline.model.model_folder import check_same_plans
from arena_pipeline.model.task_head import empty_head
from arena_pipeline.planning import Plans
from arena_pipeline.predict.labels import LabelMap
from arena_pipeline.share.archive import FOREIGN_ADVICE, MAX_ENTRY_BYTES, Archive
from arena_pipeline.share.package import MANIFEST, PLANS, Manifest, package_files, read_manifest
from arena_pipeline.words import listed
from arena_pipeline.workspace import fold_folder

LARGEST_LABEL = 65_535  # what a segmentation can hold
SPACING_MM = (0.1, 50.0)
LARGEST_PATCH, LARGEST_COUNT = 512, 1024


def unpack(archive: Archive, manifest: Manifest, preset: FoundationPreset, target: Path, overwrite: bool) -> None:
    """Makes the package the model folder `target`: written into a folder beside it, validated there, then renamed.

    Raises:
        PackageError: a model is there already.
        ArenaError: something in the package is not what it should be; nothing stays then.
    """
    with folder_in_place(target, overwrite) as folder:
        for name, facts in manifest.files.items():
            archive.extract(name, folder / name, facts)
        archive.extract(MANIFEST, folder / MANIFEST)
        try:
            _validate(folder, manifest, preset)
        except ArenaError as error:
            inside = "" if error.file is None else f"{Path(error.file).relative_to(folder)}: "
            raise type(error)(f"{inside}{error.found}", file=archive.path, advice=error.advice) from None


def read_package_manifest(archive: Archive) -> Manifest:
    """The manifest of a package that has the files listed in it, and no others.

    Raises:
        PackageError: it is missing or invalid, or the package has other files.
    """
    package = archive.path
    if archive.sizes.get(MANIFEST, MAX_ENTRY_BYTES) > LARGEST_FILE_BYTES:
        raise PackageError(f"no {MANIFEST}, or one too large", file=package, advice=FOREIGN_ADVICE)
    with tempfile.TemporaryDirectory() as folder:
        archive.extract(MANIFEST, Path(folder) / MANIFEST)
        try:
            manifest = read_manifest(Path(folder) / MANIFEST)
        except PackageError as error:
            raise PackageError(f"{MANIFEST}: {error.found}", file=package, advice=error.advice) from None
    wanted = package_files(manifest.folds)
    differing = {"lacks": wanted - set(archive.sizes), "also has": set(archive.sizes) - wanted - {MANIFEST}}
    differing["has without a checksum"] = wanted - set(manifest.files)
    differing["has checksums of"] = set(manifest.files) - wanted
    if faults := [f"{what} {listed(sorted(names), 3)}" for what, names in differing.items() if names]:
        advice = "it was not made by arena_export_model, or was changed; get the package again"
        raise PackageError("; ".join(faults), file=package, advice=advice)
    return manifest


@contextmanager
def folder_in_place(target: Path, overwrite: bool) -> Iterator[Path]:
    """A new folder beside `target` that takes its place if the block succeeds, and vanishes otherwise."""
    made = [folder for folder in (target.parent, *target.parent.parents) if not folder.exists()]
    try:
        with locked(target.parent, f"_{target.name}"):
            yield from _swapped(target, overwrite)
    finally:
        for folder in made:
            with suppress(OSError):  # not empty: the model is there
                folder.rmdir()


def _swapped(target: Path, overwrite: bool) -> Iterator[Path]:
    new, old = (target.parent / f".{target.name}.{what}" for what in ("installing", "replaced"))
    if old.exists() and not target.exists():
        old.rename(target)  # an installation was killed between its two renames
    for left in (new, old):
        shutil.rmtree(left, ignore_errors=True)
    if target.exists() and not overwrite:
        advice = "add --overwrite to replace it, or install the package in another workspace (-w FOLDER)"
        raise PackageError("a model is there already", file=target, advice=advice)
    new.mkdir()
    try:
        yield new
        with all_locked([folder for folder in target.glob("*/fold_*") if folder.is_dir()]):
            pass  # raises where a command is adapting there
        if target.exists():
            target.rename(old)
        try:
            new.rename(target)
        except BaseException:
            if old.exists():
                old.rename(target)
            raise
    finally:
        shutil.rmtree(new, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def _validate(folder: Path, manifest: Manifest, preset: FoundationPreset) -> None:
    """Checks now what would else fail when predicting, and that the parts of the package belong together."""
    plans = Plans.read(folder / PLANS, preset.architecture)
    LabelMap.read(folder)
    own = (manifest.dataset_name, manifest.foundation, manifest.foundation_sha256, set(manifest.folds))
    if (plans.dataset_name, plans.foundation, plans.foundation_sha256, {task.name for task in plans.tasks}) != own:
        raise PackageError(f"{MANIFEST} and {PLANS} are of different models", advice="get the package again")
    _check_limits(plans, folder)
    architecture = preset.architecture
    parameters = {name: tuple(tensor.shape) for name, tensor in skeleton(architecture).items() if not architecture.is_derived(name)}
    channels = parameters[f"{architecture.head}.weight"][1]
    for task, folds in manifest.folds.items():
        for fold in folds:
            place = fold_folder(folder, task, fold)
            adapter = read_adapter(place)
            record = adapter.record
            check_same_plans(record, place, plans, Path(PLANS))
            if (record.task, record.fold, record.settings.method, record.shots) != (task, fold, manifest.method, manifest.shots):
                found = f"the adapter is of {record.settings.method}, {record.shots} shots, {record.task}, fold {record.fold}"
                raise PackageError(found, file=place)
            shapes = {name: tuple(tensor.shape) for name, tensor in adapter.tensors.items()}
            rows = empty_head(preset, channels, record.activation, record.head, record.out_channels).out_channels
            if faults := network_faults(shapes, parameters, architecture, rows):
                raise PackageError(f"its tensors do not fit {preset.name} ({listed(faults, 3, '; ')})", file=place)


def _check_limits(plans: Plans, folder: Path) -> None:
    """Numbers that are possible but would ask for more memory than any machine has."""
    scheme = plans.scheme
    if not SPACING_MM[0] <= min(scheme.spacing_mm) <= max(scheme.spacing_mm) <= SPACING_MM[1] or max(scheme.patch_size_voxels) > LARGEST_PATCH:
        expected = f"{SPACING_MM[0]:g} to {SPACING_MM[1]:g} mm and at most {LARGEST_PATCH} voxels"
        raise PackageError(
            f"voxels of {scheme.spacing_mm} mm in patches of {scheme.patch_size_voxels}", file=folder / PLANS, advice=f"expected {expected}"
        )
    if max(plans.inference.window_batch or 1, plans.workers.export or 1) > LARGEST_COUNT:
        raise PackageError(f"more than {LARGEST_COUNT} windows at once, or workers", file=folder / PLANS)
    if wrong := {name: label for name, label in plans.labels.items() if not 0 <= label <= LARGEST_LABEL}:
        raise PackageError(f"labels {wrong}", file=folder / PLANS, advice=f"expected 0 to {LARGEST_LABEL:,}")
