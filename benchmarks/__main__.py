"""All measurements, one after the other: python -m benchmarks ["NAME [OPTION ...]" ...]; each alone: python -m benchmarks.NAME.

--repeat 3 runs them in three rounds. At the end it prints each table with the range of every ratio; its other cells are those of the last round.
"""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys

BENCHMARKS = (
    "crops", "resample", "export", "metrics", "windows", "predict", "network",
    "step", "activations", "memory", "foundation", "verdicts", "scale", "trained",
)  # fmt: skip
RATIO = re.compile(r"([\d.]+)(?: to ([\d.]+))? x(?![\w ]*\d)")  # 1.5 x, 1.4 to 1.6 x; not 512 x 512


def main() -> int:
    """Returns 0 if every measurement ran to its end, else 1."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    options.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(BENCHMARKS)} (default: all); in quotes with its options")
    options.add_argument("--repeat", type=int, default=1)
    args = options.parse_args()
    commands = args.names or list(BENCHMARKS)
    if unknown := [command for command in commands if command.split()[0] not in BENCHMARKS]:
        options.error(f"unknown measurement {', '.join(unknown)}; known: {', '.join(BENCHMARKS)}")
    outputs = dict[str, list[str]]()
    for number in range(args.repeat):
        for command in commands:
            print(f"== {command}, round {number + 1}", flush=True)
            name, *rest = shlex.split(command)
            ended = subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *rest], check=False, stdout=subprocess.PIPE, text=True)
            print(ended.stdout, flush=True)
            if not ended.returncode:
                outputs.setdefault(command, []).append(ended.stdout)
    if args.repeat > 1:
        for command, texts in outputs.items():
            print(f"\n== {command}: ratios of {len(texts)} rounds", *ranges(texts), sep="\n")
    return int(any(len(outputs.get(command, ())) < args.repeat for command in commands))


def ranges(texts: list[str]) -> list[str]:
    """The table in the last of several outputs of one command, each ratio as its range over all of them."""
    tables = [[line for line in text.splitlines() if line.startswith("|")] for text in texts]
    lines = []
    for line, *same in zip(tables[-1], *tables, strict=True):
        found = [RATIO.findall(each) for each in same]  # per round, the (low, high) of each ratio
        both = iter([sorted((end for ends in ratio for end in ends if end), key=float) for ratio in zip(*found, strict=True)])
        lines.append(RATIO.sub(lambda _, both=both: f"{(ends := next(both))[0]} to {ends[-1]} x", line))  # type: ignore[misc]
    return lines


if __name__ == "__main__":
    sys.exit(main())
