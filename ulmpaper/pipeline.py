"""Frames in; bubbles, tracks and maps out; many blocks in parallel.

Filter, detect and localize, link, drop short tracks, interpolate, render. Settings come from a
`Config`, frames from an array, a `Block` or a file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from ulmpaper.config import METHODS, NETWORKS, Config, Settings, as_config
from ulmpaper.core.doors import optional
from ulmpaper.core.filters import butter_bandpass, min_frames_zero_phase, svd_filter
from ulmpaper.core.localize import locate_peaks
from ulmpaper.core.records import (
    Block,
    UlmWarning,
    check_amplitude,
    check_choice,
    check_frames,
    warn_user,
)
from ulmpaper.core.render import Maps, MapSums, map_sums, power_doppler
from ulmpaper.core.track import add_velocity, drop_short, interpolate, link
from ulmpaper.io.files import fingerprint
from ulmpaper.io.readers import FrameFile, open_frames
from ulmpaper.io.results import ResultWriter, check_unused

Method = str | Callable[[NDArray], tuple[NDArray, NDArray]]

_CONNECT_TIMEOUT_S = 10


@dataclass(frozen=True, repr=False)
class UlmResult:
    """Bubbles, tracks and maps of a recording.

    Parameters
    ----------
    bubbles : DataFrame
        All localized bubbles: ``frame, z, x, score``.
    tracks : DataFrame
        Bubbles in tracks that are long enough: ``frame, z, x, score, track, vz, vx`` (velocities in
        mm/s). Positions are those of the bubbles, velocities those of the smoothed track.
    maps : dict of str to ndarray
        ``density`` (tracks per map pixel), ``velocity``, ``mean_velocity``, ``direction`` [mm/s]
        and, at the resolution of the frames, ``power_doppler``.
    config : Config
        Settings of the run, with the pixel pitch and the frame rate that were used.
    n_frames : int
        Frames of the recording.
    about : dict
        What the frames are, for ``run.json``.
    """

    bubbles: pd.DataFrame
    tracks: pd.DataFrame
    maps: dict[str, NDArray]
    config: Config
    n_frames: int
    about: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        n_tracks = self.tracks["track"].nunique()
        return (
            f"UlmResult: {self.n_frames} frames, {len(self.bubbles)} bubbles, "
            f"{n_tracks} tracks, maps {', '.join(self.maps)}"
        )

    def save(self, folder: str | os.PathLike, *, overwrite: bool = False) -> None:
        """Write tables, maps, pictures and settings to a folder; see `save_result`."""
        save_result(self, folder, overwrite=overwrite)


@dataclass(frozen=True)
class _BlockResult:
    """Result of one block: its tables, the sums that `MapTotals` adds up, and its warnings."""

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

    def add(self, result: _BlockResult) -> None:
        """Add the sums of a block."""
        if self._maps is None:
            render = self._cfg.render
            self._maps = Maps(result.power.shape, upsample=render.upsample, pala=self._cfg.pala)
        self._maps.add(result.sums)
        self._power = self._power + result.power * result.n_frames
        self._n_frames += result.n_frames

    def as_dict(self) -> dict[str, NDArray]:
        """All maps by name, see `UlmResult`."""
        if self._maps is None:
            raise ValueError("there is no block to make maps of: at least one frame is needed")
        return {**self._maps.as_dict(), "power_doppler": np.asarray(self._power) / self._n_frames}


# --- the chain ---------------------------------------------------------------------------------


def ulm(
    frames: ArrayLike | Block | FrameFile | str | os.PathLike | Iterable[ArrayLike | Block],
    cfg: Settings = None,
    method: Method | None = None,
    *,
    n_jobs: int | None = None,
    scheduler: str | None = None,
) -> UlmResult:
    """Run the whole chain: filter, localize, link, interpolate, render.

    Parameters
    ----------
    frames : array_like (T, Z, X), Block, path, FrameFile, or iterable of arrays or Blocks
        B-mode amplitude or IQ. An array or a `Block` is one block; a file is read in blocks of
        ``blocks.n_frames``; an iterable yields blocks of one shape. A block or file brings its own
        pixel pitch and frame rate where it knows them; else those of ``cfg.acquisition`` hold.
    cfg : Config, mapping or str, optional
        Settings: a `Config`, dotted overrides of the profile ``quick``, or the name of a profile.
    method : str or callable, optional
        Localization method, see `locate`, instead of ``cfg.locate.method``.
    n_jobs, scheduler
        See `ulm_blocks`.

    Returns
    -------
    UlmResult
        ``bubbles, tracks, maps``; ``save(folder)`` writes them. The tables of all blocks are held
        in memory; where that is too much, use `ulm_blocks` with `MapTotals`.

    Raises
    ------
    TypeError, ValueError, OSError
        What the steps raise: see `ulmpaper.core.check_frames`, `ulmpaper.core.svd_filter`,
        `locate`, `ulmpaper.open_frames`.

    Warns
    -----
    UlmWarning
        The frames are unlike those that a network was trained on.

    Examples
    --------
    >>> from ulmpaper.core.testcard import simulate_testcard
    >>> rng = np.random.default_rng(0)
    >>> block = simulate_testcard(n_frames=60, n_bubbles=8, shape_px=(40, 48), rng=rng)
    >>> result = ulm(block, {"locate.min_score": 0.2}, method="parabola")
    >>> result.maps["density"].shape
    (400, 480)
    >>> int(ulm([block, block], {"locate.min_score": 0.2}, method="parabola").bubbles.frame.max())
    119
    """
    cfg = as_config(cfg)
    about: dict[str, Any] = {}
    if callable(method):
        about["method"] = getattr(method, "__name__", "a function")
    elif method is not None:
        check_choice(method, METHODS + NETWORKS, "method")
        cfg = _with(cfg, "locate", method=method)
        method = None
    if isinstance(frames, str | os.PathLike):
        frames = open_frames(frames)
    if isinstance(frames, FrameFile):
        about |= describe_input([frames])
        least = min_frames_per_block(cfg)
        recording: Iterable[Any] = frames.blocks(cfg.blocks.n_frames, min_frames=least)
    else:
        recording = frames if _are_blocks(frames) else [frames]  # type: ignore[assignment]
    blocks = _Described(recording, cfg, about)
    totals = MapTotals(cfg)
    bubbles = []
    tracks = []
    n_frames = 0
    for result in ulm_blocks(blocks, cfg, method=method, n_jobs=n_jobs, scheduler=scheduler):
        totals.add(result)
        bubbles.append(result.bubbles)
        tracks.append(result.tracks)
        n_frames += result.n_frames
    maps = totals.as_dict()
    return UlmResult(
        bubbles=pd.concat(bubbles, ignore_index=True),
        tracks=pd.concat(tracks, ignore_index=True),
        maps=maps,
        config=_with(cfg, "acquisition", px_mm=blocks.px_mm, frame_rate_hz=blocks.frame_rate_hz),
        n_frames=n_frames,
        about=about,
    )


def _are_blocks(frames: object) -> bool:
    """Whether these are blocks, one after another, rather than the frames of one."""
    if isinstance(frames, list | tuple):
        return all(isinstance(block, Block) or np.ndim(block) == 3 for block in frames)
    return isinstance(frames, Iterator)


class _Described:
    """Blocks as they pass, with what is known of the first one, which is not kept in memory."""

    def __init__(
        self, blocks: Iterable[ArrayLike | Block], cfg: Config, about: dict[str, Any]
    ) -> None:
        self._blocks = blocks
        self._cfg = cfg
        self._about = about

    def __iter__(self) -> Iterator[ArrayLike | Block]:
        for number, block in enumerate(self._blocks):
            if number == 0:
                self.px_mm, self.frame_rate_hz = _pitch_and_rate(block, self._cfg)
                frames = block.frames if isinstance(block, Block) else np.asarray(block)
                first_frame = np.ascontiguousarray(frames[:1]).tobytes()
                source = block.source if isinstance(block, Block) else "array"
                self._about.setdefault("source", source)
                self._about.setdefault("content", hashlib.sha256(first_frame).hexdigest()[:10])
            yield block


def ulm_blocks(
    blocks: Iterable[ArrayLike | Block],
    cfg: Settings = None,
    *,
    method: Method | None = None,
    n_jobs: int | None = None,
    scheduler: str | None = None,
) -> Iterator[_BlockResult]:
    """Run the chain on each block, in parallel, and yield results in the order of the blocks.

    Blocks are filtered and tracked apart, as in PALA. Frames and tracks are numbered on through the
    blocks. Only a few blocks are in memory at a time. Of the warnings, the first is given.

    Parameters
    ----------
    blocks : iterable
        Arrays or `Block` of one shape; read ahead by four blocks per process at most.
    cfg, method
        As in `ulm`.
    n_jobs : int, optional
        Processes instead of ``cfg.blocks.n_jobs``; on a cluster, tasks sent ahead.
    scheduler : str, optional
        Address of a Dask scheduler (``"tcp://host:8786"``) that takes the work instead of local
        processes. Needs the extra ``cluster``.

    Raises
    ------
    ValueError
        A block differs in shape from the first.
    OSError
        No scheduler answers at the address.
    """
    cfg = as_config(cfg)
    n_jobs = cfg.blocks.n_jobs if n_jobs is None else n_jobs
    first_frame = first_track = 0
    warned = False
    tasks = (joblib.delayed(_run_block)(block, cfg, method) for block in _same_shape(blocks))
    for result in _ordered_map(tasks, n_jobs=n_jobs, scheduler=scheduler):
        if result.notes and not warned:  # the other blocks say the same with slightly other figures
            warn_user(result.notes[0])
            warned = True
        numbers, track_of_row = np.unique(result.tracks["track"], return_inverse=True)
        frame = result.tracks["frame"] + first_frame
        yield dataclasses.replace(
            result,
            bubbles=result.bubbles.assign(frame=result.bubbles["frame"] + first_frame),
            tracks=result.tracks.assign(frame=frame, track=track_of_row + first_track),
        )
        first_frame += result.n_frames
        first_track += len(numbers)


def _run_block(frames: ArrayLike | Block, cfg: Config, method: Method | None) -> _BlockResult:
    """Run the chain on one block; warnings come back as notes, since a process may lie between."""
    px_mm, frame_rate_hz = _pitch_and_rate(frames, cfg)
    frames = check_frames(
        frames.frames if isinstance(frames, Block) else frames, allow_complex=True
    )
    if frames.dtype.kind != "c":
        check_amplitude(frames)
    filtered = _filter(frames, cfg, frame_rate_hz)
    amplitude = np.abs(filtered) if filtered.dtype.kind == "c" or _filters(cfg) else filtered
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UlmWarning)
        bubbles = locate(amplitude, method or cfg.locate.method, cfg=cfg)
    notes = tuple(str(w.message) for w in caught if issubclass(w.category, UlmWarning))
    kept = link_tracks(bubbles, cfg)
    paths = draw_lines(kept, cfg, px_mm=px_mm, frame_rate_hz=frame_rate_hz)
    shape_px = (amplitude.shape[1], amplitude.shape[2])
    return _BlockResult(
        bubbles=bubbles,
        tracks=add_velocity(
            kept, px_mm=px_mm, frame_rate_hz=frame_rate_hz, smooth_points=cfg.track.smooth_points
        ),
        sums=map_sums(paths, shape_px, upsample=cfg.render.upsample, pala=cfg.pala),
        power=power_doppler(filtered),
        n_frames=len(amplitude),
        notes=notes,
    )


# --- its steps, by the settings ----------------------------------------------------------------


def locate(
    frames: ArrayLike | Block,
    method: Method = "radial",
    n_bubbles: int | None = None,
    *,
    cfg: Settings = None,
    min_score: float | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Detect bubbles and localize them below the pixel, by a classical method or a network.

    Parameters
    ----------
    frames : array_like (T, Z, X) or Block
        B-mode amplitude, 0 or more.
    method : str or callable
        Classical: ``none, weighted, radial, gaussian, parabola, cubic, lanczos, spline``, or a
        function that takes windows (n, k, k) round peaks and returns the shifts (dz, dx) of the
        bubbles from their centres [px]. Networks: ``ml3d`` (3DML-ResNet) or ``mspcn``.
    n_bubbles : int, optional
        At most this many bubbles in a frame; networks also take one number for each frame. By
        default ``locate.n_bubbles``; for ``ml3d`` the predicted count; for ``mspcn`` all above its
        threshold.
    cfg : Config, mapping or str, optional
        Settings, as in `ulm`; what is given here directly counts before them.
    min_score : float, optional
        Bubbles must score more: amplitude of the peak, probability, or height in the heat map.
    **options
        Further parameters of `ulmpaper.core.locate_peaks`, `ulmpaper.networks.locate_ml3d` or
        `ulmpaper.networks.locate_mspcn`.

    Returns
    -------
    DataFrame
        Bubble table ``frame, z, x, score`` in pixels.

    Raises
    ------
    TypeError, ValueError
        See these functions; unknown method (with the nearest name) or option.

    Warns
    -----
    UlmWarning
        The frames are unlike those that the network was trained on.

    Examples
    --------
    >>> z, x = np.mgrid[:15, :15]
    >>> frame = np.exp(-((z - 7.2) ** 2 + (x - 6.6) ** 2) / 2)
    >>> locate(frame[None], "parabola", 1).round(3).values.tolist()
    [[0.0, 7.2, 6.6, 0.905]]
    """
    cfg = as_config(cfg)
    if isinstance(frames, Block):
        frames = frames.frames
    if min_score is None:
        min_score = cfg.locate.min_score
    if callable(method) or method not in NETWORKS:
        if not callable(method):
            check_choice(method, METHODS + NETWORKS, "method")
        given = {
            "roi_px": cfg.locate.roi_px,
            "max_peaks_in_roi": cfg.locate.max_peaks_in_roi,
            "pala": cfg.pala,
        }
        n = cfg.locate.n_bubbles if n_bubbles is None else n_bubbles
        return locate_peaks(frames, method, n, min_score=min_score, **{**given, **options})
    from ulmpaper.networks.localize import (
        locate_ml3d,
        locate_mspcn,
    )  # here, since torch takes seconds to load

    options = {**_network_options(cfg, method), "n_bubbles": n_bubbles, **options}
    bubbles = (
        locate_ml3d(frames, **options) if method == "ml3d" else locate_mspcn(frames, **options)
    )
    return bubbles[bubbles["score"] > min_score].reset_index(drop=True)


