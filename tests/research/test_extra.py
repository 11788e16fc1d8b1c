"""The core works without the packages of the extra [research]."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import builtins, importlib, pkgutil
from arena_pipeline.research.compare.compare import REPORT_PACKAGES
given = builtins.__import__

def guarded(name, globals=None, *rest):  # other packages may have them; this one may not
    if name.split(".")[0] in REPORT_PACKAGES and str((globals or {}).get("__name__")).startswith(("arena_pipeline", "dataset_conversion")):
        raise ImportError(f"{name}, imported by {globals['__name__']}")
    return given(name, globals, *rest)

builtins.__import__ = guarded
imported = 0
for package in ("arena_pipeline", "dataset_conversion"):
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, package + "."):
        if not module.name.startswith("arena_pipeline.research.compare.report"):
            importlib.import_module(module.name)
            imported += 1
print(imported)
try:
    importlib.import_module("arena_pipeline.research.compare.report")
except ImportError as error:
    print(error)
"""


def test_everything_but_the_report_is_imported_without_its_packages() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    count, refused = done.stdout.splitlines()[-2:]
    assert int(count) > 150 and refused.endswith("imported by arena_pipeline.research.compare.report.page")
