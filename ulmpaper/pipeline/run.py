"""A recording in files, run into a folder of results."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from ulmpaper.config import Config
from ulmpaper.io.readers import FrameFile
from ulmpaper.io.results import ResultWriter, check_unused
from ulmpaper.pipeline.blocks import MapTotals, min_frames_per_block, ulm_blocks
from ulmpaper.pipeline.recording import describe_input, describe_run, finish_results


@dataclass(frozen=True)
class _FolderSummary:
    """What `run_to_folder` wrote, in numbers."""

    n_frames: int
    n_bubbles: int
    n_tracks: int


def run_to_folder(
    sources: Sequence[FrameFile],
    out: str | os.PathLike,
    cfg: Config,
    *,
    n_jobs: int | None = None,
    scheduler: str | None = None,
    overwrite: bool = False,
    progress: bool | None = False,
) -> _FolderSummary:
    """Find, track and map the bubbles of files, one after another, as one recording.

    Parameters
    ----------
    sources : sequence of FrameFile
        As from `ulmpaper.open_frames`, with frames of one size.
    out : path-like
        Folder for the results, see `save_result`.
    cfg : Config
        Settings; their pixel pitch and frame rate hold for all files.
    n_jobs, scheduler
        See `ulm_blocks`.
    overwrite : bool
        Replace the results of another run.
    progress : bool, optional
        Show a bar if it takes more than 2 s; None: on a terminal only.

    Raises
    ------
    ValueError
        `out` holds something else; a file has too few frames for the filters or the network.
    OSError
        `out` cannot be written to.
    """
    about = describe_input(list(sources))
    if not overwrite:
        check_unused(out, describe_run(cfg, about))
    size = cfg.blocks.n_frames
    least = min_frames_per_block(cfg)
    _check_lengths(sources, size, least)
    scale = {"px_mm": cfg.acquisition.px_mm, "frame_rate_hz": cfg.acquisition.frame_rate_hz}
    blocks = (
        dataclasses.replace(block, **scale)
        for source in sources
        for block in source.blocks(size, min_frames=least)
    )
    n_blocks = sum(
        source.n_frames // size + (source.n_frames % size >= least) for source in sources
    )
    n_frames = sum(source.n_frames for source in sources)
    hidden = None if progress is None else not progress
    totals = MapTotals(cfg)
    n_bubbles = 0
    n_tracks = 0
    with ResultWriter(Path(out)) as writer:
        results = ulm_blocks(blocks, cfg, n_jobs=n_jobs, scheduler=scheduler)
        for result in tqdm(results, total=n_blocks, unit="block", delay=2, disable=hidden):
            writer.add(result.bubbles, result.tracks)
            totals.add(result)
            n_bubbles += len(result.bubbles)
            n_tracks += result.tracks["track"].nunique()
        finish_results(writer, totals.as_dict(), cfg, about, n_frames)
    return _FolderSummary(n_frames, n_bubbles, n_tracks)


def _check_lengths(sources: Sequence[FrameFile], size: int, least: int) -> None:
    """Refuse a file that is too short for the filters or the network."""
    for source in sources:
        if min(size, source.n_frames) < least:
            raise ValueError(
                f"{source.path.name} comes in blocks of {min(size, source.n_frames)} frames, "
                f"filters or network need {least}: give more frames, "
                f"or set blocks.n_frames to {least} or more"
            )
