"""How a method looks in every figure: a colour, a marker and a dash, so that it is told apart in grey and by the colour-blind too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

INK = "black"
DOTTED = (0, (1, 1.2))

# Colours of Okabe and Ito's palette (https://jfly.uni-koeln.de/color/), without its yellow, which hardly shows on white paper; then a grey.
COLOURS = ("#d55e00", "#0072b2", "#56b4e9", "#009e73", "#cc79a7", "#9a8a00", "#868686", INK, "#e69f00")
MARKERS = ("o", "s", "v", "P", "X", "h", "D", "d", "^", "<", ">", "*", "p")
DASHES = ((0, ()), (0, (4, 1.5)), (0, (5, 1.2, 1, 1.2)), DOTTED)
FIRST = ("arena", "lora", "adalora", "bitfit", "affine_ln", "linear_probe", "fft", "zero_shot", "scratch")
"""Methods that look the same in every report; others follow in their order."""


@dataclass(frozen=True)
class MethodStyle:
    """Colour, matplotlib marker, dash (offset, on-off lengths)."""

    colour: str
    marker: str
    dash: tuple[int, tuple[float, ...]]

    def line(self) -> dict[str, Any]:
        """Arguments of Axes.plot."""
        return {"color": self.colour, "linestyle": self.dash}


def styles(methods: Sequence[str]) -> dict[str, MethodStyle]:
    """A style for each method."""
    known = [*FIRST, *(name for name in methods if name not in FIRST)]
    places = {name: known.index(name) for name in methods}
    return {name: MethodStyle(COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)], DASHES[i % len(DASHES)]) for name, i in places.items()}
