"""From bubbles to tracks and to the lines that maps are drawn from, by the settings of a configuration."""

from __future__ import annotations

import pandas as pd

from ulmpaper import track
from ulmpaper.config import Config


def link_tracks(bubbles: pd.DataFrame, cfg: Config) -> pd.DataFrame:
    """Link bubbles into tracks and drop the short ones, see `track.link` and `track.drop_short`.

    Parameters
    ----------
    bubbles : DataFrame
        Bubble table; further columns are kept.
    cfg : Config
        Settings, section ``track``.

    Returns
    -------
    DataFrame
        Track table.
    """
    t = cfg.track
    return track.drop_short(track.link(bubbles, max_distance_px=t.max_distance_px, max_gap=t.max_gap), t.min_length)


def draw_lines(tracks: pd.DataFrame, cfg: Config, *, px_mm: float, frame_rate_hz: float) -> pd.DataFrame:
    """Smooth and interpolate tracks, as finely as the maps of the settings need it; see `track.interpolate`.

    Parameters
    ----------
    tracks : DataFrame
        Track table.
    cfg : Config
        Settings, sections ``track`` and ``render``.
    px_mm, frame_rate_hz : float
        Pixel pitch [mm] and frames per second [Hz].

    Returns
    -------
    DataFrame
        Paths, for `render.map_sums`.
    """
    return track.interpolate(
        tracks,
        px_mm=px_mm,
        frame_rate_hz=frame_rate_hz,
        max_distance_px=cfg.track.max_distance_px,
        upsample=cfg.render.upsample,
        smooth_points=cfg.track.smooth_points,
        pala=cfg.pala,
    )
