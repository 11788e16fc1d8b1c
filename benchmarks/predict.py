"""A whole arena_predict, and where its time goes: python -m benchmarks.predict [--shape 512 512 200] [--cases 1] [--runs 3].

The packaged foundation on a made-up CT, zero-shot, as a command of its own from start to end, with its files and pictures. Beside it the time
of the imports alone. Each in seconds on the clock, which other work of the machine makes longer, and in CPU seconds, which that hardly changes.
With several cases, reading, exporting and drawing go on while the network is busy with another one. --elsewhere SECONDS replaces the network by
a sleep of that length per CT, with boxes as its result: as if it ran on a device of its own and took no cores.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np

from benchmarks.volumes import SHAPE, SPACING_MM, torso

STRUCTURES = ("liver", "spleen", "aorta", "kidney_left", "kidney_right", "stomach", "pancreas")
IMPORTS = "import arena_pipeline.stages.predict, arena_pipeline.model.architectures.swin_attention"
COMMAND = "import sys; from arena_pipeline.cli.predict import main; sys.exit(main())"
ELSEWHERE = """
import time, numpy
from arena_pipeline.predict import case
def network(tasks, volume, *_):
    time.sleep({seconds})
    found = numpy.zeros((tasks[0].out_channels, *volume.shape), numpy.float32)
    found[0] = 1
    for number, channel in enumerate(found[1:]):
        channel[number * 4 : number * 4 + 40, 20:60, 20:60] = 2
    return [found]
case._means_over_folds = network
"""


def timed(*command: str) -> tuple[float, float]:
    """Seconds on the clock and CPU seconds of a process from start to end."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-c", *command], check=True, capture_output=True)
    after, seconds = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - started
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def run(shape: tuple[int, int, int], cases: int, runs: int, device: str, elsewhere: float | None = None) -> str:
    """A markdown table: imports, the command, the command without its imports, and its stages, each in every run."""
    rows: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        workspace = folder / "workspace"
        workspace.mkdir()
        (folder / "in").mkdir()
        image = nib.Nifti1Image(torso(shape)[0], np.diag([*SPACING_MM, 1.0]))
        for case in range(cases):
            nib.save(image, folder / "in" / f"case_{case}.nii.gz")
        for number in range(runs + 1):
            imports = timed(IMPORTS)
            out = folder / f"out_{number}"
            options = ("-i", str(folder / "in"), "-o", str(out), "-w", str(workspace), "-device", device)
            command = COMMAND if elsewhere is None else ELSEWHERE.format(seconds=elsewhere) + COMMAND
            whole = timed(command, *options, "-foundation", "arena_mini", "--zero_shot", *STRUCTURES)
            if not number:
                continue  # warm-up: the packages' files were not in memory yet
            beside = tuple(all_of - of_them for all_of, of_them in zip(whole, imports, strict=True))
            for what, (clock, processors) in {"imports": imports, "command": whole, "command beside imports": beside}.items():
                rows.setdefault(what, []).append(f"{clock:.2f} ({processors:.2f})")
            record = json.loads(max((workspace / "logs").glob("*_arena_predict.json")).read_text())
            for stage, cost in record["stages"].items():
                rows.setdefault(f"stage {stage}", []).append(f"{cost['seconds']:.2f}")
    title = f"{cases} CT of {' x '.join(map(str, shape))}, load {os.getloadavg()[0]:.1f}: seconds (of the processors)"
    lines = [f"| {title} | {' | '.join(f'run {number + 1}' for number in range(runs))} |", "|---" * (runs + 1) + "|"]
    return "\n".join([*lines, *(f"| {what} | {' | '.join(values)} |" for what, values in rows.items())])


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    options.add_argument("--shape", type=int, nargs=3, default=SHAPE)
    options.add_argument("--cases", type=int, default=1)
    options.add_argument("--runs", type=int, default=3, help="after one to warm up")
    options.add_argument("-device", default="cpu")
    options.add_argument("--elsewhere", type=float, metavar="SECONDS")
    args = options.parse_args()
    print(run(tuple(args.shape), args.cases, args.runs, args.device, args.elsewhere))


if __name__ == "__main__":
    main()
