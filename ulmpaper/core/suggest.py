"""What frames say about the settings they need: kind of values, tissue, threshold, step.

Each rule is simple enough to be doubted: what it goes by stands in its docstring.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import linalg, ndimage

from ulmpaper.core.filters import envelope
from ulmpaper.core.localize import locate_peaks
from ulmpaper.core.records import check_bubbles, check_frames
from ulmpaper.core.track import drop_short, link

_LEANS = -0.05  # values lean to the low side
_CROWDED = 0.15  # share of the range below which half of the values of amplitude lie
_SOME_PIXELS = 2000  # enough for the singular vectors along time
_HEAD = 20  # singular values among which the knee lies, at least
_SOME_FRAMES = 10  # pairs of frames compared, half a block apart
_STANDING = (
    0.4  # of the brightest peaks in the same pixel: bubbles stay below 0.15, tissue above 0.7
)
_CLEAR = 1.5  # height of bubbles over the valley that parts them from noise
_NOISE_TAIL = 0.92  # noise falls off faster than the exponential that goes on from its middle
_FEW = 0.5  # bubbles a frame
_WINDOW_PX = 5  # of a peak; smaller frames hold none
_ANY = 100_000  # peaks a frame
_HIGHEST_STEP_PX = 8.0
_LAG = 8  # frames that a speed is averaged over
_CLEAR_TRACK = 10  # points


def value_kind(frames: ArrayLike) -> str:
    """Tell what the values of frames are.

    Parameters
    ----------
    frames : array_like (T, Z, X)
        Finite numbers.

    Returns
    -------
    str
        ``IQ`` (complex), ``amplitude`` (none negative), ``compressed`` (none negative, but most
        values are high and lean to the low side: decibels or their picture), ``decibels`` (nearly
        all below 0, or negative without symmetry), ``offset`` (negative, but crowded near the
        lowest value, as amplitude is), ``radio frequency`` (negative and oscillating along z) or
        ``signed`` (negative: one part of IQ, or amplitude after a filter).

    Notes
    -----
    Noise leans to the high side in amplitude and to the low side in decibels (Bowley's measure of
    the 10, 50 and 90 % quantiles: 0.15 and -0.22 for speckle). Radio frequency is anticorrelated
    half a wavelength deeper.

    Examples
    --------
    >>> noise = np.random.default_rng(0).rayleigh(size=(4, 30, 30))
    >>> value_kind(noise), value_kind(20 * np.log10(noise / noise.max()))
    ('amplitude', 'decibels')
    """
    frames = check_frames(frames, allow_complex=True)
    if frames.dtype.kind == "c":
        return "IQ"
    lowest = float(frames.min())
    highest = float(frames.max())
    above = frames[frames > lowest]
    if not above.size:
        return "amplitude"
    low, middle, high = np.quantile(above, [0.1, 0.5, 0.9])
    lean = (high + low - 2 * middle) / (high - low) if high > low else 0.0
    if lowest >= 0:
        return "compressed" if middle > 0.2 * highest and lean < _LEANS else "amplitude"
    if highest > -lowest and middle - lowest < _CROWDED * (highest - lowest):
        return "offset"
    if np.mean(frames < 0) > 0.75:
        return "decibels"
    if _oscillates(frames):
        return "radio frequency"
    return "decibels" if lean < -0.1 else "signed"


def _oscillates(frames: NDArray) -> bool:
    """Whether frames are anticorrelated along z at some short distance."""
    lines = frames[:: max(1, len(frames) // 20)].astype(np.float64)
    lines = lines - lines.mean(axis=1, keepdims=True)
    power = np.sum(lines**2)
    if not power:
        return False
    reach = min(17, lines.shape[1] // 2)
    alike = [np.sum(lines[:, k:] * lines[:, :-k]) / power for k in range(1, reach)]
    return min(alike, default=0.0) < -0.25


def to_amplitude(frames: NDArray, kind: str) -> NDArray[np.floating]:
    """Take the amplitude of frames (T, Z, X) whose `value_kind` is known.

    Examples
    --------
    >>> to_amplitude(np.array([[[-20.0, 0.0]]]), "decibels").tolist()
    [[[0.1, 1.0]]]
    """
    if kind == "decibels":
        return 10 ** (frames / 20)
    if kind == "offset":
        return np.maximum(frames, 0)
    return envelope(frames) if kind == "radio frequency" else np.abs(frames)


class Tissue(NamedTuple):
    """What `find_tissue` found.

    Parameters
    ----------
    singular_db : ndarray (n,)
        Singular values below the first [dB].
    standing : float
        Share of the brightest peaks that stand in the same pixel half a block later.
    svd_low : int
        First singular component to keep; 1 where there is no tissue.
    filtered : ndarray (T, Z, X)
        The frames without the components before it.
    """

    singular_db: NDArray[np.float64]
    standing: float
    svd_low: int
    filtered: NDArray


def find_tissue(frames: ArrayLike) -> Tissue:
    """Look for tissue, and for the cut that removes it.

    Parameters
    ----------
    frames : array_like (T, Z, X)
        Amplitude or IQ of one block.

    Notes
    -----
    Tissue stands still and bubbles go on: there is tissue where more than 40 % of the five
    brightest peaks of a frame are among the twenty brightest of another one, half a block later, in
    the very same pixel. The cut is the knee of the singular values: among the first
    eighth of them (at least 20) the one that lies farthest below the straight line, in decibels,
    from the first to the last of these.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> still = 100 * rng.random((20, 24))
    >>> found = find_tissue(still + rng.random((40, 20, 24)))
    >>> found.standing, found.svd_low
    (1.0, 2)
    """
    frames = check_frames(frames, allow_complex=True)
    n_frames = len(frames)
    series = frames.reshape(n_frames, -1)
    some = series[:, :: max(1, series.shape[1] // _SOME_PIXELS)]
    some = some.astype(np.result_type(some.dtype, np.float64))
    power, vectors = linalg.eigh(some @ some.conj().T)
    power = power[::-1]
    db = 10 * np.log10(np.maximum(power / power[0], 1e-12)) if power[0] > 0 else np.zeros(n_frames)
    first = np.unique(np.linspace(0, max(n_frames // 2 - 1, 0), _SOME_FRAMES).astype(int))
    standing = _standing(np.abs(frames[first]), np.abs(frames[first + n_frames // 2]))
    if standing < _STANDING or n_frames < 4:
        return Tissue(db, standing, 1, frames)
    head = db[: max(_HEAD, n_frames // 8)]
    knee = int(np.argmax(np.linspace(0, head[-1], len(head)) - head))
    dropped = vectors[:, ::-1][:, : max(knee, 1)].astype(np.result_type(frames.dtype, np.float32))
    filtered = series - dropped @ (dropped.conj().T @ series)
    return Tissue(db, standing, max(knee, 1) + 1, filtered.reshape(frames.shape))


def _standing(before: NDArray, after: NDArray) -> float:
    """Share of the brightest peaks of frames `before` in the same pixel of frames `after`."""
    if min(before.shape[1:]) < _WINDOW_PX:
        return 0.0
    brightest = locate_peaks(before, "none", 5, max_peaks_in_roi=25)
    bright = locate_peaks(after, "none", 20, max_peaks_in_roi=25)
    place = ["frame", "z", "x"]
    return len(brightest.merge(bright, on=place)) / max(len(brightest), 1)


class Scores(NamedTuple):
    """What `split_scores` found.

    Parameters
    ----------
    peaks : ndarray (n,)
        Amplitude of all peaks of the frames.
    min_score : float
        Threshold between noise and bubbles.
    n_bubbles : int
        A little more than the peaks above it in 95 % of the frames; 0 where there are no bubbles.
    mean : float
        Peaks above it in a frame.
    is_clear : bool
        Whether noise and bubbles are two hills; else they overlap, and any threshold loses bubbles.
    """

    peaks: NDArray[np.float64]
    min_score: float
    n_bubbles: int
    mean: float
    is_clear: bool


def split_scores(frames: ArrayLike) -> Scores:
    """Find the threshold that parts bubbles from the peaks of noise.

    Parameters
    ----------
    frames : array_like (T, Z, X)
        Amplitude, free of tissue. A hundred frames are enough.

    Notes
    -----
    Peaks of noise and bubbles are two hills in the histogram of the logarithm of the peaks. The
    threshold is the valley where the hill of the bubbles is at least half again as high. Where the
    hills run into each other, the squares of the noise peaks are taken to fall off exponentially,
    as between their median and upper quartile; what is above that are bubbles. The threshold is
    then where the Jaccard index expected from both is highest, less 8 %, since noise falls off
    faster in truth.

    Frames most of whose pixels are 0 have had a threshold already; there only a valley counts.

    Examples
    --------
    >>> from ulmpaper.core.testcard import simulate_testcard
    >>> rng = np.random.default_rng(0)
    >>> card = simulate_testcard(n_frames=50, n_bubbles=8, shape_px=(60, 60), rng=rng, noise=0.05)
    >>> found = split_scores(card.frames)
    >>> 0.2 < found.min_score < 0.45, 8 <= found.n_bubbles <= 15, found.is_clear
    (True, True, True)
    """
    frames = check_frames(frames)
    if min(frames.shape[1:]) < _WINDOW_PX:
        return Scores(np.empty(0), 0.0, 0, 0.0, False)
    table = locate_peaks(frames, "none", _ANY, max_peaks_in_roi=25)
    peaks = table["score"].to_numpy()
    if len(peaks) < 20 or peaks.min() == peaks.max():
        most = int(table["frame"].value_counts().max()) if len(table) else 0
        return Scores(peaks, 0.0, most, len(peaks) / len(frames), False)
    threshold, depth = _valley(peaks)
    is_clear = depth >= _CLEAR
    if not is_clear:
        threshold = 0.0 if np.median(frames) == 0 else _best_threshold(peaks, len(frames))
    per_frame = np.bincount(table["frame"][peaks > threshold], minlength=len(frames))
    mean = float(per_frame.mean())
    # Not the very most: one bad frame would decide.
    usual = float(np.quantile(per_frame, 0.95))
    n_bubbles = int(5 * np.ceil(1.1 * usual / 5)) if mean > _FEW else 0
    return Scores(peaks, _rounded(threshold), n_bubbles, mean, is_clear)


def _valley(peaks: NDArray) -> tuple[float, float]:
    """Lowest place between the two hills of the logarithms, and the height of the right hill."""
    logs = np.log(peaks)
    count, edges = np.histogram(logs, bins=60)
    smoothed = ndimage.gaussian_filter1d(count.astype(float), 1.5)
    left = int(smoothed.argmax())
    hill = smoothed[left:]
    highest_beyond = np.maximum.accumulate(hill[::-1])[::-1]
    # Single peaks are no hill: where nothing is, half a peak is taken to be.
    height = highest_beyond / np.maximum(hill, 0.5)
    lowest = int(height.argmax())
    # In a wide valley the middle: noise and bubbles may both reach farther than in these frames.
    same = np.flatnonzero(height >= 0.99 * height[lowest])
    at = left + (same[0] + same[-1]) // 2 if same[-1] - same[0] == len(same) - 1 else left + lowest
    return float(np.exp((edges[at] + edges[at + 1]) / 2)), float(height[lowest])


def _best_threshold(peaks: NDArray, n_frames: int) -> float:
    """Threshold of the highest expected Jaccard index where noise and bubbles overlap."""
    squares = np.sort(peaks.astype(np.float64) ** 2)
    middle, upper = np.quantile(squares, [0.5, 0.75])
    rate = np.log(2) / max(upper - middle, 1e-30 * squares[-1])
    at = np.linspace(upper, squares[-1], 400)
    above = len(squares) - np.searchsorted(squares, at)
    noise = len(squares) / 2 * np.exp(-rate * (at - middle))
    bubbles = above - noise
    all_bubbles = max(float(bubbles.max()), 1.0)
    if all_bubbles < _FEW * n_frames:
        return float(np.sqrt(squares[-1]))
    return _NOISE_TAIL * float(np.sqrt(at[np.argmax(bubbles / (noise + all_bubbles))]))


def _rounded(value: float) -> float:
    """Two digits of a number."""
    return float(f"{value:.2g}")


def largest_step(bubbles: pd.DataFrame, shape_px: tuple[int, int]) -> float | None:
    """Measure the largest step from frame to frame of bubbles in clear tracks.

    Parameters
    ----------
    bubbles : DataFrame
        Bubble table of consecutive frames.
    shape_px : (int, int)
        Size of the frames (z, x) [px].

    Returns
    -------
    float or None
        99 % quantile of the steps [px]; None where no track is clear.

    Notes
    -----
    Bubbles are linked up to half the distance that bubbles at random places have from each other
    (at most 8 px). A track is clear if it has more than ten points, and if its steps change from
    frame to frame by less than half of the typical step or of a pixel.

    Examples
    --------
    >>> from ulmpaper.core.records import bubble_table
    >>> t = np.arange(20)
    >>> largest_step(bubble_table(t, 3.0 * t, 5.0 + 0 * t, 1.0 + 0 * t), (64, 64))
    3.0
    """
    steps = [np.hypot(*np.diff(at, axis=0).T) for at in _clear_tracks(bubbles, shape_px)]
    return float(np.quantile(np.concatenate(steps), 0.99)) if steps else None


def fastest_flow(bubbles: pd.DataFrame, shape_px: tuple[int, int]) -> float | None:
    """Measure how fast the fastest bubbles in clear tracks flow [px/frame].

    Parameters and clear tracks are those of `largest_step`. Steps are averaged over eight frames,
    so that errors of localization, which a link must bridge, do not pass for speed.

    Examples
    --------
    >>> from ulmpaper.core.records import bubble_table
    >>> t = np.arange(20)
    >>> fastest_flow(bubble_table(t, 0.1 * t, 5 + 0.2 * (t % 2), 1.0 + 0 * t), (64, 64))
    0.1
    """
    steps = [_flow_speeds(at) for at in _clear_tracks(bubbles, shape_px)]
    return round(float(np.quantile(np.concatenate(steps), 0.99)), 4) if steps else None


def _flow_speeds(at: NDArray) -> NDArray:
    """Speeds [px/frame] along a track of positions (n, 2) in consecutive frames."""
    lag = min(_LAG, len(at) - 1)
    return np.hypot(*(at[lag:] - at[:-lag]).T) / lag


def _clear_tracks(bubbles: pd.DataFrame, shape_px: tuple[int, int]) -> list[NDArray]:
    """Positions (n, 2) of the tracks that are clear, see `largest_step`."""
    check_bubbles(bubbles)
    if not len(bubbles):
        return []
    per_frame = len(bubbles) / bubbles["frame"].nunique()
    apart = 0.5 * np.sqrt(np.prod(shape_px) / per_frame)
    linked = link(bubbles, max_distance_px=float(np.clip(apart / 2, 1.0, _HIGHEST_STEP_PX)))
    clear = []
    for _, track in drop_short(linked, _CLEAR_TRACK).groupby("track"):
        at = track[["z", "x"]].to_numpy()
        step = np.diff(at, axis=0)
        change = np.median(np.hypot(*np.diff(step, axis=0).T))
        if change < 0.5 * max(float(np.median(np.hypot(*step.T))), 1.0):
            clear.append(at)
    return clear
