"""What a prediction writes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class OutputOptions:
    """What is written besides the segmentation, and what is left out.

    Attributes:
        dicom_seg: of a DICOM series; None: where other objects can refer to its slices.
    """

    save_probabilities: bool = False
    save_preprocessed: bool = False
    postprocess: bool = True
    previews: bool = True
    dicom_seg: bool | None = None
    labelmap: bool = False
    rtstruct: bool = False
    slicer: bool = False
    save_uncertainty: bool = False
