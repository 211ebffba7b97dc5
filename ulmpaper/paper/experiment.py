"""All methods on the same blocks: what the scores of Tables I and II are made from.

`compare` takes blocks with truth through the whole chain, by all methods and by the true bubbles. A
network looks at the frames once, however many methods use its maps. Blocks stream: of each block,
sums for groups of frames stay, and the map pixels that its tracks touch. The intervals of all
scores come from drawing these groups again, see `ulmpaper.paper.Scores`.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import joblib
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from ulmpaper.config import METHODS, NETWORKS, Config, Settings, as_config
from ulmpaper.core.arguments import explained
from ulmpaper.core.grid import map_shape
from ulmpaper.core.records import (
    BUBBLE_COLUMNS,
    Block,
    UlmWarning,
    check_choice,
    check_frames,
    check_positive,
)
from ulmpaper.core.render import map_sums
from ulmpaper.metrics.bubbles import match_bubbles
from ulmpaper.paper.scores import FAR_PX, NEAR_PX, TRUTH, Scores, score_bubbles_of, score_maps_of
from ulmpaper.pipeline.blocks import draw_lines, link_tracks
from ulmpaper.pipeline.detect import locate

_MOST_BUBBLES = 1e6  # in a frame
_COUNTS = ("predicted", "true")


@explained
@dataclass(frozen=True)
class Method:
    """A localization method with the one or two numbers that it is given.

    Parameters
    ----------
    method : str
        A classical method, ``ml3d`` or ``mspcn``; see `ulmpaper.locate`.
    n_bubbles : int or {"predicted", "true"}, optional
        Bubbles in each frame: a number, for 3DML-ResNet also the predicted count (its default), or
        the true number. Classical methods get the true number as its mean over the frames, and take
        all peaks by default. mSPCN goes by its threshold alone.
    threshold : float, optional
        Least score. For classical methods a peak's share of the highest value of all frames, for
        mSPCN the height in its heat map, for 3DML-ResNet the probability; both networks have one
        from their training.
    centre_side : int, optional
        For mSPCN, the side of the square whose centre of mass is taken, see
        `ulmpaper.networks.decode_heatmap`; by default that of the settings.
    weights : str, optional
        A network's weights instead of those of the settings, see `ulmpaper.networks.find_weights`.

    Raises
    ------
    ValueError
        Unknown method; a number or a threshold that makes no sense for it.
    """

    method: str
    n_bubbles: int | str | None = None
    threshold: float | None = None
    centre_side: int | None = None
    weights: str | None = None

    def __post_init__(self) -> None:
        check_choice(self.method, METHODS + NETWORKS, "method")
        n = self.n_bubbles
        if isinstance(n, str):
            check_choice(n, _COUNTS, "number of bubbles")
        elif n is not None and n < 1:
            raise ValueError(f"n_bubbles must be 1 or more, not {n}")
        if n == "predicted" and self.method != "ml3d":
            raise ValueError(
                f"only ml3d has a network that counts: give {self.method} a number, or 'true'"
            )
        if self.method == "mspcn" and n is not None:
            raise ValueError("mspcn takes what is above its threshold: give it no n_bubbles")
        if self.method != "mspcn" and self.centre_side is not None:
            raise ValueError(f"only mspcn has a heat map: give {self.method} no centre_side")
        if self.method in METHODS and self.weights is not None:
            raise ValueError(f"{self.method} is no network and has no weights")
        if self.threshold is not None and not self.threshold >= 0:
            raise ValueError(f"threshold must be 0 or more, not {self.threshold}")


def _whole_numbers(n_true: ArrayLike) -> NDArray[np.int_]:
    numbers = np.asarray(n_true)
    if (
        numbers.dtype.kind not in "iuf"
        or (numbers < 0).any()
        or (numbers % 1 != 0).any()
        or (numbers > _MOST_BUBBLES).any()
    ):
        raise ValueError(f"n_true must be whole numbers, 0 or more, not {n_true!r}")
    return numbers.astype(int)


def locate_all(
    frames: ArrayLike,
    methods: Mapping[str, Method],
    cfg: Config,
    *,
    n_true: ArrayLike | None = None,
) -> tuple[dict[str, pd.DataFrame], tuple[str, ...]]:
    """Find the bubbles of the same frames by several methods.

    Each network looks at the frames once, however many methods use its maps.

    Parameters
    ----------
    frames : array_like (T, Z, X)
        B-mode amplitude, or IQ, of which the amplitude is taken.
    methods : mapping of str to Method
        The methods by name.
    cfg : Config
        Settings of the methods and of the use of networks.
    n_true : array_like (T,) of int, optional
        True number of bubbles in each frame, for methods that are given it.

    Returns
    -------
    bubbles : dict of str to DataFrame
        Bubble table of each method.
    notes : tuple of str
        In what the frames are unlike those that the networks were trained on.

    Raises
    ------
    ValueError
        A method needs the true number, but `n_true` is missing.

    Examples
    --------
    >>> from ulmpaper.config import load_config
    >>> from ulmpaper.core.testcard import simulate_testcard
    >>> rng = np.random.default_rng(0)
    >>> block = simulate_testcard(n_frames=3, n_bubbles=5, shape_px=(40, 48), rng=rng)
    >>> methods = {"RS": Method("radial", 5), "parabola": Method("parabola", "true")}
    >>> found, _ = locate_all(block.frames, methods, load_config("smoke"), n_true=[5, 5, 5])
    >>> {name: len(bubbles) for name, bubbles in found.items()}
    {'RS': 15, 'parabola': 15}
    """
    frames = check_frames(frames, allow_complex=True)
    amplitude = np.abs(frames) if frames.dtype.kind == "c" else frames
    if n_true is None and any(m.n_bubbles == "true" for m in methods.values()):
        raise ValueError("a method needs the true number of bubbles: give n_true")
    true = np.zeros(len(frames), int) if n_true is None else _whole_numbers(n_true)
    found: dict[str, pd.DataFrame] = {}
    notes: list[str] = []
    looks: dict[tuple[str, str | None, int | None], dict[str, Method]] = {}
    for name, m in methods.items():
        if m.method in NETWORKS:
            looks.setdefault((m.method, m.weights, m.centre_side), {})[name] = m
        else:
            found[name] = _classical(amplitude, cfg, m, true)
    for (method, _, _), same_look in looks.items():
        read = _read_ml3d if method == "ml3d" else _read_mspcn
        found |= read(amplitude, cfg, same_look, true, notes)
    return {name: found[name] for name in methods}, tuple(dict.fromkeys(notes))


def number_grid(
    methods: Iterable[str], *, n_bubbles: Iterable[int] = (), shares: Iterable[float] = ()
) -> dict[str, Method]:
    """Classical methods to choose from, by number of bubbles or by least share of the peak.

    Examples
    --------
    >>> list(number_grid(["radial"], n_bubbles=[20, 40], shares=[0.1]))
    ['radial, n = 20', 'radial, n = 40', 'radial, > 0.1']
    """
    grid: dict[str, Method] = {}
    for method in methods:
        grid |= {f"{method}, n = {n}": Method(method, n) for n in n_bubbles}
        grid |= {f"{method}, > {share:.3g}": Method(method, threshold=share) for share in shares}
    return grid


def threshold_grid(
    thresholds: Iterable[float], *, method: str = "mspcn", weights: str | None = None
) -> dict[str, Method]:
    """A network at several thresholds, to choose from.

    Examples
    --------
    >>> list(threshold_grid([2, 4.5]))
    ['mspcn, > 2', 'mspcn, > 4.5']
    """
    return {
        f"{method}, > {t:.3g}": Method(method, threshold=float(t), weights=weights)
        for t in thresholds
    }


def best_settings(methods: Mapping[str, Method], scores: pd.Series) -> dict[str, str]:
    """Name the setting with the highest score for each method; the first of equal ones.

    Parameters
    ----------
    methods : mapping of str to Method
        The settings by name.
    scores : Series
        A score for each name; NaN is the lowest.

    Returns
    -------
    dict of str to str
        Name by method, the best method first.

    Examples
    --------
    >>> grid = number_grid(["radial", "weighted"], n_bubbles=[20, 40])
    >>> best_settings(grid, pd.Series([0.1, 0.2, 0.5, 0.4], index=list(grid)))
    {'weighted': 'weighted, n = 20', 'radial': 'radial, n = 40'}
    """
    if missing := [name for name in methods if name not in scores.index]:
        raise ValueError(f"there is no score of {', '.join(map(repr, missing))}")
    best: dict[str, str] = {}
    order = scores.loc[list(methods)].fillna(-np.inf).sort_values(ascending=False, kind="stable")
    for name in order.index:
        best.setdefault(methods[name].method, name)
    return best


def _classical(amplitude: NDArray, cfg: Config, method: Method, true: NDArray) -> pd.DataFrame:
    n = method.n_bubbles
    if n is None:
        n = amplitude[0].size  # all peaks
    elif n == "true":
        n = max(1, round(float(true.mean())))
    least = (
        cfg.locate.min_score
        if method.threshold is None
        else method.threshold * float(amplitude.max())
    )
    return locate(amplitude, method.method, int(n), cfg=cfg, min_score=least)


def _read_ml3d(
    amplitude: NDArray, cfg: Config, methods: Mapping[str, Method], true: NDArray, notes: list[str]
) -> dict[str, pd.DataFrame]:
    """Decode as many bubbles as the greediest method takes; others keep the most probable."""
    from ulmpaper.networks.domain import domain_gap  # here, since torch is slow to load
    from ulmpaper.networks.localize import load_network

    first = next(iter(methods.values()))
    weights = cfg.ml3d.weights if first.weights is None else first.weights
    about = load_network("ml3d", weights).about
    uses_counter = {name: m.n_bubbles in (None, "predicted") for name, m in methods.items()}
    predicted = _predicted_counts(amplitude, cfg) if any(uses_counter.values()) else true
    kept = {}
    for name, m in methods.items():
        if isinstance(m.n_bubbles, int):
            kept[name] = np.full(len(amplitude), m.n_bubbles)
        else:
            kept[name] = (
                np.rint(cfg.count.margin * predicted).astype(int) if uses_counter[name] else true
            )
    usual = about.get("threshold", 0.0) if cfg.ml3d.threshold is None else cfg.ml3d.threshold
    thresholds = {
        name: usual if m.threshold is None else m.threshold for name, m in methods.items()
    }
    most = np.max(list(kept.values()), axis=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UlmWarning)  # it would count the bubbles of the greediest
        table = locate(
            amplitude,
            "ml3d",
            most,
            cfg=cfg,
            min_score=-1.0,
            net=weights,
            threshold=min(thresholds.values()),
        )
    name = next(iter(methods))
    if text := domain_gap(amplitude, predicted if uses_counter[name] else kept[name], about):
        notes.append(f"ml3d: {text}")
    rank = table.groupby("frame").cumcount().to_numpy()
    frame = table["frame"].to_numpy()
    return {name: _above(table[rank < n[frame]], thresholds[name]) for name, n in kept.items()}


def _predicted_counts(amplitude: NDArray, cfg: Config) -> NDArray[np.int64]:
    """Predicted number of bubbles in each frame."""
    from ulmpaper.networks.localize import load_network
    from ulmpaper.networks.predict import predict_counts

    counter = load_network("count", cfg.count.weights)
    side = counter.about.get("tile_px", cfg.count.tile_px)
    counts = predict_counts(
        counter, amplitude, tile_px=side, batch=cfg.compute.batch, device=cfg.compute.device
    )
    return np.rint(counts).astype(int)


def _read_mspcn(
    amplitude: NDArray, cfg: Config, methods: Mapping[str, Method], true: NDArray, notes: list[str]
) -> dict[str, pd.DataFrame]:
    """Decode at the lowest threshold; the other methods keep the higher peaks."""
    from ulmpaper.networks.localize import load_network

    first = next(iter(methods.values()))  # all of them share weights and centre_side
    weights = cfg.mspcn.weights if first.weights is None else first.weights
    usual = cfg.mspcn.threshold or load_network("mspcn", weights).about.get("threshold", 0.0)
    thresholds = {
        name: usual if m.threshold is None else m.threshold for name, m in methods.items()
    }
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UlmWarning)
        table = locate(
            amplitude,
            "mspcn",
            cfg=cfg,
            min_score=-np.inf,
            net=weights,
            threshold=min(thresholds.values()),
            centre_side=first.centre_side or cfg.mspcn.centre_side,
        )
    if len(methods) == 1:
        notes += [f"mspcn: {w.message}" for w in caught if issubclass(w.category, UlmWarning)]
    return {name: _above(table, threshold) for name, threshold in thresholds.items()}


def _above(table: pd.DataFrame, threshold: float) -> pd.DataFrame:
    return table[table["score"] > threshold].reset_index(drop=True)


_SUMS = (
    *("n_frames", "n_true", "n_found", "hits_near", "hits_far", "squared_error"),
    *("count_error", "count_bias", "n_tracks", "n_false_tracks"),
)


@explained
@dataclass(frozen=True)
class Comparison:
    """What became of the blocks, by groups of frames.

    Parameters
    ----------
    groups : DataFrame
        A row for each group: ``block`` and ``group``, both from 0.
    sums : dict of str to DataFrame
        For each way, and for the truth, a row for each group. ``n_frames, n_true, n_found``;
        ``hits_near, hits_far``, pairs closer than 0.25 and 0.5 px; ``squared_error``, the sum of
        the latters' squared distances [px²]; ``count_error, count_bias``, sums over frames of the
        error of the number of bubbles, without and with its sign; ``n_tracks, n_false_tracks``:
        false is a track of which fewer than half the points are such pairs. A track belongs to the
        group of its middle.
    lines, points : dict of str to sparse array (groups, pixels)
        Density maps [tracks per map pixel], of the interpolated tracks and of their bare points,
        likewise.
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
    bubbles, tracks : dict of str to DataFrame
        Bubble and track tables of each method and of the truth, with the column ``block`` and
        frames numbered within the block; empty unless `compare` was called with
        ``keep_tables=True``.
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
    bubbles: dict[str, pd.DataFrame] = field(default_factory=dict, repr=False)
    tracks: dict[str, pd.DataFrame] = field(default_factory=dict, repr=False)

    @property
    def methods(self) -> list[str]:
        """Names of the methods, without the truth."""
        return [name for name in self.sums if name != TRUTH]

    def density(
        self, method: str, *, weights: NDArray | None = None, points: bool = False
    ) -> NDArray[np.float64]:
        """Density map of a method, or of the ``truth``; `weights` (groups,) count the groups."""
        table = (self.points if points else self.lines)[check_choice(method, self.lines, "method")]
        weights = np.ones(table.shape[0]) if weights is None else np.asarray(weights, dtype=float)
        if weights.shape != table.shape[:1]:
            raise ValueError(
                f"weights are a number for each of {table.shape[0]} groups, not {weights.shape}"
            )
        return np.asarray(weights @ table, dtype=np.float64).reshape(self.shape)

    def bubble_scores(self, *, rng: np.random.Generator, n_draws: int = 1000) -> Scores:
        """Score the bubbles and tracks of each method; see `scores.score_bubbles_of`."""
        return score_bubbles_of(self, rng=rng, n_draws=n_draws)

    def map_scores(
        self,
        *,
        rng: np.random.Generator,
        n_draws: int = 30,
        centreline: pd.DataFrame | None = None,
        n_jobs: int = 1,
    ) -> Scores:
        """Score the maps of each method, and a black one; see `scores.score_maps_of`."""
        return score_maps_of(self, rng=rng, n_draws=n_draws, centreline=centreline, n_jobs=n_jobs)


