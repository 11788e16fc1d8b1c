"""Patch merging in both of the orders that checkpoints were trained with.

The layer concatenates the eight sub-grids of every second voxel along (d, h, w) and projects them. MONAI <= 0.9.1 took two
of them twice and two never; MONAI 1.x corrected that under the same name and with the same weights' shapes, so that
an old checkpoint loads without a warning into today's layer and computes something else.
"""

from __future__ import annotations

from typing import Any

import monai
import torch
from monai.networks.nets.swin_unetr import PatchMergingV2
from torch import Tensor
from torch.nn.functional import pad

from arena_pipeline.errors import FoundationError

Offset = tuple[int, int, int]

ORDERS: dict[str, tuple[Offset, ...]] = {
    "monai_0.9.1": ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 0), (0, 0, 1), (1, 1, 1)),
    "monai_1.5": ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1), (1, 1, 1)),
}


class OrderedPatchMerging(PatchMergingV2):
    """Halves the grid and doubles the channels, with the sub-grids in `order` (of ORDERS), whatever MONAI's own is by now.

    Raises:
        FoundationError: MONAI's layer is made of other parts than those that the weights of foundations are of.
    """

    def __init__(self, order: str, dim: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(dim, *args, **kwargs)
        self.order = ORDERS[order]
        parts = {name: tuple(tensor.shape) for name, tensor in self.state_dict().items()}
        if parts != {"reduction.weight": (2 * dim, 8 * dim), "norm.weight": (8 * dim,), "norm.bias": (8 * dim,)}:
            found = f"the patch merging of the installed MONAI {monai.__version__} has other weights than foundations have: {parts}"
            raise FoundationError(found, advice="install MONAI 1.5")

    def forward(self, x: Tensor) -> Tensor:
        """(batch, d, h, w, C) -> (batch, ceil(d/2), ceil(h/2), ceil(w/2), 2C)."""
        _, d, h, w, _ = x.shape
        if d % 2 or h % 2 or w % 2:
            x = pad(x, (0, 0, 0, w % 2, 0, h % 2, 0, d % 2))
        x = torch.cat([x[:, i::2, j::2, k::2] for i, j, k in self.order], dim=-1)
        return self.reduction(self.norm(x))
