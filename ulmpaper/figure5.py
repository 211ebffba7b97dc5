"""Fig. 5: power Doppler and the density maps of several methods, each with what tells of gridding."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
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
    shape = np.array(power.shape)
    height = 4.0 * shape[0] / shape[1] + 1.7
    figure = plt.figure(figsize=(12.5, height * n_rows), layout="constrained")
    for number, (cell, name) in enumerate(zip(figure.subfigures(n_rows, _COLUMNS).flat, names, strict=False)):
        above, below = cell.subplots(2, 1, height_ratios=(4, 1))
        title = f"({chr(ord('a') + number)}) {name}"
        if name not in maps:
            plot_map(power, "power_doppler", px_mm=px_mm, ax=above, title=title)
        else:
            plot_map(maps[name], "density", px_mm=px_mm, upsample=upsample, ax=above, title=title)
            if top:
                above.images[0].set_clim(0, top)
            if box is not None:
                (z, x), (n_z, n_x) = zip(*((s.start, s.stop - s.start) for s in box), strict=True)
                above.add_patch(Rectangle((x, z), n_x, n_z, fill=False, edgecolor="#56b4e9", lw=1.2))
        if name not in spreads:
            below.set_axis_off()
            continue
        for axis, (colour, words) in _AXES.items():
            below.step(spreads[name]["offset"], spreads[name][axis], where="mid", color=colour, label=words)
        below.axhline(1, color="black", lw=0.6)
        below.set(xlim=(-0.5, 0.5), ylim=(0, 2.5), yticks=(0, 1, 2), xlabel="place in the pixel [px]")
        below.set_title(f"gridding index {gridding_db.get(name, np.nan):.1f} dB", fontsize="medium")
        if number == 1:
            below.legend(fontsize="small", ncols=2, loc="upper center")
    return figure
