"""HTML that stands alone: styles, scripts and volumes inside, and a policy by which the browser refuses every request to elsewhere."""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib import resources
from string import Template
from typing import NamedTuple
from urllib.parse import quote

from arena_pipeline.view.facts import PageFacts
from arena_pipeline.words import pluralize

FLAGS_SHOWN = 3  # of a case in the list of all; its page has all
POLICY = (
    "default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; img-src data: blob:; connect-src {connect}; "
    "base-uri 'none'; form-action 'none'"
)


def case_page(case: str, facts: PageFacts, index: str, volumes: Mapping[str, bytes]) -> str:
    """The page of one case.

    Args:
        index: where the page of all cases is, an address relative to this page.
        volumes: ct, labels and disagreement, gzipped, for a page that opens from a file; empty: it asks its server for them.
    """
    script = _static("case.js") + (_static("review.js") if facts.review is not None else "")
    niivue = f"/*\n{_static('niivue_licences.txt')}*/\n{_static('niivue.min.js')}"
    return Template(_static("case.html")).substitute(
        title=html.escape(case),
        index=html.escape(index),
        style=_static("page.css"),
        facts=facts.model_dump_json().replace("<", "\\u003c"),
        volumes="\n".join(_embedded(name, content) for name, content in volumes.items()),
        niivue=niivue,
        script=script,
        policy=POLICY.format(scripts=f"{_digest(niivue)} {_digest(script)}", connect="data:" if volumes else "'self' data:"),
    )


class IndexRow(NamedTuple):
    """A case in the list of all: `flags` are what to look at, `structures` names with volumes, `state` what has been done instead."""

    case: str
    address: str
    flags: Sequence[str]
    structures: str
    state: str = ""


def index_page(title: str, rows: Iterable[IndexRow]) -> str:
    """The page of all cases, those to look at first at the top, where `rows` are in that order."""
    rows = list(rows)
    flagged = sum(bool(row.flags) for row in rows)
    look = f", {flagged} with something to look at" if flagged else ""
    return Template(_static("index.html")).substitute(
        title=html.escape(title),
        style=_static("page.css"),
        summary=f"{pluralize(len(rows), 'case')}{look}.",
        rows="\n".join(map(_row, rows)),
        policy=POLICY.format(scripts="'none'", connect="'none'"),
    )


def address(name: str) -> str:
    """A file's or a case's name as a part of an address."""
    return quote(name, safe="")


def _row(row: IndexRow) -> str:
    more = [f"and {len(row.flags) - FLAGS_SHOWN} more"] if len(row.flags) > FLAGS_SHOWN else []
    flags = "<br>".join(html.escape(flag) for flag in [*row.flags[:FLAGS_SHOWN], *more])
    link = f'<a href="{html.escape(row.address)}">{html.escape(row.case)}</a>'
    mark = ' class="look"' if row.flags else ""
    return f'<tr{mark}><th scope="row">{link}</th><td>{row.state or flags}</td><td class="quiet">{html.escape(row.structures)}</td></tr>'


def _embedded(name: str, content: bytes) -> str:
    return f'<script type="application/gzip" id="volume_{name}">{base64.b64encode(content).decode()}</script>'


def _digest(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


@cache
def _static(name: str) -> str:
    return (resources.files("arena_pipeline.view") / "static" / name).read_text(encoding="utf-8")
