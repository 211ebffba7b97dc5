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

from ulmpaper.config import NETWORKS, Config, Settings, as_config, method_name, setting_called
from ulmpaper.core.arguments import explained
from ulmpaper.core.records import Block, check_choice
from ulmpaper.core.track import track_summary
from ulmpaper.io.files import fingerprint
from ulmpaper.io.readers import FrameFile, open_frames
from ulmpaper.io.results import ResultWriter
from ulmpaper.pipeline.blocks import (
    MapTotals,
    measure_first,
    min_frames_per_block,
    number_on,
    run_blocks,
)
from ulmpaper.pipeline.detect import Method, network_digests
from ulmpaper.pipeline.pictures import Pictures, write_pictures
from ulmpaper.pipeline.scale import SettledBlocks, settle_files


@explained
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
    scale : dict
        ``px_mm``, ``frame_rate_hz``, who stated each (``px_mm_from``, ``frame_rate_from``),
        ``upsample``, ``map_px_mm`` and ``units``; of a network ``network_scale``, the factors on
        the number of pixels along z and x at which it looked.
    """

    bubbles: pd.DataFrame
    tracks: pd.DataFrame
    maps: dict[str, NDArray]
    config: Config
    n_frames: int
    about: dict[str, Any] = field(default_factory=dict)
    scale: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        n_tracks = self.tracks["track"].nunique()
        return (
            f"UlmResult: {self.n_frames} frames, {len(self.bubbles)} bubbles, "
            f"{n_tracks} tracks, maps {', '.join(self.maps)}"
        )

    def save(self, folder: str | os.PathLike, *, overwrite: bool = False, **pictures: Any) -> None:
        """Write tables, maps, pictures and settings to a folder; see `save_result`."""
        save_result(self, folder, overwrite=overwrite, **pictures)


def ulm(
    frames: ArrayLike | Block | FrameFile | str | os.PathLike | Iterable[ArrayLike | Block],
    cfg: Settings = None,
    method: Method | None = None,
    *,
    n_jobs: int | None = None,
    scheduler: str | None = None,
    **settings: object,
) -> UlmResult:
    """Run the whole chain: filter, localize, link, interpolate, render.

    Parameters
    ----------
    frames : array_like (T, Z, X), Block, path, FrameFile, or iterable of arrays or Blocks
        B-mode amplitude or IQ. An array or a `Block` is one block; a file is read in blocks of
        ``blocks.n_frames``; an iterable yields blocks of one shape. Pixel pitch and frame rate are
        those that you state (``acquisition.px_mm``, ``acquisition.frame_rate_hz``), else those of
        the block or file, else those of the profile, with a warning.
    cfg : Config, mapping or str, optional
        Settings: a `Config`, dotted overrides of the profile ``quick``, or the name of a profile.
    method : str or callable, optional
        Localization method, see `locate`, instead of ``cfg.locate.method``.
    n_jobs, scheduler
        See `ulm_blocks`.
    **settings
        Refused: settings go into `cfg`.

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
        Pixel pitch or frame rate is assumed, or you state another one than the file; frames are
        missing or repeated, or have hot pixels; they are unlike those that a network was trained
        on.

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
    for name in settings:
        key = setting_called(name)
        raise TypeError(
            f"ulm takes no {name!r}: settings go into cfg, the second argument, such as "
            f"ulm(frames, {{{key!r}: ...}})"
        )
    cfg = as_config(cfg)
    about: dict[str, Any] = {}
    if callable(method):
        about["method"] = getattr(method, "__name__", "a function")
    elif method is not None:
        cfg = _with(cfg, "locate", method=method_name(method))
        method = None
    if isinstance(frames, str | os.PathLike):
        frames = open_recording(frames, cfg)
    if isinstance(frames, FrameFile):
        about |= describe_input([frames])
        used = settle_files([frames], cfg)
        cfg = used.put_into(cfg)
        least = min_frames_per_block(cfg)
        stream = frames.blocks(cfg.blocks.n_frames, min_frames=least)
        blocks = SettledBlocks(stream, cfg, used)
    else:
        blocks = SettledBlocks(_described(frames, about), cfg)
    totals = MapTotals(cfg)
    bubbles = []
    tracks = []
    n_frames = 0
    settled, all_blocks = measure_first(blocks, cfg, method)
    for result in number_on(run_blocks(all_blocks, settled, method, n_jobs, scheduler)):
        totals.add(result)
        bubbles.append(result.bubbles)
        tracks.append(result.tracks)
        n_frames += result.n_frames
    maps = totals.as_dict()
    used = blocks.settled
    return UlmResult(
        bubbles=pd.concat(bubbles, ignore_index=True),
        tracks=pd.concat(tracks, ignore_index=True),
        maps=maps,
        config=used.put_into(cfg),
        n_frames=n_frames,
        about=about,
        scale=used.describe(cfg.render.upsample) | network_scale(settled),
    )


