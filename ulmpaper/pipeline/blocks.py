"""The chain on one block, and on many blocks in parallel.

Filter, detect and localize, link, drop short tracks, interpolate, render: by the settings of a
`Config`. Blocks are filtered and tracked apart, as in PALA.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import warnings
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass

import joblib
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from ulmpaper.config import NETWORKS, Config, Settings, as_config
from ulmpaper.core.arguments import explained
from ulmpaper.core.filters import (
    butter_bandpass,
    fill_missing,
    min_frames_zero_phase,
    svd_filter,
)
from ulmpaper.core.health import check_health, name_outliers, without_outliers
from ulmpaper.core.records import Block, UlmWarning, check_block, warn_user
from ulmpaper.core.render import Maps, MapSums, map_sums, power_doppler
from ulmpaper.core.spots import some_frames
from ulmpaper.core.suggest import value_kind
from ulmpaper.core.track import add_velocity, drop_short, interpolate, link, per_track
from ulmpaper.pipeline.detect import Method, locate, network_digests
from ulmpaper.pipeline.parallel import ordered_map
from ulmpaper.pipeline.scale import SettledBlocks, settle_block

_SHOWN = 5  # blocks whose faults are named one by one


@dataclass(frozen=True)
class BlockResult:
    """Result of one block: its tables, the sums that `MapTotals` adds up, and its warnings.

    ``n_seen`` counts the frames that hold a picture, of which ``power`` is the mean, ``n_zero``
    those of zeros; ``health`` says what is wrong with frames, ``notes`` what else was warned of.
    """

    bubbles: pd.DataFrame
    tracks: pd.DataFrame
    sums: MapSums
    power: NDArray
    n_frames: int
    n_seen: int
    n_zero: int
    notes: tuple[str, ...] = ()
    health: tuple[str, ...] = ()


def pack_result(result: BlockResult) -> dict[str, NDArray]:
    """Result of a block as arrays by name, fit for an .npz file."""
    arrays = {}
    rest = {}
    for field in dataclasses.fields(result):
        value = getattr(result, field.name)
        if isinstance(value, np.ndarray):
            arrays[field.name] = value
        elif isinstance(value, pd.DataFrame):
            arrays |= {f"{field.name}.{name}": value[name].to_numpy() for name in value}
        elif isinstance(value, MapSums):
            sums = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
            arrays |= {f"{field.name}.{name}": array for name, array in sums.items()}
        else:
            rest[field.name] = value
    return {**arrays, "rest": np.array(json.dumps(rest))}


def unpack_result(arrays: Mapping[str, NDArray]) -> BlockResult:
    """Result of a block as `pack_result` was given it."""
    groups: dict[str, dict[str, NDArray]] = {"bubbles": {}, "tracks": {}, "sums": {}}
    for key, array in arrays.items():
        name, dot, part = key.partition(".")
        if dot:
            groups[name][part] = array
    rest = json.loads(str(arrays["rest"]))
    return BlockResult(
        bubbles=pd.DataFrame(groups["bubbles"]),
        tracks=pd.DataFrame(groups["tracks"]),
        sums=MapSums(**groups["sums"]),
        power=arrays["power"],
        **{**rest, "notes": tuple(rest["notes"]), "health": tuple(rest["health"])},
    )


@explained
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
        self._n_seen = 0
        self._n_zero = 0

    def add(self, result: BlockResult) -> None:
        """Add the sums of a block."""
        if self._maps is None:
            render = self._cfg.render
            self._maps = Maps(result.power.shape, upsample=render.upsample, pala=self._cfg.pala)
        self._maps.add(result.sums)
        self._power = self._power + result.power * result.n_seen
        self._n_frames += result.n_frames
        self._n_seen += result.n_seen
        self._n_zero += result.n_zero

    def as_dict(self) -> dict[str, NDArray]:
        """All maps by name, see `UlmResult`.

        Raises
        ------
        ValueError
            There was no block, or all frames hold only zeros.
        """
        if self._maps is None:
            raise ValueError("there is no block to make maps of: at least one frame is needed")
        if self._n_zero == self._n_frames:
            raise ValueError(
                f"all {self._n_frames} frames hold only zeros: nothing was recorded, or another "
                "array of the file holds the frames"
            )
        power = np.asarray(self._power) / max(1, self._n_seen)
        return {**self._maps.as_dict(), "power_doppler": power}


def ulm_blocks(
    blocks: Iterable[ArrayLike | Block],
    cfg: Settings = None,
    *,
    method: Method | None = None,
    n_jobs: int | None = None,
    scheduler: str | None = None,
) -> Iterator[BlockResult]:
    """Run the chain on each block, in parallel, and yield results in the order of the blocks.

    Blocks are filtered and tracked apart, as in PALA. Frames and tracks are numbered on through the
    blocks. Only a few blocks are in memory at a time. Of a network's warnings, the first is given.

    Frames of zeros, or of one value, hold no picture: they are named in a warning, take no part in
    the clutter filter and have no bubbles.

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
        A block differs in shape or scale from the first.
    OSError
        No scheduler answers at the address.

    Warns
    -----
    UlmWarning
        Pixel pitch or frame rate is assumed; frames are missing or repeated, or have hot pixels.
    """
    cfg = as_config(cfg)
    settled = blocks if isinstance(blocks, SettledBlocks) else SettledBlocks(blocks, cfg)
    return number_on(run_blocks(settled, cfg, method, n_jobs, scheduler))


def run_blocks(
    blocks: Iterable[ArrayLike | Block],
    cfg: Config,
    method: Method | None,
    n_jobs: int | None,
    scheduler: str | None,
) -> Generator[BlockResult]:
    """Results of blocks, each with its own count of frames and tracks."""
    n_jobs = cfg.blocks.n_jobs if n_jobs is None else n_jobs
    cfg, blocks = measure_first(blocks, cfg, method)
    tasks = (joblib.delayed(_run_block)(block, cfg, method) for block in _same_shape(blocks))
    yield from ordered_map(tasks, n_jobs=n_jobs, scheduler=scheduler)


def measure_first(
    blocks: Iterable[ArrayLike | Block], cfg: Config, method: Method | None
) -> tuple[Config, Iterator[ArrayLike | Block]]:
    """Settings with the network's scale measured in the first block, and all blocks."""
    passing = iter(blocks)
    first = next(passing, None)
    if first is None:
        return cfg, passing
    return settle_network_scale(cfg, first, method), itertools.chain([first], passing)


