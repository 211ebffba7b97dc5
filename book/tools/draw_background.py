"""Draw the figures of background.md: book/assets/plane_wave.svg and crowding.svg.

python book/tools/draw_background.py [FOLDER]
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

INK, GREY, BLUE, ORANGE, PALE = "#24303a", "#566670", "#12677a", "#c2600f", "#dfe8eb"
FONT = "system-ui, 'Segoe UI', Roboto, 'Liberation Sans', sans-serif"


def text(
    x: float, y: float, words: str, *, size: int = 15, anchor: str = "middle", fill: str = INK
) -> str:
    style = f'fill="{fill}" font-size="{size}" text-anchor="{anchor}"'
    return f'<text x="{x:g}" y="{y:g}" {style}>{words}</text>'


def line(
    points: Sequence[tuple[float, float]], colour: str, *, width: float = 2, more: str = ""
) -> str:
    where = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    style = f'fill="none" stroke="{colour}" stroke-width="{width:g}"'
    return f'<polyline points="{where}" {style} {more}/>'


def curve(
    f: Callable[[float], float],
    start: float,
    stop: float,
    place: Callable,
    colour: str,
    **how: object,
) -> str:
    xs = [start + (stop - start) * k / 120 for k in range(121)]
    return line([place(x, f(x)) for x in xs], colour, **how)


def picture(width: int, height: int, title: str, parts: Sequence[str]) -> str:
    size = f'viewBox="0 0 {width} {height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="{FONT}" role="img">'
    arrow = (
        '<defs><marker id="a" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" '
        'markerHeight="7" orient="auto">'
        f'<path d="M0 0 L10 5 L0 10z" fill="{ORANGE}"/></marker></defs>'
    )
    ground = f'<rect width="{width}" height="{height}" fill="#fff"/>'
    return "\n".join([head, f"<title>{title}</title>", arrow, ground, *parts, "</svg>", ""])


def plane_wave() -> str:
    """Probe on top, a tilted front on its way, a bubble, the echo's way to one element."""
    left, top, pitch, n = 90, 62, 24, 28
    parts = [text(left - 12, top + 4, "probe", anchor="end")]
    for k in range(n):
        fill = ORANGE if k == 8 else BLUE
        parts.append(
            f'<rect x="{left + k * pitch}" y="{top - 10}" width="{pitch - 6}" height="14" '
            f'fill="{fill}"/>'
        )
    element = (left + 8 * pitch + (pitch - 6) / 2, top + 4)
    tilt = math.radians(10)
    ux, uz = math.sin(tilt), math.cos(tilt)
    bubble = (470.0, 285.0)
    parts.append(text(element[0], top - 18, "element i", fill=ORANGE))
    for back, opacity in ((150, 0.35), (110, 0.6), (70, 1.0)):  # fronts, the nearest last
        middle = (bubble[0] - back * ux, bubble[1] - back * uz)
        ends = [(middle[0] + s * uz * 250, middle[1] - s * ux * 250) for s in (-1, 1)]
        parts.append(line(ends, BLUE, width=2.5, more=f'stroke-opacity="{opacity}"'))
    start = (bubble[0] - 70 * ux, bubble[1] - 70 * uz)
    near = (bubble[0] - 12 * ux, bubble[1] - 12 * uz)
    parts.append(line([start, near], BLUE, width=1.6, more='stroke-dasharray="5 4"'))
    dx, dz = element[0] - bubble[0], element[1] - bubble[1]
    length = math.hypot(dx, dz)
    leave = (bubble[0] + 12 * dx / length, bubble[1] + 12 * dz / length)
    parts.append(
        line([leave, (element[0] + 1, element[1] + 3)], ORANGE, more='marker-end="url(#a)"')
    )
    parts.append(f'<circle cx="{bubble[0]:g}" cy="{bubble[1]:g}" r="7" fill="{ORANGE}"/>')
    parts.append(text(bubble[0] + 16, bubble[1] + 6, "bubble at (z, x)", anchor="start"))
    parts.append(text(722, 152, "front, tilted by θ", anchor="start", fill=BLUE))
    parts.append(text(330, 228, "echo", anchor="end", fill=ORANGE))
    parts.append(line([(left - 40, top + 30), (left - 40, 300)], GREY, width=1.4))
    parts.append(text(left - 52, 296, "z", fill=GREY))
    return picture(860, 320, "A tilted plane wave and the echo of a bubble", parts)


def crowding() -> str:
    """Two spots at three distances; lone bubbles against all bubbles."""

    def spot(x: float) -> float:
        return math.exp(-4 * math.log(2) * x * x)  # full width at half maximum: 1

    parts = []
    for row, distance in enumerate((2.0, 1.2, 0.8)):
        base = 96 + 92 * row

        def place(x: float, y: float, base: float = base) -> tuple[float, float]:
            return 230 + 80 * x, base - 44 * y

        parts.append(line([place(-2.4, 0), place(2.4, 0)], PALE, width=1.4))
        for side in (-1, 1):
            middle = side * distance / 2
            parts.append(curve(lambda x, m=middle: spot(x - m), -2.4, 2.4, place, BLUE, width=1.6))
            x, y = place(middle, 0)
            parts.append(line([(x, y + 4), (x, y + 11)], BLUE))
        parts.append(
            curve(
                lambda x, d=distance: spot(x - d / 2) + spot(x + d / 2),
                -2.4,
                2.4,
                place,
                ORANGE,
                width=2.4,
            )
        )
        parts.append(text(24, base - 24, f"{distance:g} widths", anchor="start", size=14))
    parts.append(text(230, 322, "two spots (blue) and their sum", size=14))

    def place2(x: float, y: float) -> tuple[float, float]:
        return 500 + 105 * x, 280 - 440 * y

    parts.append(line([place2(0, 0.56), place2(0, 0), place2(3.1, 0)], INK, width=1.4))
    parts.append(line([place2(0, 0), place2(0.55, 0.55)], GREY, more='stroke-dasharray="6 4"'))
    parts.append(curve(lambda x: x * math.exp(-x), 0, 3.1, place2, ORANGE, width=2.6))
    parts.append(line([place2(1, 0), place2(1, math.exp(-1))], PALE, width=1.4))
    for x in (1, 2, 3):
        parts.append(line([place2(x, 0), place2(x, -0.012)], INK, width=1.4))
        parts.append(text(place2(x, 0)[0], 298, str(x), size=14))
    parts.append(text(place2(1.55, 0)[0], 322, "all bubbles, n π d²", size=14))
    for at, words, colour in (
        (1.75, "lone bubbles", ORANGE),
        (0.6, "if all were told apart", GREY),
    ):
        x, y = place2(at, 0.335 if colour == ORANGE else 0.53)
        parts.append(text(x, y, words, anchor="start", size=14, fill=colour))
    return picture(860, 340, "Overlapping spots, and what a crowded frame yields", parts)


def main(folder: Path) -> int:
    for name, drawn in (("plane_wave", plane_wave()), ("crowding", crowding())):
        (folder / f"{name}.svg").write_text(drawn, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(
        main(Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).resolve().parents[1] / "assets")
    )
