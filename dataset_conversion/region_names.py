"""roi_names.csv: the structure that each region's name in a planning system or viewer stands for. The program proposes, a person decides.

name,structure,cases,suggestions
Kidney_L,kidney_left,12,
Stomach_duo_planCT,?,12,stomach duodenum
"""

from __future__ import annotations

import csv
import difflib
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from arena_pipeline.errors import DatasetError
from arena_pipeline.io.atomic import write_text
from arena_pipeline.io.facts import load_fact
from arena_pipeline.io.label_names import BACKGROUND, IGNORE, structure_names_fault

COLUMNS = ("name", "structure", "cases", "suggestions")
UNDECIDED = "?"
SIDES = {"l": "left", "lt": "left", "left": "left", "r": "right", "rt": "right", "right": "right"}
WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
SHORTEST_BEGINNING = 3  # letters of a word that can stand for the whole word
SUGGESTED = 3


@dataclass(frozen=True)
class Row:
    """One name of a region and its structure: UNDECIDED while nobody has chosen, "" where the name is left out."""

    name: str
    structure: str
    cases: int = 0
    suggestions: tuple[str, ...] = ()

    def __str__(self) -> str:
        meant = f"  ({', '.join(self.suggestions)}?)" if self.suggestions else ""
        return f"{self.name} -> {self.structure or 'left out'}{meant if self.structure == UNDECIDED else ''}"


class UndecidedNames(DatasetError):
    """Some names of the table have no structure yet. `rows`: the whole table."""

    rows: Sequence[Row] = ()


def decide_names(table: Path, cases_by_name: Mapping[str, int]) -> dict[str, str]:
    """Name -> structure ("" where it is left out), from the table. Names that it lacks are added to it.

    Raises:
        UndecidedNames: some have no structure yet.
        DatasetError: the table can't be read, or has a name that no structure can have.
    """
    rows = _read(table) if table.is_file() else {}
    if new := [name for name in cases_by_name if name not in rows]:
        rows.update({name: _proposal(name, cases_by_name[name]) for name in new})
        _write(table, list(rows.values()))
    undecided = [row for row in rows.values() if row.structure == UNDECIDED and row.name in cases_by_name]
    if undecided:
        names = ", ".join(row.name for row in undecided)
        fault = UndecidedNames(
            f"no structure yet for {names}", file=table, advice="write one in place of each ?, or nothing to leave it out, and run this again"
        )
        fault.rows = list(rows.values())
        raise fault
    return {name: rows[name].structure for name in rows if name in cases_by_name}


def _read(table: Path) -> dict[str, Row]:
    advice = f"mend it as {','.join(COLUMNS)}, or delete it to get a new proposal"
    try:
        text = table.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise DatasetError("not in UTF-8", file=table, advice="save it as CSV UTF-8") from None
    first = text.partition("\n")[0]
    lines = list(csv.DictReader(io.StringIO(text), delimiter=";" if ";" in first else ","))  # Excel writes either
    rows = {}
    for line in lines:
        name, structure = (line.get("name") or "").strip(), (line.get("structure") or "").strip()
        if "structure" not in line or not name or name in rows:
            raise DatasetError("expected columns name and structure, and every name once", file=table, advice=advice)
        count, near = line.get("cases") or "", line.get("suggestions") or ""
        rows[name] = Row(name, structure, int(count) if count.isdecimal() else 0, tuple(near.split()))
    chosen = {row.structure for row in rows.values()} - {"", UNDECIDED}
    if (fault := structure_names_fault(chosen)) is not None:
        raise DatasetError(fault, file=table, advice="choose other names")
    if reserved := chosen & {BACKGROUND, IGNORE}:
        raise DatasetError(f"{', '.join(reserved)} is no structure", file=table, advice="leave the cell empty to leave a name out")
    return rows


def _write(table: Path, rows: Sequence[Row]) -> None:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerows([COLUMNS, *((row.name, row.structure, row.cases, " ".join(row.suggestions)) for row in rows)])
    write_text(table, out.getvalue())


def _proposal(name: str, cases: int) -> Row:
    """The structure of this name, whatever the case, signs and order of its words, L or R for the side; else an undecided row with similar names."""
    words = [SIDES.get(word.lower(), word.lower()) for word in WORD.findall(name)]
    for structure, parts in _known().items():
        if _letters(name) == _letters(structure) or sorted(words) == sorted(parts) or "".join(words) == _letters(structure):
            return Row(name, structure, cases)
    scores = {structure: _likeness(words, parts) for structure, parts in _known().items()}
    near = sorted((structure for structure, score in scores.items() if score >= 0.5), key=lambda one: (-scores[one], len(one), one))
    near = near or difflib.get_close_matches(name.lower(), _known(), n=SUGGESTED, cutoff=0.7)
    return Row(name, UNDECIDED, cases, tuple(near[:SUGGESTED]))


def _likeness(words: Sequence[str], parts: Sequence[str]) -> float:
    """The share of a structure's parts that the words name, whole or by their beginning; 0 where only the side fits, or the sides differ."""
    sides = {word for word in words if word in SIDES}, {part for part in parts if part in SIDES}
    if sides[1] and sides[0] != sides[1] and (sides[0] or "_".join(part for part in parts if part not in SIDES) in _known()):
        return 0.0
    named = {part for part in parts if any(_begins(word, part) for word in words)}
    return len(named) / len(parts) if named - set(SIDES) else 0.0


def _begins(word: str, part: str) -> bool:
    short, long = sorted((word, part), key=len)
    return word == part or (len(short) >= SHORTEST_BEGINNING and long.startswith(short))


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


@cache
def _known() -> dict[str, list[str]]:
    """Every structure name that the facts have -> its parts; names with a code also with a side."""
    classes = load_fact("totalsegmentator_classes")
    names = [*classes["v2"], *classes["v1"], *load_fact("structures")["fseft_pretraining_structures"]]
    for name in load_fact("snomed_codes")["codes"]:
        names += [name] if set(name.split("_")) & set(SIDES) else [name, f"{name}_left", f"{name}_right"]
    return {name: name.lower().split("_") for name in dict.fromkeys(names)}