def settle_network_scale(
    cfg: Config, frames: ArrayLike | Block, method: Method | None = None
) -> Config:
    """Settings with the scale at which a network looks, measured in a block where it is ``auto``.

    So all blocks of a recording are looked at alike. Other settings come back as they are.
    """
    name = method or cfg.locate.method
    if callable(name) or name not in NETWORKS or getattr(cfg, name).scale != "auto":
        return cfg
    from ulmpaper.networks.localize import load_network  # here, since torch takes seconds to load
    from ulmpaper.networks.sampling import own_scale

    section = getattr(cfg, name)
    block = frames if isinstance(frames, Block) else Block(np.asarray(frames), source="array")
    iq = check_block(block)
    missing = check_health(iq).missing
    seen = np.delete(iq, missing, axis=0)
    scale = (1.0, 1.0)
    if len(seen) >= _min_frames_of_filter(cfg):
        rate_hz = pitch_and_rate(block, cfg)[1]
        amplitude = np.abs(_filter(seen, np.ones(len(seen), dtype=bool), cfg, rate_hz))
        scale = own_scale(amplitude, load_network(name, section.weights).about)
    return dataclasses.replace(cfg, **{name: dataclasses.replace(section, scale=scale)})


def number_on(results: Iterable[BlockResult]) -> Generator[BlockResult]:
    """Number frames and tracks on through the blocks, and give the first of the warnings."""
    first_frame = first_track = 0
    warned = False
    n_ill = 0
    for result in results:
        if result.notes and not warned:  # the other blocks say the same with slightly other figures
            warn_user(result.notes[0])
            warned = True
        n_ill += bool(result.health)
        if n_ill <= _SHOWN:
            for sentence in result.health:
                warn_user(sentence)
        numbers, track_of_row = np.unique(result.tracks["track"], return_inverse=True)
        frame = result.tracks["frame"] + first_frame
        yield dataclasses.replace(
            result,
            bubbles=result.bubbles.assign(frame=result.bubbles["frame"] + first_frame),
            tracks=result.tracks.assign(frame=frame, track=track_of_row + first_track),
        )
        first_frame += result.n_frames
        first_track += len(numbers)
    if n_ill > _SHOWN:
        warn_user(f"so it is with {n_ill - _SHOWN} more blocks: missing frames or hot pixels")


