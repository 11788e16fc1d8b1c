from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata, resources
from pathlib import Path

import pytest

from arena_pipeline import __version__
from arena_pipeline.records import DISTRIBUTION

CHECKOUT = Path(__file__).resolve().parents[1]
COMMANDS = {entry.name: entry for entry in metadata.distribution(DISTRIBUTION).entry_points if entry.group == "console_scripts"}
WANTED = (
    "arena_convert_totalsegmentator",
    "arena_convert_flare22",
    "arena_convert_dicom",
    "arena_extract_fingerprint",
    "arena_plan",
    "arena_preprocess",
    "arena_plan_and_preprocess",
    "arena_adapt",
    "arena_predict",
    "arena_view",
    "arena_review",
    "arena_ensemble",
    "arena_postprocess",
    "arena_evaluate",
    "arena_compare",
    "arena_cross_validate",
    "arena_verify_dataset",
    "arena_info",
    "arena_install_foundation",
    "arena_export_model",
    "arena_install_model",
    "arena_make_phantoms",
    "arena_pretrain",
    "arena_demo",
)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _pins() -> dict[str, str]:
    lines = (CHECKOUT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return {_normal(line.split("==")[0]): line for line in lines if line and not line.startswith("#")}


def test_every_wanted_command_is_declared() -> None:
    assert sorted(COMMANDS) == sorted(WANTED)


@pytest.mark.parametrize("name", WANTED)
def test_every_command_has_help_for_a_newcomer(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    main = COMMANDS[name].load()
    with pytest.raises(SystemExit) as stop:
        main(["-h"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "usage:" in text and "--verbose" in text
    undescribed = re.findall(r"^  -\S+(?: \S+)*$\n(?=  -|\n|\Z)", text, flags=re.MULTILINE)
    assert not undescribed, f"options without help: {undescribed}"


@pytest.mark.parametrize("name", WANTED)
def test_every_command_refuses_an_unknown_flag(name: str) -> None:
    with pytest.raises(SystemExit) as stop:
        COMMANDS[name].load()(["--no_such_flag"])
    assert stop.value.code == 2


def test_the_version_is_said_once() -> None:
    assert metadata.version(DISTRIBUTION) == __version__
    assert f"## [{__version__}]" in (CHECKOUT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"version: {__version__}" in (CHECKOUT / "CITATION.cff").read_text(encoding="utf-8")


def test_all_that_is_required_is_pinned_by_name_and_version_alone() -> None:
    pins = _pins()
    required = {_normal(re.split(r"[^A-Za-z0-9._-]", entry, maxsplit=1)[0]) for entry in metadata.requires(DISTRIBUTION) or []}
    assert required <= set(pins)
    assert pins["torch"] == "torch==2.13.0"
    for line in pins.values():
        assert re.fullmatch(r'[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*(; python_version >= "3\.11")?', line), line


def test_torch_2_9_is_excluded() -> None:
    requirements = pytest.importorskip("packaging.requirements")
    (torch,) = [r for entry in metadata.requires(DISTRIBUTION) or [] if (r := requirements.Requirement(entry)).name == "torch"]
    assert [v for v in ("2.8.0", "2.9.0", "2.9.1", "2.10.0", "2.13.0") if v in torch.specifier] == ["2.8.0", "2.10.0", "2.13.0"]


def test_types_are_shipped() -> None:
    assert (resources.files("arena_pipeline") / "py.typed").is_file()


def test_python_files_stay_small() -> None:
    """A file over 300 lines is usually two ideas."""
    files = [path for folder in ("arena_pipeline", "dataset_conversion") for path in (CHECKOUT / folder).rglob("*.py")]
    assert len(files) > 20
    long = {str(path.relative_to(CHECKOUT)): n for path in files if (n := len(path.read_text(encoding="utf-8").splitlines())) > 300}
    assert not long


def test_arena_info_answers_at_once() -> None:
    """It is the first thing a newcomer types, so it must not load torch, which takes seconds."""
    code = "import sys, arena_pipeline.cli.info; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_the_container_is_built_from_all_that_the_wheel_is_built_from() -> None:
    dockerfile = (CHECKOUT / "Dockerfile").read_text(encoding="utf-8")
    copied = {name for line in re.findall(r"^COPY (.*)$", dockerfile, re.M) for name in line.split()[:-1]}
    let_through = set(re.findall(r"^!(.*)$", (CHECKOUT / ".dockerignore").read_text(encoding="utf-8"), re.M))
    assert copied == let_through == {"arena_pipeline", "dataset_conversion", "plans", "constraints.txt", "pyproject.toml", "README.md", "LICENSE"}
    assert all((CHECKOUT / name).exists() for name in copied)
    assert re.findall(r"^USER (.*)$", dockerfile, re.M) == ["1000"]
