"""Blocks with truth through the whole chain in several ways: what the scores of Tables I and II are made from.

Blocks stream: of each one stay sums for groups of frames, and the map pixels that its tracks touch. Whatever is scored
later, `judge` says how surely, by drawing these groups again and again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import joblib
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from ulmpaper import chain, metrics, render
from ulmpaper.config import Config
from ulmpaper.records import BUBBLE_COLUMNS, Block, check_positive
from ulmpaper.scoring import LIMITS_PX
from ulmpaper.ways import Way, find_bubbles

NEAR_PX, FAR_PX = LIMITS_PX["near"], LIMITS_PX["far"]
TRUTH = "truth"
_SUMS = (
    *("n_frames", "n_true", "n_found", "hits_near", "hits_far", "squared_error"),
    *("count_error", "count_bias", "n_tracks", "n_false_tracks"),
)


@dataclass(frozen=True)
class Evaluation:
    """What became of the blocks, by groups of frames.

    Parameters
    ----------
    groups : DataFrame
        A row for each group: ``block`` and ``group``, both from 0.
    sums : dict of str to DataFrame
        For each way, and for the truth, a row for each group. ``n_frames, n_true, n_found``; ``hits_near, hits_far``,
        pairs closer than 0.25 and 0.5 px; ``squared_error``, the sum of the latters' squared distances [px²];
        ``count_error, count_bias``, sums over frames of the error of the number of bubbles, without and with its sign;
        ``n_tracks, n_false_tracks``: false is a track of which fewer than half the points are such pairs. A track
        belongs to the group of its middle.
    lines, points : dict of str to sparse array (groups, pixels)
        Density maps [tracks per map pixel], of the interpolated tracks and of their bare points, likewise.
    shape : (int, int)
        Size (z, x) of the maps.
    upsample : int
        Map pixels per pixel of the frames.
    px_mm, frame_rate_hz : float
        Pixel pitch [mm] and frames per second [Hz] of the first block.
    source : str
        What the first block is.
    notes : tuple of str
        In what the frames are unlike those that networks were trained on.
    pala : bool
        The maps lie on PALA's grid.
    """

    groups: pd.DataFrame
    sums: dict[str, pd.DataFrame]
    lines: dict[str, sparse.csr_array]
    points: dict[str, sparse.csr_array]
    shape: tuple[int, int]
    upsample: int
    px_mm: float
    frame_rate_hz: float
    source: str
    notes: tuple[str, ...] = ()
    pala: bool = False

    @property
    def ways(self) -> list[str]:
        """Names of the ways, without the truth."""
        return [name for name in self.sums if name != TRUTH]

    def density(self, way: str, *, weights: NDArray | None = None, points: bool = False) -> NDArray[np.float64]:
        """Density map of a way, or of the ``truth``, over all groups or as often as `weights` (groups,) says."""
        table = (self.points if points else self.lines)[way]
        weights = np.ones(table.shape[0]) if weights is None else weights
        return np.asarray(weights @ table, dtype=np.float64).reshape(self.shape)


def evaluate(
    blocks: Iterable[Block],
    cfg: Config,
    ways: Mapping[str, Way],
    *,
    span: int = 100,
    draw: bool = True,
    n_jobs: int = 1,
) -> Evaluation:
    """Find, track and draw the bubbles of each block in all ways, and compare them with the true ones.

    Parameters
    ----------
    blocks : iterable of Block
        B-mode amplitude or IQ with true bubbles, of one size; not filtered here. As many as `n_jobs` are in memory.
    cfg : Config
        Settings of the chain.
    ways : mapping of str to Way
        The ways by name.
    span : int
        Frames of a group.
    draw : bool
        Track and draw; without it the maps stay empty, and bubbles alone can be scored.
    n_jobs : int
        Processes, each of them working on a block. The outcome does not depend on it.

    Returns
    -------
    Evaluation

    Raises
    ------
    ValueError
        No block, one without truth or of another size, or a way called ``truth``.

    Notes
    -----
    The true map is made of the true positions by the same tracker, interpolation and drawing as the others.

    Examples
    --------
    >>> from ulmpaper.config import load_config
    >>> from ulmpaper.example import example_block
    >>> block = example_block(n_frames=40, n_bubbles=5, shape_px=(40, 48), rng=np.random.default_rng(0))
    >>> made = evaluate([block], load_config("smoke"), {"RS": Way("radial", 5)}, span=20)
    >>> made.density("RS").shape, made.sums["RS"].n_true.tolist()
    ((400, 480), [100, 100])
    """
    check_positive(span=span, n_jobs=n_jobs)
    if TRUTH in ways:
        raise ValueError(f"no way may be called {TRUTH!r}: that is the name of the true map")
    runner = joblib.Parallel(n_jobs=n_jobs, return_as="generator", pre_dispatch=n_jobs, max_nbytes=None)
    with joblib.parallel_config("loky", inner_max_num_threads=1) if n_jobs != 1 else joblib.parallel_config():
        parts = list(runner(joblib.delayed(_evaluate)(block, cfg, dict(ways), span, draw) for block in blocks))
    if not parts:
        raise ValueError("there is no block to evaluate: at least one is needed")
    if shapes := {part.shape for part in parts if part.shape != parts[0].shape}:
        raise ValueError(f"blocks with maps of {parts[0].shape} and {shapes.pop()} px: evaluate them apart")
    first = parts[0]
    names = list(first.sums)
    return dataclasses.replace(
        first,
        groups=pd.concat([part.groups.assign(block=k) for k, part in enumerate(parts)], ignore_index=True),
        sums={name: pd.concat([part.sums[name] for part in parts], ignore_index=True) for name in names},
        lines={name: sparse.vstack([part.lines[name] for part in parts], format="csr") for name in names},
        points={name: sparse.vstack([part.points[name] for part in parts], format="csr") for name in names},
        notes=tuple(dict.fromkeys(note for part in parts for note in part.notes)),
    )


def _evaluate(block: Block, cfg: Config, ways: dict[str, Way], span: int, draw: bool) -> Evaluation:
    """One block."""
    truth, n_frames = block.truth[list(BUBBLE_COLUMNS)], len(block.frames)
    n_true = np.bincount(truth["frame"], minlength=n_frames)
    tables, notes = find_bubbles(block.frames, cfg, ways, n_true=n_true)
    px_mm = block.px_mm or cfg.acquisition.px_mm
    rate_hz = block.frame_rate_hz or cfg.acquisition.frame_rate_hz
    n_groups = -(-n_frames // span)
    shape_px = (block.frames.shape[1], block.frames.shape[2])
    sums, lines, points = {}, {}, {}
    for name, found in {TRUTH: truth, **tables}.items():
        pairs = metrics.match_bubbles(found, truth, max_distance_px=FAR_PX)
        paired = np.zeros(len(found), dtype=bool)
        paired[pairs["pred"]] = True
        tracks = chain.link_tracks(found[: len(found) if draw else 0].assign(paired=paired[: None if draw else 0]), cfg)
        about = tracks.groupby("track").agg(frame=("frame", "mean"), paired=("paired", "mean"))
        group = (about["frame"] // span).astype(int)
        sums[name] = _sums(pairs, found, n_true, span)
        sums[name]["n_tracks"] = np.bincount(group, minlength=n_groups)
        sums[name]["n_false_tracks"] = np.bincount(group[about["paired"] < 0.5], minlength=n_groups)
        paths = chain.draw_lines(tracks, cfg, px_mm=px_mm, frame_rate_hz=rate_hz)
        lines[name] = _pixels(paths, group, n_groups, shape_px, cfg)
        points[name] = _pixels(tracks.assign(vz=0.0, vx=0.0), group, n_groups, shape_px, cfg)
    shape = render.map_shape(shape_px, upsample=cfg.render.upsample, pala=cfg.pala)
    groups = pd.DataFrame({"block": 0, "group": np.arange(n_groups)})
    upsample, source = cfg.render.upsample, block.source
    return Evaluation(groups, sums, lines, points, shape, upsample, px_mm, rate_hz, source, notes, cfg.pala)


def _sums(pairs: pd.DataFrame, found: pd.DataFrame, n_true: NDArray, span: int) -> pd.DataFrame:
    """Sums over the frames of each group; those of tracks are added later."""
    n_frames = len(n_true)
    error = np.bincount(found["frame"], minlength=n_frames) - n_true
    frame, distance = pairs["frame"].to_numpy(dtype=int), pairs["distance"].to_numpy()
    per_frame = {
        "n_frames": np.ones(n_frames, int),
        "n_true": n_true,
        "n_found": error + n_true,
        "hits_near": np.bincount(frame[distance < NEAR_PX], minlength=n_frames),
        "hits_far": np.bincount(frame, minlength=n_frames),
        "squared_error": np.bincount(frame, distance**2, minlength=n_frames),
        "count_error": np.abs(error),
        "count_bias": error,
    }
    table = pd.DataFrame(per_frame).groupby(np.arange(n_frames) // span).sum()
    return table.reindex(columns=list(_SUMS), fill_value=0)


def _pixels(
    paths: pd.DataFrame, group: pd.Series, n_groups: int, shape_px: tuple[int, int], cfg: Config
) -> sparse.csr_array:
    """Tracks of each group through each map pixel."""
    upsample, pala = cfg.render.upsample, cfg.pala
    size = int(np.prod(render.map_shape(shape_px, upsample=upsample, pala=pala)))
    of_row = group.reindex(paths["track"]).to_numpy()
    parts = [render.map_sums(paths[of_row == k], shape_px, upsample=upsample, pala=pala) for k in range(n_groups)]
    values = np.concatenate([part.count for part in parts]).astype(np.float32)
    ends = np.cumsum([0, *(len(part.pixel) for part in parts)])
    return sparse.csr_array((values, np.concatenate([part.pixel for part in parts]), ends), shape=(n_groups, size))
