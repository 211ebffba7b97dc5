"""Frames, tracks and maps as figures.

Colour maps are even in brightness and readable with any colour vision: grey for frames, ``hot`` for
density (as in the field), ``viridis`` for speed, ``berlin`` (dark in the middle) for speed up and
down.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ulmpaper.core.doors import optional
from ulmpaper.core.filters import to_db
from ulmpaper.core.records import check_bubbles, check_choice
from ulmpaper.io.files import atomic_path

with optional("plot"):
    from matplotlib import colormaps
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.collections import LineCollection
    from matplotlib.colorbar import Colorbar
    from matplotlib.colors import FuncNorm, LinearSegmentedColormap, Normalize, PowerNorm
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import withStroke
    from matplotlib.ticker import MaxNLocator

# The darkest fifth of viridis would hide slow vessels on a black ground.
_BRIGHT = colormaps["viridis"](np.linspace(0.2, 1, 256))
_SPEED = LinearSegmentedColormap.from_list("speed", _BRIGHT).with_extremes(under="black")
# Map: colour map and label of the colour bar.
_MAP_KINDS = {
    "density": (colormaps["hot"], "tracks per pixel"),
    "velocity": (_SPEED, "speed [mm/s]"),
    "mean_velocity": (_SPEED, "mean speed of the tracks [mm/s]"),
    "direction": (colormaps["berlin"], "speed, down positive [mm/s]"),
    "power_doppler": (colormaps["hot"], "power [dB]"),
}
_TITLES = {
    "density": "Density",
    "velocity": "Velocity",
    "mean_velocity": "Mean velocity",
    "direction": "Axial direction",
    "power_doppler": "Power Doppler",
}
_WIDTH_IN = 7.0
_MAPS_IN_A_ROW = 2
# Okabe and Ito's colours, told apart with any colour vision, and marks told apart without colours.
_DOTS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
# Share of the non-empty pixels below the brightest colour, as in PALA's displays.
_CLIP = 0.98


def plot_map(
    values: NDArray,
    kind: str = "density",
    *,
    px_mm: float | None = None,
    upsample: int = 10,
    title: str | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Show a map with scale bar and colour bar.

    Parameters
    ----------
    values : ndarray (Z, X)
        One of the maps of `pipeline.UlmResult`.
    kind : str
        ``density``, ``velocity``, ``mean_velocity``, ``direction`` or ``power_doppler``. Density is
        shown by its square root, power Doppler in dB, speeds up to their 98 % quantile (axial
        direction: by the signed square root).
    px_mm : float or None
        Pixel pitch of the frames [mm]. None (unknown): the scale bar is in pixels of the frames,
        and speeds are taken to be in pixels per frame.
    upsample : int
        Map pixels per pixel of the frames; power Doppler always has 1.
    title : str, optional
        Title instead of the name of the map.
    ax : Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    Figure
    """
    check_choice(kind, _MAP_KINDS, "map")
    colours, label = _MAP_KINDS[kind]
    figure, ax = _figure(ax, values.shape)
    shown = np.asarray(values, dtype=np.float32)
    norm: Normalize
    if kind == "power_doppler":
        shown = to_db(np.sqrt(shown), floor_db=-60)
        norm = Normalize(float(np.quantile(shown, 0.02)), 0)
    elif kind == "density":
        norm = PowerNorm(0.5, 0, _quantile(shown, 0.999))
    else:
        top = _quantile(np.abs(shown), _CLIP)
        norm = Normalize(1e-9, top)
        if kind == "direction":
            # The square root lifts slow vessels out of the dark middle of the colours.
            norm = FuncNorm((_signed_root, _signed_square), -top, top)
            shown = np.where(shown == 0, np.float32(np.nan), shown)
    ax.set_facecolor("black")
    image = ax.imshow(shown, cmap=colours, norm=norm, interpolation="antialiased")
    _colour_bar(figure, image, ax, label, px_mm)
    scale_bar(ax, values.shape[1] / (1 if kind == "power_doppler" else upsample), px_mm)
    ax.set(xticks=[], yticks=[], title=_TITLES[kind] if title is None else title)
    return figure


