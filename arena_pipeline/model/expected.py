"""What Dice to expect of an adapted model, from scans that its members have not seen, and where adapting was not worth it.

expected_dice.json lies in the folder of a task whose folds leave scans out; else arena_cross_validate's figures of the same method and number
of scans serve, where there are any.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from scipy.special import stdtrit

from arena_pipeline.io.atomic import write_json
from arena_pipeline.model.adapter import RECORD, AdapterRecord, read_adapter_record
from arena_pipeline.settings import AdaptationSettings

EXPECTED = "expected_dice.json"
POOR_FIT = 0.5
"""Dice on the support set. On real esophagi, of which arena_mini knows little, ARENA had 0.19 to 0.34 there and 0.2 on other patients, where training
all of the network had 0.6 and 0.4 (docs/results.md)."""
TRAIN_ALL = ("fft", "scratch")
NOT_BETTER = "not better than zero-shot"
NUMBER_WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
CONFIDENCE = 0.95
SETUP_DIGITS = 16


@dataclass(frozen=True)
class ScanMean:
    """A mean over scans with its 95 % t-interval: half of it is t(K - 1) sd / sqrt K, 1.24 sd with five scans and 0.72 sd with ten."""

    mean: float
    low: float
    high: float
    scans: int


def scan_mean(values: Sequence[float] | np.ndarray) -> ScanMean:
    """Of what is not NaN; the ends are NaN with fewer than two scans."""
    known = np.asarray(values, dtype=float)
    known = known[~np.isnan(known)]
    scans, half = len(known), math.nan
    if scans > 1:
        half = float(stdtrit(scans - 1, (1 + CONFIDENCE) / 2) * known.std(ddof=1) / math.sqrt(scans))
    mean = float(known.mean()) if scans else math.nan
    return ScanMean(mean, mean - half, mean + half, scans)


def zero_shot_verdict(difference: ScanMean) -> str:
    """Of adapting against zero-shot, in words: better or not better where the 95 % interval is all on one side of 0."""
    if difference.low > 0:
        return "better than zero-shot"
    return NOT_BETTER if difference.high <= 0 else f"can't tell from {scans_in_words(difference.scans)}"


def scans_in_words(scans: int) -> str:
    """One scan, five scans, 12 scans."""
    return f"{NUMBER_WORDS[scans] if scans < len(NUMBER_WORDS) else scans} scan{'' if scans == 1 else 's'}"


class ExpectedDice(BaseModel):
    """One structure; a row of cross_validation.json has more.

    Attributes:
        difference: to zero-shot on the same scans, None where there is none.
        made_with: `setup_of` what was cross-validated; None in expected_dice.json, which lies beside its model.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, populate_by_name=True)

    structure: str
    method: str
    scans: int
    dice: float | None = Field(alias="Dice")
    low: float | None = Field(alias="Dice_low")
    high: float | None = Field(alias="Dice_high")
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    verdict: str | None = None
    made_with: str | None = None

    @classmethod
    def of(cls, structure: str, method: str, dice: Sequence[float], zero_shot: Sequence[float] | None) -> ExpectedDice:
        """From the Dice of every left-out scan, and zero-shot's of the same."""
        found = scan_mean(dice)
        values: dict[str, Any] = {"dice": found.mean, "low": np.clip(found.low, 0, 1), "high": np.clip(found.high, 0, 1)}
        if zero_shot is not None:
            gain = scan_mean(np.subtract(dice, zero_shot))
            values |= {"difference": gain.mean, "difference_low": gain.low, "difference_high": gain.high}
        known = {name: None if math.isnan(value) else float(value) for name, value in values.items()}
        said = None if zero_shot is None else zero_shot_verdict(gain)
        return cls(structure=structure, method=method, scans=found.scans, verdict=said, **known)

    def sentence(self) -> str:
        """For people."""
        if self.dice is None:
            return f"{self.structure}: no Dice to expect, since no left-out scan has it."
        spread = "" if self.low is None else f" [{self.low:.3f}, {self.high:.3f}]"
        text = f"{self.structure}: expected Dice {self.dice:.3f}{spread}, from {scans_in_words(self.scans)}, each left out once"
        return text + (f"; {self.difference:+.3f} against zero-shot: {self.verdict}." if self.difference is not None else ".")


def setup_of(foundation_sha256: str, train_decoder: bool, settings: AdaptationSettings, support_sha256: str | None) -> str:
    """What the Dice of an adaptation depends on, as a hash: figures made with other settings, scans or labels say nothing of a model.

    Args:
        support_sha256: of the whole support set (`FoldJob.support_sha256`); a label that was corrected makes another one.
    """
    values = [foundation_sha256, train_decoder, support_sha256, settings.without_memory().model_dump(mode="json")]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:SETUP_DIGITS]