def _run_block(frames: ArrayLike | Block, cfg: Config, method: Method | None) -> BlockResult:
    """Run the chain on one block; warnings come back as notes, since a process may lie between."""
    block = frames if isinstance(frames, Block) else Block(np.asarray(frames), source="array")
    px_mm, frame_rate_hz = pitch_and_rate(block, cfg)
    iq = check_block(block)
    health = check_health(iq, block.first_frame)
    said = dataclasses.replace(health, outliers=()).sentences()
    is_seen = np.ones(len(iq), dtype=bool)
    is_seen[np.array(health.missing, dtype=int) - block.first_frame] = False
    least = _min_frames_of_filter(cfg)
    if not is_seen.all() and 0 < is_seen.sum() < least:
        last = block.first_frame + len(iq) - 1
        said.append(
            f"frames {block.first_frame} to {last} are left out: {is_seen.sum()} of them hold a "
            f"picture, the filter needs {least}"
        )
        is_seen[:] = False
    filtered = _filter(iq, is_seen, cfg, frame_rate_hz)
    amplitude = np.abs(filtered) if filtered.dtype.kind == "c" or _filters(cfg) else filtered
    outliers = health.outliers
    if _filters(cfg):  # before it, tissue hides hot pixels
        outliers = check_health(amplitude, block.first_frame).outliers
    method = method or cfg.locate.method
    if outliers:
        said.append(name_outliers(outliers))
    if outliers and method in NETWORKS:
        said[-1] += "; the network sees those around it instead"
        amplitude = without_outliers(amplitude, outliers, block.first_frame)
    elif outliers:
        said[-1] += "; classical methods take it for a bubble: replace it by those around it"
    if filtered.dtype.kind != "c" and value_kind(some_frames(amplitude)) == "compressed":
        said.append(
            "most values are high and lean to the low side: are these decibels, or a picture of "
            "them? Methods need amplitude (ulmpaper look says more)"
        )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UlmWarning)
        bubbles = locate(amplitude, method, cfg=cfg)
    notes = tuple(str(w.message) for w in caught if issubclass(w.category, UlmWarning))
    kept = link_tracks(bubbles, cfg)
    tracks = add_velocity(
        kept,
        px_mm=px_mm,
        frame_rate_hz=frame_rate_hz,
        smooth_points=cfg.track.smooth_points,
        acceleration_px=cfg.track.acceleration_px,
        pala=cfg.pala,
    )
    if method == "ml3d":
        notes += _doubts(bubbles, tracks, cfg, (px_mm, frame_rate_hz), len(amplitude))
    paths = draw_lines(kept, cfg, px_mm=px_mm, frame_rate_hz=frame_rate_hz)
    shape_px = (amplitude.shape[1], amplitude.shape[2])
    return BlockResult(
        bubbles=bubbles,
        tracks=tracks,
        sums=map_sums(paths, shape_px, upsample=cfg.render.upsample, pala=cfg.pala),
        power=power_doppler(filtered[is_seen] if is_seen.any() else filtered),
        n_frames=len(amplitude),
        n_seen=int(is_seen.sum()),
        n_zero=len(health.zero),
        notes=notes,
        health=tuple(f"{block.file or block.source}: {sentence}" for sentence in said),
    )


def _doubts(
    bubbles: pd.DataFrame,
    tracks: pd.DataFrame,
    cfg: Config,
    scale: tuple[float, float],
    n_frames: int,
) -> tuple[str, ...]:
    """What in the results of 3DML-ResNet says that it does not know such frames."""
    from ulmpaper.networks.domain import result_gap, speed_gap
    from ulmpaper.networks.localize import load_network

    px_mm, frame_rate_hz = scale
    speeds = per_track(tracks, frame_rate_hz=frame_rate_hz)["speed_mm_s"]
    # In the pixels that the network saw.
    steps_px = speeds / (px_mm * frame_rate_hz) * np.sqrt(np.prod(cfg.ml3d.scale))
    doubts = [speed_gap(steps_px, load_network("ml3d", cfg.ml3d.weights).about)]
    if cfg.ml3d.threshold is None:  # a lower threshold asks for unsure bubbles
        min_length = cfg.track.min_length
        doubts.append(result_gap(bubbles, tracks, n_frames=n_frames, min_length=min_length))
    return tuple(doubt for doubt in doubts if doubt)


