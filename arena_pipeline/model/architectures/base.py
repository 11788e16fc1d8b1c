"""What a family of networks decides, behind one interface.

A family is one module beside this one: a frozen model of the values that a preset gives, which is also the behaviour. Presets are read
where no network is built, so torch and what builds the network are imported inside the methods.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from arena_pipeline.settings import Frozen

if TYPE_CHECKING:
    from torch import Tensor, nn

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Target:
    """The weight of one layer that takes low-rank updates, seen as a matrix: a convolution's (O, I, kx, ky, kz) as (O, I kx ky kz).

    Attributes:
        layer: the module's name in the network; the parameter is `layer`.weight.
        rows, columns: of the matrix; the rows are the weight's first axis.
        gated: name of a block of rows -> its first and last + 1: what ARENA updates, each block with A, B and v of its own.
        whole: name of the block of all rows, which LoRA and AdaLoRA update.
    """

    layer: str
    rows: int
    columns: int
    gated: Mapping[str, tuple[int, int]]
    whole: str

    @property
    def parameter(self) -> str:
        """The weight's name in the network."""
        return f"{self.layer}.weight"

    def rows_of(self, block: str) -> tuple[int, int]:
        """First row of a block and its last + 1; KeyError for a name that this layer does not have."""
        return (0, self.rows) if block == self.whole else self.gated[block]


@dataclass(frozen=True)
class Layout:
    """How one kind of published checkpoint is written.

    Attributes:
        key: where the tensors are; None: at the top. A file that has them at the top is taken either way.
        head: its name for the head; the head in the network's name is taken where there is none of this name, or where this is None.
        unused_heads: first words of tensors that belong to a head which can't be used, after the wrappers are off.
        renamed: regular expressions with their replacements, applied in this order.
    """

    key: str | None = None
    head: str | None = None
    unused_heads: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()


class Architecture(Frozen, ABC):
    """One network of one family. Arrays are in the axis order of the network's input; names are those of the network's state.

    Attributes:
        family: a key of FAMILIES in arena_pipeline.model.architectures.
        in_channels, out_channels: of the input, and of the pre-trained head.

    A family also sets
        target_kind: what takes low-rank updates, in words, for an error.
        layouts: checkpoints that can be read, by the name that `weights.layout` of a preset gives.
    """

    family: str
    in_channels: int = 1
    out_channels: int

    target_kind: ClassVar[str]
    layouts: ClassVar[Mapping[str, Layout]]

    @abstractmethod
    def build(self, out_channels: int | None = None) -> nn.Module:
        """The network with random weights, in eval mode: (batch, in_channels, three axes) -> logits (batch, out_channels, the same axes).

        `out_channels` replaces the architecture's where a task has its own head.
        """

    @property
    @abstractmethod
    def head(self) -> str:
        """Name of the 1x1x1 convolution that gives the logits."""

    @property
    @abstractmethod
    def encoder(self) -> tuple[str, ...]:
        """First letters of the names of the encoder's parameters: what a foundation without a decoder brings, and what methods adapt."""

    @property
    @abstractmethod
    def decoder(self) -> tuple[str, ...]:
        """Likewise of the decoder's: what is trained for a novel structure, besides the head."""

    @property
    @abstractmethod
    def front(self) -> dict[str, tuple[str, ...]]:
        """The first modules, in the order in which they run, each with those of them that it takes its input from; none: the image alone.

        Their outputs for a window are the same for all adapters that change nothing in them. None may change its input in place.
        """

    @abstractmethod
    def targets(self, shapes: Mapping[str, Shape]) -> dict[str, Target]:
        """What takes low-rank updates among parameters of these names and shapes, by layer, in their order; empty where nothing does."""

    @abstractmethod
    def biases(self, names: Iterable[str]) -> list[str]:
        """Those parameters that bitfit trains."""

    @abstractmethod
    def norms(self, names: Iterable[str]) -> list[str]:
        """Those parameters that affine_ln trains: weights and biases of the encoder's norms."""

    @abstractmethod
    def recomputed(self, network: nn.Module) -> list[nn.Module]:
        """The blocks that hold most of a step's memory, for activations that are computed twice; none lies inside another."""

    @property
    @abstractmethod
    def patch_divisor(self) -> tuple[int, int, int]:
        """What each axis of a patch must be a multiple of."""

    @property
    @abstractmethod
    def parameters(self) -> int:
        """About how many numbers the network has, for planning."""

    @abstractmethod
    def training_bytes(self, patch_size_voxels: tuple[int, int, int], recompute: bool = False) -> int:
        """About what activations and gradients of one patch take, forward and backward in float32."""

    @abstractmethod
    def window_bytes(self, patch_size_voxels: tuple[int, int, int]) -> int:
        """Likewise in prediction, forward alone."""

    @classmethod
    @abstractmethod
    def layer_label(cls, block: str) -> str | None:
        """A short name for "<layer>.<block of rows>" in plots; None for one that is no target of this family."""

    def is_derived(self, name: str) -> bool:
        """Whether a tensor of the network's state follows from the values above: a file may lack it."""
        return False

    def derived_fits(self, name: str, tensors: Mapping[str, Tensor]) -> bool:
        """Whether such a tensor, as a file has it, can be used beside the other tensors."""
        return True

    def describe(self, tensors: Mapping[str, Tensor]) -> list[str]:
        """The values of the architecture that a file's tensors belong to, as far as they tell: "feature_size 48"."""
        head = tensors.get(f"{self.head}.weight")
        return [] if head is None else [f"out_channels {len(head)}"]

    def part_of(self, name: str) -> str:
        """ "decoder", "head" or "encoder" (which is the rest)."""
        return "decoder" if name.startswith(self.decoder) else "head" if name.startswith(f"{self.head}.") else "encoder"

    def check_patch(self, patch_size_voxels: tuple[int, int, int]) -> None:
        """Raises ValueError unless the network can take patches of this size."""
        if any(edge % divisor for edge, divisor in zip(patch_size_voxels, self.patch_divisor, strict=True)):
            steps = self.patch_divisor[0] if len(set(self.patch_divisor)) == 1 else self.patch_divisor
            raise ValueError(f"scheme.patch_size_voxels: expected multiples of {steps}, found {patch_size_voxels}")
        if patch_size_voxels == self.patch_divisor:  # one voxel is left at the bottom, and a norm over one is 0
            raise ValueError(f"scheme.patch_size_voxels: expected more than {self.patch_divisor} along some axis, found {patch_size_voxels}")
