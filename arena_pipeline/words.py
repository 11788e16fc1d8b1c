"""Numbers and lists in the sentences that people read."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

MIB, GIB = 2**20, 2**30


def pluralize(number: int, one: str, several: str | None = None) -> str:
    """1 epoch, 2 epochs; 1 query, 2 queries."""
    return f"{number} {one if number == 1 else several or one + 's'}"


def listed(names: Iterable[object], most: int = 8, separator: str = ", ") -> str:
    """The first few, and how many more there are: a, b and 3 more; with "; " between them: a; b; and 3 more."""
    words = [str(name) for name in names]
    more = f"{separator.strip(', ')} and {len(words) - most} more" if len(words) > most else ""
    return separator.join(words[:most]) + more


def similar(word: str, known: Iterable[str]) -> str | None:
    """The one of `known` that `word` is most probably a misspelling of."""
    lowered = {name.lower(): name for name in known}
    return next((lowered[name] for name in difflib.get_close_matches(word.lower(), lowered, n=1, cutoff=0.85)), None)


def names_to_choose(unknown: Iterable[str], known: Sequence[str], where: str, most: int = 10) -> str:
    """Advice for names that are none of `known`: did you mean liver? this dataset has: aorta, liver and 102 more."""
    meant = dict.fromkeys(close for name in unknown if (close := similar(name, known)) is not None)
    question = f"did you mean {', '.join(meant)}? " if meant else ""
    return f"{question}{where}: {listed(known, most)}"


def memory_size(size_bytes: float) -> str:
    """4.7 GiB, and below one of them 480 MiB."""
    return f"{size_bytes / GIB:.1f} GiB" if size_bytes >= GIB else f"{size_bytes / MIB:.0f} MiB"


def duration(seconds: float) -> str:
    """40 s, 12 min, 3 h 05 min."""
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"
