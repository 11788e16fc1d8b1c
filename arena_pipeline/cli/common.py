"""What all commands share: the parser, the log, the record of the run, and the exit status.

A command module has its options, and one function that calls its stage and prints:

    def main(argv: list[str] | None = None) -> int:
        options = common.parser(DESCRIPTION)
        options.add_argument(...)
        return common.run(_predict, options.parse_args(argv), "arena_predict")
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any, get_args

from arena_pipeline.cli.log import LogFile, logging_to
from arena_pipeline.cli.streams import make_streams_usable
from arena_pipeline.container import cpu_limit
from arena_pipeline.errors import ArenaError, DatasetError
from arena_pipeline.io.space import ADVICE, FULL
from arena_pipeline.machine import check_device_name, usable_cores
from arena_pipeline.records import RunRecord, stage
from arena_pipeline.workspace import DATASET_FOLDER, DEFAULT_FOLDER, ENVIRONMENT_VARIABLE, Workspace

WORKERS_HELP = "worker processes; 0: none, all work is done in the command's own process"
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
EXIT_NO_READER = 141
EXIT_TERMINATED = 143

logger = logging.getLogger(__name__)


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the description's lines, and adds defaults where there is one to tell."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False, "", ()) else super()._get_help_string(action)


class _Parser(argparse.ArgumentParser):
    """Takes a long option with one dash or two, and no abbreviations: argparse's allow_abbrev leaves those with one dash (-shot for -shots) in."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        return super().parse_known_args([self._as_declared(word) for word in (sys.argv[1:] if args is None else args)], namespace)

    def _as_declared(self, word: str) -> str:
        name, equals, value = word.partition("=")
        other = name[1:] if name.startswith("--") else f"-{name}"
        is_other = name not in self._option_string_actions and len(other.lstrip("-")) > 1 and other in self._option_string_actions
        return other + equals + value if is_other else word

    def _get_option_tuples(self, option_string: str) -> list[Any]:
        typed = option_string.partition("=")[0]
        return [found for found in super()._get_option_tuples(option_string) if len(found[1]) <= len(typed)]


def parser(description: str, workspace: bool = True) -> argparse.ArgumentParser:
    """A parser that takes no abbreviations and has --verbose, and -w (a `Workspace` in `args.workspace`) unless `workspace` is False."""
    make_streams_usable()
    options = _Parser(description=description, formatter_class=_Formatter, allow_abbrev=False)
    if workspace:
        text = f"folder with raw/, preprocessed/, results/ and foundations/ (default: ${ENVIRONMENT_VARIABLE}, else ./{DEFAULT_FOLDER})"
        options.add_argument("-w", "--workspace", type=Workspace.find, default="", metavar="FOLDER", help=text)
    options.add_argument("--verbose", action="store_true", help="log more, also to the terminal")
    return options


def add_datasets(options: argparse.ArgumentParser) -> None:
    """-d: one or several dataset numbers, in `args.dataset_ids`."""
    text = "dataset number(s) or name(s), e.g. 101 or Dataset101_NAME for raw/Dataset101_NAME"
    options.add_argument("-d", dest="dataset_ids", type=dataset_number, nargs="+", required=True, metavar="ID", help=text)


def add_dataset(options: argparse.ArgumentParser, text: str = "dataset number, e.g. 101 for raw/Dataset101_NAME") -> None:
    """-d: one dataset number, in `args.dataset_id`; `text` is its help."""
    options.add_argument("-d", dest="dataset_id", type=dataset_number, required=True, metavar="ID", help=text)


def add_folds(options: argparse.ArgumentParser, text: str, default: Sequence[int] | None = None) -> None:
    """-f: numbers of folds, in `args.folds`; `text` is its help."""
    options.add_argument("-f", dest="folds", type=whole_number, nargs="+", default=default, metavar="FOLD", help=text)


def add_foundation(options: argparse.ArgumentParser) -> None:
    """-foundation: a preset's name, or None for the most preferred one with weights, in `args.foundation`."""
    text = "pre-trained network to use; arena_info lists them (default: the most preferred one with weights here)"
    options.add_argument("-foundation", "--foundation", metavar="NAME", help=text)


