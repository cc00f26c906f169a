"""What the figures of a report are drawn on: one palette, one page width, SVG that takes on the colours of its page."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from html import escape
from textwrap import wrap
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerTuple
from matplotlib.patches import Patch, PathPatch
from matplotlib.path import Path

INK, PAPER = "#010203", "#fdfcfb"  # stand for the page's text and background colours until `to_svg` puts those in
WIDTH_PT = 562.0  # the text width of an A4 page with small margins: sizes in points are then true in print
SMALL_PT = 6.5

# Okabe and Ito's colours, told apart by most colour-blind readers; one colour means one thing in every figure.
ACTIVITY = {
    "forward": "#e69f00",
    "backward": "#009e73",
    "input_gradient": "#56b4e9",
    "weight_gradient": "#0072b2",
    "dispatch": "#cc79a7",
    "combine": "#93557c",
    "send": "#d55e00",
    "sync": "#a0693a",
    "optimizer": "#8a8f98",
    "tensor": "#8c6bb1",
    "context": "#b3a0cf",
    "expert_tensor": "#5e3c85",
    "host": "#c9ccd1",
}
# What lasts (violet), what comes and goes with micro-batches (sand), what is merely there (grey).
MEMORY = {
    "weights": "#6457a6",
    "gradients": "#8e84cc",
    "optimizer": "#bdb6e6",
    "activations": "#c2a85a",
    "replay": "#ddcd9b",
    "gathered": "#7d9bb0",
    "workspace": "#6b7078",
    "communication": "#8b9098",
    "framework": "#abb0b7",
    "fragmentation": "#cacdd2",
}
STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 7.0,
    "text.parse_math": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.linewidth": 0.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.size": 0.0,
    "ytick.major.size": 0.0,
    "legend.frameon": False,
    "legend.handlelength": 1.0,
    "legend.handleheight": 0.8,
    "legend.handletextpad": 0.4,
    "legend.columnspacing": 1.2,
    "legend.borderaxespad": 0.0,
    "legend.borderpad": 0.0,
}
Box = tuple[float, float, float, float]


@contextmanager
def drawing(name: str) -> Iterator[None]:
    """Style of all figures while one is drawn; its name keeps identifiers of figures on one page apart."""
    style: Any = STYLE | {"svg.hashsalt": f"ffsim {name}"}
    with rc_context(style):
        yield


def sheet(
    title: str, body: float, *, left: float, right: float = 4.0, legend: float = 0.0, bottom: float = 24.0
) -> tuple[Figure, Axes]:
    """An empty figure with its title and one set of axes.

    Args:
        title: the finding.
        body: height of the axes. [pt]
        left: room to their left, and likewise. [pt]
        right: to their right.
        legend: between title and axes.
        bottom: below them.
    """
    lines = wrap(title, 98)
    height = body + bottom + legend + 11.5 * len(lines) + 6.0
    figure = Figure(figsize=(WIDTH_PT / 72, height / 72))
    figure.patch.set_visible(False)
    figure.text(0.0, 1.0, "\n".join(lines), va="top", fontsize=9.0, fontweight="bold")
    axes = figure.add_axes((left / WIDTH_PT, bottom / height, 1 - (left + right) / WIDTH_PT, body / height))
    axes.patch.set_visible(False)
    axes.set_axisbelow(True)
    return figure, axes


def cells(axes: Axes, boxes: Iterable[Box], color: str, *, outline: float = 0.3, alpha: float = 1.0) -> None:
    """Draw rectangles (left, right, top, bottom) of one colour as a single shape."""
    vertices: list[tuple[float, float]] = []
    for x0, x1, y0, y1 in boxes:
        vertices += ((x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0))
    if not vertices:
        return
    codes = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY] * (len(vertices) // 5)
    patch = PathPatch(Path(vertices, codes), facecolor=color, edgecolor=PAPER, linewidth=outline, alpha=alpha)
    patch.set_clip_on(False)
    axes.add_artist(patch)  # not add_patch, which walks over every corner to find the limits that are set anyway


def legend(axes: Axes, names: dict[str, str | tuple[str, ...]], *, columns: int, **where: Any) -> None:
    """Colours (or several, side by side) and what they mean: above the axes from the left edge on, or where told."""
    groups = [(color,) if isinstance(color, str) else color for color in names.values()]
    handles = [tuple(Patch(facecolor=color, edgecolor=PAPER, linewidth=0.3) for color in group) for group in groups]
    box = {"loc": "lower left", "bbox_to_anchor": (0.0, 1.02)} | where
    sides = {tuple: HandlerTuple(ndivide=None, pad=0.0)}
    axes.legend(handles, list(names), handler_map=sides, ncols=columns, fontsize=7.0, **box)


def grid(axes: Axes, axis: str) -> None:
    """Faint lines across the axis that carries the scale; no other lines."""
    axes.grid(axis="x" if axis == "x" else "y", color=INK, alpha=0.15, linewidth=0.4)
    axes.spines["left" if axis == "x" else "bottom"].set_visible(False)
    axes.spines["bottom" if axis == "x" else "left"].set_alpha(0.4)


def text_on(color: str) -> str:
    """Black or white, whichever reads better on a colour."""
    red, green, blue = (int(color[at : at + 2], 16) for at in (1, 3, 5))
    return "#000000" if 0.299 * red + 0.587 * green + 0.114 * blue > 130 else "#ffffff"


def fits(text: str, room_pt: float, size_pt: float = SMALL_PT) -> bool:
    """Whether a line of text is surely no longer than the room there is."""
    return len(text) * size_pt * 0.58 < room_pt


_RECTANGLE = re.compile(r"M (\S+) (\S+) \nL (\S+) \2 \nL \3 (\S+) \nL \1 \4 \nz\n?")
_GEOMETRY = re.compile(r' (?:d|x|y|points|transform)="[^"]*"')
_DECIMALS = re.compile(r"-?\d+\.\d{3,}")


def to_svg(figure: Figure, title: str) -> str:
    """The figure as an ``<svg>`` element: text as text, colours of the page, nothing that changes from day to day."""
    buffer = io.StringIO()
    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    text = buffer.getvalue()
    text = text[text.index(">", text.index("<svg")) + 1 :]
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, count=1, flags=re.DOTALL)
    text = _RECTANGLE.sub(r"M\1 \2H\3V\4H\1z", text)
    text = _GEOMETRY.sub(lambda part: _DECIMALS.sub(lambda number: f"{float(number[0]):.2f}", part[0]), text)
    used = set(re.findall(r"#([\w.]+)", text))
    text = re.sub(r' id="([^"]+)"', lambda part: part[0] if part[1] in used else "", text)
    text = re.sub(r"\n\s*", "\n", text).replace(INK, "currentColor").replace(PAPER, "var(--paper, #fff)")
    width, height = figure.get_size_inches() * 72
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" role="img" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="sans-serif">\n<title>{escape(title)}</title>{text}'
    )