def _network_options(cfg: Config, method: str) -> dict[str, Any]:
    """Keywords of ``locate_ml3d`` or ``locate_mspcn`` from the settings of their use.

    How a network was made and trained is in its weights, so ``ml3d.window`` and ``count.tile_px``
    play no part.
    """
    options: dict[str, Any] = {
        "batch": cfg.compute.batch,
        "tile_px": cfg.compute.tile_px,
        "device": cfg.compute.device,
        "precision": cfg.compute.precision,
    }
    if method == "mspcn":
        own = cfg.mspcn
        return {
            **options,
            "net": own.weights,
            "threshold": own.threshold,
            "centre_side": own.centre_side,
        }
    return {
        **options,
        "net": cfg.ml3d.weights,
        "count_net": cfg.count.weights,
        "threshold": cfg.ml3d.threshold,
        "stride": cfg.ml3d.stride,
        "mirrored": cfg.ml3d.mirrored,
        "min_distance_px": cfg.ml3d.min_distance_px,
        "count_margin": cfg.count.margin,
        "compiled": cfg.compute.compile,
    }


def link_tracks(bubbles: pd.DataFrame, cfg: Config) -> pd.DataFrame:
    """Link bubbles into tracks and drop the short ones, by the settings of section ``track``."""
    linked = link(bubbles, max_distance_px=cfg.track.max_distance_px, max_gap=cfg.track.max_gap)
    return drop_short(linked, cfg.track.min_length)


