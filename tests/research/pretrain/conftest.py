"""A small foundation of the user's own, and annotated datasets to pre-train it on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def own_preset(tmp_path: Path) -> Callable[..., Path]:
    """own_preset(head="sigmoid", names=("spleen", "liver"), key=value, ...): the JSON file of a preset with small windows and patches."""

    def make(head: str = "sigmoid", names: tuple[str, ...] = ("spleen", "liver"), **changes: Any) -> Path:
        first = int(head == "softmax")
        content = {
            "name": "own",
            "title": "a small one for tests",
            "architecture": {
                "feature_size": 12,
                "window_size_voxels": [2, 2, 2],
                "out_channels": len(names) + first,
                "patch_merging": "monai_1.5",
            },
            "scheme": {"spacing_mm": [1.5, 1.5, 1.5], "window_hu": [-175, 250], "patch_size_voxels": [64, 32, 32]},
            "head": head,
            "structures": {name: channel for channel, name in enumerate(names, start=first)},
            "weights": {"expected_file": "own.safetensors", "layout": "arena", "origin": "made here"},
            "preference": 60,
            "licence": "CC0-1.0",
            "citation": "nobody",
        }
        path = tmp_path / "own.json"
        path.write_text(json.dumps(content | changes), encoding="utf-8")
        return path

    return make


@pytest.fixture
def partly_annotated(tiny_dataset: Callable[..., Path]) -> Callable[..., Path]:
    """partly_annotated(annotated={...}, **tiny_dataset's): a dataset of whose cases some are annotated in part."""

    def make(annotated: dict[str, list[str]], **options: Any) -> Path:
        folder = tiny_dataset(**options)
        path = folder / "dataset.json"
        path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | {"annotated": annotated}), encoding="utf-8")
        return folder

    return make
