"""Surface distances against areas and distances worked out by hand, laws of symmetry, brute force, and MONAI."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.metrics import compute_surface_dice
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import cdist

from arena_pipeline.evaluate.surface import SurfaceDistances, area_of_code, surface_distances

ONE_MM = (1.0, 1.0, 1.0)


def cuboid(shape: tuple[int, int, int], start: tuple[int, int, int], size: tuple[int, int, int]) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))] = True
    return mask


def ball(shape: tuple[int, int, int], radius_mm: float, spacing_mm: tuple[float, float, float]) -> np.ndarray:
    axes = np.meshgrid(*[(np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing_mm, strict=True)], indexing="ij")
    return sum(axis**2 for axis in axes) <= radius_mm**2


def blobs(rng: np.random.Generator, shape: tuple[int, int, int] = (26, 22, 18)) -> tuple[np.ndarray, np.ndarray]:
    one = gaussian_filter(rng.normal(size=shape), 2) > 0.03
    other = gaussian_filter(one + rng.normal(size=shape), 1) > 0.5
    return one, other


def test_single_voxel_is_an_octahedron() -> None:
    """Eight triangles through the midpoints between the centres: sqrt((xy)^2 + (yz)^2 + (zx)^2) in all, for 1 x 2 x 2 mm sqrt(4 + 16 + 4)."""
    mask = cuboid((3, 3, 3), (1, 1, 1), (1, 1, 1))
    distances = surface_distances(mask, mask, (1.0, 2.0, 2.0))
    assert len(distances.reference_mm2) == 8
    assert distances.reference_mm2.sum() == pytest.approx(math.sqrt(24), rel=1e-6)


def test_flat_faces_and_edges() -> None:
    """Eight voxels of a neighbourhood split by a plane across x: y * z. One column of two inside: a diagonal cut along it."""
    areas = area_of_code((0.5, 2.0, 3.0))
    assert areas[0b00001111] == pytest.approx(2.0 * 3.0)  # the upper x half
    assert areas[0b00110011] == pytest.approx(0.5 * 3.0)  # the upper y half
    assert areas[0b01010101] == pytest.approx(0.5 * 2.0)  # the upper z half
    assert areas[0b00000011] == pytest.approx(3.0 * math.hypot(0.25, 1.0))  # one column along z
    assert areas[0] == areas[255] == 0
    assert np.allclose(areas, areas[::-1])  # inside and outside exchanged: the same surface
    assert (areas[1:255] > 0).all()


def cubes_shifted_along_z() -> tuple[SurfaceDistances, float, float]:
    """Two cubes of 10 voxels, one voxel (3 mm) apart along z; also the area of one, and the part of it further than 1 mm from the other.

    Faces have 9 x 9 flat elements: 1 mm2 on the two z faces, 3 mm2 on the four others. Edges have 9 elements: 3 sqrt(1/2) mm2 on the four
    along z, sqrt(1/4 + 9/4) on the eight others. Corners: sqrt(9 + 9 + 1) / 8. Of the lower cube the whole bottom, with its edges and
    corners, is 3 mm away. On its top an element is as far as the nearest side wall of the other cube, at most 3 mm: all but the
    rings 1 mm from a wall are further than 1 mm, 7 x 7.
    """
    spacing = (1.0, 1.0, 3.0)
    distances = surface_distances(cuboid((16, 16, 16), (2, 2, 2), (10, 10, 10)), cuboid((16, 16, 16), (2, 2, 3), (10, 10, 10)), spacing)
    edge, corner = math.sqrt(2.5), math.sqrt(19) / 8
    area = 2 * 81 + 4 * 81 * 3 + 4 * 9 * 3 * math.sqrt(0.5) + 8 * 9 * edge + 8 * corner
    return distances, area, 81 + 4 * 9 * edge + 4 * corner + 49


def test_shifted_cubes() -> None:
    distances, area, further_than_1mm = cubes_shifted_along_z()
    assert distances.reference_mm2.sum() == pytest.approx(area, rel=1e-6)
    assert distances.nsd(1.0) == pytest.approx(1 - further_than_1mm / area, rel=1e-6)
    assert distances.nsd(2.0) == pytest.approx(1 - (further_than_1mm - 24) / area, rel=1e-6)  # the ring of 7 x 7 - 5 x 5
    assert distances.nsd(3.0) == 1
    assert distances.hausdorff() == pytest.approx(3.0)
    assert distances.hd95() == pytest.approx(3.0)  # the bottom alone is more than 5 % of the area
    assert distances.hausdorff(80) == 0  # more than 80 % of each surface coincides


def test_parallel_plates() -> None:
    """Plates one voxel thick, slices 5 and 8, 0.8 mm: of each, one side is 2 and the other 3 slices from the other plate."""
    one, other = cuboid((30, 30, 12), (3, 3, 5), (20, 20, 1)), cuboid((30, 30, 12), (3, 3, 8), (20, 20, 1))
    distances = surface_distances(one, other, (0.7, 0.7, 0.8))
    assert distances.nsd(1.5) == 0
    assert distances.nsd(1.6) == pytest.approx(0.5)
    assert distances.nsd(2.4) == 1
    assert distances.hausdorff(50) == pytest.approx(1.6)
    assert distances.hd95() == pytest.approx(2.4)


def test_two_voxels_anisotropic() -> None:
    """Two voxels, 3 steps of 2.5 mm apart along y: the four near elements of each lie 2 steps from the other, the four far ones 3."""
    one, other = cuboid((5, 9, 5), (2, 2, 2), (1, 1, 1)), cuboid((5, 9, 5), (2, 5, 2), (1, 1, 1))
    distances = surface_distances(one, other, (1.0, 2.5, 1.0))
    assert sorted(distances.reference_mm) == pytest.approx([5.0] * 4 + [7.5] * 4)
    assert (distances.nsd(4.9), distances.nsd(5.0), distances.nsd(7.5)) == pytest.approx((0, 0.5, 1))


def test_concentric_balls() -> None:
    spacing = (0.5, 0.5, 1.0)
    distances = surface_distances(ball((60, 60, 32), 10, spacing), ball((60, 60, 32), 12, spacing), spacing)
    assert distances.hausdorff() == pytest.approx(2.0, abs=0.6)  # half a voxel's diagonal
    assert distances.nsd(1.0) < 0.01
    assert distances.nsd(2.8) == 1
    # Triangles between midpoints exceed a sphere's 4 pi r^2 by about an eighth; voxel faces would by a half.
    assert 1.0 < distances.reference_mm2.sum() / (4 * math.pi * 100) < 1.15


def test_empty_masks() -> None:
    empty, full = np.zeros((4, 4, 4), bool), cuboid((4, 4, 4), (1, 1, 1), (2, 2, 2))
    absent = surface_distances(empty, empty, ONE_MM)
    assert math.isnan(absent.nsd(1.0))
    assert math.isnan(absent.hd95())
    for one, other in ((empty, full), (full, empty)):
        missed = surface_distances(one, other, ONE_MM)
        assert missed.nsd(100.0) == 0
        assert math.isnan(missed.hd95())
    same = surface_distances(full, full, ONE_MM)
    assert (same.nsd(0.0), same.hd95()) == (1, 0)


def test_swapping_reference_and_prediction_changes_nothing(rng: np.random.Generator) -> None:
    one, other = blobs(rng)
    forward, backward = surface_distances(one, other, (0.8, 0.9, 3.0)), surface_distances(other, one, (0.8, 0.9, 3.0))
    assert forward.nsd(1.0) == pytest.approx(backward.nsd(1.0))
    assert forward.hd95() == backward.hd95()


@pytest.mark.parametrize("axes", [(1, 2, 0), (2, 1, 0), (0, 2, 1)])
def test_axis_order_and_flips_change_nothing(rng: np.random.Generator, axes: tuple[int, int, int]) -> None:
    one, other = blobs(rng)
    spacing = (0.8, 0.9, 3.0)
    turned = [np.flip(mask.transpose(axes), axis=(0, 2)) for mask in (one, other)]
    before = surface_distances(one, other, spacing)
    after = surface_distances(*turned, tuple(spacing[a] for a in axes))
    assert after.nsd(1.0) == pytest.approx(before.nsd(1.0))
    assert after.hd95() == pytest.approx(before.hd95())


def test_a_larger_field_of_view_changes_nothing(rng: np.random.Generator) -> None:
    """Outside the array is outside the mask: a structure cut off by the border is closed there."""
    one, other = blobs(rng)
    assert one[0].any()
    inside = surface_distances(one, other, ONE_MM)
    padded = surface_distances(np.pad(one, 5), np.pad(other, 5), ONE_MM)
    assert padded.nsd(1.0) == pytest.approx(inside.nsd(1.0))
    assert padded.hd95() == inside.hd95()


def test_a_spacing_rounded_in_the_header_does_not_decide() -> None:
    """One voxel of 1.0000001 mm is within 1 mm."""
    spacing = (float(np.float32(1.0000001)), 1.0, 1.0)
    assert spacing[0] > 1
    distances = surface_distances(cuboid((12, 12, 12), (2, 2, 2), (6, 6, 6)), cuboid((12, 12, 12), (3, 2, 2), (6, 6, 6)), spacing)
    assert distances.nsd(1.0) == 1


def test_distances_equal_brute_force(rng: np.random.Generator) -> None:
    one, other = blobs(rng, (14, 12, 10))
    spacing = np.array([0.7, 1.3, 4.0])

    def elements(mask: np.ndarray) -> np.ndarray:
        padded = np.pad(mask, 1)
        blocks = np.lib.stride_tricks.sliding_window_view(padded, (2, 2, 2)).sum(axis=(3, 4, 5))
        return np.argwhere((blocks > 0) & (blocks < 8)) * spacing

    distances = surface_distances(one, other, tuple(spacing))
    expected = cdist(elements(one), elements(other))
    assert np.allclose(distances.reference_mm, expected.min(axis=1))
    assert np.allclose(distances.prediction_mm, expected.min(axis=0))


@pytest.mark.filterwarnings("ignore")
def test_nsd_equals_monai(rng: np.random.Generator) -> None:
    one, other = blobs(rng)
    spacing, tolerance = (0.7, 0.8, 2.5), 1.05
    as_batch = [torch.from_numpy(mask)[None, None].float() for mask in (other, one)]
    expected = compute_surface_dice(*as_batch, [tolerance], include_background=True, spacing=list(spacing), use_subvoxels=True)
    assert surface_distances(one, other, spacing).nsd(tolerance) == pytest.approx(float(expected), abs=1e-5)


def test_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="not on one grid"):
        surface_distances(np.ones((2, 2, 2), bool), np.ones((2, 2, 3), bool), ONE_MM)
