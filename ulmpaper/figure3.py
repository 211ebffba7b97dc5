"""The paper's Figs. 3 and 4: density maps of all methods beside the true one, on one scale. Nothing is scored here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from scipy import ndimage

from ulmpaper.figures import scale_bar
from ulmpaper.records import check_positive

Box = tuple[int, int, int]  # first row, first column, side [map px]
_FRAMES = ("#56b4e9", "#e69f00")
_PANEL_IN, _BAR_IN = 3.6, 0.6
# Share of the true map's pixels with tracks that lie below the brightest colour.
_CLIP = 0.995


def plot_figure3(
    maps: Mapping[str, NDArray],
    *,
    px_mm: float,
    upsample: int = 10,
    boxes: Sequence[Box] | None = None,
    zoom_px: float = 16.0,
    thick: int = 3,
    columns: int = 3,
) -> Figure:
    """Draw the panels of Fig. 3: the true map and those of the methods, each over two enlarged parts.

    Parameters
    ----------
    maps : mapping of str to ndarray (Z, X)
        Density maps [tracks per map pixel] of one size by title, the true one first. It sets the colours of all.
    px_mm : float
        Pixel pitch of the frames [mm].
    upsample : int
        Map pixels per pixel of the frames.
    boxes : sequence of (int, int, int), optional
        First row, first column and side of the two enlarged parts [map px]; by default `crowded_boxes` of the truth.
    zoom_px : float
        Side of the parts chosen by default [px].
    thick : int
        Side of the square that each map pixel is shown as in the whole maps, where a line of one pixel would vanish.
        The enlarged parts show pixels as they are.
    columns : int
        Panels side by side.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        No map, or maps of several sizes.
    """
    check_positive(px_mm=px_mm, upsample=upsample, zoom_px=zoom_px, thick=thick, columns=columns)
    shapes = {np.shape(values) for values in maps.values()}
    if len(shapes) != 1:
        raise ValueError(f"the maps of a figure must be of one size, not {len(shapes)}: {sorted(shapes)}")
    truth = next(iter(maps.values()))
    boxes = crowded_boxes(truth, round(zoom_px * upsample)) if boxes is None else boxes
    rows = -(-len(maps) // columns)
    share = truth.shape[0] / truth.shape[1]
    height = rows * _PANEL_IN * (share + 0.58)
    figure = Figure(figsize=(columns * _PANEL_IN, height + _BAR_IN), layout="constrained")
    top, bottom = np.ravel(np.asarray(figure.subfigures(2, 1, height_ratios=[height, _BAR_IN])))
    norm = density_norm(truth)
    parts = np.asarray(top.subfigures(rows, columns, wspace=0.02, hspace=0.02, squeeze=False))
    for part, (title, values) in zip(parts.ravel(), maps.items(), strict=False):
        axes = part.subplot_mosaic([["whole", "whole"], ["0", "1"]], height_ratios=[share, 0.5])
        whole = ndimage.maximum_filter(values, thick) if thick > 1 else values
        _show(axes["whole"], whole, norm)
        axes["whole"].set_title(title, fontsize="medium")
        for number, ((z, x, side), colour) in enumerate(zip(boxes, _FRAMES, strict=False)):
            frame = Rectangle((x - 0.5, z - 0.5), side, side, fill=False, edgecolor=colour, linewidth=1.2)
            axes["whole"].add_patch(frame)
            _show(axes[str(number)], values[z : z + side, x : x + side], norm, colour)
        if values is truth:  # the others are of its size
            for ax, width in zip(axes.values(), (truth.shape[1], *(side for *_, side in boxes)), strict=False):
                _scale_bar(ax, width / upsample, px_mm)
    place = bottom.add_axes((0.3, 0.7, 0.4, 0.2))
    bar = figure.colorbar(ScalarMappable(norm, colormaps["hot"]), cax=place, orientation="horizontal")
    bar.locator = MaxNLocator(6, integer=True)
    bar.update_ticks()
    bar.set_label("tracks per map pixel")
    return figure


def plot_figure4(maps: Mapping[str, NDArray], *, px_mm: float, upsample: int = 10, zoom_px: float = 32.0) -> Figure:
    """Draw the panels of Fig. 4, as those of `plot_figure3`, but of slow bubbles in thin vessels: larger parts."""
    return plot_figure3(maps, px_mm=px_mm, upsample=upsample, zoom_px=zoom_px, thick=5)


def density_norm(truth: NDArray) -> PowerNorm:
    """Square root, from nothing to what nearly all pixels of the true map with tracks stay under."""
    some = truth[truth > 0]
    return PowerNorm(0.5, 0, max(2.0, float(np.quantile(some, _CLIP))) if some.size else 1.0, clip=True)


def crowded_boxes(truth: NDArray, side: int, n: int = 2) -> list[Box]:
    """Find the squares with most pixels of tracks that do not touch each other.

    Parameters
    ----------
    truth : ndarray (Z, X)
        Density map.
    side : int
        Side of the squares [map px]; no more than half the map's shorter side is taken.
    n : int
        Number of squares.

    Examples
    --------
    >>> truth = np.zeros((40, 60))
    >>> truth[5:9, 5:9] = truth[30:33, 40:43] = 1
    >>> crowded_boxes(truth, 10)
    [(0, 0, 10), (25, 35, 10)]
    """
    side = min(side, min(truth.shape) // 2)
    lines = np.cumsum(np.cumsum(np.pad((truth > 0).astype(float), ((1, 0), (1, 0))), 0), 1)
    count = lines[side:, side:] - lines[:-side, side:] - lines[side:, :-side] + lines[:-side, :-side]
    # Among squares that hold the same, the one in whose middle the lines lie.
    count = ndimage.uniform_filter(count, max(1, side // 2), mode="nearest") * 1e-3 + count
    boxes: list[Box] = []
    for _ in range(n):
        z, x = (int(i) for i in np.unravel_index(np.argmax(count), count.shape))
        boxes.append((z, x, side))
        count[max(0, z - side) : z + side + 1, max(0, x - side) : x + side + 1] = -1
    return boxes


def _show(ax: Axes, values: NDArray, norm: PowerNorm, colour: str | None = None) -> None:
    # Pixels of a line are averaged by their colours, not by their values, so that thin lines do not fade.
    ax.imshow(values, cmap=colormaps["hot"], norm=norm, interpolation="antialiased", interpolation_stage="rgba")
    ax.set(xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set(visible=colour is not None, edgecolor=colour or "black", linewidth=1.5)


def _scale_bar(ax: Axes, width_px: float, px_mm: float) -> None:
    scale_bar(ax, width_px, px_mm)
    bar, text = ax.patches[-1], ax.texts[-1]
    text.set(x=0.97, ha="right")  # in a small panel the text is wider than the bar
    for drawn in (bar, text):
        drawn.set_path_effects([withStroke(linewidth=2.5, foreground="black")])
