"""A recording in files, run into a folder of results."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ulmpaper.config import Config
from ulmpaper.core.progress import frames_shown, progress_bar
from ulmpaper.core.records import Block
from ulmpaper.core.track import per_track, track_summary
from ulmpaper.io.readers import FrameFile
from ulmpaper.io.results import ResultWriter
from ulmpaper.pipeline.blocks import (
    BlockResult,
    MapTotals,
    check_filters,
    min_frames_per_block,
    number_on,
    pack_result,
    run_blocks,
    settle_network_scale,
    unpack_result,
)
from ulmpaper.pipeline.pictures import Pictures
from ulmpaper.pipeline.recording import (
    describe_input,
    describe_run,
    finish_results,
    network_scale,
)
from ulmpaper.pipeline.scale import settle_files


@dataclass(frozen=True)
class _FolderSummary:
    """What `run_to_folder` wrote, in numbers."""

    n_frames: int
    n_bubbles: int
    tracks: dict[str, Any]  # see `track_summary`
    scale: dict[str, Any]  # see `UlmResult`


def run_to_folder(
    sources: Sequence[FrameFile],
    out: str | os.PathLike,
    cfg: Config,
    *,
    n_jobs: int | None = None,
    scheduler: str | None = None,
    overwrite: bool = False,
    pictures: Pictures | None = None,
    progress: bool = False,
) -> _FolderSummary:
    """Find, track and map the bubbles of files, one after another, as one recording.

    What each block gave is kept in `out` until all is done, so that the same call goes on where a
    run was stopped, and ends with the same bytes.

    Parameters
    ----------
    sources : sequence of FrameFile
        As from `ulmpaper.open_frames`, with frames of one size.
    out : path-like
        Folder for the results, see `save_result`.
    cfg : Config
        Settings; pixel pitch and frame rate by the rule of `ulmpaper.pipeline.scale`.
    n_jobs, scheduler
        See `ulm_blocks`.
    overwrite : bool
        Replace the results of another run.
    pictures : Pictures, optional
        Formats of the maps' pictures and how they are drawn.
    progress : bool
        Show a bar on a terminal if it takes more than 2 s, and elsewhere a line a minute.

    Raises
    ------
    ValueError
        `out` holds something else; files differ in the size or scale of their frames; a file has
        too few frames for the filters or the network.
    OSError
        `out` cannot be written to.
    """
    used = settle_files(sources, cfg)
    cfg = used.put_into(cfg)
    about = describe_input(list(sources))
    run = describe_run(cfg, about)
    least = min_frames_per_block(cfg)
    _check_lengths(sources, cfg.blocks.n_frames, least)
    check_filters(cfg)
    counts = [_count_blocks(source, cfg.blocks.n_frames, least) for source in sources]
    inputs = [source.path for source in sources]
    n_frames = sum(source.n_frames for source in sources)
    n_blocks = sum(counts)
    totals = MapTotals(cfg)
    n_bubbles = 0
    tracks = []
    with ResultWriter(out, run, overwrite=overwrite, inputs=inputs) as writer:
        settled = settle_network_scale(cfg, next(_blocks(sources, counts, 0, cfg, least)))

        def find(first: int) -> Generator[BlockResult]:
            blocks = _blocks(sources, counts, first, cfg, least)
            return run_blocks(blocks, settled, None, n_jobs, scheduler)

        results = number_on(_keeping(writer, find, n_blocks))
        with (
            # Of a single block, the frames are counted while a network is at work.
            frames_shown(progress and n_blocks == 1),
            progress_bar(n_blocks, "block", is_shown=progress and n_blocks > 1) as bar,
            # Closed at once where a run is stopped, so that its processes end before its files.
            contextlib.closing(results),
        ):
            for result in results:
                bar.update()
                writer.add(result.bubbles, result.tracks)
                totals.add(result)
                n_bubbles += len(result.bubbles)
                tracks.append(per_track(result.tracks, frame_rate_hz=used.frame_rate_hz))
        summary = track_summary(pd.concat(tracks, ignore_index=True))
        scale = used.describe(cfg.render.upsample) | network_scale(settled)
        maps = totals.as_dict()
        finish_results(
            writer, maps, cfg, about, n_frames, pictures=pictures, scale=scale, tracks=summary
        )
    return _FolderSummary(n_frames, n_bubbles, summary, scale)


def _keeping(
    writer: ResultWriter, find: Callable[[int], Generator[BlockResult]], n_blocks: int
) -> Generator[BlockResult]:
    """Results that an earlier run kept, then those that `find` gives from there on, kept too."""
    number = 0
    while number < n_blocks and (arrays := writer.kept(number)) is not None:
        yield unpack_result(arrays)
        number += 1
    if number == n_blocks:
        return
    with contextlib.closing(find(number)) as results:
        for result in results:
            writer.keep(number, pack_result(result))
            yield result
            number += 1


def _count_blocks(source: FrameFile, size: int, least: int) -> int:
    """Blocks of a file: a rest that is too short for the filters joins the block before."""
    return source.n_frames // size + (source.n_frames % size >= least)


def _blocks(
    sources: Sequence[FrameFile], counts: Sequence[int], first: int, cfg: Config, least: int
) -> Iterator[Block]:
    """Blocks of all files, without the first ones, which are not read."""
    scale = cfg.acquisition
    size = cfg.blocks.n_frames
    for source, count in zip(sources, counts, strict=True):
        if first < count:
            for block in source.blocks(size, start=first * size, min_frames=least):
                yield dataclasses.replace(
                    block, px_mm=scale.px_mm, frame_rate_hz=scale.frame_rate_hz
                )
        first = max(0, first - count)


def _check_lengths(sources: Sequence[FrameFile], size: int, least: int) -> None:
    """Refuse a file that is too short for the filters or the network."""
    for source in sources:
        if min(size, source.n_frames) < least:
            raise ValueError(
                f"{source.path.name} comes in blocks of {min(size, source.n_frames)} frames, "
                f"filters or network need {least}: give more frames, "
                f"or set blocks.n_frames to {least} or more"
            )
