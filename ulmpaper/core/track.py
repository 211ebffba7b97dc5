"""Link, drop, smooth and interpolate tracks; speeds: tables in, tables out.

A track table is a bubble table with a column ``track``; the points of a track stand together in
order of time. With ``pala=True`` PALA's rules are repeated where they differ (``ULM_tracking2D``,
Heiles et al. 2022).
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import linalg, sparse

from ulmpaper.core.pairs import best_pairs, pairs_in_reach
from ulmpaper.core.records import BUBBLE_COLUMNS, check_bubbles, check_positive, check_whole

_TRACK_COLUMNS = (*BUBBLE_COLUMNS, "track")
_USUAL_SIGMA_PX = 0.15  # standard deviation of an error, of bubbles that do not tell theirs
_SIGMA_PX = (1e-3, 1e2)  # better than this no bubble is known, and worse than this none at all
_ACCELERATION_PX = (1e-4, 1e3)  # beyond, squares lose their digits
# Points of all paths of a call: their table takes 5 GB.
_MOST_POINTS = 1e8


def link(bubbles: pd.DataFrame, *, max_distance_px: float = 2.0, max_gap: int = 0) -> pd.DataFrame:
    """Link bubbles from frame to frame into tracks.

    Parameters
    ----------
    bubbles : DataFrame
        Bubble table; the order of its rows does not matter.
    max_distance_px : float
        Longest allowed step, also across a gap [px].
    max_gap : int
        Missing frames that a track may bridge. PALA's ``max_gap_closing`` g bridges g - 1.

    Returns
    -------
    DataFrame
        Every bubble, with the column ``track`` added (0, 1, ... by first point), ordered by track,
        then frame. A bubble without partner is a track of one point.

    Notes
    -----
    From one frame to the next, as many links as possible are made, and of all such sets the one
    with the least sum of squared distances is taken (PALA ``ULM_tracking2D``, Tinevez'
    simpletracker). Gaps are closed afterwards, nearest ends first.

    Examples
    --------
    >>> from ulmpaper.core.records import bubble_table
    >>> link(bubble_table([0, 1, 1], [5.0, 5.4, 9.0], [5.0, 5.0, 9.0], [1, 1, 1])).track.tolist()
    [0, 0, 1]
    """
    check_positive(max_distance_px=max_distance_px)
    max_gap = check_whole(low=0, max_gap=max_gap)
    table = check_bubbles(bubbles)
    order = np.argsort(table["frame"].to_numpy(), kind="stable")
    table = table.iloc[order].reset_index(drop=True)
    frame = table["frame"].to_numpy()
    at = table[["z", "x"]].to_numpy(dtype=float)
    every = np.arange(len(table))
    i, j, squared = pairs_in_reach(
        frame, at, every, every, reach_px=max_distance_px, frames_between=(1, 1)
    )
    source, target = best_pairs(i, j, squared, frame[i])
    successor = np.full(len(table), -1)
    successor[source] = target
    if max_gap and len(table):
        # No gap is longer than the recording.
        longest = min(max_gap, int(frame[-1] - frame[0]))
        _close_gaps(frame, at, successor, max_distance_px, longest)
    track = _number_chains(successor)
    order = np.argsort(track, kind="stable")
    return table.assign(track=track).iloc[order].reset_index(drop=True)


def drop_short(tracks: pd.DataFrame, min_length: int = 15) -> pd.DataFrame:
    """Keep tracks of more than `min_length` points.

    As in PALA the length itself is not enough: 15 keeps tracks of 16 points or more. Missing frames
    do not count.

    Examples
    --------
    >>> from ulmpaper.core.records import bubble_table
    >>> tracks = link(bubble_table([0, 1, 1], [5.0, 5.4, 9.0], [5.0, 5.0, 9.0], [1, 1, 1]))
    >>> drop_short(tracks, 1).track.tolist()
    [0, 0]
    """
    tracks = check_bubbles(tracks, columns=_TRACK_COLUMNS)
    min_length = min(check_whole(low=0, min_length=min_length), len(tracks))
    _, code, size = np.unique(tracks["track"], return_inverse=True, return_counts=True)
    return tracks[size[code] > min_length].reset_index(drop=True)


def smooth(
    tracks: pd.DataFrame,
    points: int = 20,
    *,
    pala: bool = False,
    acceleration_px: float | None = None,
) -> pd.DataFrame:
    """Smooth z and x of each track: by a centred moving average over frames, or by likelihood.

    Parameters
    ----------
    tracks : DataFrame
        Track table.
    points : int
        Longest span of the average [frames]; the largest odd number not above it and the track's
        length is used. Towards the ends of a track the span shrinks, so that its first and last
        point stay where they are.
    pala : bool
        Repeat PALA: average over rows, as if no frame were missing. That moves the points beside a
        bridged gap towards it, and back.
    acceleration_px : float, optional
        Take the most likely path instead of an average: that of a bubble whose step changes from
        frame to frame by this much, as a standard deviation [px], and whose places are as uncertain
        as the columns ``sigma_z`` and ``sigma_x`` say (0.15 px without them). The smaller, the
        straighter; a bridged gap says nothing, and no span has to be chosen.

    Notes
    -----
    The most likely path is what a Kalman filter and smoother of nearly constant velocity end with
    (Rauch, Tung and Striebel, AIAA J. 3 (1965) 1445), found at once, as the least sum of squares.

    The average is MATLAB's ``smooth``, as used by PALA with 20 points, that is, 19. In a bridged
    gap the bubble is taken to move evenly from its last to its next point, so that a bubble in even
    motion stays on its line whichever frames are missing.

    Examples
    --------
    >>> from ulmpaper.core.records import bubble_table
    >>> zigzag = link(bubble_table([0, 1, 2], [0.0, 0.9, 0.0], [0.0, 1.0, 2.0], [1, 1, 1]))
    >>> smooth(zigzag, 3)[["z", "x"]].round(9).values.tolist()
    [[0.0, 0.0], [0.3, 1.0], [0.0, 2.0]]
    """
    points = check_whole(points=points)
    tracks, first, size = _sorted_tracks(tracks)
    if acceleration_px is not None:
        if pala:
            raise ValueError("PALA takes averages: acceleration_px must be None with pala=True")
        return _most_likely(tracks, first, size, acceleration_px)
    knots = np.arange(len(tracks))
    if not pala:
        knots, first, size = _on_frames(tracks["frame"].to_numpy(), first, size)
    smoothed = {}
    for axis in ("z", "x"):
        values = tracks[axis].to_numpy(dtype=float)
        if size.sum() > len(values):
            values = np.interp(np.arange(size.sum()), knots, values)
        smoothed[axis] = shrinking_mean(values, first, size, points)[knots]
    return tracks.assign(**smoothed)


def _most_likely(
    tracks: pd.DataFrame, first: NDArray, size: NDArray, acceleration_px: float
) -> pd.DataFrame:
    """Most likely paths of tracks in order, see `smooth`."""
    least, most = _ACCELERATION_PX
    if not least <= acceleration_px <= most:
        raise ValueError(
            f"acceleration_px must be from {least:g} to {most:g} px a frame and frame, "
            f"not {acceleration_px}"
        )
    if not len(tracks):
        return tracks
    knots, start, n_frames = _on_frames(tracks["frame"].to_numpy(), first, size)
    changed = {}
    for axis in ("z", "x"):
        values = tracks[axis].to_numpy(dtype=float)
        origin = np.repeat(values[first], size)  # near 0, sums of squares lose no digits
        sigma = np.full(len(values), _USUAL_SIGMA_PX)
        if f"sigma_{axis}" in tracks:
            sigma = tracks[f"sigma_{axis}"].to_numpy(dtype=float).clip(*_SIGMA_PX)
        weight, seen = np.zeros((2, n_frames.sum()))
        weight[knots] = (acceleration_px / sigma) ** 2
        seen[knots] = values - origin
        bends = np.ones(len(weight))  # where a step and the next one are of the same track
        bends[start] = bends[start + n_frames - 1] = 0
        before, after = np.append(bends[1:], 0), np.append(0, bends[:-1])
        # Least sum of weight (path - seen)^2 + bends (step - step before)^2: five diagonals.
        diagonals = np.zeros((3, len(weight)))
        diagonals[2] = weight + before + 4 * bends + after
        diagonals[1, 1:] = -2 * (bends[:-1] + bends[1:])
        diagonals[0, 2:] = bends[1:-1]
        path = linalg.solveh_banded(diagonals, weight * seen, check_finite=False)
        changed[axis] = path[knots] + origin
    return tracks.assign(**changed)


def shrinking_mean(
    values: NDArray[np.float64], first: NDArray, size: NDArray, points: int
) -> NDArray[np.float64]:
    """Centred moving average along each track, whose span shrinks towards the ends.

    Parameters
    ----------
    values : ndarray (n,)
        Values of all tracks, one track after the other.
    first, size : ndarray of int
        First row and number of rows of each track.
    points : int
        Longest span; the largest odd number not above it and the track's length is used.

    Examples
    --------
    >>> shrinking_mean(np.array([0.0, 0.9, 0.0]), np.array([0]), np.array([3]), 3).round(9).tolist()
    [0.0, 0.3, 0.0]
    """
    row = np.arange(len(values))
    place = row - np.repeat(first, size)
    from_end = np.repeat(size, size) - 1 - place
    # No track is longer than the table; larger numbers may not fit.
    points = min(points, len(values))
    widest = np.repeat((np.minimum(points, size) - 1) // 2, size)
    reach = np.minimum(np.minimum(place, from_end), widest)
    # Running sums of the distance from each track's start lose no digits in long tables.
    start = np.repeat(values[first], size)
    sums = np.concatenate([[0.0], np.cumsum(values - start)])
    return start + (sums[row + reach + 1] - sums[row - reach]) / (2 * reach + 1)


def interpolate(
    tracks: pd.DataFrame,
    *,
    px_mm: float,
    frame_rate_hz: float,
    max_distance_px: float = 2.0,
    upsample: int = 10,
    smooth_points: int = 20,
    pala: bool = False,
    acceleration_px: float | None = None,
) -> pd.DataFrame:
    """Smooth tracks and sample them so densely that a map of the tracks has no holes.

    Parameters
    ----------
    tracks : DataFrame
        Track table.
    px_mm : float
        Pixel pitch [mm].
    frame_rate_hz : float
        Frames per second [Hz].
    max_distance_px, upsample
        Longest step of the linking [px] and map pixels per pixel. The longest step is cut into
        pieces of 0.8 map pixels: points lie ``0.8 / (max_distance_px * upsample)`` frames apart
        (0.04 by default), and one at the last bubble.
    smooth_points : int
        See `smooth`; 1 leaves the points where they are.
    acceleration_px : float, optional
        See `smooth`.
    pala : bool
        Repeat PALA: frames missing in a bridged gap take no time, so that speeds there come out too
        high, smoothing goes by rows, and a path ends at its last whole step, before its last
        bubble.

    Returns
    -------
    DataFrame
        Columns ``track, frame`` (fractional) ``, z, x`` [px] ``, vz, vx`` [mm/s]. Each point
        carries the velocity of the piece that ends in it, the first point that of its successor; a
        track of one point stands still.

    Notes
    -----
    PALA ``ULM_tracking2D``, mode ``velocityinterp``. PALA's setting ``interp_factor`` is overruled
    by the step above.

    Examples
    --------
    >>> from ulmpaper.core.records import bubble_table
    >>> straight = link(bubble_table([0, 1], [0.0, 0.0], [0.0, 0.5], [1, 1]))
    >>> path = interpolate(straight, px_mm=0.1, frame_rate_hz=1000)
    >>> len(path), round(float(path.vx.iloc[0]), 6)
    (26, 50.0)
    """
    check_positive(
        px_mm=px_mm, frame_rate_hz=frame_rate_hz, max_distance_px=max_distance_px, upsample=upsample
    )
    smoothed = smooth(tracks, smooth_points, pala=pala, acceleration_px=acceleration_px)
    tracks, first, size = _sorted_tracks(smoothed)
    frame = tracks["frame"].to_numpy(dtype=float)
    since = (
        np.arange(len(tracks)) - np.repeat(first, size)
        if pala
        else frame - np.repeat(frame[first], size)
    )
    span = since[first + size - 1]
    # The longest allowed step is cut into pieces of 0.8 map pixels.
    pieces = max(max_distance_px * upsample, 1e-9) / 0.8
    if not pieces * (1 + float(span.sum())) <= _MOST_POINTS:
        raise ValueError(
            f"max_distance_px {max_distance_px:g} and upsample {upsample:g} ask for {pieces:g} "
            f"points a frame along tracks of {span.sum():g} frames in all, but at most "
            f"{_MOST_POINTS:g} points are drawn: give less of one"
        )
    step = 0.8 / max(max_distance_px * upsample, 1e-9)
    # Rounding must not cost the last point of a span that is a whole number of steps.
    n_steps = np.floor(span / step * (1 + 1e-12)).astype(np.intp)
    # What is left of a span beyond its last whole step.
    rest = np.zeros(len(span)) if pala else span - n_steps * step
    has_rest = rest > 1e-9 * step
    n_points = n_steps + 1 + has_rest
    # One axis of time with all tracks one after another: a single np.interp serves them all.
    offset = np.cumsum(span + 1) - (span + 1)
    start = np.cumsum(n_points) - n_points
    place = np.arange(n_points.sum()) - np.repeat(start, n_points)
    time = np.minimum(place * step, np.repeat(span, n_points))
    ends_early = (start + n_points - 1)[has_rest]
    when = time + np.repeat(offset, n_points)
    knots = since + np.repeat(offset, size)
    path = {"track": np.repeat(tracks["track"].to_numpy()[first], n_points)}
    path["frame"] = time + np.repeat(frame[first], n_points)
    velocity = {}
    for axis in ("z", "x"):
        values = (
            np.interp(when, knots, tracks[axis].to_numpy(dtype=float)) if len(when) else np.empty(0)
        )
        speed = np.diff(values, prepend=values[:1]) / step
        speed[ends_early] *= step / rest[has_rest]
        speed[start] = np.append(speed, 0.0)[np.where(n_points > 1, start + 1, len(speed))]
        path[axis] = values
        velocity[f"v{axis}"] = speed * px_mm * frame_rate_hz
    return pd.DataFrame({**path, **velocity})


def add_velocity(
    tracks: pd.DataFrame,
    *,
    px_mm: float,
    frame_rate_hz: float,
    smooth_points: int = 20,
    pala: bool = False,
    acceleration_px: float | None = None,
) -> pd.DataFrame:
    """Add the velocity of each point of each smoothed track as columns ``vz, vx`` [mm/s].

    The velocity is that of the step that ends in the point (first point: the step that leaves it),
    as at the frames of `interpolate`, whose parameters it shares.

    Examples
    --------
    >>> from ulmpaper.core.records import bubble_table
    >>> straight = link(bubble_table([0, 2], [0.0, 0.0], [0.0, 0.5], [1, 1]), max_gap=1)
    >>> add_velocity(straight, px_mm=0.1, frame_rate_hz=1000).vx.tolist()
    [25.0, 25.0]
    """
    check_positive(px_mm=px_mm, frame_rate_hz=frame_rate_hz)
    smoothed = smooth(tracks, smooth_points, pala=pala, acceleration_px=acceleration_px)
    smoothed, first, size = _sorted_tracks(smoothed)
    columns = {}
    elapsed = np.diff(smoothed["frame"].to_numpy(dtype=float), prepend=0)
    if pala:
        elapsed = np.ones(len(smoothed))
    for axis in ("z", "x"):
        step = np.diff(smoothed[axis].to_numpy(dtype=float), prepend=0)
        # The step into the first point of a track comes from another track.
        speed = np.divide(step, elapsed, out=np.zeros_like(step), where=elapsed > 0)
        speed[first] = np.append(speed, 0.0)[np.where(size > 1, first + 1, len(speed))]
        columns[f"v{axis}"] = speed * px_mm * frame_rate_hz
    raw, *_ = _sorted_tracks(tracks)
    return raw.assign(**columns)


def per_track(tracks: pd.DataFrame, *, frame_rate_hz: float) -> pd.DataFrame:
    """Reduce each track to one row: its points, its duration and its mean speed.

    Parameters
    ----------
    tracks : DataFrame
        Track table with the columns ``vz, vx`` [mm/s] of `add_velocity`.
    frame_rate_hz : float
        Frames per second [Hz].

    Returns
    -------
    DataFrame
        ``track``; ``n_points``, missing frames not counted; ``duration_s``, from the first to the
        last point [s]; ``speed_mm_s``, length of the smoothed path over the duration [mm/s], NaN
        for a track of one point.

    Examples
    --------
    >>> from ulmpaper.core.records import bubble_table
    >>> straight = link(bubble_table([0, 2], [0.0, 0.0], [0.0, 0.5], [1, 1]), max_gap=1)
    >>> moving = add_velocity(straight, px_mm=0.1, frame_rate_hz=1000)
    >>> per_track(moving, frame_rate_hz=1000).values.tolist()
    [[0.0, 2.0, 0.002, 25.0]]
    """
    check_positive(frame_rate_hz=frame_rate_hz)
    check_bubbles(tracks, columns=(*_TRACK_COLUMNS, "vz", "vx"))
    tracks, first, size = _sorted_tracks(tracks)
    frame = tracks["frame"].to_numpy(dtype=float)
    # Each point carries the velocity of the step that ends in it, so a step counts by its frames.
    elapsed = np.diff(frame, prepend=0)
    elapsed[first] = 0
    way = np.hypot(tracks["vz"].to_numpy(dtype=float), tracks["vx"].to_numpy(dtype=float)) * elapsed
    track = np.repeat(np.arange(len(first)), size)
    duration = frame[first + size - 1] - frame[first]
    speed = np.full(len(first), np.nan)
    np.divide(np.bincount(track, way, len(first)), duration, out=speed, where=duration > 0)
    return pd.DataFrame(
        {
            "track": tracks["track"].to_numpy()[first],
            "n_points": size,
            "duration_s": duration / frame_rate_hz,
            "speed_mm_s": speed,
        }
    )


def track_summary(
    tracks: pd.DataFrame, *, frame_rate_hz: float | None = None
) -> dict[str, int | dict[str, float | None]]:
    """Summarize tracks: their number, and how long and how fast they are.

    Parameters
    ----------
    tracks : DataFrame
        Track table with the columns ``vz, vx`` of `add_velocity`; or rows of `per_track`, those of
        several blocks one below the other.
    frame_rate_hz : float
        Frames per second [Hz]; not needed for rows of `per_track`.

    Returns
    -------
    dict
        ``n_tracks``, and for each of ``n_points``, ``duration_s`` [s] and ``speed_mm_s`` [mm/s] of
        a track the quantiles ``p05, median, p95``; None where there is no track.

    Examples
    --------
    >>> from ulmpaper.core.records import bubble_table
    >>> straight = link(bubble_table([0, 1], [0.0, 0.0], [0.0, 0.5], [1, 1]))
    >>> moving = add_velocity(straight, px_mm=0.1, frame_rate_hz=1000)
    >>> summary = track_summary(moving, frame_rate_hz=1000)
    >>> summary["n_tracks"], summary["speed_mm_s"]["median"]
    (1, 50.0)
    """
    if "n_points" in tracks.columns:
        each = tracks
    elif frame_rate_hz is None:
        raise ValueError("track_summary needs frame_rate_hz, the frames per second [Hz]")
    else:
        each = per_track(tracks, frame_rate_hz=frame_rate_hz)
    summary: dict[str, int | dict[str, float | None]] = {"n_tracks": len(each)}
    for name in ("n_points", "duration_s", "speed_mm_s"):
        quantiles = each[name].quantile([0.05, 0.5, 0.95])
        summary[name] = {
            key: None if np.isnan(value) else float(value)
            for key, value in zip(("p05", "median", "p95"), quantiles, strict=True)
        }
    return summary


def _close_gaps(
    frame: NDArray, at: NDArray, successor: NDArray, max_distance: float, max_gap: int
) -> None:
    """Join loose ends to loose starts, in place: early ends, short gaps, near starts first."""
    has_source = np.zeros(len(successor), dtype=bool)
    has_source[successor[successor >= 0]] = True
    ends, starts, squared = pairs_in_reach(
        frame,
        at,
        np.flatnonzero(successor < 0),
        np.flatnonzero(~has_source),
        reach_px=max_distance,
        frames_between=(2, max_gap + 1),
    )
    order = np.lexsort((squared, frame[starts], frame[ends]))
    for end, start in zip(ends[order].tolist(), starts[order].tolist(), strict=True):
        if successor[end] < 0 and not has_source[start]:
            successor[end] = start
            has_source[start] = True


def _number_chains(successor: NDArray) -> NDArray[np.int64]:
    """Number of the chain each row belongs to, counted by first row."""
    n = len(successor)
    linked = np.flatnonzero(successor >= 0)
    # Chains are the connected components of the links.
    graph = sparse.coo_array((np.ones(len(linked)), (linked, successor[linked])), shape=(n, n))
    _, label = (
        sparse.csgraph.connected_components(graph, directed=False) if n else (0, np.empty(0, int))
    )
    _, first, chain = np.unique(label, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[chain].astype(np.int64)


def _on_frames(
    frame: NDArray, first: NDArray, size: NDArray
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Places of points among all frames of all tracks; first and number of each track's frames."""
    since = frame - np.repeat(frame[first], size)
    n_frames = since[first + size - 1] + 1
    if float(n_frames.sum(dtype=float)) > _MOST_POINTS:
        raise ValueError(
            f"the tracks last {n_frames.sum(dtype=float):g} frames in all, but at most "
            f"{_MOST_POINTS:g} are smoothed: are the frames counted in another unit?"
        )
    start = np.cumsum(n_frames) - n_frames
    return since + np.repeat(start, size), start, n_frames


def _sorted_tracks(tracks: pd.DataFrame) -> tuple[pd.DataFrame, NDArray[np.intp], NDArray[np.intp]]:
    """Tracks ordered by track and frame, with the first row and the number of points of each."""
    tracks = check_bubbles(tracks, columns=_TRACK_COLUMNS)
    order = np.lexsort((tracks["frame"].to_numpy(), tracks["track"].to_numpy()))
    tracks = tracks.iloc[order].reset_index(drop=True)
    _, first, size = np.unique(tracks["track"], return_index=True, return_counts=True)
    return tracks, first, size
