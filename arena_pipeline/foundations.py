"""Foundations: pre-trained networks with the scheme they were trained in. One preset per foundation, plans/NAME.json."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError, model_validator

from arena_pipeline.errors import FoundationError
from arena_pipeline.settings import AdaptationSettings, Frozen

GRID_DIVISOR = 32  # patch embedding and four mergings halve each axis of a patch five times


class Architecture(Frozen):
    """A MONAI SwinUNETR (use_v2 = False) and what its constructor does not say.

    Attributes:
        patch_merging: order of the eight sub-grids; "monai_0.9.1" is what MONAI <= 0.9.1 concatenated and all published
            checkpoints were trained with, "monai_1.5" what MONAI 1.x calls "merging" today.
    """

    feature_size: int
    window_size_voxels: tuple[int, int, int] = (7, 7, 7)
    depths: tuple[int, int, int, int] = (2, 2, 2, 2)
    num_heads: tuple[int, int, int, int] = (3, 6, 12, 24)
    in_channels: int = 1
    out_channels: int
    patch_merging: Literal["monai_0.9.1", "monai_1.5"]


class Scheme(Frozen):
    """The pre-processing that the weights expect.

    Attributes:
        spacing_mm: (x, y, z) in RAS.
        window_hu: clipped to these, then scaled to [0, 1].
        patch_size_voxels: (x, y, z); volumes are padded to at least this.
    """

    orientation: Literal["RAS"] = "RAS"
    spacing_mm: tuple[float, float, float]
    window_hu: tuple[float, float]
    patch_size_voxels: tuple[int, int, int]

    @model_validator(mode="after")
    def _check(self) -> Scheme:
        if min(self.spacing_mm) <= 0:
            raise ValueError(f"spacing_mm: expected three lengths above 0, found {self.spacing_mm}")
        if self.window_hu[0] >= self.window_hu[1]:
            raise ValueError(f"window_hu: expected a lower and a higher end, found {self.window_hu}")
        if min(self.patch_size_voxels) <= 0:
            raise ValueError(f"patch_size_voxels: expected three lengths above 0, found {self.patch_size_voxels}")
        return self

    def require_network_patch(self) -> None:
        """Raises ValueError unless a Swin UNETR can take the patch."""
        if any(edge % GRID_DIVISOR for edge in self.patch_size_voxels):
            raise ValueError(f"scheme.patch_size_voxels: expected multiples of {GRID_DIVISOR}, found {self.patch_size_voxels}")


class Weights(Frozen):
    """Where the weights come from.

    Attributes:
        packaged: file inside the package's plans folder, or None where the user must install them.
        sha256: of the packaged file, or None.
        expected_file: the file name people have when they download the published weights.
        layout: which reader understands it.
        origin: where to get it, in words with an address.
    """

    packaged: str | None = None
    sha256: str | None = None
    expected_file: str
    layout: Literal["arena", "fseft", "suprem", "clip_driven", "monai", "ssl_swinvit"]
    origin: str


class FoundationPreset(Frozen):
    """plans/NAME.json; plans/README.md explains every key.

    Attributes:
        head: activation of the pre-trained head; "none": there is no usable linear head.
        structures: structure -> output channel of the head (softmax: channel 0 is the background, not listed);
            without a head: the structures seen in pre-training, with any number.
        pretrained_parts: "encoder" where the decoder must be trained always.
        adaptation: the schedule that suits this foundation.
        preference: which is taken when none is named: the highest of those installed.
    """

    name: str
    title: str
    architecture: Architecture
    scheme: Scheme
    head: Literal["sigmoid", "softmax", "none"]
    structures: dict[str, int]
    pretrained_parts: Literal["encoder_decoder", "encoder"] = "encoder_decoder"
    weights: Weights
    adaptation: AdaptationSettings = AdaptationSettings()
    preference: int
    licence: str
    citation: str

    @model_validator(mode="after")
    def _check(self) -> FoundationPreset:
        self.scheme.require_network_patch()
        return self


def preset_folder() -> Any:
    """The folder of the presets: inside the wheel, or the checkout's plans/ in an editable install."""
    packaged = resources.files("arena_pipeline") / "plans"
    return packaged if packaged.is_dir() else Path(__file__).resolve().parent.parent / "plans"


def preset_names() -> list[str]:
    """The foundations that have a preset, sorted."""
    return sorted(entry.name[:-5] for entry in preset_folder().iterdir() if entry.name.endswith(".json"))


def load_preset(name: str) -> FoundationPreset:
    """Raises FoundationError for an unknown name (listing the known) or an invalid preset file."""
    if name not in preset_names():
        raise FoundationError(f"unknown foundation {name}; known: {', '.join(preset_names())}")
    try:
        return FoundationPreset.model_validate(json.loads((preset_folder() / f"{name}.json").read_text(encoding="utf-8")))
    except ValidationError as error:
        raise FoundationError(f"plans/{name}.json: {error}") from None


def weights_file(preset: FoundationPreset, installed: Path) -> Path:
    """The safetensors file of this foundation: the packaged one, or the one in `installed` (workspace/foundations/NAME).

    Raises:
        FoundationError: neither exists; says which file is needed and how to install it.
    """
    if preset.weights.packaged is not None:
        return Path(str(preset_folder() / preset.weights.packaged))
    path = installed / "weights.safetensors"
    if not path.is_file():
        raise FoundationError(
            f"foundation {preset.name} has no weights: expected {path}. Get {preset.weights.expected_file} ({preset.weights.origin}), "
            f"then run: arena_install_foundation {preset.name} {preset.weights.expected_file}"
        )
    return path


def choose_foundation(installed_root: Path) -> tuple[str, str]:
    """The foundation used when none is named, and why: of those with weights, the highest `preference`."""
    available = []
    for name in preset_names():
        preset = load_preset(name)
        if preset.weights.packaged is not None or (installed_root / name / "weights.safetensors").is_file():
            available.append((preset.preference, name))
    if not available:
        raise FoundationError("no foundation has weights; the packaged one is missing, reinstall arena-pipeline")
    name = max(available)[1]
    others = ", ".join(n for _, n in sorted(available, reverse=True)[1:])
    return name, f"{name} is the most preferred foundation with weights here" + (f" (also here: {others})" if others else "; no other is installed")
