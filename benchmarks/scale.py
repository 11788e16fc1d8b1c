"""Jobs on several workers, compared with one after the other in one process: python -m benchmarks.scale [--cases 40] [--ray].

overhead       a job that does nothing, in this process and in a worker: the time to hand it over and to take its result
prediction     the same small CTs by arena_predict with 1 and with 2 workers (each with one core and one thread), and whether the files are the same
simulation     10,000 CTs on 1, 8 and 64 GPUs that share one file server. Assumed, not measured: --seconds and --megabytes per CT, the server's
               --megabytes_per_second, --start seconds until a worker has loaded the network; times of a CT spread log-normally (sigma 0.3).
               Measured: the overhead per job above
"""

from __future__ import annotations

import argparse
import heapq
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from arena_pipeline.io.geometry import Geometry, Image
from arena_pipeline.io.images import write_image
from arena_pipeline.io.parallel import EngineName, Needs, engine, map_jobs
from arena_pipeline.stages.predict import predict
from arena_pipeline.workspace import Workspace

JOBS, SPACING_MM = 300, (3.0, 3.0, 3.0)


def nothing(job: int) -> int:
    return job


def overhead(workers: int) -> float:
    """Seconds per job, from the first result to the last: starting the workers is not in it."""
    began = 0.0
    for _ in map_jobs(nothing, {str(number): number for number in range(JOBS)}, Needs("nothing", workers)):
        began = began or time.perf_counter()
    return (time.perf_counter() - began) / (JOBS - 1)


def predicted(scans: Path, workspace: Workspace, out: Path, workers: int, by: EngineName) -> tuple[float, dict[str, bytes]]:
    """Seconds, and the segmentations."""
    os.environ["OMP_NUM_THREADS"] = str(workers)  # one core per worker; a Ray that is started here gets this number of cores
    with engine(by):  # the engine's start is not measured, that of its workers is
        began = time.perf_counter()
        predict(scans, out, workspace, zero_shot=["liver", "spleen"], no_previews=True, device="cpu", workers=workers)
        seconds = time.perf_counter() - began
    return seconds, {path.name: path.read_bytes() for path in sorted(out.glob("*.nii.gz"))}


def measure(args: argparse.Namespace, by: EngineName, folder: Path) -> None:
    rng, scans, workspace = np.random.default_rng(7), folder / "in", Workspace(folder / "workspace")
    scans.mkdir()
    for number in range(args.cases):
        hu = rng.normal(0, 120, (args.size,) * 3).astype(np.int16)
        write_image(scans / f"ct{number}.nii.gz", Image(hu, Geometry(hu.shape, np.diag([*SPACING_MM, 1.0]))))
    alone, expected = predicted(scans, workspace, folder / "alone", 1, by)
    two, found = predicted(scans, workspace, folder / "two", 2, by)
    same = "the same" if found == expected else "DIFFERENT"
    print(f"{args.cases} CTs of {args.size}^3: {alone:.1f} s with one worker, {two:.1f} s with two, {alone / two:.2f}x (goal: 1.7), files {same}")


def simulate(cases: int, gpus: int, args: argparse.Namespace, overhead_seconds: float) -> tuple[float, float]:
    """Hours until all are done, and the share of that time in which the file server is busy. A CT is read, one at a time, then predicted."""
    rng = np.random.default_rng(0)
    seconds = args.seconds * rng.lognormal(-(0.3**2) / 2, 0.3, cases)
    reading = args.megabytes / args.megabytes_per_second
    free = [args.start] * gpus  # when each GPU is idle
    server = 0.0
    for case in seconds:
        begins = heapq.heappop(free)
        server = max(server, begins) + reading
        heapq.heappush(free, server + float(case) + overhead_seconds)
    return max(free) / 3600, cases * reading / max(free)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    options.add_argument("--cases", type=int, default=40, help="CTs predicted; 0: none (default: %(default)s)")
    options.add_argument("--size", type=int, default=96, help="voxels of 3 mm along each axis of a CT (default: %(default)s)")
    options.add_argument("--ray", action="store_true", help="use Ray on this machine instead of processes")
    options.add_argument("--seconds", type=float, default=30.0, help="per CT on one GPU (default: %(default)s)")
    options.add_argument("--megabytes", type=float, default=150.0, help="size of a CT's file (default: %(default)s)")
    options.add_argument(
        "--megabytes_per_second", type=float, default=200.0, help="what the file server gives to all together (default: %(default)s)"
    )
    options.add_argument("--start", type=float, default=60.0, help="seconds until a worker has loaded the network (default: %(default)s)")
    args = options.parse_args()
    by: EngineName = "ray" if args.ray else "local"
    with engine(by):
        per_job = overhead(2)
        who = "Ray" if args.ray else "processes"
        print(f"overhead: {1000 * per_job:.2f} ms per job by {who}, {1000 * overhead(0):.3f} ms in this process (goal: 50)")
    if args.cases:
        with tempfile.TemporaryDirectory() as name:
            measure(args, by, Path(name))
    one = None
    for gpus in (1, 8, 64, 256):
        hours, busy = simulate(10_000, gpus, args, per_job)
        one = one or hours
        print(f"10,000 CTs on {gpus} GPUs: {hours:.1f} h, {one / hours:.1f}x one GPU, the file server is busy {100 * busy:.0f} % of the time")
    limit = args.megabytes_per_second / args.megabytes * args.seconds
    print(f"more than about {limit:.0f} GPUs wait for the file server: it gives {args.megabytes_per_second / args.megabytes:.2g} CTs a second")


if __name__ == "__main__":
    main()
