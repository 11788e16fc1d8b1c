"""Settings that depend on the machine and are decided when it adapts or predicts, unless the plans fix them. Results do not depend on them."""

from __future__ import annotations

import math

from arena_pipeline.foundations import FoundationPreset
from arena_pipeline.machine import Machine
from arena_pipeline.planning import memory
from arena_pipeline.planning.models import InferencePlan
from arena_pipeline.settings import AdaptationSettings, PrecisionName

GIB = 2**30
MOST_WINDOWS_ON_DEVICE = 4
MOST_WINDOWS_ON_CPU = 2


def fit_adaptation(settings: AdaptationSettings, preset: FoundationPreset, machine: Machine) -> tuple[AdaptationSettings, str]:
    """The settings with a micro-batch that fits into the machine's memory, and activations computed twice where nothing fits otherwise; and why."""
    if settings.micro_batch is not None:
        return settings, f"{settings.micro_batch} patches at once, as planned"
    patches, recompute, doubt = settings.patches_per_volume, settings.recompute_activations, ""
    half = _computes_in_half(settings.precision, machine)
    estimate = f"about {memory.training_patch_bytes(preset, recompute, half) / GIB:.1f} GiB per patch in {memory_words(machine)}"
    fitting = memory.training_patches_that_fit(preset, machine, recompute, half)
    if not fitting and not recompute:
        recompute, fitting = True, memory.training_patches_that_fit(preset, machine, True, half)
        twice = memory.training_patch_bytes(preset, True, half) / GIB
        doubt = f"; one alone is not sure to fit, so activations are computed twice (about {twice:.1f} GiB)"
    if not fitting:
        doubt += "; even so it is not sure to fit: a smaller foundation or a device with more memory may be needed"
    if fitting >= patches and not doubt:
        return settings, f"all {patches} patches of a volume fit at once: {estimate}"
    # As few passes as the memory allows, all of the same size: five that fit make 6 patches 3 + 3, not 5 + 1.
    passes = math.ceil(patches / max(1, fitting))
    changes = {"micro_batch": math.ceil(patches / passes), "recompute_activations": recompute}
    return settings.model_copy(update=changes), f"{estimate}: {passes} passes for the {patches} patches of a volume{doubt}"


def fit_windows(inference: InferencePlan, preset: FoundationPreset, machine: Machine, out_channels: int) -> tuple[int, str]:
    """Windows that the network sees at once, and why."""
    if inference.window_batch is not None:
        return inference.window_batch, "as planned"
    on_cpu, half = machine.device_memory_bytes is None, _computes_in_half(inference.precision, machine)
    most = MOST_WINDOWS_ON_CPU if on_cpu else MOST_WINDOWS_ON_DEVICE
    windows = max(1, min(most, memory.windows_that_fit(preset, machine, out_channels, half)))
    limit = f"more than {most} are no faster on a {'CPU' if on_cpu else 'GPU'}" if windows == most else "more may not fit"
    return windows, f"in {memory_words(machine)}; {limit}"


def _computes_in_half(precision: PrecisionName, machine: Machine) -> bool:
    return precision == "bf16" or (precision == "auto" and machine.half is not None)


def precision_reason(machine: Machine) -> str:
    """What `auto` means on this machine."""
    here = machine.half or "fp32"
    return f"auto: bf16 on a GPU that has units for it (fp16 with scaled gradients on an older one), else fp32; on the machine that planned: {here}"


def memory_words(machine: Machine) -> str:
    """The memory that networks may take, in words."""
    if machine.device_memory_bytes is None:
        return f"half of {machine.memory_bytes / GIB:.1f} GiB of main memory (no GPU)"
    return f"{memory.DEVICE_SHARE:.0%} of {machine.device_memory_bytes / GIB:.1f} GiB of device memory"
