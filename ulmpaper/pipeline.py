"""Frames in; bubbles, tracks and maps out; many blocks in parallel.

From bubbles to tracks and to the lines that maps are drawn from, by the settings of a configuration.

The ULM chain as one pure function of a block, and the same over many blocks in parallel.

Filter, detect and localize, link, drop short tracks, interpolate, render: settings come from a `config.Config`,
blocks from anywhere. Nothing here reads or writes files, but for the weights where a network localizes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import joblib
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from ulmpaper.config import METHODS, NETWORKS, Config
from ulmpaper.core.filters import butter_bandpass, min_frames_zero_phase, svd_filter
from ulmpaper.core.localize import locate
from ulmpaper.core.records import Block, check_amplitude, check_choice, check_frames
from ulmpaper.core.render import Maps, MapSums, map_sums, power_doppler
from ulmpaper.core.track import add_velocity, drop_short, interpolate, link

_CONNECT_TIMEOUT_S = 10


def ordered_map(tasks: Iterator[Any], *, n_jobs: int, scheduler: str | None = None) -> Iterator[Any]:
    """Results of tasks in their order; four for each process are begun before the first of them is asked for.

    Parameters
    ----------
    tasks : iterator
        Made by `joblib.delayed`; read as they are begun.
    n_jobs : int
        Processes; on a cluster, tasks sent ahead.
    scheduler : str, optional
        Address of a Dask scheduler that takes the work instead of local processes.

    Raises
    ------
    ImportError, OSError
        Dask is not installed; no scheduler answers at the address.

    Notes
    -----
    joblib's own generator begins a task whenever one is done, asked for or not, so results would pile up.

    Examples
    --------
    >>> list(ordered_map((joblib.delayed(abs)(k) for k in (-1, 2, -3)), n_jobs=1))
    [1, 2, 3]
    """
    with _runner(scheduler, n_jobs) as run:
        ahead = 4 * max(1, n_jobs if scheduler else joblib.effective_n_jobs(n_jobs))
        for task in tasks:
            yield from run(itertools.chain([task], itertools.islice(tasks, ahead - 1)))


@contextlib.contextmanager
def _runner(scheduler: str | None, n_jobs: int) -> Iterator[joblib.Parallel]:
    how: dict[str, Any] = {"n_jobs": n_jobs, "return_as": "generator", "max_nbytes": None, "batch_size": 1}
    if scheduler is None:
        # Tasks keep every core busy; threads of the linear algebra on top would only get in their way.
        alone = {"backend": "loky", "inner_max_num_threads": 1} if n_jobs != 1 else {}
        yield joblib.Parallel(**how, **alone)
        return
    try:
        from distributed import Client
    except ImportError:
        raise ImportError("a Dask scheduler needs the extra: pip install 'ulmpaper[cluster]'") from None
    try:
        client = Client(scheduler, timeout=_CONNECT_TIMEOUT_S)
    except OSError as error:
        raise OSError(f"no Dask scheduler answers at {scheduler!r}: start one with `dask scheduler`") from error
    with client:
        with joblib.parallel_config("dask"):  # in force here only, not where results are used
            run = joblib.Parallel(**how)
        yield run


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
    return drop_short(link(bubbles, max_distance_px=t.max_distance_px, max_gap=t.max_gap), t.min_length)


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
    return interpolate(
        tracks,
        px_mm=px_mm,
        frame_rate_hz=frame_rate_hz,
        max_distance_px=cfg.track.max_distance_px,
        upsample=cfg.render.upsample,
        smooth_points=cfg.track.smooth_points,
        pala=cfg.pala,
    )


@dataclass(frozen=True)
class UlmResult:
    """What ULM makes of frames.

    Parameters
    ----------
    bubbles : DataFrame
        All localized bubbles: ``frame, z, x, score``.
    tracks : DataFrame
        Bubbles in tracks that are long enough: ``frame, z, x, score, track, vz, vx`` (velocities in mm/s). Positions
        are those of the bubbles, velocities those of the smoothed track.
    maps : dict of str to ndarray
        ``density`` (tracks per map pixel), ``velocity``, ``mean_velocity``, ``direction`` [mm/s] and, at the
        resolution of the frames, ``power_doppler``.
    """

    bubbles: pd.DataFrame
    tracks: pd.DataFrame
    maps: dict[str, NDArray]


@dataclass(frozen=True)
class BlockResult:
    """What `ulm_blocks` yields for each block: its tables, sums that `MapTotals` adds up, and warnings."""

    bubbles: pd.DataFrame
    tracks: pd.DataFrame
    sums: MapSums
    power: NDArray
    n_frames: int
    notes: tuple[str, ...] = ()


class MapTotals:
    """Maps of all blocks seen so far.

    Parameters
    ----------
    cfg : Config
        Settings of the maps.
    """

    def __init__(self, cfg: Config) -> None:
        self._cfg = cfg
        self._maps: Maps | None = None
        self._power: NDArray | float = 0.0
        self._n_frames = 0

    def add(self, result: BlockResult) -> None:
        """Add the sums of a block."""
        if self._maps is None:
            self._maps = Maps(result.power.shape, upsample=self._cfg.render.upsample, pala=self._cfg.pala)
        self._maps.add(result.sums)
        self._power = self._power + result.power * result.n_frames
        self._n_frames += result.n_frames

    def as_dict(self) -> dict[str, NDArray]:
        """All maps by name, see `UlmResult`."""
        if self._maps is None:
            raise ValueError("there is no block to make maps of: at least one frame is needed")
        return {**self._maps.as_dict(), "power_doppler": np.asarray(self._power) / self._n_frames}


def ulm(frames: ArrayLike | Block, cfg: Config, *, method: str | None = None) -> UlmResult:
    """Run the whole chain on one block.

    Parameters
    ----------
    frames : array_like (T, Z, X) or Block
        B-mode amplitude or IQ. A `Block` brings its own pixel pitch and frame rate where it knows them; else those
        of ``cfg.acquisition`` hold.
    cfg : Config
        Settings, see `config.load_config`.
    method : str, optional
        Localization method, or network, instead of ``cfg.locate.method``.

    Raises
    ------
    TypeError, ValueError
        What the steps raise: see `records.check_frames`, `filters`, `localize.locate`, `localize.locate_ml3d`.

    Notes
    -----
    Networks take ``cfg.locate.min_score`` only: ``ml3d`` counts bubbles, ``mspcn`` has a threshold; see `localize.locate`.
    They warn where frames are unlike those that they were trained on.

    Examples
    --------
    >>> from ulmpaper.config import load_config
    >>> from ulmpaper.core.testcard import simulate_testcard
    >>> block = simulate_testcard(n_frames=60, n_bubbles=8, shape_px=(40, 48), rng=np.random.default_rng(0))
    >>> result = ulm(block, load_config("smoke", {"locate.min_score": 0.2}), method="parabola")
    >>> result.maps["density"].shape
    (400, 480)
    """
    result = _run_block(frames, cfg, method)
    totals = MapTotals(cfg)
    totals.add(result)
    for note in result.notes:
        warnings.warn(note, stacklevel=2)
    return UlmResult(result.bubbles, result.tracks, totals.as_dict())


def ulm_blocks(
    blocks: Iterable[ArrayLike | Block],
    cfg: Config,
    *,
    method: str | None = None,
    n_jobs: int | None = None,
    scheduler: str | None = None,
) -> Iterator[BlockResult]:
    """Run the chain on each block, in parallel, and yield results in the order of the blocks.

    Blocks are filtered and tracked apart, as in PALA. Frames and tracks are numbered on through the blocks. Only
    a few blocks are in memory at a time. Warnings of `ulm` are here the ``notes`` of the results.

    Parameters
    ----------
    blocks : iterable
        Arrays or `Block` of one shape; read ahead by four blocks per process at most.
    cfg, method
        As in `ulm`.
    n_jobs : int, optional
        Processes instead of ``cfg.blocks.n_jobs``; on a cluster, tasks sent ahead.
    scheduler : str, optional
        Address of a Dask scheduler (``"tcp://host:8786"``) that takes the work instead of local processes. Needs the
        extra ``cluster``.

    Raises
    ------
    ValueError
        A block differs in shape from the first.
    OSError
        No scheduler answers at the address.
    """
    n_jobs = cfg.blocks.n_jobs if n_jobs is None else n_jobs
    first_frame = first_track = 0
    tasks = (joblib.delayed(_run_block)(block, cfg, method) for block in _same_shape(blocks))
    for result in ordered_map(tasks, n_jobs=n_jobs, scheduler=scheduler):
        numbers, track_of_row = np.unique(result.tracks["track"], return_inverse=True)
        yield dataclasses.replace(
            result,
            bubbles=result.bubbles.assign(frame=result.bubbles["frame"] + first_frame),
            tracks=result.tracks.assign(frame=result.tracks["frame"] + first_frame, track=track_of_row + first_track),
        )
        first_frame += result.n_frames
        first_track += len(numbers)


def ulm_many(
    blocks: Iterable[ArrayLike | Block],
    cfg: Config,
    *,
    method: str | None = None,
    n_jobs: int | None = None,
    scheduler: str | None = None,
) -> UlmResult:
    """Run the chain on many blocks and gather tables and maps; parameters as in `ulm_blocks`.

    The tables of all blocks are held in memory; where that is too much, use `ulm_blocks` with `MapTotals`.

    Examples
    --------
    >>> from ulmpaper.config import load_config
    >>> from ulmpaper.core.testcard import simulate_testcard
    >>> rng = np.random.default_rng(0)
    >>> blocks = (simulate_testcard(n_frames=30, n_bubbles=8, shape_px=(40, 48), rng=rng) for _ in range(2))
    >>> int(ulm_many(blocks, load_config("smoke")).bubbles.frame.max())
    59
    """
    totals, bubbles, tracks = MapTotals(cfg), [], []
    notes: list[str] = []
    for result in ulm_blocks(blocks, cfg, method=method, n_jobs=n_jobs, scheduler=scheduler):
        totals.add(result)
        bubbles.append(result.bubbles)
        tracks.append(result.tracks)
        notes += result.notes
    for note in notes[:1]:  # the other blocks say the same with slightly other figures
        warnings.warn(note, stacklevel=2)
    maps = totals.as_dict()
    return UlmResult(pd.concat(bubbles, ignore_index=True), pd.concat(tracks, ignore_index=True), maps)


def _run_block(frames: ArrayLike | Block, cfg: Config, method: str | None) -> BlockResult:
    px_mm, frame_rate_hz = cfg.acquisition.px_mm, cfg.acquisition.frame_rate_hz
    if isinstance(frames, Block):
        px_mm, frame_rate_hz = frames.px_mm or px_mm, frames.frame_rate_hz or frame_rate_hz
        frames = frames.frames
    frames = check_frames(frames, allow_complex=True)
    if frames.dtype.kind != "c":
        check_amplitude(frames)
    filtered = _filter(frames, cfg, frame_rate_hz)
    amplitude = np.abs(filtered) if filtered.dtype.kind == "c" or _filters(cfg) else filtered
    bubbles, notes = _locate(amplitude, cfg, method or cfg.locate.method)
    kept = link_tracks(bubbles, cfg)
    scale = {"px_mm": px_mm, "frame_rate_hz": frame_rate_hz}
    paths = draw_lines(kept, cfg, **scale)
    shape_px = (amplitude.shape[1], amplitude.shape[2])
    return BlockResult(
        bubbles=bubbles,
        tracks=add_velocity(kept, **scale, smooth_points=cfg.track.smooth_points),
        sums=map_sums(paths, shape_px, upsample=cfg.render.upsample, pala=cfg.pala),
        power=power_doppler(filtered),
        n_frames=len(amplitude),
        notes=notes,
    )


def _locate(amplitude: NDArray, cfg: Config, method: str) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Bubbles, and in what the frames are unlike those that a network was trained on."""
    if check_choice(method, METHODS + NETWORKS, "method") in METHODS:
        settings = {**dataclasses.asdict(cfg.locate), "method": method}
        return locate(amplitude, **settings, pala=cfg.pala), ()
    from ulmpaper.networks import localize  # here, since torch takes seconds to load

    notes: list[str] = []
    bubbles = localize.locate(amplitude, cfg, method=method, warn=notes.append)
    return bubbles, tuple(notes)


