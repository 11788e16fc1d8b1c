"""DICOM in: a folder as a scanner or an archive leaves it -> its CT series -> volumes in HU on a straight grid."""

import logging
import warnings

from arena_pipeline.io.dicom.series import NO_DICOM, CTSeries, LeftOut, find_series, left_out_in_words, only_series
from arena_pipeline.io.dicom.volume import read_series, series_geometry, sorted_files, sorted_headers

# Their warnings quote values of tags, and those may be the patient's: what matters is an error here.
warnings.filterwarnings("ignore", module=r"(pydicom|highdicom)\.")
logging.getLogger("pydicom").propagate = False

__all__ = [
    "NO_DICOM",
    "CTSeries",
    "LeftOut",
    "find_series",
    "left_out_in_words",
    "only_series",
    "read_series",
    "series_geometry",
    "sorted_files",
    "sorted_headers",
]
