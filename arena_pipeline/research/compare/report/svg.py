"""Matplotlib figures as SVG that stands inside an HTML page.

The SVG is put in the page itself and not behind <img>: so its letters are the page's letters (searchable, and dark where the page is light and
the other way round), and a phone draws it sharp at any size. The price is that all figures share one space of identifiers, and matplotlib calls
parts of every figure `figure_1` or `axes_1`: each identifier gets its figure's name in front.
"""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import matplotlib
from markupsafe import Markup
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from arena_pipeline.research.compare.report.style import INK, LINE, PAPER

_SVG, _HREF = "http://www.w3.org/2000/svg", "{http://www.w3.org/1999/xlink}href"
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_FRACTION = re.compile(r"-?\d+\.\d+")
_SPACE = re.compile(r"\s*([A-Za-z])\s*")
_FONT_FAMILY = re.compile(r"font-family: [^;]*;? ?")
_NOT_IN_XML = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff\ud800-\udfff]")
SETTINGS: Any = {  # Any: the keys of matplotlib are a type of their own there
    "svg.fonttype": "none",  # letters, not their outlines
    "svg.hashsalt": "arena",  # identifiers that are the same in every run
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "font.size": 8,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": LINE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "axes.axisbelow": True,
    "figure.facecolor": "none",
    "grid.color": LINE,
    "grid.linewidth": 0.5,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
}


@contextmanager
def drawing() -> Iterator[None]:
    """The settings under which every figure of the report is made."""
    with matplotlib.rc_context(SETTINGS):
        yield


def new_figure(width_inches: float, height_inches: float, layout: Literal["constrained"] | None = "constrained") -> Figure:
    """A figure for `inline_svg`; to be called inside `drawing()`."""
    figure = Figure(figsize=(width_inches, height_inches), layout=layout)
    FigureCanvasSVG(figure)
    return figure


def inline_svg(figure: Figure, name: str, description: str) -> Markup:
    """The figure as an <svg> element, at about a third of the length that matplotlib gives it.

    Args:
        name: unique in the page, letters, digits and hyphens; in front of every identifier.
        description: what a screen reader says; empty for an ornament.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    root = ET.fromstring(_NOT_IN_XML.sub("\ufffd", buffer.getvalue()))
    for parent in list(root.iter()):
        for child in [child for child in parent if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style")]:
            parent.remove(child)  # a style element would count for the whole page; report.css has what this one says
    used = {value.lstrip("#") for element in root.iter() for value in _references(element)}
    for element in root.iter():
        _shorten_(element, name, used)
    root.attrib = {"viewBox": root.attrib["viewBox"], "class": "plot"}
    root.attrib |= {"role": "img", "aria-label": _NOT_IN_XML.sub("\ufffd", description)} if description else {"aria-hidden": "true"}
    ET.register_namespace("", _SVG)
    text = ET.tostring(root, encoding="unicode")
    for stand_in, colour in ((INK, "currentColor"), (LINE, "var(--line)"), (PAPER, "var(--paper)")):
        text = text.replace(stand_in, colour)
    return Markup(text)  # serialised by ElementTree, which escapes


def _references(element: ET.Element) -> list[str]:
    """The identifiers that the element refers to."""
    return [element.attrib.get(_HREF, ""), *(found for value in element.attrib.values() for found in _REFERENCE.findall(value))]


def _shorten_(element: ET.Element, name: str, used: set[str]) -> None:
    """Puts `name` before the identifiers that are referred to and drops the others; coordinates to a tenth of a point; no indentation."""
    old = dict(element.attrib)
    element.attrib.clear()
    for key, value in old.items():
        new = _shortened(key, value, name)
        if new and (key != "id" or value in used):
            element.attrib["href" if key == _HREF else key] = new
    if element.text is not None and not element.text.strip():
        element.text = None
    element.tail = None


def _shortened(key: str, value: str, name: str) -> str:
    """The attribute's new value; empty: not needed."""
    if key == "id":
        return f"{name}-{value}"
    if key == _HREF:
        return f"#{name}-{value[1:]}" if value.startswith("#") else value.replace("\n", "")
    if key in ("d", "x", "y"):
        return _SPACE.sub(r"\1", _FRACTION.sub(_tenth, value))
    if key == "transform" and value.startswith("rotate(-0 "):
        return ""
    if key == "style":
        value = _FONT_FAMILY.sub("", value).replace(": ", ":").replace("; ", ";")
    return _REFERENCE.sub(rf"url(#{name}-\1)", value)


def _tenth(found: re.Match[str]) -> str:
    return f"{float(found[0]):.1f}".removesuffix(".0")