def plot_frame(
    frame: NDArray,
    bubbles: pd.DataFrame | None = None,
    truth: pd.DataFrame | None = None,
    *,
    px_mm: float | None = None,
    title: str = "",
    ax: Axes | None = None,
) -> Figure:
    """Show a B-mode frame on a linear grey scale, with found and true bubbles.

    Parameters
    ----------
    frame : ndarray (Z, X)
        Amplitude.
    bubbles, truth : DataFrame, optional
        Bubble tables of this frame alone: crosses and circles.
    px_mm : float, optional
        Pixel pitch [mm].
    """
    for table in (bubbles, truth):
        if table is not None:
            check_bubbles(table, columns=("z", "x"))
    figure, ax = _figure(ax, frame.shape)
    ax.imshow(frame, cmap="gray", vmin=0, interpolation="nearest")
    if truth is not None:
        ax.scatter(
            truth.x,
            truth.z,
            s=70,
            facecolors="none",
            edgecolors="#56b4e9",
            linewidths=1.2,
            label="true",
        )
    if bubbles is not None:
        ax.scatter(
            bubbles.x, bubbles.z, s=30, marker="+", color="#f0a020", linewidths=1.2, label="found"
        )
    if truth is not None and bubbles is not None:
        ax.legend(loc="upper right", fontsize="small", framealpha=0.8)
    scale_bar(ax, frame.shape[1], px_mm)
    ax.set(xticks=[], yticks=[], title=title)
    return figure


def plot_tracks(
    tracks: pd.DataFrame,
    shape_px: tuple[int, int] | None = None,
    *,
    px_mm: float | None = None,
    title: str = "",
    ax: Axes | None = None,
) -> Figure:
    """Draw tracks as lines, coloured by speed.

    Parameters
    ----------
    tracks : DataFrame
        Track table, rows in any order; without the columns ``vz, vx`` of
        `ulmpaper.core.add_velocity` all lines have one colour.
    shape_px : (int, int), optional
        Size of the frames (z, x) [px]; by default large enough for the tracks.
    px_mm : float or None
        As in `plot_map`.
    """
    has_speed = isinstance(tracks, pd.DataFrame) and {"vz", "vx"} <= set(tracks.columns)
    columns = ("track", "frame", "z", "x", *(("vz", "vx") if has_speed else ()))
    tracks = check_bubbles(tracks, columns=columns, path=True)
    tracks = tracks.iloc[np.lexsort((tracks["frame"].to_numpy(), tracks["track"].to_numpy()))]
    if shape_px is None:
        shape_px = (
            (int(tracks["z"].max()) + 2, int(tracks["x"].max()) + 2) if len(tracks) else (1, 1)
        )
    figure, ax = _figure(ax, shape_px)
    ax.set_facecolor("black")
    points = tracks[["x", "z"]].to_numpy()
    inside = tracks["track"].to_numpy()[1:] == tracks["track"].to_numpy()[:-1]
    speed = (
        np.hypot(tracks["vz"].to_numpy(), tracks["vx"].to_numpy())
        if has_speed
        else np.ones(len(tracks))
    )
    lines = LineCollection(
        np.stack([points[:-1], points[1:]], axis=1)[inside],
        array=speed[1:][inside],
        cmap=_SPEED,
        norm=Normalize(0, _quantile(speed, _CLIP)),
        linewidths=0.7,
    )
    ax.add_collection(lines)
    if has_speed:
        _colour_bar(figure, lines, ax, "speed [mm/s]", px_mm)
    ax.set(
        xlim=(-0.5, shape_px[1] - 0.5),
        ylim=(shape_px[0] - 0.5, -0.5),
        aspect="equal",
        xticks=[],
        yticks=[],
    )
    scale_bar(ax, shape_px[1], px_mm)
    ax.set_title(title)
    return figure


