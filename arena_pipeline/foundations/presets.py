"""Foundations: pre-trained networks with the scheme they were trained in. One preset per foundation, plans/NAME.json."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, model_validator

from arena_pipeline.errors import FoundationError
from arena_pipeline.foundations.nnunet_scheme import NnunetScheme
from arena_pipeline.io.json_files import read_model
from arena_pipeline.model.architectures import AnyArchitecture
from arena_pipeline.settings import AdaptationSettings, Frozen

INSTALLED_RECORD = "foundation.json"  # beside installed weights
OWN_NAME = re.compile(r"[A-Za-z0-9_-]+")


class Scheme(Frozen):
    """The pre-processing that the weights expect.

    Attributes:
        spacing_mm: (x, y, z) in RAS.
        window_hu: clipped to these, then scaled to [0, 1].
        patch_size_voxels: (x, y, z); volumes are padded to at least this.
        orientation: "as_stored" leaves the image's own axes.
        outside_body: "set_aside": what lies outside the patient is air before the network and background after it; arena_pipeline.preprocess.body.
        nnunet: how nnU-Net does it instead; None: as above. With it, spacing and patch are in the network's axis order.
    """

    orientation: Literal["RAS", "as_stored"] = "RAS"
    spacing_mm: tuple[float, float, float]
    window_hu: tuple[float, float]
    patch_size_voxels: tuple[int, int, int]
    outside_body: Literal["kept", "set_aside"] = "kept"
    nnunet: NnunetScheme | None = None

    @model_validator(mode="after")
    def _check(self) -> Scheme:
        if min(self.spacing_mm) <= 0:
            raise ValueError(f"spacing_mm: expected three lengths above 0, found {self.spacing_mm}")
        if self.window_hu[0] >= self.window_hu[1]:
            raise ValueError(f"window_hu: expected a lower and a higher end, found {self.window_hu}")
        if min(self.patch_size_voxels) <= 0:
            raise ValueError(f"patch_size_voxels: expected three lengths above 0, found {self.patch_size_voxels}")
        if self.orientation == "as_stored" and self.nnunet is None:
            raise ValueError("orientation: expected RAS, found as_stored")
        if self.outside_body == "set_aside" and self.nnunet is not None:
            raise ValueError("outside_body: expected kept with nnU-Net's scheme, found set_aside")
        return self

    @property
    def spacing_xyz_mm(self) -> tuple[float, float, float]:
        """The spacing along the oriented image's x, y and z."""
        return self._along_xyz(self.spacing_mm)

    @property
    def patch_size_mm(self) -> tuple[float, float, float]:
        """Of the patch, along the oriented image's x, y and z."""
        x, y, z = (size * mm for size, mm in zip(self._along_xyz(self.patch_size_voxels), self.spacing_xyz_mm, strict=True))
        return x, y, z

    def _along_xyz(self, triple: tuple[float, float, float]) -> tuple[float, float, float]:
        axes = (0, 1, 2) if self.nnunet is None else self.nnunet.axes
        return triple[axes.index(0)], triple[axes.index(1)], triple[axes.index(2)]

    @property
    def overlap(self) -> float:
        """Of neighbouring windows in prediction, as a share of the patch: nnU-Net's, or that of the published evaluation."""
        return 0.25 if self.nnunet is None else 0.5


class Weights(Frozen):
    """Where the weights come from.

    Attributes:
        packaged: file inside the package's plans folder, or None where the user must install them.
        sha256: of the packaged file, or None.
        expected_file: the file name people have when they download the published weights.
        layout: how it is written: a name in the `layouts` of the architecture's family.
        origin: where to get it, in words with an address.
    """

    packaged: str | None = None
    sha256: str | None = None
    expected_file: str
    layout: str
    origin: str


class FoundationPreset(Frozen):
    """plans/NAME.json; plans/README.md explains every key.

    Attributes:
        head: activation of the pre-trained head; "none": there is no usable linear head.
        structures: structure -> output channel of the head (softmax: channel 0 is the background, not listed);
            without a head: the structures seen in pre-training, with any number.
        pretrained_parts: "encoder" where the decoder must be trained always.
        train_decoder: "novel": for structures that the foundation does not know, as published; "always": for those it knows too.
        adaptation: the schedule that suits this foundation.
        preference: which is taken when none is named: the highest of those installed.
    """

    name: str
    title: str
    architecture: AnyArchitecture
    scheme: Scheme
    head: Literal["sigmoid", "softmax", "none"]
    structures: dict[str, int]
    pretrained_parts: Literal["encoder_decoder", "encoder"] = "encoder_decoder"
    train_decoder: Literal["novel", "always"] = "novel"
    weights: Weights
    adaptation: AdaptationSettings = AdaptationSettings()
    preference: int
    licence: str
    citation: str

    @model_validator(mode="after")
    def _check(self) -> FoundationPreset:
        self.architecture.check_patch(self.scheme.patch_size_voxels)
        if self.weights.layout not in self.architecture.layouts:
            raise ValueError(f"weights.layout: expected one of {', '.join(self.architecture.layouts)}, found {self.weights.layout!r}")
        return self

    def segments(self, structures: Iterable[str]) -> bool:
        """Whether it can do so without adaptation: its own head has all these structures."""
        return self.head != "none" and set(structures) <= set(self.structures)

    def require_head(self) -> None:
        """Raises FoundationError unless the head has one channel per structure (softmax: and channel 0 for the background)."""
        if self.head == "none":
            raise FoundationError(
                f"foundation {self.name}: its preset says head none", advice="a network is pre-trained with a sigmoid or a softmax head"
            )
        wanted = list(range(self.head == "softmax", self.architecture.out_channels))
        if not wanted or sorted(self.structures.values()) != wanted:
            raise FoundationError(
                f"foundation {self.name}: a {self.head} head of {self.architecture.out_channels} channels needs a structure for each of the "
                f"channels {wanted}, found {self.structures}",
                advice="correct structures or architecture.out_channels in its preset",
            )