def draw_lines(
    tracks: pd.DataFrame, cfg: Config, *, px_mm: float, frame_rate_hz: float
) -> pd.DataFrame:
    """Smooth and interpolate tracks, as finely as the maps of the settings need it."""
    return interpolate(
        tracks,
        px_mm=px_mm,
        frame_rate_hz=frame_rate_hz,
        max_distance_px=cfg.track.max_distance_px,
        upsample=cfg.render.upsample,
        smooth_points=cfg.track.smooth_points,
        pala=cfg.pala,
    )


def min_frames_per_block(cfg: Config) -> int:
    """Frames that a block must have for the clutter filter and the network of the settings.

    Raises
    ------
    FileNotFoundError, ValueError
        The network's weights or its device are not there.

    Examples
    --------
    >>> from ulmpaper.config import load_config
    >>> min_frames_per_block(load_config())
    1
    >>> min_frames_per_block(load_config("quick", {"filter.svd_low": 10}))
    10
    """
    f = cfg.filter
    zero_phase = f.band_hz is not None and f.zero_phase and not cfg.pala
    window = _networks(cfg)[1] if cfg.locate.method in NETWORKS else 1
    return max(f.svd_low, min_frames_zero_phase(f.order) if zero_phase else 1, window)


def _filters(cfg: Config) -> bool:
    return (
        cfg.filter.svd_low > 1 or cfg.filter.svd_high is not None or cfg.filter.band_hz is not None
    )


