"""Tracks to density, velocity and direction maps; power Doppler.

A map has ``upsample`` pixels for each pixel of the frames and covers the same area, so that map
pixel ``k`` is centred at ``(k + 0.5) / upsample - 0.5``. With ``pala=True`` maps lie on PALA's grid
instead: one pixel larger, centred at ``(k + 1) / upsample - 1`` (``ULM_Track2MatOut``, Heiles et
al. 2022).

Maps of any number of blocks are made without keeping their tracks: `map_sums` reduces a block's
paths to sums for the pixels they touch, `Maps` adds them up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from ulmpaper.core.arguments import explained
from ulmpaper.core.grid import map_index, map_shape
from ulmpaper.core.records import check_bubbles, check_frames
from ulmpaper.core.track import interpolate, shrinking_mean

_PATH_COLUMNS = ("track", "frame", "z", "x", "vz", "vx")
# Span of the moving average that PALA takes along a path before it maps speeds.
_PALA_SPEED_SPAN = 9


@dataclass(frozen=True)
class MapSums:
    """Sums over the tracks of a block for the map pixels they touch.

    Parameters
    ----------
    pixel : ndarray of int (n,)
        Flat indices of the pixels, each once.
    count, speed, mean_speed, signed_speed : ndarray (n,)
        Number of tracks, and the sums over tracks of the speed in the pixel, of the mean speed of
        the track and of the speed with the sign of the track's axial motion [mm/s].
    """

    pixel: NDArray[np.intp]
    count: NDArray[np.float64]
    speed: NDArray[np.float64]
    mean_speed: NDArray[np.float64]
    signed_speed: NDArray[np.float64]


@explained
class Maps:
    """Maps that grow block by block.

    Parameters
    ----------
    shape_px : (int, int)
        Size of a frame (z, x) [px].
    upsample : int
        Map pixels per pixel.
    pala : bool
        PALA's grid, one map pixel larger.

    Examples
    --------
    >>> maps = Maps((4, 4), upsample=10)
    >>> maps.density.shape
    (40, 40)
    """

    def __init__(
        self, shape_px: tuple[int, int], *, upsample: int = 10, pala: bool = False
    ) -> None:
        shape = map_shape(shape_px, upsample=upsample, pala=pala)
        self.shape_px = (int(shape_px[0]), int(shape_px[1]))
        self.upsample = upsample
        self.pala = pala
        self._sums = {
            name: np.zeros(shape) for name in ("count", "speed", "mean_speed", "signed_speed")
        }

    def add(self, sums: MapSums) -> None:
        """Add what `map_sums` made of a block."""
        for name, total in self._sums.items():
            total.reshape(-1)[sums.pixel] += getattr(sums, name)

    @property
    def density(self) -> NDArray[np.float64]:
        """Number of tracks through each pixel (PALA ``2D_tracks``)."""
        return self._sums["count"].copy()

    @property
    def velocity(self) -> NDArray[np.float64]:
        """Speed of the tracks in each pixel, averaged over tracks [mm/s] (PALA ``2D_velnorm``)."""
        return self._per_track("speed")

    @property
    def mean_velocity(self) -> NDArray[np.float64]:
        """Mean speed of the whole tracks through each pixel [mm/s] (PALA ``2D_velmean``)."""
        return self._per_track("mean_speed")

    @property
    def direction(self) -> NDArray[np.float64]:
        """Speed [mm/s], positive for tracks that run away from the probe (PALA ``2D_vel_z``)."""
        return self._per_track("signed_speed")

    def as_dict(self) -> dict[str, NDArray[np.float64]]:
        """All maps by name."""
        return {
            name: getattr(self, name)
            for name in ("density", "velocity", "mean_velocity", "direction")
        }

    def _per_track(self, name: str) -> NDArray[np.float64]:
        count = self._sums["count"]
        return np.divide(self._sums[name], count, out=np.zeros_like(count), where=count > 0)


def map_sums(
    paths: pd.DataFrame, shape_px: tuple[int, int], *, upsample: int = 10, pala: bool = False
) -> MapSums:
    """Reduce interpolated tracks to sums for the map pixels they touch.

    Each track counts once in a pixel.

    Parameters
    ----------
    paths : DataFrame
        As from `track.interpolate`, or any table of tracks with velocities (then only the bubbles'
        own places count, without interpolation); the order of its rows does not matter.
    shape_px, upsample, pala
        As in `Maps`. ``pala=True`` also repeats PALA's mix-up of speeds (the first m values of a
        track, in time, go to its m pixels in column order) and its mean speed (path length over n
        rather than n - 1 frame times).

    Notes
    -----
    PALA ``ULM_Track2MatOut``. The speed of a track in a pixel is the mean over its points there.
    """
    paths = check_bubbles(paths, columns=_PATH_COLUMNS, path=True)
    track = paths["track"].to_numpy()
    frame = paths["frame"].to_numpy(dtype=float)
    if not (
        (track[1:] > track[:-1]) | ((track[1:] == track[:-1]) & (frame[1:] > frame[:-1]))
    ).all():
        order = np.lexsort((frame, track))
        paths = paths.iloc[order]
        frame = frame[order]
    n_z, n_x = map_shape(shape_px, upsample=upsample, pala=pala)
    z = map_index(paths["z"].to_numpy(), upsample=upsample, pala=pala)
    x = map_index(paths["x"].to_numpy(), upsample=upsample, pala=pala)
    _, first, track = np.unique(paths["track"], return_index=True, return_inverse=True)
    vz, vx = (paths[name].to_numpy(dtype=float) for name in ("vz", "vx"))
    speed = np.hypot(vz, vx)
    downwards = np.sign(np.bincount(track, vz))
    mean_speed = _mean_speed(frame, track, speed, first, pala)
    if pala:
        speed = shrinking_mean(speed, first, np.bincount(track), _PALA_SPEED_SPAN)
    inside = (z >= 0) & (z < n_z) & (x >= 0) & (x < n_x)
    track = track[inside]
    speed = speed[inside]
    # PALA's order of pixels is by columns; any order will do for the sums.
    place = (x * n_z + z)[inside]
    # One key for each pair of track and pixel: a track counts once in a pixel.
    key, group = _group(track * (n_z * n_x) + place)
    visited, place = np.divmod(key, n_z * n_x)
    if pala:
        # PALA gives the first m speeds of a track, in time, to its m pixels in column order.
        start = np.searchsorted(visited, visited)
        in_time = np.searchsorted(track, visited) + np.arange(len(visited)) - start
        pixel_speed = speed[in_time]
    else:
        pixel_speed = np.bincount(group, speed) / np.bincount(group)
    # Sum over the tracks of each pixel, now in row order.
    pixel, where = _group(place % n_z * n_x + place // n_z)
    weights = (None, pixel_speed, mean_speed[visited], pixel_speed * downwards[visited])
    return MapSums(pixel, *(np.bincount(where, w, len(pixel)).astype(float) for w in weights))


def render_maps(
    tracks: pd.DataFrame,
    shape_px: tuple[int, int],
    *,
    px_mm: float,
    frame_rate_hz: float,
    upsample: int = 10,
    smooth_points: int = 20,
    max_distance_px: float = 2.0,
    pala: bool = False,
    acceleration_px: float | None = None,
) -> Maps:
    """Smooth, interpolate and render tracks.

    Parameters
    ----------
    tracks : DataFrame
        Track table, as from `ulmpaper.link`.
    shape_px : (int, int)
        Size of a frame (z, x) [px].
    px_mm, frame_rate_hz : float
        Pixel pitch [mm] and frames per second [Hz].
    upsample : int
        Map pixels per pixel.
    smooth_points, max_distance_px, pala, acceleration_px
        See `ulmpaper.interpolate` and `Maps`.

    Returns
    -------
    Maps
        ``density, velocity, mean_velocity, direction``.

    Examples
    --------
    >>> from ulmpaper.core.records import bubble_table
    >>> tracks = bubble_table([0, 1], [1.0, 1.0], [1.0, 1.5], [1, 1]).assign(track=0)
    >>> maps = render_maps(tracks, (4, 4), px_mm=0.1, frame_rate_hz=1000)
    >>> maps.density.sum(), float(maps.velocity.max().round(3))
    (np.float64(6.0), 50.0)
    """
    paths = interpolate(
        tracks,
        px_mm=px_mm,
        frame_rate_hz=frame_rate_hz,
        max_distance_px=max_distance_px,
        upsample=upsample,
        smooth_points=smooth_points,
        pala=pala,
        acceleration_px=acceleration_px,
    )
    maps = Maps(shape_px, upsample=upsample, pala=pala)
    maps.add(map_sums(paths, shape_px, upsample=upsample, pala=pala))
    return maps


def density(
    paths: pd.DataFrame, shape_px: tuple[int, int], *, upsample: int = 10, pala: bool = False
) -> NDArray[np.float64]:
    """Density map: the number of tracks through each map pixel.

    Parameters as in `map_sums`. For the other maps, and for more than one block, see `Maps`.

    Examples
    --------
    >>> path = pd.DataFrame({"track": 0, "frame": [0, 1], "z": 0.0, "x": [0.0, 0.1]})
    >>> path = path.assign(vz=0.0, vx=1.0)
    >>> density(path, (1, 1))[5].tolist()
    [0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0]
    """
    maps = Maps(shape_px, upsample=upsample, pala=pala)
    maps.add(map_sums(paths, shape_px, upsample=upsample, pala=pala))
    return maps.density


def power_doppler(frames: ArrayLike) -> NDArray[np.float64]:
    """Mean power over time of (clutter-filtered) frames: (T, Z, X) to (Z, X).

    Raises
    ------
    ValueError
        All squares are beyond double precision, or below it.

    Examples
    --------
    >>> power_doppler(np.full((2, 1, 1), 3j)).tolist()
    [[9.0]]
    """
    frames = check_frames(frames, allow_complex=True)
    power = np.zeros(frames.shape[1:])
    # In double precision, whose squares hold all of single precision's numbers; frame by frame, so
    # that no second stack is made.
    with np.errstate(over="ignore", under="ignore"):
        for frame in frames:
            parts = (frame.real, frame.imag) if frames.dtype.kind == "c" else (frame,)
            for part in parts:
                power += part.astype(np.float64) ** 2
    if not np.isfinite(power).all() or (not power.any() and np.any(frames)):
        raise ValueError(
            f"amplitudes as of {np.abs(frames).max():g} have no square in double precision: divide "
            "the frames by their maximum"
        )
    return power / len(frames)


def _group(key: NDArray) -> tuple[NDArray, NDArray]:
    """Sorted distinct keys and the number of each row's key; runs of equal keys are cheap."""
    if not len(key):
        return key, key
    new = np.concatenate([[True], key[1:] != key[:-1]])
    distinct, number = np.unique(key[new], return_inverse=True)
    return distinct, number[np.cumsum(new) - 1]


def _mean_speed(
    frame: NDArray, track: NDArray, speed: NDArray, first: NDArray, pala: bool
) -> NDArray:
    """Mean speed of each track over time; the first point, which repeats the second, has none."""
    n_points = np.bincount(track)
    elapsed = np.diff(frame, prepend=0)
    elapsed[first] = 0
    duration = frame[first + n_points - 1] - frame[first]
    if pala:
        # PALA counts points instead of time, and one frame too many.
        mean = (np.bincount(track, speed) - speed[first]) / np.maximum(n_points - 1, 1)
        return mean * duration / (duration + 1)
    mean = np.zeros(len(first))
    return np.divide(np.bincount(track, speed * elapsed), duration, out=mean, where=duration > 0)
