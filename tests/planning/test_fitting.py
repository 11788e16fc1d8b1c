"""How many patches and windows fit a machine: decided when it works, never in the plans."""

from __future__ import annotations

import pytest

from arena_pipeline.foundations import load_preset
from arena_pipeline.planning import InferencePlan, Machine
from arena_pipeline.planning.fitting import fit_adaptation, fit_windows
from arena_pipeline.settings import AdaptationSettings
from tests.planning.facts import GIB, plans


@pytest.mark.parametrize(
    ("device_gib", "micro_batch"),
    # 200 bytes x 48 x 96^3 = 7.91 GiB per patch; 16 bytes x 62.2 million parameters = 0.93 GiB; 80 % of the memory:
    # 80 GiB hold 7 patches, 48 hold 4 (two passes of 3), 24 hold 2, 12 hold 1, 8 hold none
    # with activations computed again 135 bytes, 5.34 GiB: 8 hold 1, 4 hold none
    [(139, None), (80, None), (48, 3), (24, 2), (12, 1), (8, 1), (4, 1)],
)
def test_micro_batch_by_the_memory_of_the_device(device_gib: int, micro_batch: int | None) -> None:
    machine, preset = Machine(memory_bytes=64 * GIB, device_memory_bytes=device_gib * GIB, cores=8), load_preset("fseft")
    settings, why = fit_adaptation(preset.adaptation, preset, machine)
    assert settings.micro_batch == micro_batch
    assert settings.recompute_activations == (device_gib <= 8)
    assert ("even so" in why) == (device_gib == 4)
    made = plans(machine=machine)
    assert made.adaptation == preset.adaptation, "plans made on a small machine do not cripple a large one"
    assert why in made.reasons["adaptation.micro_batch"]
    fixed = preset.adaptation.model_copy(update={"micro_batch": 5})
    assert fit_adaptation(fixed, preset, machine) == (fixed, "5 patches at once, as planned")


@pytest.mark.parametrize(
    ("device_gib", "windows"),
    # 96^3 voxels: 70 bytes x 48 + 8 bytes x 10 outputs = 2.83 GiB a window; 4 bytes x 62.2 million weights = 0.23 GiB; 80 % of the memory
    [(24, 4), (12, 3), (4, 1), (1, 1), (None, 2)],
)
def test_windows_at_once_by_the_memory_of_the_device(device_gib: int | None, windows: int) -> None:
    preset, machine = load_preset("fseft"), Machine(64 * GIB, None if device_gib is None else device_gib * GIB, cores=8)
    made = plans(machine=machine)
    assert made.inference.window_batch is made.workers.preprocess is made.workers.export is None, "nor does it slow a large one down"
    assert fit_windows(made.inference, preset, machine, 10)[0] == windows
    assert fit_windows(InferencePlan(window_batch=7), preset, machine, 10) == (7, "as planned")


def test_a_gpu_that_computes_in_16_bits_takes_more_patches_unless_told_not_to() -> None:
    """FSEFT at 96^3: 7.9 GiB a patch in float32, 0.65 of it in 16 bits; four fifths of 16 GiB take one or two beside the weights."""
    preset, machine = load_preset("fseft"), Machine(64 * GIB, 16 * GIB, cores=8, half="bf16")
    made = [fit_adaptation(AdaptationSettings(precision=name), preset, machine)[0].micro_batch for name in ("auto", "bf16", "fp32")]
    assert made == [2, 2, 1]
    assert plans(machine=machine).reasons["adaptation.precision"].endswith("on the machine that planned: bf16")
