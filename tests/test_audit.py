"""make audit and make licences: what is known fails, what can't be known is said and does not."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
SCRIPT = CHECKOUT / ".ci" / "audit.py"
pytestmark = pytest.mark.skipif(not SCRIPT.is_file(), reason="only a checkout has .ci")


@pytest.fixture
def audit() -> ModuleType:
    specification = importlib.util.spec_from_file_location("audit", SCRIPT)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def package(name: str, *vulnerabilities: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "version": "1.0", "vulns": list(vulnerabilities)}


FAULT = {"id": "PYSEC-1", "aliases": ["GHSA-1"], "fix_versions": ["1.1"], "description": ""}


def test_a_known_vulnerability_fails_unless_it_is_accepted(audit: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit.report([package("good"), package("bad", FAULT)], {}) == 1
    printed = capsys.readouterr().out
    assert "2 of 2 packages looked up, 1 known vulnerabilities, 0 of them accepted" in printed
    assert "bad 1.0: PYSEC-1 (GHSA-1), mended in 1.1" in printed
    assert audit.report([package("good"), package("bad", FAULT)], {"GHSA-1": "never called"}) == 0
    assert audit.report([package("good")], {}) == 0


def test_a_service_that_knows_nothing_is_not_taken_for_good_news(audit: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit.report([{"name": "a", "skip_reason": "not found"}], {}) == 0
    assert "not audited: the service answers, but knows none of the packages" in capsys.readouterr().out


def test_a_service_that_cannot_be_reached_is_said() -> None:
    nowhere = {"PATH": os.environ["PATH"], "HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
    done = subprocess.run([sys.executable, str(SCRIPT)], env=nowhere, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("not audited: the vulnerability service can't be reached")


@pytest.mark.parametrize(("allowed", "status"), [(None, 0), ("MIT", 1)])
def test_a_licence_that_is_not_allowed_fails(allowed: str | None, status: int) -> None:
    command = [sys.executable, "-m", "piplicenses", "--packages", "torch", "tqdm", "connected-components-3d"]
    options = [] if allowed is None else ["--allow-only", allowed]
    done = subprocess.run([*command, *options], cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    if status:
        assert "was found for package" in done.stderr
