"""From a CT as it was scanned to the volume that a foundation expects, and back: reorient, resample, window, crop, store."""
