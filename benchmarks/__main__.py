"""All measurements, one after the other: python -m benchmarks [NAME ...]. Each is also a command of its own: python -m benchmarks.NAME."""

from __future__ import annotations

import argparse
import subprocess
import sys

BENCHMARKS = (
    "crops", "resample", "export", "metrics", "windows", "predict", "network",
    "step", "activations", "memory", "foundation", "verdicts", "scale", "trained",
)  # fmt: skip


def main() -> int:
    """Returns 0 if every measurement ran to its end, else 1."""
    options = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    options.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)} (default: all)")
    names = options.parse_args().names or BENCHMARKS
    if unknown := [name for name in names if name not in BENCHMARKS]:
        options.error(f"unknown measurement {', '.join(unknown)}; known: {', '.join(BENCHMARKS)}")
    status = 0
    for name in names:
        print(f"== {name}", flush=True)
        if subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=False).returncode:
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