def _filter(frames: NDArray, cfg: Config, frame_rate_hz: float) -> NDArray:
    """Clutter filter of the settings: components first, then the band, as in PALA."""
    f = cfg.filter
    if f.svd_low > 1 or f.svd_high is not None:
        frames = svd_filter(frames, f.svd_low, f.svd_high)
    if f.band_hz is not None:
        zero_phase = f.zero_phase and not cfg.pala
        frames = butter_bandpass(
            frames, f.band_hz, frame_rate_hz=frame_rate_hz, order=f.order, zero_phase=zero_phase
        )
    return frames


def _pitch_and_rate(frames: ArrayLike | Block, cfg: Config) -> tuple[float, float]:
    """Pixel pitch [mm] and frame rate [Hz]: the block's where known, else the settings'."""
    px_mm = frame_rate_hz = None
    if isinstance(frames, Block):
        px_mm = frames.px_mm
        frame_rate_hz = frames.frame_rate_hz
    return px_mm or cfg.acquisition.px_mm, frame_rate_hz or cfg.acquisition.frame_rate_hz


def _same_shape(blocks: Iterable[ArrayLike | Block]) -> Iterator[ArrayLike | Block]:
    first = None
    for number, block in enumerate(blocks):
        shape = np.shape(block.frames if isinstance(block, Block) else block)[1:]
        first = first or shape
        if shape != first:
            raise ValueError(
                f"block {number} has frames of {shape} px, the first has {first}: run them apart"
            )
        yield block


