"""Figures 2 to 5 of the paper.

All panels of a figure have the same size: colour bars lie under their panel. Displacements are
drawn in blue and red, which differ for any colour vision and meet in white; what is not vessel is
dark.

The paper's Figs. 3 and 4: density maps of all methods beside the true one, on one scale. Nothing is
scored here.

Fig. 5: power Doppler and the density maps of several methods, each with what tells of gridding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from scipy import ndimage

from ulmpaper.core.filters import to_db
from ulmpaper.core.records import check_positive
from ulmpaper.plots import (
    clipped,
    density_norm,
    plot_grey,
    plot_map,
    plot_steps,
    scale_bar,
    step_limit,
    thicken,
    whole_ticks,
)

_FLOOR_DB = -30.0
_PANEL_IN = 2.7
_TITLE_IN = 0.2
_BAR_IN = 0.5


def plot_figure2(
    picture: NDArray,
    mask: NDArray,
    maps: NDArray,
    frame: NDArray | None = None,
    psf: NDArray | None = None,
    *,
    px_mm: float,
    frame_rate_hz: float,
    psf_px: float = 10.0,
    what: str = "Cropped picture",
) -> Figure:
    """Draw panels (a) to (d) of Fig. 2, or all six.

    Parameters
    ----------
    picture : ndarray (Z, X)
        Grey picture of vessels.
    mask : ndarray (Z, X) bool
        Inside of the vessels.
    maps : ndarray (2, Z, X)
        Steps along z and x [px/frame].
    frame : ndarray (Z, X), optional
        Amplitude of a B-mode frame, drawn in dB. It comes with `psf` or not at all.
    psf : ndarray (S, S), optional
        Point spread function; of a complex one the modulus is drawn.
    px_mm, frame_rate_hz : float
        Pixel pitch [mm] and frames per second [Hz].
    psf_px : float
        Side of the picture of the PSF [px].
    what : str
        What the picture is, as title of panel (a).

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        One of `frame` and `psf` without the other; a scale that is not above 0.
    """
    check_positive(px_mm=px_mm, frame_rate_hz=frame_rate_hz, psf_px=psf_px)
    if (frame is None) != (psf is None):
        raise ValueError("panels (e) and (f) come together: give both frame and psf, or neither")
    columns, rows_with_bars = (2, 1) if frame is None else (3, 2)
    panel_z_in = _PANEL_IN * picture.shape[0] / picture.shape[1]
    size = (columns * _PANEL_IN, 2 * (panel_z_in + _TITLE_IN) + rows_with_bars * _BAR_IN)
    figure = Figure(figsize=size, layout="constrained")
    a, b, c, d, *rest = figure.subplots(2, columns).ravel()
    plot_grey(picture, ax=a, px_mm=px_mm, title=f"(a) {what}")
    plot_grey(mask, ax=b, px_mm=px_mm, title="(b) Segmentation result")
    if len(maps) != 2:
        raise ValueError(f"maps are two, of the steps along z and x, not {len(maps)}")
    limit = step_limit(maps)
    for ax, steps, title in (
        (c, maps[0], "(c) Vertical displacement map"),
        (d, maps[1], "(d) Horizontal displacement map"),
    ):
        plot_steps(
            steps,
            mask,
            ax=ax,
            px_mm=px_mm,
            frame_rate_hz=frame_rate_hz,
            limit_px=limit,
            title=title,
        )
    if frame is not None and psf is not None:
        e, f = rest
        frame_db = to_db(frame, floor_db=_FLOOR_DB)
        plot_grey(frame_db, ax=e, px_mm=px_mm, title="(e) Example B-mode frame", unit="dB")
        pitch_mm = px_mm * psf_px / len(psf)
        plot_grey(np.abs(psf), ax=f, px_mm=pitch_mm, title="(f) An extracted PSF", unit="of peak")
    return figure


_Box = tuple[int, int, int]  # first row, first column, side [map px]
_FRAMES = ("#56b4e9", "#e69f00")
_MAP_PANEL_IN = 3.6
_MAP_BAR_IN = 0.6
# Share of the true map's pixels with tracks that lie below the brightest colour.
_DENSITY_CLIP = 0.995


def plot_figure3(
    maps: Mapping[str, NDArray],
    *,
    px_mm: float,
    upsample: int = 10,
    boxes: Sequence[_Box] | None = None,
    zoom_px: float = 16.0,
    thick: int = 3,
    columns: int = 3,
) -> Figure:
    """Draw Fig. 3: the true map and those of the methods, each over two enlarged parts.

    Parameters
    ----------
    maps : mapping of str to ndarray (Z, X)
        Density maps [tracks per map pixel] of one size by title, the true one first. It sets the
        colours of all.
    px_mm : float
        Pixel pitch of the frames [mm].
    upsample : int
        Map pixels per pixel of the frames.
    boxes : sequence of (int, int, int), optional
        First row, first column and side of the two enlarged parts [map px]; by default
        `_crowded_boxes` of the truth.
    zoom_px : float
        Side of the parts chosen by default [px].
    thick : int
        Width of a line in the whole maps [map px], where one of a single pixel would vanish; see
        `plots.thicken`. The enlarged parts show pixels as they are.
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
        raise ValueError(
            f"the maps of a figure must be of one size, not {len(shapes)}: {sorted(shapes)}"
        )
    truth = next(iter(maps.values()))
    boxes = _crowded_boxes(truth, round(zoom_px * upsample)) if boxes is None else boxes
    rows = -(-len(maps) // columns)
    share = truth.shape[0] / truth.shape[1]
    height = rows * _MAP_PANEL_IN * (share + 0.58)
    figure = Figure(figsize=(columns * _MAP_PANEL_IN, height + _MAP_BAR_IN), layout="constrained")
    top, bottom = np.ravel(np.asarray(figure.subfigures(2, 1, height_ratios=[height, _MAP_BAR_IN])))
    norm = density_norm(truth, share=_DENSITY_CLIP, least=2)
    parts = np.asarray(top.subfigures(rows, columns, wspace=0.02, hspace=0.02, squeeze=False))
    for part, (title, values) in zip(parts.ravel(), maps.items(), strict=False):
        axes = part.subplot_mosaic([["whole", "whole"], ["0", "1"]], height_ratios=[share, 0.5])
        _show(axes["whole"], thicken(values, thick), norm)
        axes["whole"].set_title(title, fontsize="medium")
        for number, ((z, x, side), colour) in enumerate(zip(boxes, _FRAMES, strict=False)):
            frame = Rectangle(
                (x - 0.5, z - 0.5), side, side, fill=False, edgecolor=colour, linewidth=1.2
            )
            axes["whole"].add_patch(frame)
            _show(axes[str(number)], values[z : z + side, x : x + side], norm, colour)
        if values is truth:  # the others are of its size
            for ax, width in zip(
                axes.values(), (truth.shape[1], *(side for *_, side in boxes)), strict=False
            ):
                scale_bar(ax, width / upsample, px_mm)
    place = bottom.add_axes((0.3, 0.7, 0.4, 0.2))
    colours = ScalarMappable(norm, colormaps["hot"])
    colours.set_array([np.max(values) for values in maps.values()])
    figure.colorbar(
        colours,
        cax=place,
        orientation="horizontal",
        ticks=whole_ticks(norm),
        extend=clipped(colours),
        label="tracks per pixel of the map",
    )
    return figure


def plot_figure4(
    maps: Mapping[str, NDArray], *, px_mm: float, upsample: int = 10, zoom_px: float = 32.0
) -> Figure:
    """Draw Fig. 4, like Fig. 3 but with larger parts: slow bubbles in thin vessels."""
    return plot_figure3(maps, px_mm=px_mm, upsample=upsample, zoom_px=zoom_px, thick=5)


def _crowded_boxes(truth: NDArray, side: int, n: int = 2) -> list[_Box]:
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
    >>> _crowded_boxes(truth, 10)
    [(0, 0, 10), (25, 35, 10)]
    """
    side = min(side, min(truth.shape) // 2)
    lines = np.cumsum(np.cumsum(np.pad((truth > 0).astype(float), ((1, 0), (1, 0))), 0), 1)
    count = (
        lines[side:, side:] - lines[:-side, side:] - lines[side:, :-side] + lines[:-side, :-side]
    )
    # Among squares that hold the same, the one in whose middle the lines lie.
    count = ndimage.uniform_filter(count, max(1, side // 2), mode="nearest") * 1e-3 + count
    boxes: list[_Box] = []
    for _ in range(n):
        z, x = (int(i) for i in np.unravel_index(np.argmax(count), count.shape))
        boxes.append((z, x, side))
        count[max(0, z - side) : z + side + 1, max(0, x - side) : x + side + 1] = -1
    return boxes


def _show(ax: Axes, values: NDArray, norm: Normalize, colour: str | None = None) -> None:
    # Pixels of a line are averaged by their colours, not by their values, so that thin lines do not
    # fade.
    ax.imshow(
        values,
        cmap=colormaps["hot"],
        norm=norm,
        interpolation="antialiased",
        interpolation_stage="rgba",
    )
    ax.set(xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set(visible=colour is not None, edgecolor=colour or "black", linewidth=1.5)


_COLUMNS = 3
_AXES = {"z": ("#0072b2", "in depth"), "x": ("#d55e00", "across")}


def plot_figure5(
    power: NDArray,
    maps: Mapping[str, NDArray],
    spreads: Mapping[str, pd.DataFrame],
    gridding_db: Mapping[str, float],
    *,
    px_mm: float | None,
    upsample: int = 10,
    top: float | None = None,
    box: tuple[slice, slice] | None = None,
) -> Figure:
    """Lay power Doppler and density maps side by side, with the sub-pixel histograms below.

    Parameters
    ----------
    power : ndarray (Z, X)
        Power Doppler, at the resolution of the frames.
    maps : mapping of str to ndarray (uZ, uX)
        Density maps by method [tracks per pixel].
    spreads : mapping of str to DataFrame
        As from `bubbles.subpixel_histogram`; a method may be missing.
    gridding_db : mapping of str to float
        Gridding index by method [dB]; a method may be missing.
    px_mm, upsample
        As in `plots.plot_map`.
    top : float, optional
        Density of the brightest colour, the same for all maps; by default each map has its own.
    box : (slice, slice), optional
        Part of the maps to put a frame round [map pixels].

    Returns
    -------
    Figure
        Six panels are a figure of two rows.

    Notes
    -----
    Paper, Fig. 5, which has power Doppler and three methods, without histograms.
    """
    names = ["power Doppler", *maps]
    n_rows = -(-len(names) // _COLUMNS)
    height = 12.5 / _COLUMNS * power.shape[0] / power.shape[1] + 1.9
    figure = plt.figure(figsize=(12.5, height * n_rows), layout="constrained")
    cells = np.asarray(figure.subfigures(n_rows, _COLUMNS)).flat
    drawn = []
    rooms = []
    for letter, cell, name in zip("abcdefghijkl", cells, names, strict=False):
        above, below = cell.subplots(2, 1, height_ratios=(height - 1.9, 1))
        title = f"({letter}) {name}"
        kind = "density" if name in maps else "power_doppler"
        plot_map(maps.get(name, power), kind, px_mm=px_mm, upsample=upsample, ax=above, title=title)
        if name in maps:
            _frame(above, top, box)
        if name in spreads:
            _spread(below, spreads[name], gridding_db.get(name, np.nan), legend=letter == "b")
        else:
            below.set_axis_off()
        drawn.append(above)
        rooms.append(below)
    # All bars lie below power Doppler, where no histogram is; else they would take their width from
    # the maps.
    shared = drawn[:2] if top else drawn[:1]
    for place, ax in zip((0.78, 0.2), shared, strict=False):
        image = ax.images[0]
        label = image.colorbar.ax.get_ylabel()
        image.colorbar.remove()
        bar = rooms[0].inset_axes((0.05, place, 0.9, 0.14))
        ticks = None if ax is drawn[0] else whole_ticks(image.norm)
        beyond = [clipped(other.images[0]) for other in (drawn[1:] if ax is not drawn[0] else [ax])]
        extend = next((ends for ends in beyond if ends != "neither"), "neither")
        figure.colorbar(
            image, cax=bar, orientation="horizontal", label=label, ticks=ticks, extend=extend
        )
    for ax in drawn[2:] if top else ():
        ax.images[0].colorbar.remove()
    return figure


def _frame(ax: Axes, top: float | None, box: tuple[slice, slice] | None) -> None:
    """Give a map its brightest colour and the frame round a part of it."""
    if top:
        ax.images[0].set_clim(0, top)
    if box is not None:
        (z, x), (n_z, n_x) = zip(*((s.start, s.stop - s.start) for s in box), strict=True)
        ax.add_patch(Rectangle((x, z), n_x, n_z, fill=False, edgecolor="#56b4e9", lw=1.2))


def _spread(ax: Axes, spread: pd.DataFrame, gridding_db: float, *, legend: bool) -> None:
    """Draw the two histograms of places in the pixel."""
    for axis, (colour, words) in _AXES.items():
        ax.step(spread["offset"], spread[axis], where="mid", color=colour, label=words)
    ax.axhline(1, color="black", lw=0.6)
    ax.set(xlim=(-0.5, 0.5), ylim=(0, 2.5), yticks=(0, 1, 2), xlabel="place in the pixel [px]")
    ax.set_title(f"gridding index {gridding_db:.1f} dB", fontsize="medium")
    if legend:
        ax.legend(fontsize="small", ncols=2, loc="upper center")
