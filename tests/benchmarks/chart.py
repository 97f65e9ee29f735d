"""A line chart as SVG, both axes logarithmic, each line named at its end."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor, log2, log10
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Sequence

WIDTH, HEIGHT = 760, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 76, 200, 56, 56


@dataclass(frozen=True)
class Line:
    """One line: its name, its colour, its points (x, y), all positive."""

    name: str
    colour: str
    points: Sequence[tuple[float, float]]
    dashed: bool = False


def line_chart(title: str, x_name: str, y_name: str, lines: Sequence[Line]) -> str:
    """Return the chart. The x axis is marked at the points of the lines, the y axis at powers of ten."""
    xs = sorted({x for line in lines for x, _ in line.points})
    ys = [y for line in lines for _, y in line.points]
    low, high = floor(log10(min(ys))), ceil(log10(max(ys)))

    def across(x: float) -> float:
        return _LEFT + (log2(x) - log2(xs[0])) / (log2(xs[-1]) - log2(xs[0])) * (WIDTH - _LEFT - _RIGHT)

    def down(y: float) -> float:
        return HEIGHT - _BOTTOM - (log10(y) - low) / (high - low) * (HEIGHT - _TOP - _BOTTOM)

    right, bottom = WIDTH - _RIGHT, HEIGHT - _BOTTOM
    parts = [_text(_LEFT, 28, title, size=16, weight="bold")]
    for exponent in range(low, high + 1):
        y = down(10.0**exponent)
        parts.append(f'<path d="M{_LEFT} {y:.1f}H{right}" stroke="#d8dee4"/>')
        parts.append(_text(_LEFT - 8, y + 4, f"{10.0**exponent:,g}", anchor="end"))
    for x in xs:
        parts.append(f'<path d="M{across(x):.1f} {bottom}v5" stroke="#57606a"/>')
        parts.append(_text(across(x), bottom + 20, f"{x:,.0f}", anchor="middle"))
    parts.append(_text((_LEFT + right) / 2, HEIGHT - 12, x_name, anchor="middle"))
    parts.append(_text(_LEFT - 8, _TOP - 10, y_name, anchor="start"))
    for line in lines:
        way = " ".join(f"{across(x):.1f},{down(y):.1f}" for x, y in line.points)
        dashes = ' stroke-dasharray="5 4"' if line.dashed else ""
        parts.append(f'<polyline points="{way}" fill="none" stroke="{line.colour}" stroke-width="2.5"{dashes}/>')
        if not line.dashed:
            parts += [
                f'<circle cx="{across(x):.1f}" cy="{down(y):.1f}" r="3.5" fill="{line.colour}"/>'
                for x, y in line.points
            ]
        x, y = line.points[-1]
        parts.append(_text(across(x) + 10, down(y) + 4, line.name, colour=line.colour))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'role="img" font-family="system-ui, sans-serif">\n'
        f"<title>{escape(title)}</title>\n"
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _text(
    x: float,
    y: float,
    text: str,
    *,
    size: int = 12,
    anchor: str = "start",
    colour: str = "#24292f",
    weight: str = "normal",
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{colour}" '
        f'font-weight="{weight}">{escape(text)}</text>'
    )
