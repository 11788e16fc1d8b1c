"""The package of an adapted model, model.zip: what is in it and what is never in it.

    manifest.json                      what it is, and size and SHA-256 of every other file; its presence marks an installed model
    plans.json                         the plans without candidates and reasons, which name cases
    labels.json                        structures, integers, colours
    TASK/fold_N/adapter.safetensors    the tensors
    TASK/fold_N/adapter.json           their record, without the names of the support set
    MODEL_CARD.md LICENCE.txt          for people

Names of cases, paths, hosts and users are nowhere in it: every file is made from validated fields, none is copied.
The checksums tell damage. They are no signature: who can change a package can change them too.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from arena_pipeline.errors import AdapterError, PackageError
from arena_pipeline.io.json_files import read_model
from arena_pipeline.settings import Frozen
from arena_pipeline.share.archive import FileFacts
from arena_pipeline.workspace import DATASET_FOLDER

PACKAGE_VERSION: Final = 1
MANIFEST, PLANS, LABELS, CARD, LICENCE = "manifest.json", "plans.json", "labels.json", "MODEL_CARD.md", "LICENCE.txt"
ADAPTER = ("adapter.safetensors", "adapter.json")
OWN_NAME = r"^[A-Za-z0-9_-]+$"  # of what becomes part of a folder's name


class PackageVersion(BaseModel):
    """The one key of every manifest, whatever its version."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    package_version: int


class Manifest(Frozen):
    """manifest.json.

    Attributes:
        arena_version: that exported the model.
        foundation_sha256: of the weights that the adapters need.
        foundation_install: what arena_install_foundation is called with for it; empty where it comes with arena-pipeline.
        folds: task -> its folds in the package.
        data_licence: of the dataset that it was adapted on, where its dataset.json says one.
        licence: of the foundation, which holds for what derives from it.
        files: name -> size and checksum of every other file of the package.
    """

    package_version: Literal[1] = PACKAGE_VERSION
    arena_version: str
    dataset_name: str = Field(pattern=f"^{DATASET_FOLDER.pattern}$")
    foundation: str = Field(pattern=OWN_NAME)
    foundation_sha256: str
    foundation_install: tuple[str, ...] = ()
    method: str = Field(pattern=OWN_NAME)
    shots: int = Field(ge=1, le=999)
    folds: dict[str, tuple[int, ...]] = Field(min_length=1)
    data_licence: str | None
    licence: str
    files: dict[str, FileFacts]


def package_files(folds: Mapping[str, tuple[int, ...]]) -> set[str]:
    """The files of a package with these folds, but the manifest."""
    adapters = {f"{task}/fold_{fold}/{name}" for task, numbers in folds.items() for fold in numbers for name in ADAPTER}
    return adapters | {PLANS, LABELS, CARD, LICENCE}


def read_manifest(path: Path) -> Manifest:
    """Raises PackageError for another version, and naming the key that is missing, unknown or impossible."""
    again = "get the package again"
    version = read_model(path, PackageVersion, PackageError, "no manifest", again).package_version
    if version != PACKAGE_VERSION:
        raise PackageError(
            f"a package of version {version}, this arena-pipeline reads version {PACKAGE_VERSION}", file=path.name, advice="install the other one"
        )
    return read_model(path, Manifest, PackageError, "no manifest", again)


def is_installed(model: Path) -> bool:
    """Whether a model folder came from a package."""
    return (model / MANIFEST).is_file()


def refuse_installed(model: Path) -> None:
    """Raises AdapterError for an installed model: adapting into its folder would mix two people's folds."""
    if is_installed(model):
        raise AdapterError(
            "this model was installed from a package", file=model, advice="delete its folder, or adapt in another workspace (-w FOLDER)"
        )