def add_method(options: argparse.ArgumentParser, text: str) -> None:
    """-method: one of those of docs/method.md, or None, in `args.method`; `text` is its help, to which the names are added."""
    from arena_pipeline.settings import MethodName  # pydantic takes a moment to import: only for the commands that need it

    options.add_argument("-method", "--method", choices=get_args(MethodName), metavar="NAME", help=f"{text}: %(choices)s")


def add_device(options: argparse.ArgumentParser) -> None:
    """-device: in `args.device`, as typed."""
    options.add_argument("-device", "--device", default="auto", metavar="DEVICE", help="auto (a GPU if there is one), cpu, cuda, cuda:1 or mps")


def add_precision(options: argparse.ArgumentParser) -> None:
    """-precision: of the network, or None for what the plans say, in `args.precision`."""
    from arena_pipeline.settings import PrecisionName  # as above

    text = "numbers that the network computes in: %(choices)s (default: as planned, auto: bf16 on a GPU that has it, fp16 on an older one, else fp32)"
    options.add_argument("-precision", choices=get_args(PrecisionName), metavar="NAME", help=text)


def add_workers(options: argparse.ArgumentParser) -> None:
    """-np: number of worker processes, 0 for none, or None for what the machine suggests, in `args.workers`."""
    options.add_argument("-np", dest="workers", type=whole_number, metavar="N", help=f"{WORKERS_HELP} (default: chosen from cores and memory)")


def add_engine(options: argparse.ArgumentParser) -> None:
    """--engine and --address: what does the command's jobs; `run` reads them."""
    text = "who works: the processes of this machine, or Ray, on this machine or a cluster (docs/scale.md)"
    options.add_argument("--engine", choices=("local", "ray"), default="local", help=text)
    text = "with --engine ray: the head of the cluster to join (default: $RAY_ADDRESS, else Ray is started here for this command)"
    options.add_argument("--address", metavar="HOST[:PORT]", help=text)


def add_jobs_at_once(options: argparse.ArgumentParser, jobs: str, default: str = "one per GPU, on the CPU 1") -> None:
    """-np, in `args.workers`, of commands whose jobs run networks; with --engine and --address."""
    text = f"{jobs} at once, each in a process of its own; 0 or 1: one after the other in this one (default: {default})"
    options.add_argument("-np", dest="workers", type=whole_number, metavar="N", help=text)
    add_engine(options)


def add_conversion(options: argparse.ArgumentParser, raw: str, name: str) -> None:
    """The options of every converter; `raw` is the help of -i, `name` the default of -n."""
    options.add_argument("-i", dest="source", type=Path, required=True, metavar="RAW", help=raw)
    add_dataset(options, "number of the new dataset, e.g. 101")
    options.add_argument("-n", dest="name", default=name, metavar="NAME", help="name of the new dataset")
    options.add_argument("--exclude", nargs="+", default=(), metavar="CASE", help="cases to leave out")
    text = "replace a dataset of other structures or of another folder that has this number, and converted files that were changed by hand"
    options.add_argument("--overwrite", action="store_true", help=text)
    add_workers(options)


def convert(function: Callable[..., Path], args: argparse.Namespace) -> None:
    """Calls the converter, and prints the dataset's folder and the next command."""
    with stage("convert"):
        folder = function(**keywords(args))
    print(f"{folder}\nnext: {args.workspace.command('arena_plan_and_preprocess', '-d', args.dataset_id)}")


def whole_number(text: str) -> int:
    """An argparse type: a whole number from 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number from 0, found {text}")
    return int(text)


class DatasetNumber(int):
    """The number of a dataset; `name` is the folder's whole name where that was typed."""

    name: str | None = None


def dataset_number(text: str) -> DatasetNumber:
    """An argparse type: the number in a folder's name, Dataset001_NAME to Dataset999_NAME, or that name."""
    named = DATASET_FOLDER.fullmatch(text)
    digits = text[7:10] if named else text
    if not digits.isdecimal() or not 1 <= int(digits) <= 999:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 to 999, found {text}; or the folder's name, such as Dataset101_NAME")
    number = DatasetNumber(digits)
    number.name = text if named else None
    return number


def positive_int(text: str) -> int:
    """An argparse type: a whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, found {text}")
    return int(text)


def keywords(args: argparse.Namespace, *without: str) -> dict[str, Any]:
    """The options as arguments of the function that does the command's work, whose parameters have the same names."""
    return {name: value for name, value in vars(args).items() if name not in ("verbose", "engine", "address", *without)}


