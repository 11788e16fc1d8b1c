"""nnU-Net in this Python process: the packages of `make nnunet_env` are found after those of this environment, so that both sides have one torch."""

from __future__ import annotations

import os
import sys
from pathlib import Path

PACKAGES = next(iter(sorted(Path(__file__).parents[1].glob(".venv-nnunet/lib/python3*/site-packages"))), None)


def use_nnunet() -> None:
    """Call before nnunetv2 is imported."""
    os.environ |= {"nnUNet_compile": "f", **{f"nnUNet_{name}": "/nowhere" for name in ("raw", "preprocessed", "results")}}
    if str(PACKAGES) not in sys.path:
        sys.path.append(str(PACKAGES))