def plot_side_by_side(
    densities: Mapping[str, NDArray],
    scores: pd.DataFrame | None = None,
    *,
    px_mm: float | None = None,
    upsample: int = 10,
) -> Figure:
    """Show density maps of one recording in one range of colours, and scores below them.

    Parameters
    ----------
    densities : mapping of str to ndarray (Z, X)
        Maps of one size by name [tracks per map pixel]. By their square root, up to the 99.9 %
        quantile of all non-empty pixels.
    scores : DataFrame, optional
        A row for each method, a column for each score, from 0 to 1.
    px_mm, upsample
        As in `plot_map`.

    Returns
    -------
    Figure
    """
    shape = next(iter(densities.values())).shape
    n_columns = min(len(densities), _MAPS_IN_A_ROW)
    n_rows = -(-len(densities) // n_columns)
    heights = [n_rows * (0.9 * _WIDTH_IN / n_columns * shape[0] / shape[1] + 0.3)]
    if scores is not None:
        heights.append(0.4 + 0.27 * scores.shape[1])
    figure = Figure(figsize=(_WIDTH_IN, sum(heights)), layout="constrained")
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    axes = parts[0].subplots(n_rows, n_columns, squeeze=False).ravel()
    top = _quantile(np.concatenate([values.ravel() for values in densities.values()]), 0.999)
    colours, label = _MAP_KINDS["density"]
    for ax, (name, values) in zip(axes, densities.items(), strict=False):
        norm = PowerNorm(0.5, 0, top)
        image = ax.imshow(values, cmap=colours, norm=norm, interpolation="antialiased")
        ax.set_title(name, fontsize="small")
        scale_bar(ax, shape[1] / upsample, px_mm)
        ax.texts[-1].set(x=0.97, ha="right", fontsize=_SMALL_PT)
    for ax in axes:
        ax.set(xticks=[], yticks=[])
    for ax in axes[len(densities) :]:
        ax.set_axis_off()
    whole = MaxNLocator(nbins=5, integer=True)
    bar = parts[0].colorbar(
        image, ax=axes, label=label, ticks=whole, aspect=25, pad=0.015, extend="max"
    )
    bar.outline.set_visible(False)
    if scores is not None:
        _dots(parts[1].subplots(), scores)
    return figure


def _dots(ax: Axes, scores: pd.DataFrame) -> None:
    """A line for each score, a dot on it for each method."""
    places = np.arange(scores.shape[1])
    for number, (name, values) in enumerate(scores.iterrows()):
        marker = _MARKERS[number % len(_MARKERS)]
        colour = _DOTS[number % len(_DOTS)]
        ax.plot(values, places, marker, color=colour, label=name, markersize=6, alpha=0.9)
    ax.set(xlim=(-0.02, 1.02), yticks=places, yticklabels=scores.columns)
    ax.invert_yaxis()
    ax.grid(axis="y", color="0.9")
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(axis="y", length=0, labelsize="small")
    ax.legend(fontsize="small", frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))


def scale_bar(ax: Axes, width_px: float, px_mm: float | None) -> None:
    """Draw a white bar of a round length, about a sixth of the picture, at its lower right."""
    unit, size = ("px", 1.0) if px_mm is None else ("mm", px_mm)
    target = width_px * size / 6
    step = 10.0 ** np.floor(np.log10(target))
    length = max(s for s in (step, 2 * step, 5 * step) if s <= target * (1 + 1e-9))
    text = f"{length:g} {unit}" if length >= 0.1 or unit == "px" else f"{length * 1000:g} µm"
    share = length / size / width_px
    height = 0.008 / ax.get_data_ratio()
    ax.add_patch(
        Rectangle(
            (0.97 - share, 0.04), share, height, color="white", transform=ax.transAxes, zorder=5
        )
    )
    ax.text(
        0.97 - share / 2,
        0.05 + height,
        text,
        color="white",
        ha="center",
        va="bottom",
        transform=ax.transAxes,
        fontsize=9,
    )


def save_figure(figure: Figure, path: str | os.PathLike, **how: Any) -> Path:
    """Write a figure; the file appears under its name when it is complete.

    Parameters
    ----------
    figure : Figure
        What to write.
    path : path-like
        Where; the suffix gives the format.
    **how
        For matplotlib's ``savefig`` (default: 200 dots per inch).
    """
    path = Path(path)
    # No date and no version in the file: same figure, same bytes.
    settings: dict[str, Any] = {"dpi": 200, "metadata": {"CreationDate": None}}
    if path.suffix == ".png":
        settings |= {"metadata": {"Software": None}, "pil_kwargs": {"compress_level": 3}}
    with atomic_path(path) as part:
        figure.savefig(part, **{**settings, **how})
    return path


def _colour_bar(
    figure: Figure, drawn: ScalarMappable, ax: Axes, label: str, px_mm: float | None
) -> None:
    label = label if px_mm is not None else label.replace("mm/s", "px/frame")
    bar = figure.colorbar(drawn, ax=ax, label=label, shrink=0.9, aspect=25, pad=0.015)
    bar.outline.set_visible(False)


def _figure(ax: Axes | None, shape: tuple[int, ...]) -> tuple[Figure, Axes]:
    if ax is not None:
        return ax.get_figure(root=True), ax  # type: ignore[return-value]
    height = float(np.clip(_WIDTH_IN * 0.85 * shape[0] / shape[1], 2.5, 9))
    # Fixed margins: an automatic layout would draw everything twice.
    figure = Figure(figsize=(_WIDTH_IN, height + 0.4))
    return figure, figure.add_axes((0.02, 0.02, 0.96, 1 - 0.4 / (height + 0.4) - 0.02))


def _signed_root(values: NDArray) -> NDArray:
    return np.sign(values) * np.sqrt(np.abs(values))


def _signed_square(values: NDArray) -> NDArray:
    return np.sign(values) * np.square(values)