def compare(
    blocks: Iterable[Block],
    methods: Mapping[str, Method],
    cfg: Settings = None,
    *,
    span: int = 100,
    draw: bool = True,
    keep_tables: bool = False,
    n_jobs: int = 1,
) -> Comparison:
    """Find, track and draw the bubbles of each block by all methods, beside the true ones.

    Parameters
    ----------
    blocks : iterable of Block
        B-mode amplitude or IQ with true bubbles, of one size; not filtered here. As many as
        `n_jobs` are in memory.
    methods : mapping of str to Method
        The methods by name.
    cfg : Config, mapping or str, optional
        Settings of the chain, as in `ulmpaper.ulm`.
    span : int
        Frames of a group.
    draw : bool
        Track and draw; without it the maps stay empty, and bubbles alone can be scored.
    keep_tables : bool
        Keep the bubbles and tracks of all blocks, see `Comparison`.
    n_jobs : int
        Processes, each of them working on a block. The outcome does not depend on it.

    Returns
    -------
    Comparison

    Raises
    ------
    ValueError
        No block, one without truth or of another size, or a method called ``truth``.

    Notes
    -----
    The true map is made of the true positions by the same tracker, interpolation and drawing as the
    others.

    Examples
    --------
    >>> from ulmpaper.config import load_config
    >>> from ulmpaper.core.testcard import simulate_testcard
    >>> rng = np.random.default_rng(0)
    >>> block = simulate_testcard(n_frames=40, n_bubbles=5, shape_px=(40, 48), rng=rng)
    >>> made = compare([block], {"RS": Method("radial", 5)}, "smoke", span=20)
    >>> made.density("RS").shape, made.sums["RS"].n_true.tolist()
    ((400, 480), [100, 100])
    """
    if isinstance(blocks, Block):
        raise TypeError("blocks are several: compare([block], methods)")
    if not isinstance(methods, Mapping) or not all(isinstance(m, Method) for m in methods.values()):
        raise TypeError(
            "methods map names to Method: compare(blocks, {'RS': paper.Method('radial', 20)})"
        )
    cfg = as_config(cfg)
    check_positive(span=span, n_jobs=n_jobs)
    if TRUTH in methods:
        raise ValueError(f"no method may be called {TRUTH!r}: that is the name of the true map")
    runner = joblib.Parallel(
        n_jobs=n_jobs, return_as="generator", pre_dispatch=n_jobs, max_nbytes=None
    )
    with (
        joblib.parallel_config("loky", inner_max_num_threads=1)
        if n_jobs != 1
        else joblib.parallel_config()
    ):
        parts = list(
            runner(
                joblib.delayed(_compare_block)(block, dict(methods), cfg, span, draw, keep_tables)
                for block in blocks
            )
        )
    if not parts:
        raise ValueError("there is no block to compare on: at least one is needed")
    if shapes := {part.shape for part in parts if part.shape != parts[0].shape}:
        raise ValueError(
            f"blocks with maps of {parts[0].shape} and {shapes.pop()} px: compare them apart"
        )
    first = parts[0]
    names = list(first.sums)
    return dataclasses.replace(
        first,
        groups=pd.concat(
            [part.groups.assign(block=k) for k, part in enumerate(parts)], ignore_index=True
        ),
        sums={
            name: pd.concat([part.sums[name] for part in parts], ignore_index=True)
            for name in names
        },
        lines={
            name: sparse.vstack([part.lines[name] for part in parts], format="csr")
            for name in names
        },
        points={
            name: sparse.vstack([part.points[name] for part in parts], format="csr")
            for name in names
        },
        notes=tuple(dict.fromkeys(note for part in parts for note in part.notes)),
        bubbles=_join_blocks([part.bubbles for part in parts]),
        tracks=_join_blocks([part.tracks for part in parts]),
    )


