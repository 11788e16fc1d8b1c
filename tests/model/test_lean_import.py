"""What the network's import leaves out."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("heavy", ["transformers", "sklearn", "scipy.signal"])
def test_the_networks_import_takes_nothing_heavy_and_later_ones_may(heavy: str) -> None:
    program = (
        "import sys, importlib.util; from arena_pipeline.foundations import load_preset; "
        "load_preset('arena_mini').architecture.build(); "
        f"print('monai' in sys.modules, '{heavy}' in sys.modules, importlib.util.find_spec('{heavy}') is not None)"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    installed = subprocess.run([sys.executable, "-c", f"import {heavy}"], capture_output=True, check=False).returncode == 0
    assert found == ["True", "False", str(installed)]
