"""Laws of the phantoms: reproducible, anatomically plausible, the same person at every spacing."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from arena_pipeline.research.phantoms import PHANTOM_STRUCTURES, FieldOfView, Phantom, make_phantom

# smallest and largest volume in ml over many people; hardly any organ is ever missing
VOLUMES_ML = {
    "spleen": (60, 650), "kidney_right": (70, 330), "kidney_left": (70, 330), "gallbladder": (3, 110), "esophagus": (12, 90), "liver": (900, 3600),
    "stomach": (60, 1200), "aorta": (90, 650), "inferior_vena_cava": (40, 220), "pancreas": (20, 160), "duodenum": (30, 180),
    "lung_right": (900, 3800), "lung_left": (700, 3600), "bone": (1200, 4500), "heart_myocardium": (40, 260), "heart_atrium_left": (20, 140),
    "heart_atrium_right": (15, 150), "heart_ventricle_left": (25, 220), "heart_ventricle_right": (35, 260),
}  # fmt: skip


@pytest.fixture(scope="module", params=[0, 1, 2])
def torso(request: pytest.FixtureRequest) -> Phantom:
    return make_phantom(np.random.default_rng(request.param), (4, 4, 4), FieldOfView.named("torso"))


def volume_ml(phantom: Phantom, structure: str) -> float:
    return float((phantom.segmentation == phantom.structures[structure]).sum() * phantom.image.geometry.voxel_volume_ml)


def mean_hu(phantom: Phantom, structure: str) -> float:
    """Mean HU of the inner voxels, where no surface passes through."""
    inner = ndimage.binary_erosion(phantom.segmentation == phantom.structures[structure])
    return float(phantom.image.array[inner].mean())


def centre_mm(phantom: Phantom, structure: str) -> np.ndarray:
    index = np.argwhere(phantom.segmentation == phantom.structures[structure]).mean(0)
    return phantom.image.geometry.affine[:3, :3] @ index + phantom.image.geometry.affine[:3, 3]


def test_same_seed_same_phantom() -> None:
    one, other = (make_phantom(np.random.default_rng(7), (8, 8, 8)) for _ in range(2))
    assert np.array_equal(one.image.array, other.image.array)
    assert np.array_equal(one.segmentation, other.segmentation)


def test_other_seed_other_phantom() -> None:
    one, other = (make_phantom(np.random.default_rng(seed), (8, 8, 8), FieldOfView.named("abdomen")) for seed in (1, 2))
    assert one.image.array.shape != other.image.array.shape or not np.array_equal(one.segmentation, other.segmentation)


def test_types_and_labels(torso: Phantom) -> None:
    assert torso.image.array.dtype == np.int16 and torso.segmentation.dtype == np.uint8
    assert torso.image.array.shape == torso.segmentation.shape == torso.image.geometry.shape
    assert torso.image.geometry.orientation == "RAS"
    assert torso.image.geometry.spacing_mm == pytest.approx((4, 4, 4))
    assert torso.structures == PHANTOM_STRUCTURES and list(PHANTOM_STRUCTURES.values()) == list(range(1, 20))


def test_every_structure_has_a_plausible_volume(torso: Phantom) -> None:
    volumes = {name: volume_ml(torso, name) for name in PHANTOM_STRUCTURES}
    wrong = {name: round(ml) for name, ml in volumes.items() if not VOLUMES_ML[name][0] < ml < VOLUMES_ML[name][1]}
    assert not wrong


def test_organs_lie_where_they_belong(torso: Phantom) -> None:
    at = {name: centre_mm(torso, name) for name in PHANTOM_STRUCTURES}
    assert at["liver"][0] > at["stomach"][0] > at["spleen"][0]  # +x is the patient's right hand
    assert at["kidney_right"][0] > at["inferior_vena_cava"][0] > at["kidney_left"][0]
    assert at["lung_right"][0] > at["heart_myocardium"][0] > at["lung_left"][0]
    assert at["pancreas"][1] > at["kidney_left"][1]  # +y is anterior
    assert at["heart_ventricle_right"][1] > at["heart_atrium_left"][1] > at["esophagus"][1] - 30
    assert at["heart_ventricle_left"][2] > at["liver"][2] > at["kidney_right"][2]  # +z is superior


def test_no_anatomy_outside_the_body(torso: Phantom) -> None:
    for image, segmentation in zip(np.moveaxis(torso.image.array, 2, 0), np.moveaxis(torso.segmentation, 2, 0), strict=True):
        body = ndimage.binary_dilation(ndimage.binary_fill_holes(image > -400))
        assert not segmentation[~body].any()


def test_same_person_at_every_spacing() -> None:
    coarse, fine = (make_phantom(np.random.default_rng(11), (s, s, s), FieldOfView.named("chest_abdomen")) for s in (4.0, 2.0))
    for name in PHANTOM_STRUCTURES:
        one, other = volume_ml(coarse, name), volume_ml(fine, name)
        tolerance = 0.06 if other > 100 else 0.25
        assert one == pytest.approx(other, rel=tolerance), name
        if name != "bone":
            assert np.abs(centre_mm(coarse, name) - centre_mm(fine, name)).max() < 4, name


@pytest.mark.parametrize(
    ("phase", "structure", "low", "high"),
    [
        ("none", "aorta", 20, 60),
        ("none", "spleen", 25, 65),
        ("none", "kidney_right", 5, 55),
        ("arterial", "aorta", 150, 480),
        ("arterial", "heart_ventricle_left", 150, 480),
        ("portal", "liver", 50, 160),
        ("portal", "aorta", 90, 240),
        ("late", "inferior_vena_cava", 70, 200),
        ("portal", "lung_left", -950, -700),
    ],
)
def test_hu_follow_the_contrast_phase(phase: str, structure: str, low: float, high: float) -> None:
    phantom = make_phantom(np.random.default_rng(21), (4, 4, 4), FieldOfView.named("chest_abdomen"), phase=phase, variation=0.0)
    assert low < mean_hu(phantom, structure) < high


def test_contrast_orders_the_tissues() -> None:
    plain, arterial = (
        make_phantom(np.random.default_rng(5), (4, 4, 4), FieldOfView.named("chest_abdomen"), phase=phase, variation=0.0)
        for phase in ("none", "arterial")
    )
    assert abs(mean_hu(plain, "aorta") - mean_hu(plain, "inferior_vena_cava")) < 25
    assert mean_hu(arterial, "aorta") > mean_hu(arterial, "inferior_vena_cava") + 100
    assert mean_hu(arterial, "aorta") > mean_hu(arterial, "liver") + 100


def test_a_body_of_another_size_is_the_same_one_scaled() -> None:
    adult, child = (make_phantom(np.random.default_rng(6), (3, 3, 3), FieldOfView.named("chest_abdomen"), size=size) for size in (1.0, 0.6))
    assert np.array(child.image.geometry.shape)[2] == pytest.approx(0.6 * adult.image.geometry.shape[2], rel=0.05)
    for structure in ("liver", "spleen", "aorta"):  # one deformation in mm for both: not exactly 0.6^3
        assert volume_ml(child, structure) == pytest.approx(0.6**3 * volume_ml(adult, structure), rel=0.3)


def test_field_of_view_decides_what_is_there() -> None:
    chest = make_phantom(np.random.default_rng(3), (5, 5, 5), FieldOfView.named("chest"))
    abdomen = make_phantom(np.random.default_rng(3), (5, 5, 5), FieldOfView.named("abdomen"))
    assert volume_ml(chest, "heart_ventricle_left") > 20 and volume_ml(chest, "duodenum") == 0
    assert volume_ml(abdomen, "duodenum") > 20 and volume_ml(abdomen, "heart_atrium_left") < 20


def test_circular_field_of_view_is_padded() -> None:
    phantom = make_phantom(np.random.default_rng(3), (6, 6, 6), FieldOfView((-60.0, 60.0), circular=True))
    assert set(np.unique(phantom.image.array[[0, 0, -1, -1], [0, -1, 0, -1]])) <= {-1000, -1024}
