"""A device is there or the error says so."""

from __future__ import annotations

import pytest
import torch

from arena_pipeline.errors import ArenaError
from arena_pipeline.model.device import pick_device


def test_the_processor_is_always_there() -> None:
    assert pick_device("cpu") == torch.device("cpu")


def test_auto_takes_a_gpu_where_there_is_one() -> None:
    expected = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert pick_device("auto").type == expected


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cuda:", "", "cpu0"])
def test_an_unknown_name_lists_the_known(name: str) -> None:
    with pytest.raises(ArenaError, match="known: auto, cpu, cuda, cuda:NUMBER, mps"):
        pick_device(name)


def test_a_numbered_gpu_becomes_torchs_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    current: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setattr("arena_pipeline.model.device._made_fast", lambda device: device)  # settings of the whole process
    assert pick_device("cuda:1") == torch.device("cuda:1") and current == [1]
    assert pick_device("cuda") == torch.device("cuda") and current == [1]
    with pytest.raises(ArenaError, match=r"this machine has 2 CUDA GPU\(s\), numbered from 0"):
        pick_device("cuda:2")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA GPU here")
def test_a_gpu_that_is_not_there() -> None:
    with pytest.raises(ArenaError, match=r"device cuda:0: .*use -device cpu or auto"):
        pick_device("cuda:0")
