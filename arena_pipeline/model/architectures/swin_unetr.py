"""MONAI's Swin UNETR (use_v2 = False), with faster layers of the same numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from arena_pipeline.model.architectures.base import Architecture, Layout, Shape, Target

if TYPE_CHECKING:
    from torch import Tensor, nn

ENCODER = "swinViT."
PROJECTION = ".attn.qkv.weight"  # (3C, C): rows of the queries, the keys and the values
POSITION_INDEX = ".relative_position_index"  # a buffer that follows from the window; old files have it, some do not
MATRIX = re.compile(r"layers(\d+)\.0\.blocks\.(\d+)\.attn\.qkv\.(\w+)$")
CLIP_HEADS = ("precls_conv", "GAP", "controller", "text_to_vision", "organ_embedding", "out")

# Peak memory in float32 per voxel of a patch and per unit of feature_size (python -m benchmarks.activations):
#
#     feature_size, window, patch    forward and backward, all weights trained    with activations computed again    forward alone
#     48, 7, 96^3                    121 bytes                                    57 bytes                           29 bytes
#     48, 7, 64^3                    133 bytes                                    85 bytes                           37 bytes
#     24, 7, 64^3                    232 bytes                                    172 bytes                          40 bytes
#     12, 4, 64^3                    169 bytes                                    106 bytes                          53 bytes
#
# (resident memory above the network's own, torch 2.13 on a CPU; two patches take twice as much). The constants are above what any published
# foundation takes. The row of feature_size 24 takes more, since the windows of its coarse levels are mostly padding; no foundation is like it.
# A frozen decoder needs less. So a 96^3 patch at feature_size 48 is planned with 7.9 GiB in training and 2.8 GiB in prediction.
TRAINING_BYTES, RECOMPUTING_BYTES, PREDICTION_BYTES = 200, 135, 70
PARAMETERS_PER_SQUARED_FEATURE = 27_000  # 62.19 million at feature_size 48, 3.91 million at 12


class SwinUnetr(Architecture):
    """A MONAI SwinUNETR and what its constructor does not say.

    Attributes:
        patch_merging: order of the eight sub-grids; "monai_0.9.1" is what MONAI <= 0.9.1 concatenated and all published
            checkpoints were trained with, "monai_1.5" what MONAI 1.x calls "merging" today.
    """

    family: Literal["swin_unetr"] = "swin_unetr"
    feature_size: int
    window_size_voxels: tuple[int, int, int] = (7, 7, 7)
    depths: tuple[int, int, int, int] = (2, 2, 2, 2)
    num_heads: tuple[int, int, int, int] = (3, 6, 12, 24)
    patch_merging: Literal["monai_0.9.1", "monai_1.5"]

    target_kind: ClassVar[str] = "attn.qkv projection"
    layouts: ClassVar[Mapping[str, Layout]] = {
        "arena": Layout(),
        "fseft": Layout(head="classifier"),
        "suprem": Layout(key="net", unused_heads=CLIP_HEADS),
        "clip_driven": Layout(key="net", unused_heads=CLIP_HEADS),
        "monai": Layout(key="state_dict"),
        "ssl_swinvit": Layout(
            key="state_dict",
            renamed=((r"^swin_vit\.", ENCODER), (r"^(patch_embed|layers[1-4])\.", rf"{ENCODER}\1."), (r"\.mlp\.fc([12])\.", r".mlp.linear\1.")),
        ),
    }

    def build(self, out_channels: int | None = None) -> nn.Module:
        """See `Architecture.build`; every axis of the input must be divisible by `patch_divisor`."""
        from monai.networks.nets import SwinUNETR

        from arena_pipeline.model.architectures.channels_last import HeadConvolution, keep_channels_last_
        from arena_pipeline.model.architectures.swin_attention import use_fast_attention_
        from arena_pipeline.model.architectures.swin_patch_merging import OrderedPatchMerging

        network = SwinUNETR(
            in_channels=self.in_channels,
            out_channels=out_channels or self.out_channels,
            feature_size=self.feature_size,
            window_size=self.window_size_voxels,
            depths=self.depths,
            num_heads=self.num_heads,
            downsample=cast(Any, partial(OrderedPatchMerging, self.patch_merging)),
            use_v2=False,
        )
        use_fast_attention_(network)
        keep_channels_last_(network)
        network.get_submodule(self.head).__class__ = HeadConvolution
        return network.eval()

    @property
    def head(self) -> str:
        return "out.conv.conv"

    @property
    def encoder(self) -> tuple[str, ...]:
        """The Swin encoder; the convolutions that join it to the decoder (encoder1..4, encoder10) are of neither."""
        return (ENCODER,)

    @property
    def decoder(self) -> tuple[str, ...]:
        return tuple(f"decoder{level}." for level in range(1, 6))

    @property
    def front(self) -> dict[str, tuple[str, ...]]:
        """All that does not follow from a Swin block: a fifth of the network's operations."""
        return {f"{ENCODER}patch_embed": (), "encoder1": (), "encoder2": (f"{ENCODER}patch_embed",)}

    def targets(self, shapes: Mapping[str, Shape]) -> dict[str, Target]:
        """The fused projections: ARENA updates their key and their value rows, LoRA all of them."""
        found = {}
        for name, shape in shapes.items():
            if name.endswith(PROJECTION):
                layer, width = name.removesuffix(".weight"), shape[1]
                found[layer] = Target(layer, 3 * width, width, {"key": (width, 2 * width), "value": (2 * width, 3 * width)}, "qkv")
        return found

    def biases(self, names: Iterable[str]) -> list[str]:
        """Of attention (qkv, proj) and MLP (linear1, linear2); not the relative position biases, which are a table."""
        return [name for name in names if name.startswith(ENCODER) and (".attn." in name or ".mlp." in name) and name.endswith(".bias")]

    def norms(self, names: Iterable[str]) -> list[str]:
        """The layer norms: two in each block and one in each patch merging."""
        return [name for name in names if name.startswith(ENCODER) and ".norm" in name]

    def recomputed(self, network: nn.Module) -> list[nn.Module]:
        """Every convolutional block and every Swin block."""
        from monai.networks.blocks.unetr_block import UnetrBasicBlock, UnetrUpBlock
        from monai.networks.nets.swin_unetr import SwinTransformerBlock

        return [module for module in network.modules() if isinstance(module, (UnetrBasicBlock, UnetrUpBlock, SwinTransformerBlock))]

    @property
    def patch_divisor(self) -> tuple[int, int, int]:
        """The patch embedding and four mergings halve each axis five times."""
        return (32, 32, 32)

    @property
    def parameters(self) -> int:
        return PARAMETERS_PER_SQUARED_FEATURE * self.feature_size**2

    def training_bytes(self, patch_size_voxels: tuple[int, int, int], recompute: bool = False) -> int:
        return (RECOMPUTING_BYTES if recompute else TRAINING_BYTES) * self.feature_size * math.prod(patch_size_voxels)

    def window_bytes(self, patch_size_voxels: tuple[int, int, int]) -> int:
        return PREDICTION_BYTES * self.feature_size * math.prod(patch_size_voxels)

    @classmethod
    def layer_label(cls, block: str) -> str | None:
        """swinViT.layers2.0.blocks.1.attn.qkv.key -> stage 2, block 1, key."""
        found = MATRIX.search(block)
        return f"stage {found[1]}, block {found[2]}, {found[3]}" if found else None

    def is_derived(self, name: str) -> bool:
        """The indices of the relative positions."""
        return name.endswith(POSITION_INDEX)

    def derived_fits(self, name: str, tensors: Mapping[str, Tensor]) -> bool:
        """Whether every entry of a position index is a row of its block's table of position biases."""
        index, table = tensors[name], tensors.get(name.replace("_index", "_bias_table"))
        return not index.is_floating_point() and table is not None and bool(index.min() >= 0) and bool(index.max() < len(table))

    def describe(self, tensors: Mapping[str, Tensor]) -> list[str]:
        facts = []
        embedding = tensors.get(f"{ENCODER}patch_embed.proj.weight")
        if embedding is not None and embedding.ndim == 5:
            facts += [f"feature_size {embedding.shape[0]}", f"in_channels {embedding.shape[1]}"]
        table = tensors.get(f"{ENCODER}layers1.0.blocks.0.attn.relative_position_bias_table")
        if table is not None:
            facts.append(f"window_size_voxels {(round(len(table) ** (1 / 3)) + 1) // 2}")
        return facts + super().describe(tensors)