def _join_blocks(tables: Sequence[Mapping[str, pd.DataFrame]]) -> dict[str, pd.DataFrame]:
    """One table of each method, with the column ``block``."""
    return {
        name: pd.concat(
            [part[name].assign(block=k) for k, part in enumerate(tables)], ignore_index=True
        )
        for name in tables[0]
    }


def _compare_block(
    block: Block,
    methods: dict[str, Method],
    cfg: Config,
    span: int,
    draw: bool,
    keep_tables: bool,
) -> Comparison:
    """One block."""
    truth = block.truth[list(BUBBLE_COLUMNS)]
    n_frames = len(block.frames)
    n_true = np.bincount(truth["frame"], minlength=n_frames)
    tables, notes = locate_all(block.frames, methods, cfg, n_true=n_true)
    px_mm = block.px_mm or cfg.acquisition.px_mm
    rate_hz = block.frame_rate_hz or cfg.acquisition.frame_rate_hz
    n_groups = -(-n_frames // span)
    shape_px = (block.frames.shape[1], block.frames.shape[2])
    sums = {}
    lines = {}
    points = {}
    kept_bubbles: dict[str, pd.DataFrame] = {}
    kept_tracks: dict[str, pd.DataFrame] = {}
    for name, found in {TRUTH: truth, **tables}.items():
        pairs = match_bubbles(found, truth, max_distance_px=FAR_PX)
        paired = np.zeros(len(found), dtype=bool)
        paired[pairs["pred"]] = True
        marked = found.assign(paired=paired)
        tracks = link_tracks(marked if draw else marked[:0], cfg)
        about = tracks.groupby("track").agg(frame=("frame", "mean"), paired=("paired", "mean"))
        group = (about["frame"] // span).astype(int)
        sums[name] = _sums(pairs, found, n_true, span)
        sums[name]["n_tracks"] = np.bincount(group, minlength=n_groups)
        sums[name]["n_false_tracks"] = np.bincount(group[about["paired"] < 0.5], minlength=n_groups)
        paths = draw_lines(tracks, cfg, px_mm=px_mm, frame_rate_hz=rate_hz)
        lines[name] = _pixels(paths, group, n_groups, shape_px, cfg)
        points[name] = _pixels(tracks.assign(vz=0.0, vx=0.0), group, n_groups, shape_px, cfg)
        if keep_tables:
            kept_bubbles[name] = found
            kept_tracks[name] = tracks.drop(columns="paired")
    shape = map_shape(shape_px, upsample=cfg.render.upsample, pala=cfg.pala)
    groups = pd.DataFrame({"block": 0, "group": np.arange(n_groups)})
    upsample = cfg.render.upsample
    source = block.source
    return Comparison(
        groups,
        sums,
        lines,
        points,
        shape,
        upsample,
        px_mm,
        rate_hz,
        source,
        notes,
        cfg.pala,
        kept_bubbles,
        kept_tracks,
    )


def _sums(pairs: pd.DataFrame, found: pd.DataFrame, n_true: NDArray, span: int) -> pd.DataFrame:
    """Sums over the frames of each group; those of tracks are added later."""
    n_frames = len(n_true)
    error = np.bincount(found["frame"], minlength=n_frames) - n_true
    frame = pairs["frame"].to_numpy(dtype=int)
    distance = pairs["distance"].to_numpy()
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
    upsample = cfg.render.upsample
    pala = cfg.pala
    size = int(np.prod(map_shape(shape_px, upsample=upsample, pala=pala)))
    of_row = group.reindex(paths["track"]).to_numpy()
    parts = [
        map_sums(paths[of_row == k], shape_px, upsample=upsample, pala=pala)
        for k in range(n_groups)
    ]
    values = np.concatenate([part.count for part in parts]).astype(np.float32)
    ends = np.cumsum([0, *(len(part.pixel) for part in parts)])
    return sparse.csr_array(
        (values, np.concatenate([part.pixel for part in parts]), ends), shape=(n_groups, size)
    )