def write_expected(task_folder: Path, expected: Sequence[ExpectedDice]) -> None:
    """Writes expected_dice.json of a task."""
    write_json(task_folder / EXPECTED, {"expected": [one.model_dump(mode="json", by_alias=True) for one in expected]})


def discard_expected(task_folder: Path) -> None:
    """Removes expected_dice.json, before one of the task's adapters is replaced."""
    (task_folder / EXPECTED).unlink(missing_ok=True)


def expected_of(task_folder: Path, record: AdapterRecord) -> list[ExpectedDice]:
    """What is known of a task's structures, by leave-one-out of the model itself or by arena_cross_validate with the same settings and scans."""
    tried = task_folder.parents[1] / "cross_validation" / f"{record.shots}shots" / "cross_validation.json"
    own = setup_of(record.foundation_sha256, record.train_decoder, record.settings, record.support_sha256)
    found = _read(task_folder / EXPECTED) or [one for one in _read(tried) if one.made_with == own]
    return [one for one in found if one.structure in record.structures and one.method == record.settings.method]


def doubts(task_folder: Path, records: Sequence[AdapterRecord]) -> list[str]:
    """Structures of one task, adapted by `records`, for which the foundation as it is, or another method, would do as well, a sentence each.

    A structure that was not learned beside others is always named. For the rest, scans that were left out decide where there are any. Else one
    is named where the model is no better even on its own support set, or, with the decoder frozen, fits even that poorly. (A good score there proves
    nothing: the model has seen it.)
    """
    by_decoder = records[0].train_decoder or records[0].settings.method in TRAIN_ALL
    known = {one.structure: one for one in expected_of(task_folder, records[0]) if one.verdict is not None}
    said = []
    for structure in records[0].structures:
        if collapsed := [record for record in records if _has_not_learned(record, structure)]:
            folds = f"fold{'' if len(collapsed) == 1 else 's'} {', '.join(str(record.fold) for record in collapsed)}"
            dice = ", ".join(f"{record.attempts[-1].support_dice[structure]:.3f}" for record in collapsed)
            said.append(
                f"{structure}: not learned in {folds} of {len(records)}, with other structures that were (Dice {dice} on its own support set); "
                "check its annotations, or adapt it alone (arena_plan with --objective binary)"
            )
        if structure in known:
            if known[structure].verdict == NOT_BETTER:
                gain = known[structure].difference
                said.append(
                    f"{structure}: adapting is not better than zero-shot on scans left out ({gain:+.3f} Dice); --zero_shot {structure} does as well"
                )
        elif not collapsed and (doubt := _doubt_of_fit(structure, records, by_decoder)):
            said.append(doubt)
    return said


def _has_not_learned(record: AdapterRecord, structure: str) -> bool:
    """Whether the fit of this structure failed beside others that did not; older records have its Dice alone."""
    if not record.attempts:
        return False
    last = record.attempts[-1]
    return structure in last.not_learned or last.support_dice.get(structure, math.inf) <= record.settings.least_support_dice


def _doubt_of_fit(structure: str, records: Sequence[AdapterRecord], by_decoder: bool) -> str | None:
    """By Dice on the support set, before and after."""
    last = [record.attempts[-1] for record in records if record.attempts]
    judged = [one for one in last if structure in one.dice_before and structure in one.support_dice]
    before, after = ([getattr(one, name)[structure] for one in judged] for name in ("dice_before", "support_dice"))
    if judged and np.mean(after) <= np.mean(before):
        return (
            f"{structure}: adapting made it no better even on its own support set (Dice {np.mean(after):.3f}, the foundation as it is "
            f"{np.mean(before):.3f} on the same patches); --zero_shot {structure} does as well"
        )
    if judged and np.mean(after) < POOR_FIT and not by_decoder:
        return (
            f"{structure}: with the foundation's decoder as it is the fit is poor even on its own support set (Dice {np.mean(after):.3f}); "
            f"try -method fft, or train_decoder: true in plans.json"
        )
    return None


def quality_sentences(model: Path) -> list[str]:
    """The expected Dice of its structures, as far as it is known, and the doubts about them."""
    return quality_sentences_of_folds(path.parent for path in model.glob(f"*/fold_*/{RECORD}"))


def quality_sentences_of_folds(folders: Iterable[Path]) -> list[str]:
    """`quality_sentences` of these folds alone."""
    records: dict[Path, list[AdapterRecord]] = {}
    for folder in sorted(folders):
        records.setdefault(folder.parent, []).append(read_adapter_record(folder))
    expected = [one.sentence() for task, folds in records.items() for one in expected_of(task, folds[0])]
    return expected + [doubt for task, folds in records.items() for doubt in doubts(task, folds)]


def _read(path: Path) -> list[ExpectedDice]:
    """None where the file is missing or not a valid one."""
    try:
        return [ExpectedDice.model_validate(row) for row in json.loads(path.read_text(encoding="utf-8"))["expected"]]
    except (OSError, ValueError, KeyError, TypeError, ValidationError):
        return []
