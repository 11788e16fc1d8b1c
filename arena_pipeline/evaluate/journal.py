"""The scores of an evaluation that is not finished: one line per case, so that an interrupted one goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

from pydantic_core import to_jsonable_python

from arena_pipeline import __version__
from arena_pipeline.evaluate.cases import EvaluationCase
from arena_pipeline.evaluate.scores import StructureScore
from arena_pipeline.evaluate.scoring import Scoring
from arena_pipeline.io.atomic import write_text
from arena_pipeline.io.lines import add_line, as_line, read_lines


class ScoreJournal:
    """Keeps scores in .SUMMARY.unfinished.jsonl until the summary is written. They are used again only for the same scoring and files."""

    def __init__(self, summary: Path, scoring: Scoring) -> None:
        self.path = summary.with_name(f".{summary.stem}.unfinished.jsonl")
        self._scoring = json.dumps(to_jsonable_python([__version__, scoring]), sort_keys=True)
        self._there = {entry["key"]: entry for entry in read_lines(self.path)[0]}
        if self.path.is_file():
            write_text(self.path, "".join(as_line(entry) for entry in self._there.values()))

    def scores(self, case: EvaluationCase) -> list[StructureScore] | None:
        """The scores of this case from an earlier run; None where it has to be scored."""
        entry = self._there.get(self._key(case))
        return None if entry is None else [StructureScore(**score) for score in entry["scores"]]

    def add(self, case: EvaluationCase, scores: list[StructureScore]) -> None:
        add_line(self.path, {"key": self._key(case), "scores": [asdict(score) for score in scores]})

    def remove(self) -> None:
        """When the summary is written."""
        self.path.unlink(missing_ok=True)

    def _key(self, case: EvaluationCase) -> str:
        files = [path for path in (case.reference, case.prediction, case.masks) if path.is_file()]
        states = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
        return hashlib.sha256(json.dumps(to_jsonable_python([self._scoring, case, states])).encode()).hexdigest()
