"""Rates and stopping, by hand."""

from __future__ import annotations

import pytest

from arena_pipeline.adapt.schedule import cosine_factor, has_converged, smoothed
from arena_pipeline.settings import AdaptationSettings


def test_cosine_starts_at_the_base_rate_and_passes_a_half() -> None:
    assert cosine_factor(0, 200) == 1
    assert cosine_factor(100, 200) == pytest.approx(0.5)
    assert 0 < cosine_factor(199, 200) < 1e-4


def test_smoothing_is_a_running_mean() -> None:
    assert smoothed([4.0, 1.0, 3.0], 2) == 2
    assert smoothed([4.0], 10) == 4


def test_a_flat_loss_stops_at_the_first_epoch_that_can_be_judged() -> None:
    settings = AdaptationSettings()
    assert not has_converged([0.5] * 29, settings)
    assert has_converged([0.5] * 30, settings)


def test_improvement_just_above_and_just_below_one_percent() -> None:
    settings = AdaptationSettings(stop_smoothing=1)
    assert not has_converged([1.0] + [0.9] * 19 + [0.989], settings)
    assert has_converged([1.0] + [0.9] * 19 + [0.991], settings)


def test_a_zero_window_switches_stopping_off() -> None:
    assert not has_converged([0.5] * 100, AdaptationSettings(stop_window=0))
