"""Two processes that share the batches train as one does."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from arena_pipeline.cli.pretrain import main
from arena_pipeline.errors import ArenaError
from arena_pipeline.research.pretrain import loop
from arena_pipeline.research.pretrain.loss import CROSS_ENTROPY, Total, sigmoid_loss, softmax_loss
from arena_pipeline.research.pretrain.processes import Processes, process_group
from arena_pipeline.workspace import Workspace

SHAPE = (4, 3, 6, 5, 4)
Loss = Callable[[Tensor, slice, Total], Tensor]


def softmax_cases() -> Iterator[Loss]:
    target = torch.randint(0, 3, (4, 6, 5, 4))
    target[0] = 0  # a sample of background alone counts one channel, the others three
    for kind in CROSS_ENTROPY.values():
        yield lambda logits, part, total, kind=kind: softmax_loss(logits, target[part], kind, total)


def sigmoid_cases() -> Iterator[Loss]:
    target = torch.randint(0, 4, (4, 6, 5, 4))
    # of the two halves of the batch one has one structure annotated, the other five; and a batch with none
    for rows in (((0, 0, 0), (1, 0, 0), (1, 1, 1), (1, 1, 0)), ((0, 0, 0),) * 4):
        annotated = torch.tensor(rows, dtype=torch.bool)
        for cross_entropy in (False, True):
            yield lambda logits, part, total, a=annotated, c=cross_entropy: sigmoid_loss(logits, target[part], a[part], c, total)


@pytest.mark.parametrize("cases", [softmax_cases, sigmoid_cases])
@pytest.mark.parametrize("size", [2, 4])
def test_the_parts_of_a_batch_add_up_to_its_loss(cases: Callable[[], Iterator[Loss]], size: int) -> None:
    torch.manual_seed(0)
    for loss in cases():
        logits = torch.randn(SHAPE, dtype=torch.float64, requires_grad=True)
        whole = loss(logits, slice(0, 4), lambda count: count)
        (gradient,) = torch.autograd.grad(whole, logits)
        parts = [slice(start, start + 4 // size) for start in range(0, 4, 4 // size)]
        counts: list[list[Tensor]] = [[] for _ in parts]
        for part, seen in zip(parts, counts, strict=True):  # what each process would have counted, one after the other
            loss(logits[part], part, lambda count, seen=seen: seen.append(count) or count)
        totals = [torch.stack(each).sum(0) for each in zip(*counts, strict=True)]
        shared = []
        for part in parts:
            remaining = iter(totals)
            shared.append(loss(logits[part], part, lambda _, remaining=remaining: next(remaining)))
        assert torch.stack(shared).sum().item() == pytest.approx(whole.item(), rel=1e-12, abs=1e-15)
        (summed,) = torch.autograd.grad(torch.stack(shared).sum(), logits)
        torch.testing.assert_close(summed, gradient, rtol=1e-12, atol=1e-15)


def test_places_cover_the_batch_once() -> None:
    places = [place for rank in range(3) for place in Processes(rank, 3).places(6)]
    assert places == list(range(6))
    with pytest.raises(ArenaError, match="a batch of 6 patches can't be shared evenly by 4 processes"):
        Processes(0, 4).places(6)


@pytest.mark.parametrize("device", ["mps", "cuda:1"])
def test_processes_share_no_single_gpu(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "here", "WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ArenaError, match="several processes take a CUDA GPU each"), process_group(device):
        pass


THREADS = """
import os
import torch
from arena_pipeline.research.pretrain.processes import process_group
with process_group("cpu") as (processes, device):
    tensors = [torch.full((2, 3), 1.0 + processes.rank), torch.full((4,), 10.0 + processes.rank)]
    processes.sum_(tensors)
    values = [tensor.unique().tolist() for tensor in tensors]
    processes.copy_from_first_(first := [torch.full((3,), float(processes.rank))])
    total = processes.total(torch.ones(1)).item()
    processes.wait()
threads = [open(f"/proc/self/task/{task}/comm").read() for task in os.listdir("/proc/self/task")]
line = f"{values} {first[0].tolist()} {total} {sum('gloo' in name for name in threads)}\\n"
os.write(1, line.encode())  # at once: print writes the line and its end apart, and the other process' line comes between them
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are listed in Linux's /proc")
def test_the_groups_threads_end_with_it(tmp_path: Path) -> None:
    """Those that outlive it abort the interpreter, or keep it from ending, one time in some fifty."""
    script = tmp_path / "threads.py"
    script.write_text(THREADS)
    result = _torchrun(script, [], timeout=200)
    assert result.stdout.splitlines() == ["[[3.0], [21.0]] [0.0, 0.0, 0.0] 2.0 0"] * 2


DOUBLE = """
import runpy, sys, torch
torch.set_default_dtype(torch.float64)
sys.argv[0] = "arena_pretrain"
runpy.run_module("arena_pipeline.cli.pretrain", run_name="__main__", alter_sys=True)
"""


@pytest.fixture
def double() -> Iterator[None]:
    """In double precision rounding, which AdamW's normalisation amplifies, hides no difference."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.timeout(900)
def test_two_processes_of_torchrun_go_on_as_one(
    double: None,
    own_preset: Callable[..., Path],
    partly_annotated: Callable[..., Path],
    workspace: Workspace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From the first step of one process, so that a gradient of another scale, which AdamW alone would not mind, shows in its moments."""
    partly_annotated({"case_0": ["liver"]}, cases=1, dataset_id=901)
    partly_annotated({}, cases=1, dataset_id=902)
    one, two = tmp_path / "one", tmp_path / "two"
    monkeypatch.setattr(loop, "CHECKPOINT_STEPS", 1)
    monkeypatch.setattr(loop, "_save", _keeping_the_first(loop._save, one, two))
    words = ["-foundation", str(own_preset()), "-w", str(workspace.root), "-d", "901", "902", "--steps", "3", "--warmup_steps", "0"]
    words += ["--batch_size", "2", "--averaging", "0.5", "--learning_rate", "0.001", "--loss", "dice_ce", "-device", "cpu", "-np", "1"]
    assert main([*words, "-o", str(one)]) == 0
    script = tmp_path / "double.py"
    script.write_text(DOUBLE)
    result = _torchrun(script, [*words, "-o", str(two)], timeout=800)
    assert result.stdout.count("weights:") == 1 and len(list((two / "logs").glob("*.json"))) == 1  # the first process speaks for all
    assert "continues at step 1 of 3" in result.stderr

    assert (two / "training_log.csv").read_text() == (one / "training_log.csv").read_text()
    first, second = (torch.load(folder / loop.CHECKPOINT, weights_only=True) for folder in (one, two))
    assert second["done"] == 3
    for part in ("network", "averaged"):
        torch.testing.assert_close(second[part], first[part], rtol=0, atol=1e-12)
    for number, moments in first["optimizer"]["state"].items():
        torch.testing.assert_close(second["optimizer"]["state"][number], moments, rtol=1e-9, atol=1e-12)


def _torchrun(script: Path, words: list[str], timeout: float) -> subprocess.CompletedProcess[str]:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run([*torchrun, *words], capture_output=True, text=True, env=environment, check=False, timeout=timeout)
    assert result.returncode == 0, result.stderr
    return result


def _keeping_the_first(save: Callable[..., None], one: Path, two: Path) -> Callable[..., None]:
    def save_and_keep(run: loop.Pretraining, checkpoint: Path) -> None:
        save(run, checkpoint)
        if run.done == 1:
            two.mkdir()
            for name in (loop.CHECKPOINT, "run.json", "training_log.csv"):
                shutil.copy(one / name, two / name)

    return save_and_keep
