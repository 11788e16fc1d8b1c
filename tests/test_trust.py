"""What the whole package never does: unpickle what was not trusted, run what it reads, or use a network."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
SOURCES = sorted(path for folder in ("arena_pipeline", "dataset_conversion") for path in (CHECKOUT / folder).rglob("*.py"))
TRUSTED_READER = "arena_pipeline/model/checkpoint_files.py"

# Modules that unpickle, and that talk to other machines; of some, what does neither may be used.
FORBIDDEN = {"shelve", "marshal", "dill", "cloudpickle", "joblib", "urllib", "http", "requests", "httpx", "ftplib", "smtplib", "asyncio", "ssl"}
HARMLESS = {"urllib.parse"}  # names of files as parts of an address
LOCAL_SERVER = {"arena_pipeline/view/server.py": {"http", "http.server"}}  # tests/view holds it to 127.0.0.1 and its token
ALLOWED_PARTS = {"pickle": {"UnpicklingError", "PicklingError"}, "socket": {"gethostname"}}
FORBIDDEN_CALLS = {"eval", "exec", "__import__", "read_pickle", "load_state_dict_from_url", "hub"}


def calls(tree: ast.AST) -> Iterator[tuple[str, str, ast.Call]]:
    """(what it is called on, name, call): ("torch", "load", ...); builtins are called on ""."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            function = node.func
            if isinstance(function, ast.Attribute):
                yield ast.unparse(function.value), function.attr, node
            elif isinstance(function, ast.Name):
                yield "", function.id, node


def faults(name: str, tree: ast.AST) -> Iterator[str]:
    """What a module does that no module of this package may do."""
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    parts = {module: ALLOWED_PARTS[module] for module in imported & set(ALLOWED_PARTS)}
    for node in ast.walk(tree):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
            if set(ALLOWED_PARTS) & set(modules):
                yield f"{name}: from {node.module} import hides what is used of it"
        allowed = HARMLESS | LOCAL_SERVER.get(name, set())
        yield from (f"{name}: imports {module}" for module in modules if module.split(".")[0] in FORBIDDEN and module not in allowed)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.attr not in parts.get(node.value.id, {node.attr}):
            yield f"{name}: uses {node.value.id}.{node.attr}"
    for owner, function, call in calls(tree):
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        if function in FORBIDDEN_CALLS and owner in ("", "torch", "pd", "builtins", "hub"):
            yield f"{name}: calls {function}"
        if (owner, function) == ("torch", "load") and given.get("weights_only") != "True" and name != TRUSTED_READER:
            yield f"{name}: torch.load without weights_only=True"
        if (owner, function) == ("np", "load") and given.get("allow_pickle") != "False":
            yield f"{name}: np.load without allow_pickle=False"


def test_no_module_unpickles_runs_or_sends_anything() -> None:
    assert len(SOURCES) > 100
    found = [fault for path in SOURCES for fault in faults(path.relative_to(CHECKOUT).as_posix(), ast.parse(path.read_text(encoding="utf-8")))]
    assert not found


@pytest.mark.parametrize(
    "code",
    ["import torch\ntorch.load(f)", "import pickle\npickle.load(f)", "from pickle import load", "import numpy as np\nnp.load(f)", "eval(x)",
     "import urllib.request", "import socket\nsocket.socket()", "torch.load(f, weights_only=False)", "from http import client"],
)  # fmt: skip
def test_the_check_finds_what_it_looks_for(code: str) -> None:
    assert list(faults("x.py", ast.parse(code)))


def test_the_one_reader_of_pickles_asks_first() -> None:
    tree = ast.parse((CHECKOUT / TRUSTED_READER).read_text(encoding="utf-8"))
    loads = [ast.unparse(call) for owner, function, call in calls(tree) if (owner, function) == ("torch", "load")]
    assert sorted("weights_only=True" in call for call in loads) == [False, True]
    (function,) = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and "weights_only=False" in ast.unparse(node)]
    lines = ast.unparse(function).splitlines()
    refusal = next(number for number, line in enumerate(lines) if line.strip() == "if not trust:")
    assert lines[refusal + 1].strip().startswith("raise ") and refusal < next(n for n, line in enumerate(lines) if "weights_only=False" in line)


# ---- no network: refused and written down in every Python process, and where the system lets us, there is none

SITECUSTOMIZE = """
import os, socket, sys

NAMES = {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo", "urllib.Request"}
USES = {"socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg"}

def refuse(event, args):
    if event == "socket.bind" and args[1][0] in ("::1", "127.0.0.1"):
        return  # asks whether this machine knows IPv6
    if event in NAMES or (event in USES and args[0].family in (socket.AF_INET, socket.AF_INET6)):
        with open(os.environ["NETWORK_LOG"], "a") as log:
            log.write(f"{event} {args[1:]}\\n")
        raise PermissionError(f"a test allows no network: {event}")

sys.addaudithook(refuse)
with open(os.environ["NETWORK_LOG"] + ".guarded", "a") as log:
    log.write(f"{os.getpid()}\\n")
"""

TINY_DEMO = """
from arena_pipeline.cli import demo

commands = demo._commands

def coarse(*arguments):
    for command in commands(*arguments):
        if command[0] == "arena_make_phantoms":
            start = command.index("--spacing") + 1
            command[start : start + 3] = ["9", "9", "9"]
        yield command

if __name__ == "__main__":
    demo.SHOTS, demo.QUERIES, demo._commands = 1, 1, coarse
    raise SystemExit(demo.main(["-o", "demo", "--max_epochs", "1"]))
"""


@pytest.fixture
def guarded(tmp_path: Path) -> tuple[list[str], dict[str, str], Path]:
    """(start of a command line, environment, log of what was tried) for processes without a network."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SITECUSTOMIZE)
    log = tmp_path / "network.log"
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(tmp_path), "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "NETWORK_LOG": str(log),
        "PYTHONPATH": os.pathsep.join((str(tmp_path / "site"), str(CHECKOUT))),
    }  # fmt: skip
    alone = ["unshare", "--map-root-user", "--net"]
    can = shutil.which("unshare") is not None and subprocess.run([*alone, "true"], capture_output=True, check=False).returncode == 0
    return (alone if can else []), environment, log


def test_the_guard_refuses_a_connection(guarded: tuple[list[str], dict[str, str], Path]) -> None:
    start, environment, log = guarded
    for code in ("socket.create_connection(('127.0.0.1', 9))", "socket.socket(socket.AF_INET).connect(('127.0.0.1', 9))"):
        done = subprocess.run([*start, sys.executable, "-c", f"import socket; {code}"], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 1 and "a test allows no network" in done.stderr
    assert len(log.read_text().splitlines()) == 2


@pytest.mark.timeout(600)
def test_the_demos_commands_use_no_network(guarded: tuple[list[str], dict[str, str], Path], tmp_path: Path) -> None:
    start, environment, log = guarded
    (tmp_path / "tiny_demo.py").write_text(TINY_DEMO)
    done = subprocess.run(
        [*start, sys.executable, "tiny_demo.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=580, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for command in ("arena_make_phantoms", "arena_convert_flare22", "arena_plan_and_preprocess", "arena_adapt", "arena_predict", "arena_evaluate"):
        assert f"$ {command}" in done.stdout
    assert not log.exists(), log.read_text()
    assert len(Path(f"{log}.guarded").read_text().splitlines()) > 1  # the worker processes too
