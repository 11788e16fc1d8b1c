"""Support sets and published splits.

A fold is one seeded draw of the support set: for fold f, `random.seed(f); random.sample(train_ids, min(K + 1, 30))[:-1]`, the rule that
gave the published support sets. The order of `train_ids` matters: the published file's order where there is a published split, else sorted.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from typing import Literal

from arena_pipeline.errors import SupportSetError, UnknownStructure
from arena_pipeline.io.dataset import StructureSplit
from arena_pipeline.io.facts import load_fact

logger = logging.getLogger(__name__)

LARGEST_DRAW = 30
"""The published rule draws at most this many cases and drops the last, so it gives at most 29 shots (the method is meant for 16)."""


def draw_support_set(train_ids: Sequence[str], shots: int, fold: int) -> tuple[str, ...]:
    """The support set of one fold, in the order drawn.

    The published rule draws K + 1 cases and drops the last. Adjustment for a dataset with exactly K cases, which the rule can't draw
    from: all K are the support set, the same in every fold. A case that the list has twice can be drawn twice: the published list of
    the pancreas has s0930 twice, and its third fold draws both.

    Args:
        train_ids: the cases that may be drawn, in the order of the split's file (without one: sorted).
        shots: K, 1 to 29.
        fold: the seed, 0, 1, 2, ...

    Raises:
        SupportSetError: fewer than K cases, K out of range, or a negative fold.
    """
    if fold < 0:
        raise SupportSetError(f"fold {fold} asked for", advice="folds are numbered 0, 1, 2, ...: choose others with -f")
    if not 1 <= shots < LARGEST_DRAW:
        raise SupportSetError(
            f"{shots} shots asked for",
            advice=f"the support-set rule gives 1 to {LARGEST_DRAW - 1} (the method is meant for 16 at most): choose fewer",
        )
    if len(train_ids) < shots:
        raise SupportSetError(
            f"{shots} shots asked for, but only {len(train_ids)} usable training cases ({', '.join(train_ids) or 'none'})",
            advice=f"annotate {shots - len(train_ids)} more" + (f" or ask for at most {len(train_ids)} shots" if train_ids else ""),
        )
    if len(train_ids) == shots:
        return tuple(train_ids)
    # A private generator: the same numbers as the module-level functions after random.seed(fold), without touching their state.
    support = tuple(random.Random(fold).sample(list(train_ids), min(shots + 1, LARGEST_DRAW))[:-1])
    if len(set(support)) < shots:
        logger.warning("the support set of fold %d has a case twice, because the list it is drawn from has: %s", fold, ", ".join(support))
    return support


def leave_out(scans: Sequence[str], fold: int, folds: int) -> tuple[str, ...]:
    """All but every `folds`-th scan from number `fold` on, so that each is left out once; one that the list has twice leaves as a whole.

    Raises:
        SupportSetError: there is no such fold.
    """
    if not 0 <= fold < folds:
        raise SupportSetError(f"fold {fold} asked for, but each of the {folds} folds leaves out others", advice=f"choose 0 to {folds - 1} with -f")
    gone = set(list(dict.fromkeys(scans))[fold::folds])
    return tuple(scan for scan in scans if scan not in gone)


def published_structures() -> list[str]:
    """The TotalSegmentator structures that have a published split."""
    return list(load_fact("few_shot_splits")["TotalSegmentator"])


def published_split(dataset: Literal["TotalSegmentator", "FLARE22"], structure: str | None = None) -> StructureSplit:
    """The published few-shot split, in its file's order (facts/few_shot_splits.json names the source).

    Args:
        structure: for TotalSegmentator, whose split differs by structure; FLARE'22 has one for all.

    Raises:
        UnknownStructure: no published split for this structure; lists those that have one.
    """
    content = load_fact("few_shot_splits")[dataset]
    if dataset == "FLARE22":
        return StructureSplit.model_validate(content)
    if structure not in content:
        raise UnknownStructure(f"no published split for structure {structure}", advice=f"there is one for: {', '.join(content)}")
    return StructureSplit.model_validate(content[structure])