def _with(cfg: Config, section: str, **values: Any) -> Config:
    return dataclasses.replace(
        cfg, **{section: dataclasses.replace(getattr(cfg, section), **values)}
    )


# --- many blocks -------------------------------------------------------------------------------


def _ordered_map(
    tasks: Iterator[Any], *, n_jobs: int, scheduler: str | None = None
) -> Iterator[Any]:
    """Run tasks in parallel and yield their results in order, four tasks ahead per process.

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
    joblib's own generator begins a task whenever one is done, asked for or not, so results would
    pile up.

    Examples
    --------
    >>> list(_ordered_map((joblib.delayed(abs)(k) for k in (-1, 2, -3)), n_jobs=1))
    [1, 2, 3]
    """
    with _parallel(scheduler, n_jobs) as run:
        ahead = 4 * max(1, n_jobs if scheduler else joblib.effective_n_jobs(n_jobs))
        for task in tasks:
            yield from run(itertools.chain([task], itertools.islice(tasks, ahead - 1)))


@contextlib.contextmanager
def _parallel(scheduler: str | None, n_jobs: int) -> Iterator[joblib.Parallel]:
    """Local processes, or those of a Dask scheduler."""
    parallel = functools.partial(
        joblib.Parallel, n_jobs=n_jobs, return_as="generator", max_nbytes=None, batch_size=1
    )
    if scheduler is None:
        # Tasks keep every core busy; threads of the linear algebra on top would only get in their
        # way.
        yield parallel(backend="loky", inner_max_num_threads=1) if n_jobs != 1 else parallel()
        return
    with optional("cluster"):
        from distributed import Client
    try:
        client = Client(scheduler, timeout=_CONNECT_TIMEOUT_S)
    except OSError as error:
        raise OSError(
            f"no Dask scheduler answers at {scheduler!r}: start one with `dask scheduler`"
        ) from error
    with client:
        with joblib.parallel_config("dask"):  # in force here only, not where results are used
            run = parallel()
        yield run