def network_scale(cfg: Config) -> dict[str, Any]:
    """What ``run.json`` says of the scale at which the network of the settings looked."""
    name = cfg.locate.method
    return {"network_scale": list(getattr(cfg, name).scale)} if name in NETWORKS else {}


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


def _described(frames: Any, about: dict[str, Any]) -> Iterator[ArrayLike | Block]:
    """Blocks as they pass; what is known of the first one, which is not kept, goes into `about`."""
    for number, block in enumerate(frames if _are_blocks(frames) else [frames]):
        if number == 0:
            array = block.frames if isinstance(block, Block) else np.asarray(block)
            first_frame = np.atleast_1d(array)[:1].tobytes()
            about.setdefault("source", block.source if isinstance(block, Block) else "array")
            about.setdefault("content", hashlib.sha256(first_frame).hexdigest()[:10])
        yield block


def _with(cfg: Config, section: str, **values: Any) -> Config:
    return dataclasses.replace(
        cfg, **{section: dataclasses.replace(getattr(cfg, section), **values)}
    )


def save_result(
    result: UlmResult, folder: str | os.PathLike, *, overwrite: bool = False, **pictures: Any
) -> None:
    """Write what the command line writes: tables, maps, pictures and settings.

    Parameters
    ----------
    result : UlmResult
        As from `ulm`.
    folder : path-like
        Where the files go: ``tables.h5, bubbles.csv, tracks.csv, maps.npz``, a picture of each
        map, ``run.json``. Pictures of an earlier run that are not written anew are removed.
    overwrite : bool
        Replace the results of another run.
    **pictures
        ``formats`` (``"png,pdf,tiff"``; by default PNG alone), ``dpi``, ``thicken_px``, ``red``:
        see `ulmpaper.pipeline.pictures.Pictures`.

    Raises
    ------
    ValueError
        The folder holds the results of another run; no such option of the pictures, or no such
        format.
    OSError
        The folder cannot be written to.
    """
    for name in pictures:
        check_choice(name, Pictures.__annotations__, "option of the pictures")
    drawn = Pictures(**pictures)
    run = describe_run(result.config, result.about)
    with ResultWriter(folder, run, overwrite=overwrite) as writer:
        writer.add(result.bubbles, result.tracks)
        rate_hz = result.config.acquisition.frame_rate_hz
        finish_results(
            writer,
            result.maps,
            result.config,
            result.about,
            result.n_frames,
            pictures=drawn,
            scale=result.scale,
            tracks=track_summary(result.tracks, frame_rate_hz=rate_hz),
        )


def finish_results(
    writer: ResultWriter,
    maps: Mapping[str, NDArray],
    cfg: Config,
    about: Mapping[str, Any],
    n_frames: int,
    *,
    pictures: Pictures | None = None,
    scale: Mapping[str, Any] | None = None,
    tracks: Mapping[str, Any] | None = None,
) -> None:
    """Give the maps, their pictures and the settings of a run to a writer of results.

    `scale` is as in `UlmResult`, `tracks` as from `ulmpaper.core.track_summary`.
    """
    with writer.writing():
        names = write_pictures(
            maps,
            writer.path,
            pictures or Pictures(),
            px_mm=cfg.acquisition.px_mm,
            upsample=cfg.render.upsample,
        )
    run = {
        **describe_run(cfg, about),
        "n_frames": n_frames,
        "scale": dict(scale or {}),
        "n_tracks": (tracks or {}).get("n_tracks"),
        "tracks": dict(tracks or {}),
        "pictures": names,
    }
    writer.finish(maps, run, dataclasses.asdict(cfg))


def describe_input(files: list[FrameFile]) -> dict[str, Any]:
    """What ``run.json`` says of the input: names, array, kind and fingerprint of the files."""
    names = [file.path.name for file in files]
    return {
        "input": names[0] if len(names) == 1 else names,
        "variable": files[0].variable,
        "axes": files[0].axes,
        "source": files[0].source,
        "content": fingerprint([Path(file.path) for file in files]),
        # How the first file was read: the others are of the same size and scale.
        "notes": list(files[0].notes),
    }


def describe_run(cfg: Config, about: Mapping[str, Any]) -> dict[str, Any]:
    """What tells a run from others: its input and the digest of its settings."""
    weights = {"weights": network_digests(cfg)[0]} if cfg.locate.method in NETWORKS else {}
    used = {"px_mm": cfg.acquisition.px_mm, "digest": cfg.digest()}
    return {**about, "method": about.get("method", cfg.locate.method), **weights, **used}
