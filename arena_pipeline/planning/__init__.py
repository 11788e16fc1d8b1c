"""Fingerprint and foundation -> Plans: every decision with its reason, as JSON that a person may edit."""

from __future__ import annotations

from arena_pipeline.machine import Machine
from arena_pipeline.planning.decisions import make_plans
from arena_pipeline.planning.models import InferencePlan, Plans, TaskPlan, WorkersPlan

__all__ = ["InferencePlan", "Machine", "Plans", "TaskPlan", "WorkersPlan", "make_plans"]
