"""arena_install_model: a package that somebody made becomes a model of the workspace, whole and checked, or not at all."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from arena_pipeline.arguments import plain_arguments
from arena_pipeline.errors import FoundationError, PackageError
from arena_pipeline.foundations import FoundationPreset, load_preset, preset_names, weights_file
from arena_pipeline.io.filestate import file_sha256
from arena_pipeline.io.space import require_space
from arena_pipeline.records import stage
from arena_pipeline.share.archive import open_archive
from arena_pipeline.share.install import read_package_manifest, unpack
from arena_pipeline.share.package import Manifest
from arena_pipeline.workspace import Workspace


@dataclass(frozen=True)
class InstalledModel:
    """What was installed, and where. `missing_foundation`: that it needs before it can predict, or None."""

    folder: Path
    manifest: Manifest
    missing_foundation: FoundationPreset | None


@plain_arguments
def install_model(package: Path, workspace: Workspace, overwrite: bool = False) -> InstalledModel:
    """Installs a package as results/DATASET/FOUNDATION/METHOD_Kshots.

    Args:
        overwrite: replace a model that is there.

    Raises:
        PackageError: not a package, damaged, or a model is there already; nothing is written then.
        ArenaError: something in it is not what it should be, or its foundation here has other weights; nothing stays then.
    """
    with open_archive(package) as archive, stage("install"):
        manifest = read_package_manifest(archive)
        name = manifest.foundation
        if name not in preset_names(workspace.foundations):
            get = workspace.command("arena_install_foundation", *(manifest.foundation_install or (f"{name}.json", "WEIGHTS")))
            raise PackageError(f"made on the foundation {name}, which is not here", file=package, advice=f"get that and run: {get}; then this again")
        preset = load_preset(name, workspace.foundations)
        missing = _missing_foundation(manifest, preset, package, workspace)
        target = workspace.model(manifest.dataset_name, name, manifest.method, manifest.shots)
        require_space(target, sum(archive.sizes.values()), "the model")
        unpack(archive, manifest, preset, target, overwrite)
    return InstalledModel(target, manifest, missing)


def _missing_foundation(manifest: Manifest, preset: FoundationPreset, package: Path, workspace: Workspace) -> FoundationPreset | None:
    """None where the foundation is here; one that is not can be installed later, but other weights never predict with this model."""
    try:
        weights = weights_file(preset, workspace.installed_foundation(preset.name))
    except FoundationError:
        return preset
    found = file_sha256(weights)
    if found != manifest.foundation_sha256:
        raise PackageError(
            f"made on foundation {manifest.foundation} with weights of SHA-256 {manifest.foundation_sha256[:12]}..., but {preset.name} "
            f"here ({weights}) has {found[:12]}...",
            file=package,
            advice=f"install it in a workspace (-w FOLDER) or an arena-pipeline ({manifest.arena_version}) with those weights",
        )
    return None
