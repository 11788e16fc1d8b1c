"""What is outside the patient: set aside before the network, background after it."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

from arena_pipeline.foundations import Scheme
from arena_pipeline.io.geometry import Geometry, Image
from arena_pipeline.predict.case import CaseSettings, PredictionTask, Sinks
from arena_pipeline.preprocess.body import body_mask, fill_slices
from arena_pipeline.preprocess.case import preprocess_image
from tests.toy import predict_image

SHAPE = (40, 36, 10)
SCHEME = Scheme(spacing_mm=(2.0, 2.0, 2.0), window_hu=(-175, 250), patch_size_voxels=(32, 32, 32), outside_body="set_aside")


def torso() -> tuple[np.ndarray, np.ndarray]:
    """HU of an ellipse with a lung, on a couch it touches; and where the ellipse is."""
    x, y, _ = np.indices(SHAPE)
    body = ((x - 20) / 15) ** 2 + ((y - 20) / 11) ** 2 < 1
    lung = ((x - 14) / 5) ** 2 + ((y - 20) / 6) ** 2 < 1
    hu = np.where(body, 40, -1000)
    hu[lung] = -850
    hu[2:38, 8:10] = 100  # two voxels thick, below the back, which lies on it
    return hu.astype(np.int16), body


def test_couch_is_left_out_and_the_lung_is_inside() -> None:
    hu, body = torso()
    found = body_mask(hu > -175)
    assert found[14, 20].all()
    assert not found[3, 8:10].any() and not found[36, 8:10].any()
    assert (found & ~body).sum() < 0.5 * 72 * 10, "of the couch only what lies right under the back"
    assert (body & ~found).sum() < 0.02 * body.sum()


def test_two_legs_stay_and_a_lung_at_the_edge_of_the_picture_is_inside() -> None:
    legs = np.zeros((40, 20, 6), bool)
    legs[3:15, 4:16] = legs[24:36, 4:16] = True
    assert (legs & ~body_mask(legs)).sum() <= 2 * 8, "at most the corners"
    cut = np.zeros((20, 20, 6), bool)
    cut[0:16, 3:17] = True
    cut[0:8, 6:12] = False  # a lung that the picture's edge cuts
    assert fill_slices(cut)[0:16, 3:17].all() and not fill_slices(cut)[17:].any()


def test_without_anything_thick_nothing_is_set_aside() -> None:
    assert body_mask(np.eye(8, dtype=bool)[:, :, None].repeat(8, axis=2)).all()


def test_network_sees_no_couch_and_predicts_nothing_there() -> None:
    hu, body = torso()
    image = Image(hu, Geometry(SHAPE, np.diag([2.0, 2.0, 2.0, 1.0])))
    volume, _ = preprocess_image(image, SCHEME)
    assert volume.shape[0] == body.any(axis=(1, 2)).sum(), "cropped to the body, without the wider couch"
    np.testing.assert_array_equal(image.array, hu)
    task = PredictionTask("all", {"lung": 1}, {"lung": 0}, "sigmoid", (lambda: lambda patch: torch.where(patch > 0, -9.0, 9.0),))
    found = predict_image(image, (task,), CaseSettings(SCHEME, torch.device("cpu"))) > 0
    assert found[14, 20].all() and not found[~body].any()
    kept = SCHEME.model_copy(update={"outside_body": "kept"})
    assert (predict_image(image, (task,), CaseSettings(kept, torch.device("cpu"))) > 0)[~body].any()
    folds = tuple(partial(lambda air, patch: torch.where(patch > 0, 9.0, air), air) for air in (9.0, -9.0))
    agreement = dict[str, float]()
    flat = Image(np.where(hu == -850, 40, hu).astype(np.int16), image.geometry)  # without a lung: the folds differ outside alone
    both = PredictionTask("all", {"body": 1}, {"body": 0}, "sigmoid", tuple(partial(lambda fold: fold, fold) for fold in folds))
    predict_image(flat, (both,), CaseSettings(SCHEME, torch.device("cpu")), Sinks(fold_dice=agreement.update))
    assert agreement == {"body": 1.0}
    softmax = PredictionTask("all", {"lung": 1}, {"lung": 1}, "softmax", (lambda: lambda patch: torch.cat([patch * 9, 1 - patch], dim=1),))
    assert not (predict_image(image, (softmax,), CaseSettings(SCHEME, torch.device("cpu"))) > 0)[~body].any()
