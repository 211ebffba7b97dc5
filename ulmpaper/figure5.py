"""Fig. 5: power Doppler and the density maps of several methods, each with what tells of gridding."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from ulmpaper.figures import plot_map

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
    """Lay power Doppler and density maps side by side, below each map how its bubbles lie in their pixels.

    Parameters
    ----------
    power : ndarray (Z, X)
        Power Doppler, at the resolution of the frames.
    maps : mapping of str to ndarray (uZ, uX)
        Density maps by method [tracks per pixel].
    spreads : mapping of str to DataFrame
        As from `metrics.subpixel_histogram`; a method may be missing.
    gridding_db : mapping of str to float
        Gridding index by method [dB]; a method may be missing.
    px_mm, upsample
        As in `figures.plot_map`.
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
    drawn, rooms = [], []
    for letter, cell, name in zip("abcdefghijkl", cells, names, strict=False):
        above, below = cell.subplots(2, 1, height_ratios=(height - 1.9, 1))
        title, kind = f"({letter}) {name}", "density" if name in maps else "power_doppler"
        plot_map(maps.get(name, power), kind, px_mm=px_mm, upsample=upsample, ax=above, title=title)
        if name in maps:
            _frame(above, top, box)
        if name in spreads:
            _spread(below, spreads[name], gridding_db.get(name, np.nan), legend=letter == "b")
        else:
            below.set_axis_off()
        drawn.append(above)
        rooms.append(below)
    # All bars lie below power Doppler, where no histogram is; else they would take their width from the maps.
    shared = drawn[:2] if top else drawn[:1]
    for place, ax in zip((0.78, 0.2), shared, strict=False):
        image = ax.images[0]
        label = image.colorbar.ax.get_ylabel()
        image.colorbar.remove()
        bar = rooms[0].inset_axes((0.05, place, 0.9, 0.14))
        ticks = None if ax is drawn[0] else [share * (top or 1) for share in (0, 0.1, 0.25, 0.5, 1)]
        figure.colorbar(image, cax=bar, orientation="horizontal", label=label, ticks=ticks)
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