def check_first(workspace: Workspace, dataset_ids: Sequence[int] = (), device: str = "auto", inputs: Path | None = None) -> None:
    """A stage's own checks that need no torch, called before the command spends seconds on importing it.

    Raises:
        ArenaError: no such dataset, no device's name, or no CT in `inputs`.
    """
    for dataset_id in dataset_ids:
        found, typed = workspace.dataset_name(dataset_id), getattr(dataset_id, "name", None)
        if typed not in (None, found):
            raise DatasetError(f"expected {typed}, found {found}", file=workspace.raw, advice=f"give -d {int(dataset_id)}, or the right name")
    check_device_name(device)
    if inputs is not None:
        from arena_pipeline.predict.inputs import check_inputs  # not for -h: it imports the readers of images

        check_inputs(inputs)


def run(function: Callable[[argparse.Namespace], int | None], args: argparse.Namespace, command: str, output: Path | None = None) -> int:
    """Calls `function(args)` with a log and a record of the run, and returns the exit status.

    What a user can mend (ArenaError, a file the system refuses) is one line on stderr and status 2; an interrupt is 130, SIGTERM 143, a
    reader of the output that has gone 141: what shells expect.
    Anything else is a fault in the program: it is recorded, and leaves with its traceback.
    The log and the record are logs/TIME_COMMAND.log and .json in the workspace, or in `output` for a command without one; where
    that folder does not exist at the end there are none.
    """
    _keep_threads_within_quota()
    record = RunRecord(command, {name: value for name, value in vars(args).items() if not callable(value)})
    workspace = getattr(args, "workspace", None)
    stem = f"{record.started:%Y-%m-%d_%H-%M-%S}-{record.started.microsecond // 1000:03d}_{command}"
    root = workspace.root if isinstance(workspace, Workspace) else output
    log = None if root is None else LogFile(root, Workspace(root).logs / f"{stem}.log")
    with logging_to(log, verbose=getattr(args, "verbose", False)):
        try:
            with _terminable(), record, _engine(args):
                logger.debug("%s %s", command, record.arguments)
                record.exit_status = function(args) or 0
                sys.stdout.flush()
        except BrokenPipeError:
            record.exit_status = EXIT_NO_READER
            sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  the reader, such as head, has gone; Python would flush to it at exit
        except (ArenaError, OSError, UnicodeEncodeError) as error:
            record.exit_status = EXIT_USER_ERROR
            logger.debug("failed", exc_info=True)
            print(f"error: {_one_line(error)}", file=sys.stderr)
        except _Terminated:
            record.exit_status = EXIT_TERMINATED
            print("ended by SIGTERM", file=sys.stderr)
        except KeyboardInterrupt:
            record.exit_status = EXIT_INTERRUPTED
            print("interrupted", file=sys.stderr)
        finally:
            if log is not None:
                log.write_record(record, sys.exc_info()[1])
    return record.exit_status


def _keep_threads_within_quota() -> None:
    """numpy and torch, imported later, start a thread per core and do not see a container's quota, beyond which all of them are halted."""
    if cpu_limit() is not None:
        os.environ.setdefault("OMP_NUM_THREADS", str(usable_cores()))


def _engine(args: argparse.Namespace) -> AbstractContextManager[None]:
    if getattr(args, "engine", "local") == "local":
        return nullcontext()
    from arena_pipeline.io.parallel import engine

    return engine(args.engine, args.address)


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does: what is finished is saved, half-written files go."""


@contextmanager
def _terminable() -> Iterator[None]:
    """Turns SIGTERM into `_Terminated` inside the block. Only a program's main thread may ask for that; elsewhere it does nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(number: int, frame: FrameType | None) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _one_line(error: ArenaError | OSError | UnicodeEncodeError) -> str:
    if isinstance(error, UnicodeEncodeError):
        return f"{error.object!r} can't be named in the encoding {error.encoding}; set PYTHONUTF8=1, or a UTF-8 locale"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}; check the path, who may read and write there, and the free space"
    if isinstance(error, OSError) and error.errno in FULL:
        return f"a file could not be written ({error.strerror}); {ADVICE}"
    return " ".join(str(error).splitlines())
