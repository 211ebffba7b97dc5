"""A whole recording: any frames in; tables, maps and the files of a run out."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from ulmpaper.config import METHODS, NETWORKS, Config, Settings, as_config
from ulmpaper.core.records import (
    Block,
    check_choice,
)
from ulmpaper.io.files import fingerprint
from ulmpaper.io.readers import FrameFile, open_frames
from ulmpaper.io.results import ResultWriter
from ulmpaper.pipeline.blocks import MapTotals, min_frames_per_block, pitch_and_rate, ulm_blocks
from ulmpaper.pipeline.detect import Method, network_digests


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
        frames = open_recording(frames, cfg)
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


def open_recording(
    path: str | os.PathLike,
    cfg: Config,
    variable: str | None = None,
    *,
    axes: str | None = None,
    px_mm: tuple[float, float] | None = None,
) -> FrameFile:
    """Open frames with the pitch and the frame rate that the user stated in the settings.

    Parameters
    ----------
    path, variable, axes
        See `ulmpaper.open_frames`.
    cfg : Config
        Settings.
    px_mm : (float, float), optional
        Pitch along z and x [mm], where the user stated two.
    """
    stated = {
        name: getattr(cfg.acquisition, name)
        for name in ("px_mm", "frame_rate_hz")
        if f"acquisition.{name}" in cfg.stated
    }
    if px_mm is not None:
        stated["px_mm"] = px_mm
    return open_frames(path, variable, axes=axes, **stated)


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
                self.px_mm, self.frame_rate_hz = pitch_and_rate(block, self._cfg)
                frames = block.frames if isinstance(block, Block) else np.asarray(block)
                first_frame = np.ascontiguousarray(frames[:1]).tobytes()
                source = block.source if isinstance(block, Block) else "array"
                self._about.setdefault("source", source)
                self._about.setdefault("content", hashlib.sha256(first_frame).hexdigest()[:10])
            yield block


def _with(cfg: Config, section: str, **values: Any) -> Config:
    return dataclasses.replace(
        cfg, **{section: dataclasses.replace(getattr(cfg, section), **values)}
    )


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
    run = describe_run(result.config, result.about)
    with ResultWriter(folder, run, overwrite=overwrite) as writer:
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
        with writer.writing():
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
    weights = {"weights": network_digests(cfg)[0]} if cfg.locate.method in NETWORKS else {}
    return {**about, **weights, "px_mm": cfg.acquisition.px_mm, "digest": cfg.digest()}
