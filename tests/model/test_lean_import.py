"""What the network's import leaves out."""

from __future__ import annotations

import subprocess
import sys


def test_the_networks_import_takes_no_transformers_and_later_ones_may() -> None:
    program = (
        "import sys, importlib.util; from arena_pipeline.foundations import load_preset; "
        "load_preset('arena_mini').architecture.build(); "
        "print('monai' in sys.modules, 'transformers' in sys.modules, importlib.util.find_spec('transformers') is not None)"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    installed = subprocess.run([sys.executable, "-c", "import transformers"], capture_output=True, check=False).returncode == 0
    assert found == ["True", "False", str(installed)]
