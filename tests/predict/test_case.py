"""One volume end to end with networks whose output is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from arena_pipeline.foundations import Scheme
from arena_pipeline.foundations.nnunet_scheme import NnunetScheme
from arena_pipeline.io.geometry import Geometry, Image
from arena_pipeline.predict.case import CaseSettings, Network, PredictionTask, Sinks
from arena_pipeline.preprocess.case import preprocess_image
from tests.toy import predict_image

SCHEME = Scheme(spacing_mm=(2, 2, 2), window_hu=(-175, 250), patch_size_voxels=(16, 16, 16))
SETTINGS = CaseSettings(SCHEME, torch.device("cpu"), window_batch=2)


def ct() -> Image:
    """Air around a body of 0 HU with a cube of 100 HU and one of 200 HU, 2 mm, axes pointing left, posterior and up."""
    array = np.full((30, 28, 24), -1000, dtype=np.int16)
    array[2:28, 2:26, 1:23] = 0
    array[5:12, 5:12, 5:12] = 100
    array[16:22, 14:22, 10:18] = 200
    return Image(array, Geometry(array.shape, np.diag([-2.0, -2.0, 2.0, 1.0])))


def unit(hu: float) -> float:
    return (hu + 175) / 425


def brighter_than(hu: float, steepness: float = 1000) -> Network:
    return lambda x: steepness * (x - unit(hu))


def three_classes(x: Tensor) -> Tensor:
    """Background, the cube of 100 HU, the cube of 200 HU."""
    return -1000 * torch.cat([(x - unit(hu)).abs() for hu in (0, 100, 200)], dim=1)


def folds(*values: float) -> PredictionTask:
    """A task whose networks say the same everywhere, each one of these logits."""

    def constant(value: float) -> Network:
        return lambda x: torch.full_like(x, value)

    return PredictionTask("t", {"t": 1}, {"t": 0}, "sigmoid", tuple(lambda value=value: constant(value) for value in values))


def test_binary_tasks_are_merged_with_the_datasets_integers() -> None:
    image = ct()
    both = PredictionTask("bright", {"bright": 4}, {"bright": 0}, "sigmoid", (lambda: brighter_than(50, 100),))
    high = PredictionTask("brightest", {"brightest": 2}, {"brightest": 0}, "sigmoid", (lambda: brighter_than(150, 1000),))
    found = predict_image(image, [both, high], SETTINGS)
    np.testing.assert_array_equal(found == 2, image.array == 200)  # where both are found, the more certain one stays
    np.testing.assert_array_equal(found == 4, image.array == 100)


def test_a_softmax_task_and_its_competitors() -> None:
    image = ct()
    everything = PredictionTask("all", {"a": 1, "b": 2}, {"a": 1, "b": 2}, "softmax", (lambda: three_classes,))
    found = predict_image(image, [everything], SETTINGS)
    np.testing.assert_array_equal(found, np.select([image.array == 100, image.array == 200], [1, 2], 0))
    only_b = PredictionTask("all", {"b": 7}, {"b": 2}, "softmax", (lambda: three_classes,), competitors={"a": 1})
    np.testing.assert_array_equal(predict_image(image, [only_b], SETTINGS), np.where(image.array == 200, 7, 0))


def test_folds_are_averaged_as_probabilities_not_as_logits() -> None:
    # sigmoid(9) = 1.00, sigmoid(-2) = 0.12, sigmoid(-1) = 0.27: mean probabilities 0.41 and 0.63. The mean logit of the first
    # three is 5/3, which would be above one half.
    assert not predict_image(ct(), [folds(9, -2, -2)], SETTINGS).any()
    assert predict_image(ct(), [folds(9, -1)], SETTINGS).any()


def test_folds_of_an_nnunet_foundation_are_averaged_as_logits() -> None:
    settings = replace(SETTINGS, scheme=SCHEME.model_copy(update={"nnunet": NnunetScheme()}))
    assert predict_image(ct(), [folds(9, -2, -2)], settings).all()  # 5/3 > 0
    assert not predict_image(ct(), [folds(1, 1, -3)], settings).any()
    low, high = replace(settings, threshold=0.2), replace(settings, threshold=0.9)  # logits of -1.39 and 2.20
    assert predict_image(ct(), [folds(0, -2)], low).all()
    assert not predict_image(ct(), [folds(0, -4)], low).any()
    assert not predict_image(ct(), [folds(3, 1)], high).any()
    probabilities = {}
    predict_image(ct(), [folds(9, -2, -2)], settings, Sinks(probability=probabilities.__setitem__))
    np.testing.assert_allclose(probabilities["t"], 1 / (1 + np.exp(-5 / 3)), rtol=1e-5)


def test_softmaxes_of_an_nnunet_foundation_are_averaged_as_logits() -> None:
    # each fold's softmax takes a number of its own off all logits: the means are (0, 1, 2/3) and (0, 1/3, 2/3) all the same
    def run(*logits: tuple[float, float, float]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        networks = tuple(lambda z=z: lambda x: torch.tensor(z).view(1, 3, 1, 1, 1).expand(len(x), 3, *x.shape[2:]).float() for z in logits)
        task = PredictionTask("all", {"a": 1, "b": 2}, {"a": 1, "b": 2}, "softmax", networks)
        probabilities: dict[str, np.ndarray] = {}
        settings = replace(SETTINGS, scheme=SCHEME.model_copy(update={"nnunet": NnunetScheme()}))
        return predict_image(ct(), [task], settings, Sinks(probability=probabilities.__setitem__)), probabilities

    found, probabilities = run((0, 9, 0), (0, -3, 1), (0, -3, 1))
    assert (found == 1).all()  # by the mean of the probabilities it would be b
    np.testing.assert_allclose(probabilities["b"], np.exp(2 / 3) / (1 + np.e + np.exp(2 / 3)), rtol=1e-5)
    assert (run((0, 7, 0), (0, -3, 1), (0, -3, 1))[0] == 2).all()


@pytest.mark.parametrize(("tasks_at_once", "networks_at_once"), [(1, 2), (2, 1), (2, 3), (3, 9)])
def test_what_is_done_at_once_changes_nothing(tasks_at_once: int, networks_at_once: int) -> None:
    """To the bit: segmentation, probabilities and agreement of the folds, of three tasks with three folds each, and of a softmax task."""

    def found(tasks: list[PredictionTask], settings: CaseSettings) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, float]]:
        probabilities, dice = dict[str, np.ndarray](), dict[str, float]()
        segmentation = predict_image(ct(), tasks, settings, Sinks(probabilities.__setitem__, fold_dice=dice.update))
        return segmentation, probabilities, dice

    def folds(hu: float) -> tuple[Callable[[], Network], ...]:
        return tuple(lambda fold=fold: brighter_than(hu + 7 * fold, 3 + fold) for fold in range(3))

    binary = [PredictionTask(f"t{hu}", {f"t{hu}": label}, {f"t{hu}": 0}, "sigmoid", folds(hu)) for label, hu in ((1, 80), (2, 150), (5, 20))]
    softmax = [
        PredictionTask("all", {"a": 1, "b": 2}, {"a": 1, "b": 2}, "softmax", tuple(lambda f=f: lambda x: three_classes(x * f) for f in (1, 0.9, 0.8)))
    ]
    for tasks in (binary, softmax):
        expected, together = found(tasks, SETTINGS), found(tasks, replace(SETTINGS, tasks_at_once=tasks_at_once, networks_at_once=networks_at_once))
        np.testing.assert_array_equal(together[0], expected[0])
        np.testing.assert_equal(together[1:], expected[1:])
        assert len(expected[2]) == sum(len(task.structures) for task in tasks) and expected[0].any()


def test_sinks_get_native_probabilities_and_preprocessed_masks() -> None:
    image = ct()
    task = PredictionTask("all", {"a": 1}, {"a": 1}, "softmax", (lambda: three_classes,), competitors={"b": 2})
    probabilities: dict[str, np.ndarray] = {}
    masks: dict[str, np.ndarray] = {}
    predict_image(image, [task], SETTINGS, Sinks(probabilities.__setitem__, masks.__setitem__))
    assert list(probabilities) == ["background", "a", "b"]
    assert all(p.shape == image.array.shape and p.dtype == np.float32 for p in probabilities.values())
    np.testing.assert_allclose(sum(probabilities.values()), 1, atol=1e-5)
    assert masks["a"].shape == preprocess_image(image, SETTINGS.scheme)[1].cropped_shape and masks["a"].sum() == 7**3


def test_what_a_device_had_no_room_for_is_not_tried_again_for_the_next_case() -> None:
    settings = replace(SETTINGS)
    settings.fitting.size = 1
    assert settings.together(2, 3, 3).fitting.size == 1
    assert settings.together(4, 3, 3).fitting.size == 4