def min_block_frames(cfg: Config) -> int:
    """Frames that a block must have for the clutter filter of the settings.

    Examples
    --------
    >>> from ulmpaper.config import load_config
    >>> min_block_frames(load_config()), min_block_frames(load_config("quick", {"filter.svd_low": 10}))
    (1, 10)
    """
    f = cfg.filter
    to_and_fro = f.band_hz is not None and f.zero_phase and not cfg.pala
    return max(f.svd_low, min_frames_zero_phase(f.order) if to_and_fro else 1)


def _filters(cfg: Config) -> bool:
    return cfg.filter.svd_low > 1 or cfg.filter.svd_high is not None or cfg.filter.band_hz is not None


def _filter(frames: NDArray, cfg: Config, frame_rate_hz: float) -> NDArray:
    """Clutter filter of the settings: components first, then the band, as in PALA."""
    f = cfg.filter
    if f.svd_low > 1 or f.svd_high is not None:
        frames = svd_filter(frames, f.svd_low, f.svd_high)
    if f.band_hz is not None:
        frames = butter_bandpass(
            frames, f.band_hz, frame_rate_hz=frame_rate_hz, order=f.order, zero_phase=f.zero_phase and not cfg.pala
        )
    return frames


def _same_shape(blocks: Iterable[ArrayLike | Block]) -> Iterator[ArrayLike | Block]:
    first = None
    for number, block in enumerate(blocks):
        shape = np.shape(block.frames if isinstance(block, Block) else block)[1:]
        first = first or shape
        if shape != first:
            raise ValueError(f"block {number} has frames of {shape} px, the first has {first}: run them apart")
        yield block
