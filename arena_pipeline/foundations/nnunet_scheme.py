"""How nnU-Net prepares an image, where that is not the way of the published Swin UNETR foundations."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from arena_pipeline.settings import Frozen

ANISOTROPY = 3.0  # a spacing whose longest edge is more than this many times its shortest is resampled plane by plane
Normalization = Literal["CTNormalization", "ZScoreNormalization", "NoNormalization"]


class NnunetScheme(Frozen):
    """Crop to what is not zero, normalise, resample between the voxels' edges. The scheme's triples are in the network's axis order.

    Attributes:
        axes: axis (0 = x) of the oriented image that is the network's first, second and third.
        normalization: CTNormalization clips to the scheme's window_hu, subtracts mean_hu and divides by std_hu; ZScoreNormalization
            takes mean and deviation from the case itself; NoNormalization leaves HU.
        masked: whether ZScoreNormalization looks at what is not zero alone.
        order: of the splines that images are resampled with.
        order_z: along the coarse axis, where spacings are anisotropic; probabilities come back with `order_z_back`.
        separate_z: always, never, or (None) where an edge is more than 3 times another.
        reader: what nnU-Net reads files with, without the `WithReorient`, for models that are exported: ARENA reads them itself. nibabel refuses
            an intercept of NaN, which CTs in circulation have; SimpleITK refuses axes that do not stand at right angles.
    """

    axes: tuple[int, int, int] = (2, 1, 0)
    normalization: Normalization = "CTNormalization"
    mean_hu: float = 0.0
    std_hu: float = 1.0
    masked: bool = False
    order: Literal[1, 3] = 3
    order_z: Literal[0, 1] = 0
    order_z_back: Literal[0, 1] = 0
    separate_z: bool | None = None
    reader: Literal["SimpleITKIO", "NibabelIO"] = "SimpleITKIO"

    @model_validator(mode="after")
    def _check(self) -> NnunetScheme:
        if sorted(self.axes) != [0, 1, 2]:
            raise ValueError(f"axes: expected 0, 1 and 2 in any order, found {self.axes}")
        if self.std_hu <= 0:
            raise ValueError(f"std_hu: expected a number above 0, found {self.std_hu}")
        return self

    def coarse_axis(self, spacing_mm: tuple[float, float, float], other_mm: tuple[float, float, float]) -> int | None:
        """The axis that is resampled apart from the other two on the way from one spacing to the other; None where none is."""
        if self.separate_z is False:
            return None
        judged = spacing_mm if self.separate_z else next((s for s in (spacing_mm, other_mm) if max(s) / min(s) > ANISOTROPY), None)
        if judged is None or judged.count(max(judged)) != 1:
            return None
        return judged.index(max(judged))
