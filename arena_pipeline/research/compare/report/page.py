"""The page: sections from the comparison's data, put into report.html.j2."""

from __future__ import annotations

import logging
from functools import lru_cache
from itertools import groupby
from pathlib import Path

import jinja2
import pandas as pd
from markupsafe import Markup, escape

from arena_pipeline.errors import ImageError
from arena_pipeline.io.atomic import write_text
from arena_pipeline.io.images import read_image
from arena_pipeline.research.compare.report import sections
from arena_pipeline.research.compare.report.about import fact_lines, settings_tables, status_table
from arena_pipeline.research.compare.report.overlays import Overlay, draw_overlay
from arena_pipeline.research.compare.report.parts import Section, shots_name
from arena_pipeline.research.compare.report.plots import picture
from arena_pipeline.research.compare.report.style import styles
from arena_pipeline.research.compare.report_data import ReportData
from arena_pipeline.workspace import ComparisonFolder

logger = logging.getLogger(__name__)


def write_report(folder: ComparisonFolder, data: ReportData) -> Path:
    """Writes report.html, whole or not at all, and returns its path.

    An example whose files are gone or unreadable is left out, and the page says so.
    """
    write_text(folder.report, render(data))
    return folder.report


def render(data: ReportData) -> str:
    """The page as text. It holds no script and refers to nothing outside itself; names from the data are escaped."""
    overlays, lost = _overlays(data)
    only_best = all(overlay.example.which == "best" for overlay in overlays)
    return _template().render(
        title=data.facts.get("title") or "Comparison of methods",
        notes=list(data.facts.get("notes") or ()),
        answers=sections.short_answers(data.tests),
        sections=_sections(data),
        examples={name: list(own) for name, own in groupby(overlays, key=lambda overlay: overlay.example.structure)},
        examples_title="Examples" if only_best else "Best, median and worst cases",
        only_best=only_best,
        lost_examples=lost,
        facts=fact_lines(data.facts),
        about=[status_table(data.runs), *settings_tables(data.facts)],
    )


def _template() -> jinja2.Template:
    # A PackageLoader, so that the templates are found in a wheel too.
    loader = jinja2.PackageLoader("arena_pipeline.research.compare.report", "templates")
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"breakable": _breakable, "picture": picture, "shots": shots_name}
    return environment.get_template("report.html.j2")


def _breakable(name: str) -> Markup:
    """The name, escaped, in which a line may break after every underscore."""
    return escape(name).replace("_", Markup("_<wbr>"))


def _sections(data: ReportData) -> list[Section]:
    methods = _methods(data)
    looks = styles(tuple(methods))
    logs = read_logs(data)
    return [
        sections.dice_section(data.summary, methods, looks, data.facts.get("published_source") or "the paper"),
        sections.difference_section(data.tests, methods, looks),
        sections.efficiency_section(data.efficiency, methods, looks),
        sections.rank_section(data.ranks, methods, looks),
        sections.loss_section(logs, methods, looks),
        *sections.rank_map_sections(logs),
    ]


def _methods(data: ReportData) -> list[str]:
    """The methods in the order of comparison.json, then those that only the tables have."""
    asked = list(data.facts.get("methods") or ())
    tables = (data.summary, data.tests, data.efficiency, data.ranks)
    return list(dict.fromkeys([*asked, *(name for table in tables if len(table) for name in table.method)]))


def read_logs(data: ReportData) -> sections.Logs:
    """The training logs of the runs with the default rank, a table per fold; without empty logs, and in the runs' order of structures."""
    tasks = list(dict.fromkeys(data.runs.task))
    swept = {(row.method, int(row.rank)) for row in data.runs[~data.runs.default_rank.astype(bool)].itertuples()}
    logs: dict[tuple[int, str, str], list[pd.DataFrame]] = {}
    for entry in sorted(data.training_logs, key=lambda entry: (entry.shots, tasks.index(entry.task), entry.fold)):
        if entry.rank is not None and (entry.method, entry.rank) in swept:
            continue
        log = pd.read_csv(entry.path)
        if len(log):
            logs.setdefault((entry.shots, entry.task, entry.method), []).append(log)
    return logs


def _overlays(data: ReportData) -> tuple[list[Overlay], list[str]]:
    """The examples with most shots drawn, and a sentence about each that could not be. A CT with several examples is read once."""
    most = max((example.shots for example in data.examples), default=0)
    chosen = [example for example in data.examples if example.shots == most]
    drawn, lost = {}, {}
    read_once = lru_cache(maxsize=1)(read_image)
    for place, example in sorted(enumerate(chosen), key=lambda entry: str(entry[1].image)):
        try:
            drawn[place] = draw_overlay(example, read_once(example.image))
        except (ImageError, FileNotFoundError) as error:
            logger.warning("%s, %s: left out of the report: %s", example.structure, example.case, error)
            lost[place] = f"{example.structure}, {example.which}: {example.case} could not be drawn ({error})."
    return [drawn[place] for place in sorted(drawn)], [lost[place] for place in sorted(lost)]
