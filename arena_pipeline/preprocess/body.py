"""Where the patient is in a CT: what lies outside is couch, clothes and air.

Clipped at a soft-tissue window, lung and the air around the patient are one value, and a network that looks at a patch alone can take one
for the other. Which of them is inside is a question of geometry, answered here once for the volume.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

LEAST_SHARE = 0.2  # of the largest part's voxels: two legs are two parts of a body, a couch is less


def body_mask(tissue: np.ndarray) -> np.ndarray:
    """The patient: tissue without what is thin or small beside it, and all that it encloses in its axial slices.

    Args:
        tissue: (x, y, z) boolean, RAS, voxels denser than air and lung.

    Returns:
        boolean; all True where nothing of it is as thick as three voxels.
    """
    cross = ndimage.generate_binary_structure(3, 1)
    parts, count = ndimage.label(ndimage.binary_opening(tissue, cross), cross)  # the opening parts a couch from the back that lies on it
    if not count:
        return np.ones_like(tissue)
    sizes = np.bincount(parts.ravel())[1:]
    body = np.concatenate([[False], sizes >= LEAST_SHARE * sizes.max()])[parts]
    return fill_slices(ndimage.binary_dilation(body, cross) & tissue)


def fill_slices(body: np.ndarray) -> np.ndarray:
    """The mask (x, y, z) with what it encloses in each axial slice: lungs, bowel gas.

    Where the picture ends inside the patient, a lung may be open towards its edge: on each edge of a slice, all from the first to the last
    voxel of the body counts as closed.
    """
    filled = body.copy()
    for z in range(body.shape[2]):
        plane = filled[:, :, z]
        for edge in (plane[0], plane[-1], plane[:, 0], plane[:, -1]):
            inside = np.flatnonzero(edge)
            if len(inside):
                edge[inside[0] : inside[-1] + 1] = True
        ndimage.binary_fill_holes(plane, output=plane)
    return filled
