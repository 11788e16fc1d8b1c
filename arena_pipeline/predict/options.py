"""What a prediction writes. Each option is declared here once: for the command's flags and their help, and for the Python function."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, ParamSpec, TypeVar

from arena_pipeline.errors import PlansError

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def _option(text: str, default: bool | None = False) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class OutputOptions:
    """What is written besides the segmentation, and what is left out: each option is called as its flag is, whose help says what it does.

    Attributes:
        dicom_seg: None: where other objects can refer to the slices of the CT, which must be a DICOM series.

    Raises:
        PlansError: options that contradict each other.
    """

    save_probabilities: bool = _option(
        "also CASE_probabilities.npz (for arena_ensemble): float16, a key per structure, axes (x, y, z); nnU-Net's are (channel, z, y, x)"
    )
    save_preprocessed: bool = _option("also preprocessed/CASE.npz (for arena_evaluate --protocol published)")
    save_uncertainty: bool = _option(
        "also uncertainty/CASE_entropy.nii.gz (bits, 0 to 1) and, with several folds, uncertainty/CASE_disagreement.nii.gz (share of the folds)"
    )
    no_postprocessing: bool = _option("keep all components of every structure")
    no_previews: bool = _option("no pictures")
    dicom_seg: bool | None = _option(
        "also CASE.seg.dcm, the segmentation as DICOM-SEG over the series (written for a DICOM series anyway; with it any other CT is an error)", None
    )
    labelmap: bool = _option("the DICOM-SEG as one label map: much smaller for many structures, but not every viewer takes it")
    rtstruct: bool = _option("also CASE.rtstruct.dcm, contours for planning systems (the CT must be a DICOM series)")
    slicer: bool = _option("also CASE.seg.nrrd for 3D Slicer, with names and colours")

    def __post_init__(self) -> None:
        if self.labelmap and self.dicom_seg is False:
            raise PlansError("--labelmap is a kind of DICOM-SEG, and --no_dicom_seg asks for none", advice="leave one of them out")
        if self.labelmap:
            object.__setattr__(self, "dicom_seg", True)

    @property
    def files_beside(self) -> list[str]:
        """The options asked for that write files beside the segmentation; previews, which are written unasked, are not among them."""
        return [option.name for option in fields(self) if getattr(self, option.name) and not option.name.startswith("no_")]

    @property
    def needs_dicom(self) -> str | None:
        """What is asked for that refers to the slices of a DICOM series, in words."""
        return "an RTSTRUCT" if self.rtstruct else "a DICOM-SEG" if self.dicom_seg else None


def with_output_options(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Puts the options in the signature of a function that takes them as `**outputs`, for help(), editors and notebooks."""
    signature = inspect.signature(function)
    named = [one for one in signature.parameters.values() if one.kind is not one.VAR_KEYWORD]
    options = [inspect.Parameter(one.name, inspect.Parameter.KEYWORD_ONLY, default=one.default, annotation=one.type) for one in fields(OutputOptions)]
    function.__signature__ = signature.replace(parameters=[*named, *options])  # type: ignore[attr-defined]
    return function