# --- results on disk ---------------------------------------------------------------------------


def save_result(result: UlmResult, folder: str | os.PathLike, *, overwrite: bool = False) -> None:
    """Write what the command line writes: tables, maps, pictures and settings.

    Parameters
    ----------
    result : UlmResult
        As from `ulm`.
    folder : path-like
        Where the files go: ``tables.h5, bubbles.csv, tracks.csv, maps.npz``, a PNG for each map,
        ``run.json``.
    overwrite : bool
        Replace the results of another run.

    Raises
    ------
    ValueError
        The folder holds the results of another run.
    OSError
        The folder cannot be written to.
    """
    if not overwrite:
        check_unused(folder, describe_run(result.config, result.about))
    with ResultWriter(folder) as writer:
        writer.add(result.bubbles, result.tracks)
        finish_results(writer, result.maps, result.config, result.about, result.n_frames)


def finish_results(
    writer: ResultWriter,
    maps: Mapping[str, NDArray],
    cfg: Config,
    about: Mapping[str, Any],
    n_frames: int,
) -> None:
    """Give the maps, their pictures and the settings of a run to a writer of results."""
    from ulmpaper.plots import plot_map, save_figure

    for kind, values in maps.items():
        figure = plot_map(values, kind, px_mm=cfg.acquisition.px_mm, upsample=cfg.render.upsample)
        save_figure(figure, writer.path(f"{kind}.png"))
    writer.finish(maps, {**describe_run(cfg, about), "n_frames": n_frames}, dataclasses.asdict(cfg))


def describe_input(files: list[FrameFile]) -> dict[str, Any]:
    """What ``run.json`` says of the input: names, array, kind and fingerprint of the files."""
    names = [file.path.name for file in files]
    return {
        "input": names[0] if len(names) == 1 else names,
        "variable": files[0].variable,
        "source": files[0].source,
        "content": fingerprint([Path(file.path) for file in files]),
    }


def describe_run(cfg: Config, about: Mapping[str, Any]) -> dict[str, Any]:
    """What tells a run from others: its input and the digest of its settings."""
    weights = {"weights": _networks(cfg)[0]} if cfg.locate.method in NETWORKS else {}
    return {**about, **weights, "px_mm": cfg.acquisition.px_mm, "digest": cfg.digest()}


def _networks(cfg: Config) -> tuple[dict[str, str], int]:
    """Digests of the networks of the settings, and the frames that they look at together."""
    from ulmpaper.networks.localize import check_networks  # here, since torch takes seconds to load

    return check_networks(cfg)
