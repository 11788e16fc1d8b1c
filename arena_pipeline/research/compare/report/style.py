"""How a method looks in every figure: a colour, a marker and a dash, so that it is told apart in grey and by the colour-blind too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

INK, LINE, PAPER = "#010203", "#040506", "#070809"
"""Stand-ins for the page's colours of text, thin lines and background, which differ between light and dark; svg.py puts those in."""

# Colours of Okabe and Ito's palette (https://jfly.uni-koeln.de/color/), without its yellow, which white paper swallows.
_VERMILION, _ORANGE, _BLUE, _SKY, _GREEN, _PURPLE = "#d55e00", "#e69f00", "#0072b2", "#56b4e9", "#009e73", "#cc79a7"
_GREY, _OLIVE = "#868686", "#9a8a00"

SOLID, DASHED, DOTTED, DASH_DOT = (0, ()), (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1.2, 1, 1.2))


@dataclass(frozen=True)
class MethodStyle:
    """Colour, matplotlib marker, dash (offset, on-off lengths)."""

    colour: str
    marker: str
    dash: tuple[int, tuple[float, ...]]

    def line(self) -> dict[str, Any]:
        """Arguments of Axes.plot."""
        return {"color": self.colour, "linestyle": self.dash}


KNOWN = {
    "arena": MethodStyle(_VERMILION, "o", SOLID),
    "lora": MethodStyle(_BLUE, "s", DASHED),
    "adalora": MethodStyle(_SKY, "v", DASH_DOT),
    "bitfit": MethodStyle(_GREEN, "P", DOTTED),
    "affine_ln": MethodStyle(_PURPLE, "X", DASHED),
    "linear_probe": MethodStyle(_OLIVE, "h", DASH_DOT),
    "fft": MethodStyle(_GREY, "D", SOLID),
    "scratch": MethodStyle(_ORANGE, "^", DASHED),
    "zero_shot": MethodStyle(INK, "d", DOTTED),
}
SPARE = (  # for the variants of ARENA and for methods that came later
    MethodStyle(_VERMILION, "<", DOTTED),
    MethodStyle(_PURPLE, ">", SOLID),
    MethodStyle(_GREEN, "*", DASH_DOT),
    MethodStyle(_BLUE, "p", DOTTED),
)


def styles(methods: tuple[str, ...]) -> dict[str, MethodStyle]:
    """A style for each; those not in KNOWN take the spare ones in their order, again from the first when these run out."""
    unknown = [name for name in methods if name not in KNOWN]
    return {name: KNOWN[name] if name in KNOWN else SPARE[unknown.index(name) % len(SPARE)] for name in methods}
