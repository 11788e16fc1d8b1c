"""Stored pixels of one slice, in any transfer syntax that is in use: pydicom and GDCM; imagecodecs for JPEG of 12 bits, which neither decodes."""

from __future__ import annotations

import numpy as np
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels import pixel_array
from pydicom.uid import UID, JPEGExtended12Bit

from arena_pipeline.errors import ImageError

RETIRED = ("1.2.840.10008.1.2.4.53", "1.2.840.10008.1.2.4.55")  # JPEG processes 6/8 and 10/12


def decoded(dataset: Dataset) -> np.ndarray:
    """(rows, columns), integers as the file's PixelRepresentation says.

    Raises:
        ImageError: no pixels, more than one number each, or a transfer syntax that is retired.
        Exception: whatever a decoder raises on damaged pixels.
    """
    path = getattr(dataset, "filename", None)
    if "PixelData" not in dataset:
        raise ImageError("no pixel data", file=path, advice="export the series with its images")
    if int(dataset.get("SamplesPerPixel", 1)) != 1 or int(dataset.get("NumberOfFrames") or 1) != 1:
        raise ImageError("a picture of colours or several frames, expected one CT slice", file=path, advice="export the original series")
    syntax = UID(dataset.file_meta.TransferSyntaxUID)
    if syntax in RETIRED:
        raise ImageError(f"the retired transfer syntax {syntax.name} ({syntax})", file=path, advice="export it uncompressed or as JPEG 2000")
    if syntax != JPEGExtended12Bit or int(dataset.BitsStored) <= 8:
        return pixel_array(dataset)
    import imagecodecs  # 50 ms, for a syntax that few archives use

    stored = imagecodecs.jpeg8_decode(get_frame(dataset.PixelData, 0, number_of_frames=1))
    return stored.astype(np.int16) if dataset.PixelRepresentation else stored
