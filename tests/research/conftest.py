"""Fixtures of the commands that make many runs."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from arena_pipeline.stages.plan_and_preprocess import plan_and_preprocess
from arena_pipeline.workspace import Workspace


@pytest.fixture
def plan_short_runs(workspace: Workspace) -> Callable[..., Workspace]:
    """Plans Dataset901_Tiny, which must be there, for arena_mini or another foundation, with a schedule of two epochs of one small patch."""

    def plan(foundation: str = "arena_mini") -> Workspace:
        plan_and_preprocess([901], workspace, foundation, device="cpu", workers=1, fingerprint_workers=1)
        plans = workspace.plans("Dataset901_Tiny", foundation)
        edited = json.loads(plans.read_text())
        edited["adaptation"] |= {"max_epochs": 2, "patches_per_volume": 1}
        edited["scheme"]["patch_size_voxels"] = [64, 32, 32]
        edited["inference"]["threshold"] = 1e-20  # two epochs teach nothing: so low that something is found all the same
        plans.write_text(json.dumps(edited))
        return workspace

    return plan