def link_tracks(bubbles: pd.DataFrame, cfg: Config) -> pd.DataFrame:
    """Link bubbles into tracks and drop the short ones, by the settings of section ``track``."""
    linked = link(bubbles, max_distance_px=cfg.track.max_distance_px, max_gap=cfg.track.max_gap)
    return drop_short(linked, cfg.track.min_length)


def draw_lines(
    tracks: pd.DataFrame, cfg: Config, *, px_mm: float, frame_rate_hz: float
) -> pd.DataFrame:
    """Smooth and interpolate tracks by the settings, as finely as their maps need it.

    Parameters
    ----------
    tracks : DataFrame
        Track table.
    cfg : Config
        Settings: sections ``track`` and ``render``, and ``pala``.
    px_mm, frame_rate_hz : float
        Pixel pitch [mm] and frames per second [Hz].

    Returns
    -------
    DataFrame
        See `ulmpaper.interpolate`.

    Examples
    --------
    >>> from ulmpaper.config import load_config
    >>> from ulmpaper.core.records import bubble_table
    >>> tracks = bubble_table([0, 1], [1.0, 1.0], [1.0, 1.5], [1, 1]).assign(track=0)
    >>> len(draw_lines(tracks, load_config(), px_mm=0.1, frame_rate_hz=1000.0))
    26
    """
    return interpolate(
        tracks,
        px_mm=px_mm,
        frame_rate_hz=frame_rate_hz,
        max_distance_px=cfg.track.max_distance_px,
        upsample=cfg.render.upsample,
        smooth_points=cfg.track.smooth_points,
        acceleration_px=cfg.track.acceleration_px,
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
    window = network_digests(cfg)[1] if cfg.locate.method in NETWORKS else 1
    return max(_min_frames_of_filter(cfg), window)


def _min_frames_of_filter(cfg: Config) -> int:
    f = cfg.filter
    zero_phase = f.band_hz is not None and f.zero_phase and not cfg.pala
    return max(f.svd_low, min_frames_zero_phase(f.order) if zero_phase else 1)


def check_filters(cfg: Config) -> None:
    """Let the filters refuse their settings before any work, on as few zeros as they take."""
    n_frames = _min_frames_of_filter(cfg)
    zeros = np.zeros((n_frames, 1, 1), dtype=np.float32)
    _filter(zeros, np.ones(n_frames, dtype=bool), cfg, cfg.acquisition.frame_rate_hz)


def _filters(cfg: Config) -> bool:
    return (
        cfg.filter.svd_low > 1 or cfg.filter.svd_high is not None or cfg.filter.band_hz is not None
    )


def _filter(
    frames: NDArray, is_seen: NDArray[np.bool_], cfg: Config, frame_rate_hz: float
) -> NDArray:
    """Clutter filter of the settings: components first, then the band, as in PALA.

    Frames that hold no picture are left out, and are zeros in the result.
    """
    f = cfg.filter
    if is_seen.all():
        return _band(_components(frames, cfg), cfg, frame_rate_hz)
    filtered = np.zeros_like(frames)
    if not is_seen.any():
        return filtered
    filtered[is_seen] = _components(frames[is_seen], cfg)
    if f.band_hz is not None:
        # Filtered apart, the parts beside a gap would begin from rest, and short ones not at all.
        filtered = _band(fill_missing(filtered, ~is_seen), cfg, frame_rate_hz)
        filtered[~is_seen] = 0
    return filtered


def _components(frames: NDArray, cfg: Config) -> NDArray:
    """Frames with the singular components of the settings."""
    f = cfg.filter
    if f.svd_low > 1 or f.svd_high is not None:
        return svd_filter(frames, f.svd_low, f.svd_high)
    return frames


def _band(frames: NDArray, cfg: Config, frame_rate_hz: float) -> NDArray:
    """Frames with the pass band of the settings."""
    f = cfg.filter
    if f.band_hz is None:
        return frames
    zero_phase = f.zero_phase and not cfg.pala
    return butter_bandpass(
        frames, f.band_hz, frame_rate_hz=frame_rate_hz, order=f.order, zero_phase=zero_phase
    )


def pitch_and_rate(frames: ArrayLike | Block, cfg: Config) -> tuple[float, float]:
    """Pixel pitch [mm] and frame rate [Hz] by the rule of `ulmpaper.pipeline.scale`."""
    used = settle_block(frames, cfg, quiet=True)
    return used.px_mm, used.frame_rate_hz


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
