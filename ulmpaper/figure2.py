"""The panels of the paper's Fig. 2: picture, mask, displacement maps, B-mode frame, PSF. Nothing is computed here.

All panels of a figure have the same size: colour bars lie under their panel. Displacements are drawn in blue and red,
which differ for any colour vision and meet in white; what is not vessel is dark.
"""

from __future__ import annotations

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from ulmpaper.figures import scale_bar
from ulmpaper.filters import to_db
from ulmpaper.records import check_positive

_STEPS = colormaps["RdBu_r"].with_extremes(bad="0.2")
# The few fastest pixels, on the axis of the widest vessel, would leave all others pale.
_CLIP = 0.98
_FLOOR_DB = -30.0
_PANEL_IN, _TITLE_IN, _BAR_IN = 2.7, 0.2, 0.5
_SMALL_PT = 8


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
    limit = step_limit(maps)
    for ax, steps, title in (
        (c, maps[0], "(c) Vertical displacement map"),
        (d, maps[1], "(d) Horizontal displacement map"),
    ):
        plot_steps(steps, mask, ax=ax, px_mm=px_mm, frame_rate_hz=frame_rate_hz, limit_px=limit, title=title)
    if frame is not None and psf is not None:
        e, f = rest
        frame_db = to_db(frame, floor_db=_FLOOR_DB)
        plot_grey(frame_db, ax=e, px_mm=px_mm, title="(e) Example B-mode frame", unit="dB")
        pitch_mm = px_mm * psf_px / len(psf)
        plot_grey(np.abs(psf), ax=f, px_mm=pitch_mm, title="(f) An extracted PSF", unit="of peak")
    return figure


def plot_grey(
    values: NDArray,
    *,
    ax: Axes,
    px_mm: float | None = None,
    title: str = "",
    unit: str = "",
    limits: tuple[float, float] | None = None,
) -> AxesImage:
    """Show an image in grey, the greatest value white, with a scale bar that is legible on any ground.

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
        _colour_bar(ax, image, unit)
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
    bar = _colour_bar(ax, image, "px/frame", extend="both").ax
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
    return float(np.quantile(moving, _CLIP)) if moving.size else 1.0


def _finish(ax: Axes, shape: tuple[int, ...], px_mm: float | None, title: str) -> None:
    scale_bar(ax, shape[1], px_mm)
    bar, text = ax.patches[-1], ax.texts[-1]
    text.set(x=0.97, ha="right")  # in a small panel the text is wider than the bar
    for drawn in (bar, text):
        drawn.set_path_effects([withStroke(linewidth=2.5, foreground="black")])
    ax.set(xticks=[], yticks=[])
    ax.set_title(title, fontsize="medium")


def _colour_bar(ax: Axes, image: AxesImage, unit: str, *, extend: str = "neither") -> Colorbar:
    place = ax.inset_axes((0.02, -0.15, 0.7, 0.04))
    figure = ax.get_figure(root=True)
    bar = figure.colorbar(image, cax=place, orientation="horizontal", extend=extend)  # type: ignore[union-attr]
    place.tick_params(labelsize=_SMALL_PT, pad=1)
    place.locator_params(nbins=5)
    place.text(1.09, -0.3, unit, va="top", transform=place.transAxes, fontsize=_SMALL_PT)
    return bar
