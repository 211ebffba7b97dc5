"""The paper's Fig. 1, the architecture of 3DML-ResNet, drawn from the layers of a network.

Every name, size and number is read off the table of layers; only the frames and the maps are
sketches. Blue-green is what works on the features, orange what passes by it: the two differ for any
colour vision, and in grey.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from math import prod
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch, PathPatch, Polygon, Rectangle
from matplotlib.path import Path
from numpy.typing import NDArray

_Layer = dict[Hashable, Any]
_Layers = dict[str, _Layer]

_COLUMNS = {"name", "kind", "kernel", "output_shape", "parameters"}
_STEPS = ("conv1", "prelu", "conv2", "sum")
_CURVES: dict[str, Callable[[NDArray], NDArray]] = {
    "PReLU": lambda x: np.where(x > 0, x, 0.2 * x),
    "Sigmoid": lambda x: np.tanh(2.5 * x),
    "Identity": lambda x: x,
    "_Beyond": lambda x: np.tanh(2.5 * x),
}
_WEIGHTS = "#12677a"
_PASSING = "#c96a0c"
_STREAM = "#c5dfe4"
_PANEL = "#edf4f6"
_INK = "#12303d"
_MUTED = "#4a5a64"
_DARK = "#14181b"
_NAME_PT = 10.5
_TEXT_PT = 9.5
_LINE = 0.165

# Lengths are inches: x from the left edge, z down from the upper one. The stream of features runs
# down at _MIDDLE.
_SIZE = (4.5, 8.6)
_MIDDLE = 0.98
_LABELS = 1.62
_BY = 0.32
_Z = {
    "frames": 0.78,
    "extract": 1.64,
    "fuse": 5.2,
    "sum": 5.62,
    "reconstruct": 6.04,
    "output": 6.46,
    "maps": 7.28,
}
_BLOCKS = (2.24, 4.82)
_PANEL_X = (1.72, 4.36)
_MAPS_X = (0.86, 2.25, 3.64)
_BAR = (0.92, 0.25)
_BALL = 0.13

# Bubbles of the sketches: place (z, x) in a picture of size 1, and step from frame to frame.
_BUBBLES = np.array(
    [
        [0.20, 0.29, 0.004, 0.028],
        [0.31, 0.79, 0.026, -0.014],
        [0.63, 0.37, -0.028, 0.004],
        [0.80, 0.71, 0.012, 0.028],
    ]
)
_SKETCH_PX = 9


def plot_figure1(layers: pd.DataFrame) -> Figure:
    """Draw the architecture of a 3DML-ResNet.

    Parameters
    ----------
    layers : DataFrame
        Its layers: ``layer_table(net, (1, 1, N, Z, X))`` of `ulmpaper.networks.model`.

    Returns
    -------
    Figure
        Narrow and high, so that it can be read on a phone.

    Raises
    ------
    ValueError
        Not the layers of a 3DML-ResNet.

    Notes
    -----
    Paper, section II-A and Fig. 1; the arrangement is ours.
    """
    table, n_blocks = _check_layers(layers)
    n, n_z, n_x = table["extract"]["output_shape"][2:]
    figure = Figure(figsize=_SIZE, facecolor="white")
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, _SIZE[0]), ylim=(_SIZE[1], 0))
    ax.axis("off")
    _draw_stream(ax, table)
    _draw_frame_stack(ax, n, n_z / n_x)
    _label(ax, _LABELS, _Z["frames"], "frames", f"{n} in a window,", f"{n_z} × {n_x} px each")
    for name in ("extract", "fuse", "reconstruct"):
        row = table[name]
        _draw_convolution(ax, _MIDDLE, _Z[name], row)
        n_out = row["output_shape"][1]
        _label(
            ax, _LABELS, _Z[name], name, f"{_channels_in(row)} → {n_out} channels, {_weights(row)}"
        )
    _draw_sum(ax, _MIDDLE, _Z["sum"])
    _label(ax, _LABELS, _Z["sum"], "sum", "with the first features")
    _draw_curve(ax, _MIDDLE, _Z["output"], table["output"])
    _label(ax, _LABELS, _Z["output"], "output", table["output"]["kind"])
    _draw_blocks(ax, n_blocks)
    _draw_panel(ax, {step: table[f"blocks.0.{step}"] for step in _STEPS}, n_blocks)
    _draw_maps(ax, n, n_z / n_x)
    reach = np.sum(
        [np.array(row["kernel"]) // 2 for row in table.values() if row["kernel"]], axis=0
    )
    total = sum(row["parameters"] for row in table.values())
    footer = (
        f"{total:,} weights in all\n"
        f"Kernels: frames × z × x. Reach: {reach[0]} frames, {reach[1]} px"
    )
    ax.text(
        _SIZE[0] / 2,
        _SIZE[1] - 0.08,
        footer,
        color=_MUTED,
        ha="center",
        va="bottom",
        fontsize=_TEXT_PT,
    )
    return figure


def _check_layers(layers: pd.DataFrame) -> tuple[_Layers, int]:
    """The rows by name, and the number of blocks."""
    known = set(layers.columns) >= _COLUMNS
    table: _Layers = {row["name"]: row for row in layers.to_dict("records")} if known else {}
    n_blocks = sum(name.endswith(".conv1") for name in table)
    blocks = [f"blocks.{k}.{step}" for k in range(n_blocks) for step in _STEPS]
    if n_blocks == 0 or list(table) != ["extract", *blocks, "fuse", "sum", "reconstruct", "output"]:
        found = (
            f"layers {', '.join(list(table)[:3])} ..."
            if known
            else f"columns {', '.join(map(str, layers.columns))}"
        )
        raise ValueError(
            "Fig. 1 shows the layers of a 3DML-ResNet, "
            f"layer_table(ML3DResNet(...), (1, 1, N, Z, X)); got {found}"
        )
    for name, row in table.items():
        if name.endswith(("prelu", "output")) and row["kind"] not in _CURVES:
            raise ValueError(
                f"Fig. 1 has no curve for the layer {name} of kind {row['kind']!r}: "
                f"{', '.join(_CURVES)}"
            )
    return table, n_blocks


def _channels_in(row: _Layer) -> int:
    """Channels that a convolution takes, from the number of its weights."""
    return (row["parameters"] // row["output_shape"][1] - 1) // prod(row["kernel"])


def _weights(row: _Layer) -> str:
    return f"{row['parameters']:,} weight" + "s" * (row["parameters"] != 1)


def _draw_stream(ax: Axes, table: _Layers) -> None:
    """The features, as wide as the logarithm of their number, and the bypass of the blocks."""
    counts = (
        _channels_in(table["extract"]),
        *(table[name]["output_shape"][1] for name in ("extract", "output")),
    )
    thin, wide, last = (0.03 + 0.045 * np.log2(count) for count in counts)
    z = [
        _Z[name]
        for name in ("frames", "extract", "extract", "reconstruct", "reconstruct", "output")
    ]
    half = np.array([thin, thin, wide, wide, last, last])
    edge = np.c_[np.r_[_MIDDLE - half, _MIDDLE + half[::-1]], np.r_[z, z[::-1]]]
    ax.add_patch(Polygon(edge, facecolor=_STREAM, edgecolor="none"))
    _draw_by(ax, _MIDDLE, _Z["extract"] + 0.25, _BY, _Z["sum"])
    style: dict[str, Any] = {"rotation": 90, "ha": "right", "va": "center", "fontsize": _TEXT_PT}
    ax.text(_BY - 0.08, sum(_BLOCKS) / 2, "first features", color=_PASSING, **style)
    for x in _MAPS_X:
        start = _Z["output"]
        end = _Z["maps"]
        bend = [(_MIDDLE, start), (_MIDDLE, start + 0.42), (x, start + 0.06), (x, end)]
        codes = [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4]
        ax.add_patch(
            PathPatch(Path(bend, codes), fill=False, edgecolor=_STREAM, linewidth=144 * thin)
        )


def _draw_by(
    ax: Axes, x: float, start: float, by: float, end: float, *, line_pt: float = 2.2
) -> None:
    """A line from a dot at (x, start) round to the left, down, and back to a sum at (x, end)."""
    turn = min(0.16, (end - start) / 2, x - by)
    tip = x - _BALL
    corners = [(x, start), (by + turn, start), (by, start), (by, start + turn)]
    corners += [(by, end - turn), (by, end), (by + turn, end), (tip - 0.06, end)]
    codes = [
        Path.MOVETO,
        Path.LINETO,
        Path.CURVE3,
        Path.CURVE3,
        Path.LINETO,
        Path.CURVE3,
        Path.CURVE3,
        Path.LINETO,
    ]
    ax.add_patch(PathPatch(Path(corners, codes), fill=False, edgecolor=_PASSING, linewidth=line_pt))
    ax.add_patch(
        Polygon([(tip, end), (tip - 0.1, end - 0.055), (tip - 0.1, end + 0.055)], color=_PASSING)
    )
    ax.add_patch(Circle((x, start), 0.04, color=_PASSING))


def _draw_convolution(ax: Axes, x: float, z: float, row: _Layer) -> None:
    width, height = _BAR
    ax.add_patch(_rounded(x - width / 2, z - height / 2, width, height, 0.06, _WEIGHTS))
    text = " × ".join(map(str, row["kernel"]))
    ax.text(x, z + 0.008, text, color="white", ha="center", va="center", fontsize=_TEXT_PT)


def _draw_sum(ax: Axes, x: float, z: float) -> None:
    ax.add_patch(Circle((x, z), _BALL, facecolor="white", edgecolor=_PASSING, linewidth=1.8))
    arm = _BALL / 2
    ax.plot(
        [x - arm, x + arm, np.nan, x, x],
        [z, z, np.nan, z - arm, z + arm],
        color=_PASSING,
        linewidth=1.8,
    )


def _draw_curve(ax: Axes, x: float, z: float, row: _Layer) -> None:
    ax.add_patch(Circle((x, z), _BALL, facecolor="white", edgecolor=_WEIGHTS, linewidth=1.8))
    along = np.linspace(-1, 1, 41)
    ax.plot(
        x + 0.6 * _BALL * along,
        z - 0.5 * _BALL * _CURVES[row["kind"]](along),
        color=_WEIGHTS,
        linewidth=1.8,
    )


def _draw_blocks(ax: Axes, n_blocks: int) -> None:
    """All blocks as bars on the stream, with what passes by each."""
    top, end = _BLOCKS
    pitch = (end - top) / n_blocks
    height = min(0.55 * pitch, _BAR[1])
    right = _MIDDLE + _BAR[0] / 2
    for z in top + pitch * (np.arange(n_blocks) + 0.5):
        ax.add_patch(
            _rounded(
                _MIDDLE - 0.14, z - height / 2, right - _MIDDLE + 0.14, height, height / 4, _WEIGHTS
            )
        )
        reach = min(0.4 * pitch, 0.25)
        x = [_MIDDLE, _MIDDLE - 0.24, _MIDDLE - 0.24, _MIDDLE]
        ax.plot(
            x,
            [z - reach, z - reach, z + reach, z + reach],
            color=_PASSING,
            linewidth=min(1.2, 6 * pitch),
        )


def _draw_panel(ax: Axes, rows: _Layers, n_blocks: int) -> None:
    """One block as large as its four layers."""
    (top, end), (left, right) = _BLOCKS, _PANEL_X
    bar = _MIDDLE + _BAR[0] / 2
    pitch = (end - top) / n_blocks
    first = top + pitch / 2 + np.array([-1, 1]) * min(0.55 * pitch, _BAR[1]) / 2
    wedge = [(bar, first[0]), (left, top + 0.1), (left, end - 0.1), (bar, first[1])]
    ax.add_patch(Polygon(wedge, facecolor=_PANEL, edgecolor="none"))
    ax.add_patch(_rounded(left, top, right - left, end - top, 0.1, _PANEL))
    size = sum(row["parameters"] for row in rows.values())
    _label(
        ax,
        left + 0.14,
        top + 0.26,
        f"{n_blocks} residual block" + "s" * (n_blocks > 1),
        f"{size:,} weights each",
    )
    x = left + 0.76
    places = dict(zip(_STEPS, np.linspace(top + 0.93, end - 0.27, len(_STEPS)), strict=True))
    start = places["conv1"] - 0.26
    ax.add_patch(
        Rectangle(
            (x - 0.07, start - 0.1), 0.14, end - start + 0.1, facecolor=_STREAM, edgecolor="none"
        )
    )
    _draw_by(ax, x, start, left + 0.16, places["sum"])
    draw = {"conv1": _draw_convolution, "conv2": _draw_convolution, "prelu": _draw_curve}
    for step, drawn in draw.items():
        drawn(ax, x, places[step], rows[step])
    _draw_sum(ax, x, places["sum"])
    remarks = {"prelu": ", its slope", "sum": ", on conv2"}
    for step, row in rows.items():
        _label(ax, x + 0.54, places[step], step, _weights(row) + remarks.get(step, ""))


def _draw_frame_stack(ax: Axes, n: int, aspect: float) -> None:
    """The window as a stack, the last frame in front; its bubbles trail where they were."""
    high, wide, left, top = _draw_stack(ax, 0.9, _Z["frames"], n, aspect, 0.84, 0.038)
    for age in range(4, -1, -1):
        z, x = (_BUBBLES[:, :2] - age * _BUBBLES[:, 2:]).T
        grey = str(1 - 0.19 * age)
        ax.scatter(
            left + x * wide, top + z * high, s=24 - 3.5 * age, color=grey, linewidths=0, zorder=2
        )


def _draw_maps(ax: Axes, n: int, aspect: float) -> None:
    """What the network gives for these bubbles: p, and where p is high the place in the pixel."""
    n_z, n_x = (max(3, round(_SKETCH_PX * share)) for share in (min(1, aspect), min(1, 1 / aspect)))
    places = _BUBBLES[:, :2] * (n_z, n_x)
    pixels = np.floor(places)
    words = (("p", "probability"), ("oz", "place in depth"), ("ox", "place sideways"))
    for k, (centre, (name, meaning)) in enumerate(zip(_MAPS_X, words, strict=True)):
        high, wide, left, top = _draw_stack(ax, centre, _Z["maps"], n, aspect, 0.76, 0.02)
        value = np.ones(len(pixels)) if k == 0 else (places - pixels)[:, k - 1]
        colours = colormaps["gray" if k == 0 else "coolwarm"](value)
        for (z, x), colour in zip(pixels, colours, strict=True):
            corner = left + x * wide / n_x, top + z * high / n_z
            ax.add_patch(
                Rectangle(corner, wide / n_x, high / n_z, facecolor=colour, edgecolor="none")
            )
        ax.text(
            centre,
            _Z["maps"] + 0.6,
            name,
            color=_INK,
            ha="center",
            va="center",
            fontsize=_NAME_PT,
            weight="bold",
        )
        ax.text(
            centre,
            _Z["maps"] + 0.6 + _LINE,
            meaning,
            color=_MUTED,
            ha="center",
            va="center",
            fontsize=_TEXT_PT,
        )


def _draw_stack(
    ax: Axes, x: float, z: float, n: int, aspect: float, size: float, shift: float
) -> tuple[float, float, float, float]:
    """Up to 10 pictures behind one another; height and width, left and upper edge of the first."""
    wide = size * min(1, 1 / aspect)
    high = wide * aspect
    behind = min(n, 10) - 1
    left = x - (wide + behind * shift) / 2
    top = z - (high - behind * shift) / 2
    for k in range(behind, -1, -1):
        corner = left + k * shift, top - k * shift
        ax.add_patch(
            Rectangle(corner, wide, high, facecolor=_DARK, edgecolor="white", linewidth=0.7)
        )
    return high, wide, left, top


def _rounded(
    x: float, z: float, width: float, height: float, radius: float, colour: str
) -> FancyBboxPatch:
    style = f"round,pad=0,rounding_size={radius}"
    return FancyBboxPatch((x, z), width, height, boxstyle=style, facecolor=colour, edgecolor="none")


def _label(ax: Axes, x: float, z: float, name: str, *lines: str) -> None:
    top = z - _LINE * len(lines) / 2
    ax.text(x, top, name, color=_INK, va="center", fontsize=_NAME_PT, weight="bold")
    for k, line in enumerate(lines, start=1):
        ax.text(x, top + k * _LINE, line, color=_MUTED, va="center", fontsize=_TEXT_PT)
