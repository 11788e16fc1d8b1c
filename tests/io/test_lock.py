"""One command at a time: real processes, real kills."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from arena_pipeline.errors import FolderInUse
from arena_pipeline.io.lock import all_locked, is_held, locked, shared_part

HOLD = """
import sys
from pathlib import Path
from arena_pipeline.io.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    input()
"""


OTHER_HOST = [
    "unshare",
    "--user",
    "--map-root-user",
    "--mount",
    "--uts",
    "sh",
    "-c",
    'hostname other && mount --bind "$0" "$1" && shift && exec "$@"',
]


@contextmanager
def held_elsewhere(folder: Path, before: tuple[str, ...] = ()) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the folder until its input ends. `before`: in front of its command."""
    process = subprocess.Popen([*before, sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()


def test_another_command_is_told_who_holds_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    with held_elsewhere(folder) as owner:
        with pytest.raises(FolderInUse) as caught, locked(folder):
            pass
        message = str(caught.value)
        assert message.startswith(f"{folder}: in use by process {owner.pid} on {socket.gethostname()} (-c ")
        assert "wait until it has ended, or stop it" in message
        owner.communicate("\n")
    assert owner.returncode == 0
    with locked(folder):
        assert folder.is_dir()
    assert not folder.exists()  # nobody wrote anything into it


def test_the_lock_of_a_killed_command_is_taken_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with held_elsewhere(tmp_path) as owner:
        owner.kill()
        owner.wait()
        with locked(tmp_path):
            assert (tmp_path / ".in_use.txt").read_text().startswith(f"process {os.getpid()} on ")
    assert f"taking over the lock of process {owner.pid}" in caplog.text
    assert not list(tmp_path.iterdir())


def test_a_host_that_sees_the_folder_under_another_path_holds_it_until_it_dies(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder, theirs = tmp_path / "here", tmp_path / "there"
    folder.mkdir()
    theirs.mkdir()
    host = (*OTHER_HOST, str(folder), str(theirs))
    if shutil.which("unshare") is None or subprocess.run([*host, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this system lets no user make a host name and a mount of his own (unshare)")
    with held_elsewhere(theirs, host) as owner:
        with pytest.raises(FolderInUse, match=rf"in use by process {owner.pid} on other \("), locked(folder):
            pass
        owner.kill()
        owner.wait()
        with locked(folder):
            pass
    assert f"taking over the lock of process {owner.pid} on other" in caplog.text
    assert not list(folder.iterdir())


@pytest.mark.parametrize("owner", ["process 1 on gpu-node-7 (arena_adapt -d 101, since yesterday)\n", ""])
def test_where_the_systems_lock_is_free_the_owners_text_does_not_count(tmp_path: Path, owner: str, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / ".in_use.lock").touch()
    (tmp_path / ".in_use.txt").write_text(owner)
    with caplog.at_level(logging.WARNING), locked(tmp_path):
        assert caplog.messages == ([f"{tmp_path}: taking over the lock of {owner.strip()}, which has ended without giving it back"] if owner else [])
    assert not list(tmp_path.iterdir())


def test_a_block_may_hold_again_what_it_holds_and_other_threads_may_not(tmp_path: Path) -> None:
    refused = []

    def other() -> None:
        try:
            with locked(tmp_path):
                pass
        except FolderInUse as error:
            refused.append(str(error))

    with locked(tmp_path), locked(tmp_path):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        with locked(tmp_path):
            pass
    assert len(refused) == 1 and f"process {os.getpid()}" in refused[0]
    other()
    assert len(refused) == 1


def test_parts_of_a_folder_are_held_apart(tmp_path: Path) -> None:
    with locked(tmp_path, "_one"), locked(tmp_path, "_other"), locked(tmp_path):
        assert len(list(tmp_path.glob(".in_use*.txt"))) == 3
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("first", "second"), [("", shared_part("a")), (shared_part("a"), "")])
def test_a_whole_folder_and_its_shares_exclude_each_other(tmp_path: Path, first: str, second: str) -> None:
    with locked(tmp_path, first):
        with pytest.raises(FolderInUse, match=str(os.getpid())), locked(tmp_path, second):
            pass
        with locked(tmp_path, "_another_file"):  # a part that is no share of the whole
            pass
    with locked(tmp_path, shared_part("a")), locked(tmp_path, shared_part("b")):
        assert is_held(tmp_path, shared_part("a")) and not is_held(tmp_path, shared_part("c"))
    assert not list(tmp_path.iterdir())


def test_a_share_whose_owner_was_killed_does_not_keep_the_whole_folder(tmp_path: Path) -> None:
    (tmp_path / ".in_use_share_a.lock").touch()
    with locked(tmp_path):
        pass


def test_who_is_patient_gets_the_lock_when_it_is_given_back(tmp_path: Path) -> None:
    with held_elsewhere(tmp_path) as owner:
        threading.Timer(0.5, owner.kill).start()
        with locked(tmp_path, patience_seconds=30):
            assert owner.wait() != 0


def test_a_killed_owner_that_nobody_waited_for_is_dead(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    process.kill()
    while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
        pass
    with locked(tmp_path):
        assert (tmp_path / ".in_use.txt").read_text().startswith(f"process {os.getpid()} on ")
    process.communicate()


def test_all_or_none(tmp_path: Path) -> None:
    free, taken = tmp_path / "free", tmp_path / "taken"
    with held_elsewhere(taken):
        with pytest.raises(FolderInUse, match="taken"), all_locked([free, taken]):
            pass
        assert not free.exists()