def _quantile(values: NDArray, share: float) -> float:
    some = values[values > 0]
    return float(np.quantile(some, share)) if some.size else 1.0


_STEPS = colormaps["RdBu_r"].with_extremes(bad="0.2")
# The few fastest pixels, on the axis of the widest vessel, would leave all others pale.
_GREY_CLIP = 0.98
_SMALL_PT = 8


def plot_grey(
    values: NDArray,
    *,
    ax: Axes,
    px_mm: float | None = None,
    title: str = "",
    unit: str = "",
    limits: tuple[float, float] | None = None,
) -> AxesImage:
    """Show an image in grey, the greatest value white, with a scale bar.

    Parameters
    ----------
    values : ndarray (Z, X)
        Real numbers or True and False.
    ax : Axes
        Where to draw.
    px_mm : float, optional
        Pitch of the image's pixels [mm]; unknown, the scale bar is in pixels.
    title : str
        Title.
    unit : str
        Unit of the values beside a colour bar; without it there is no bar.
    limits : (float, float), optional
        Values shown black and white; by default the least and the greatest.

    Returns
    -------
    AxesImage
    """
    low, high = (None, None) if limits is None else limits
    image = ax.imshow(values, cmap="gray", vmin=low, vmax=high, interpolation="antialiased")
    _finish(ax, values.shape, px_mm, title)
    if unit:
        _grey_bar(ax, image, unit)
    return image


def plot_steps(
    steps: NDArray,
    mask: NDArray,
    *,
    ax: Axes,
    px_mm: float,
    frame_rate_hz: float,
    limit_px: float | None = None,
    title: str = "",
) -> AxesImage:
    """Show one of the two displacement maps, with a colour bar in px/frame and mm/s.

    Parameters
    ----------
    steps : ndarray (Z, X)
        Steps along one axis [px/frame].
    mask : ndarray (Z, X) bool
        Inside of the vessels.
    ax : Axes
        Where to draw.
    px_mm, frame_rate_hz : float
        Pixel pitch [mm] and frames per second [Hz].
    limit_px : float, optional
        Step at the ends of the colour bar [px/frame]; by default `step_limit` of `steps`.
    title : str
        Title.

    Returns
    -------
    AxesImage
    """
    limit = step_limit(steps) if limit_px is None else limit_px
    shown = np.where(mask, steps, np.nan)
    # Not smoothed: thin vessels would go grey.
    image = ax.imshow(shown, cmap=_STEPS, vmin=-limit, vmax=limit, interpolation="nearest")
    _finish(ax, shown.shape, px_mm, title)
    bar = _grey_bar(ax, image, "px/frame", extend="both").ax
    factor = px_mm * frame_rate_hz
    top = bar.secondary_xaxis(
        "top", functions=(lambda px: np.multiply(px, factor), lambda mm_s: np.divide(mm_s, factor))
    )
    top.tick_params(labelsize=_SMALL_PT, pad=1)
    bar.text(1.09, 1.3, "mm/s", va="bottom", transform=bar.transAxes, fontsize=_SMALL_PT)
    return image


def step_limit(maps: NDArray) -> float:
    """Step that all but the fastest pixels stay under, for the ends of a colour bar [px/frame].

    Examples
    --------
    >>> step_limit(np.array([0.0, 0.02, -0.02]))
    0.02
    """
    moving = np.abs(maps[maps != 0])
    return float(np.quantile(moving, _GREY_CLIP)) if moving.size else 1.0


def _finish(ax: Axes, shape: tuple[int, ...], px_mm: float | None, title: str) -> None:
    scale_bar(ax, shape[1], px_mm)
    bar = ax.patches[-1]
    text = ax.texts[-1]
    text.set(x=0.97, ha="right")  # in a small panel the text is wider than the bar
    for drawn in (bar, text):
        drawn.set_path_effects([withStroke(linewidth=2.5, foreground="black")])
    ax.set(xticks=[], yticks=[])
    ax.set_title(title, fontsize="medium")


def _grey_bar(ax: Axes, image: AxesImage, unit: str, *, extend: str = "neither") -> Colorbar:
    place = ax.inset_axes((0.02, -0.15, 0.7, 0.04))
    figure = ax.get_figure(root=True)
    bar = figure.colorbar(image, cax=place, orientation="horizontal", extend=extend)  # type: ignore[union-attr]
    place.tick_params(labelsize=_SMALL_PT, pad=1)
    place.locator_params(nbins=5)
    place.text(1.09, -0.3, unit, va="top", transform=place.transAxes, fontsize=_SMALL_PT)
    return bar
