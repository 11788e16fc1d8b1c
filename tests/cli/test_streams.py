"""Commands typed with closed or full streams, as services and schedulers start them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = f"{sys.executable} -c 'import sys; from arena_pipeline.cli.make_phantoms import main; sys.exit(main())'"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
@pytest.mark.parametrize("streams", [">&-", "2>&-", "2>/dev/full", "<&-", "<&- >&- 2>&-"])
def test_the_work_is_done_and_the_status_is_right(tmp_path: Path, streams: str) -> None:
    words = "-o made -n 1 --layout flare22 --field_of_view abdomen --spacing 8 8 8 -np 0"
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    done = subprocess.run(f"{COMMAND} {words} {streams}", shell=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0
    assert list((tmp_path / "made").rglob("*.nii.gz"))
    refused = subprocess.run(f"{COMMAND} -o made -n 0 --layout flare22 {streams}", shell=True, cwd=tmp_path, env=environment)
    assert refused.returncode == 2