class InstalledPreset(BaseModel):
    """What is needed here of foundation.json, which has more keys."""

    preset: FoundationPreset


def preset_folder() -> Path:
    """The folder of the presets: inside the wheel, or the checkout's plans/ in an editable install."""
    package = Path(__file__).resolve().parents[1]
    packaged = package / "plans"
    return packaged if packaged.is_dir() else package.parent / "plans"


def preset_names(installed_root: Path | None = None) -> list[str]:
    """The foundations that have a preset, sorted: the package's, then those of the user's own that are installed in `installed_root`."""
    packaged = sorted(path.stem for path in preset_folder().glob("*.json"))
    records = installed_root.glob(f"*/{INSTALLED_RECORD}") if installed_root is not None else ()
    return packaged + sorted({record.parent.name for record in records} - set(packaged))


def load_preset(name: str, installed_root: Path | None = None) -> FoundationPreset:
    """The preset of one of `preset_names`; FoundationError for an unknown name (listing the known) or an invalid file."""
    if name in preset_names():
        return read_model(preset_folder() / f"{name}.json", FoundationPreset, FoundationError, "no such file", "reinstall arena-pipeline")
    if name not in preset_names(installed_root):
        raise FoundationError(f"unknown foundation {name}", advice=f"known: {', '.join(preset_names(installed_root))}")
    path = Path(str(installed_root)) / name / INSTALLED_RECORD
    advice = f"install the foundation again: arena_install_foundation {name}.json {name}.safetensors"
    return read_model(path, InstalledPreset, FoundationError, "no such file", advice).preset


def read_preset(path: Path) -> FoundationPreset:
    """A preset of the user's own; plans/README.md explains its keys.

    Raises:
        FoundationError: no valid preset, one without a head of its own, or one with the name of a foundation of the package.
    """
    preset = read_model(path, FoundationPreset, FoundationError, "no such file; a preset is a JSON file", "plans/README.md explains the keys")
    if OWN_NAME.fullmatch(preset.name) is None:
        raise FoundationError(f"name {preset.name!r}", file=path, advice="expected letters, digits, - and _ alone, since folders get this name")
    if preset.name in preset_names():
        raise FoundationError(f"{preset.name} is the name of a foundation of the package", file=path, advice="give your own another name in the file")
    if preset.weights.packaged is not None:
        raise FoundationError(f"weights.packaged is {preset.weights.packaged!r}, expected null: nothing of your own is in the package", file=path)
    preset.require_head()
    return preset


def find_preset(name_or_file: str, installed_root: Path | None = None) -> FoundationPreset:
    """`read_preset` of what ends in .json, `load_preset` of anything else."""
    return read_preset(Path(name_or_file)) if name_or_file.endswith(".json") else load_preset(name_or_file, installed_root)


def install_command(preset: FoundationPreset) -> list[str]:
    """The command that installs its weights; a preset of one's own is named by its file, a model of nnU-Net by its folder."""
    if preset.weights.layout == "nnunet":
        fold = Path(preset.weights.expected_file).parent
        return ["arena_install_foundation", str(fold.parent), "-n", preset.name, "-f", fold.name.removeprefix("fold_")]
    named = preset.name if preset.name in preset_names() else f"{preset.name}.json"
    return ["arena_install_foundation", named, preset.weights.expected_file]


def packaged_weights(preset: FoundationPreset) -> Path | None:
    """The weights that come with the package, for a foundation that has some."""
    return None if preset.weights.packaged is None else preset_folder() / preset.weights.packaged


def weights_file(preset: FoundationPreset, installed: Path) -> Path:
    """The safetensors file of this foundation: the packaged one, or the one in `installed` (workspace/foundations/NAME).

    Raises:
        FoundationError: neither exists; says which file is needed and how to install it.
    """
    packaged = packaged_weights(preset)
    if packaged is not None:
        return packaged
    path = installed / "weights.safetensors"
    if not path.is_file():
        raise FoundationError(
            f"no weights of foundation {preset.name}",
            file=path,
            advice=f"get {preset.weights.expected_file} ({preset.weights.origin}), then run: {' '.join(install_command(preset))}",
        )
    return path


def foundations_with_weights(installed_root: Path) -> list[tuple[int, str]]:
    """(preference, name) of the foundations whose weights are here."""
    available = []
    for name in preset_names(installed_root):
        preset = load_preset(name, installed_root)
        if preset.weights.packaged is not None or (installed_root / name / "weights.safetensors").is_file():
            available.append((preset.preference, name))
    return available


def choose_foundation(installed_root: Path) -> tuple[str, str]:
    """The foundation used when none is named, and why: of those with weights, the highest `preference`."""
    available = foundations_with_weights(installed_root)
    if not available:
        raise FoundationError("no foundation has weights", advice="the packaged one is missing, reinstall arena-pipeline")
    name = max(available)[1]
    others = ", ".join(n for _, n in sorted(available, reverse=True)[1:])
    return name, f"{name} is the most preferred foundation with weights here" + (f" (also here: {others})" if others else "; no other is installed")
