"""The commands where little can be taken for granted: nothing writable but their output, no home, a locale without UTF-8, one thread."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from arena_pipeline.io.dataset import DatasetJson
from arena_pipeline.workspace import Workspace

CHECKOUT = Path(__file__).resolve().parents[1]
GUARDED = '''
"""Runs commands; outside of $WRITABLE nothing can be written, in this process and its workers. Permissions would not stop root."""
import errno, importlib, json, os, sys

WRITABLE = tuple(os.environ["WRITABLE"].split(os.pathsep))
CHANGES = {"os.mkdir": 0, "os.rename": 1, "os.remove": 0, "os.rmdir": 0, "os.link": 1, "os.symlink": 1, "os.truncate": 0, "os.chmod": 0}


def guard(event, args):
    if event == "open":
        path, flags = args[0], args[2]
        if not isinstance(flags, int) or not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
    elif event in CHANGES:
        path = args[CHANGES[event]]
    else:
        return
    if isinstance(path, (str, bytes)) and not os.path.abspath(os.fsdecode(path)).startswith(WRITABLE):
        if "__pycache__" not in os.fsdecode(path):
            os.write(2, b"REFUSED " + os.fsencode(path) + b"\\n")
        raise PermissionError(errno.EROFS, "Read-only file system", path)


sys.addaudithook(guard)
if __name__ == "__main__":
    for name, *arguments in json.loads(os.environ["COMMANDS"]):
        print(name, importlib.import_module("arena_pipeline.cli." + name).main(arguments), flush=True)
    import torch

    from arena_pipeline.machine import usable_cores

    print("threads", torch.get_num_threads(), "cores", usable_cores())
    print("encodings", sys.stdout.encoding, sys.getfilesystemencoding())
'''


def make_dataset(workspace: Workspace, write_nifti, rng: np.random.Generator) -> None:
    folder = workspace.raw / "Dataset901_Tiny"
    for part, name in (("Tr", "case_0"), ("Tr", "case_1"), ("Ts", "query_0")):
        segmentation = np.zeros((24, 24, 24), np.uint8)
        segmentation[2:11, 3:12, 4:13], segmentation[13:22, 14:21, 15:22] = 1, 2
        image = rng.normal(-20, 10, segmentation.shape) + np.array([0, 80, 130])[segmentation]
        write_nifti(folder / f"images{part}" / f"{name}_0000.nii.gz", image.astype(np.int16), (6.0, 6.0, 6.0))
        write_nifti(folder / f"labels{part}" / f"{name}.nii.gz", segmentation, (6.0, 6.0, 6.0))
    labels = {"background": 0, "liver": 1, "größte Zyste": 2}
    DatasetJson(channel_names={"0": "CT"}, labels=labels, numTraining=2, file_ending=".nii.gz", objective="multiclass").write(folder / "dataset.json")


TORCHS_OWN = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")  # torch sets them in this process, with its own temporary folder


def guarded(commands: list[list[str]], writable: Path, changes: dict[str, str], without: tuple[str, ...]) -> subprocess.CompletedProcess[bytes]:
    """Runs `commands` in one process, below `writable` as its working folder."""
    for name in ("tmp", "cwd"):
        (writable / name).mkdir()
    (writable / "guarded.py").write_text(GUARDED, encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name not in without}
    environment |= {"PYTHONPATH": str(CHECKOUT), "TMPDIR": str(writable / "tmp"), "MPLBACKEND": "Agg", "COMMANDS": json.dumps(commands)}
    environment |= {"WRITABLE": os.pathsep.join([str(writable), "/dev/"]), **changes}
    command = [sys.executable, str(writable / "guarded.py")]
    return subprocess.run(command, cwd=writable / "cwd", env=environment, capture_output=True, check=False, timeout=280)


@pytest.mark.skipif(sys.platform == "win32", reason="the locale and home of POSIX")
def test_the_whole_job_with_nothing_writable_but_its_output_no_home_and_an_ascii_locale(
    tmp_path: Path, write_nifti, rng: np.random.Generator
) -> None:
    root = tmp_path / "with space"
    workspace = Workspace(root / "my workspace")
    make_dataset(workspace, write_nifti, rng)
    raw, out, common = workspace.raw / "Dataset901_Tiny", str(root / "o u t"), ["-w", str(workspace.root)]
    commands = [
        ["plan_and_preprocess", "-d", "901", "-np", "2", "-npfp", "0", "-foundation", "arena_mini", "-device", "cpu", *common],
        ["adapt", "-d", "901", "-shots", "1", "-f", "0", "--max_epochs", "1", "-device", "auto", *common],
        ["adapt", "-d", "901", "-shots", "1", "-f", "0", "-device", "cuda:99", *common],
        ["predict", "-i", str(raw / "imagesTs"), "-o", out, "-device", "cpu", *common],
        ["evaluate", "-ref", str(raw / "labelsTs"), "-pred", out, "-np", "0", *common],
        ["info", *common],
    ]
    odd = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "OMP_NUM_THREADS": "1"}
    done = guarded(
        commands, root, odd, without=("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "MPLCONFIGDIR", "LANG", "PYTHONIOENCODING", *TORCHS_OWN)
    )
    said, told = done.stdout.decode("ascii"), done.stderr.decode("ascii", errors="backslashreplace")
    assert done.returncode == 0, told
    statuses = [line.split()[1] for line in said.splitlines() if line.split()[:1] in [[name] for name, *_ in commands]]
    assert statuses == ["0", "0", "2", "0", "0", "0"], told
    assert "threads 1 cores 1" in said and "encodings ascii ascii" in said.lower().replace("ansi_x3.4-1968", "ascii").replace("us-ascii", "ascii")
    assert r"gr\xf6\xdfte Zyste" in said  # the name is escaped where the terminal has no letters for it
    assert "device cuda:99" in told
    assert not [line for line in told.splitlines() if line.startswith("REFUSED") and "matplotlib" not in line]
    assert (root / "o u t" / "query_0.nii.gz").is_file() and (root / "o u t" / "previews" / "query_0.png").is_file()
    assert "größte Zyste" in (root / "o u t" / "labels.json").read_text(encoding="utf-8")
