"""All methods on the same blocks, each with its best settings.

A network looks at the frames once, however many ways read its maps.

Blocks with truth through the whole chain in several ways: what the scores of Tables I and II are made from.

Blocks stream: of each one stay sums for groups of frames, and the map pixels that its tracks touch. Whatever is scored
later, `judge` says how surely, by drawing these groups again and again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import joblib
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from ulmpaper.config import METHODS, NETWORKS, Config
from ulmpaper.core.grid import map_shape
from ulmpaper.core.localize import locate
from ulmpaper.core.records import BUBBLE_COLUMNS, Block, check_choice, check_frames, check_positive
from ulmpaper.core.render import map_sums
from ulmpaper.metrics.bubbles import LIMITS_PX, match_bubbles
from ulmpaper.pipeline import draw_lines, link_tracks

_COUNTS = ("told", "true")
_ALL = 10**6  # more peaks than a frame has


@dataclass(frozen=True)
class Method:
    """A method, and how many bubbles it is to find.

    Parameters
    ----------
    method : str
        A method of `subpixel.METHODS`, ``ml3d`` or ``mspcn``.
    n_bubbles : int or {"told", "true"}, optional
        Bubbles in each frame: a number, for 3DML-ResNet also what the counting network tells (its default), or the
        true number. Classical methods get the true number as its mean over the frames, and take all peaks by default.
        mSPCN goes by its threshold alone.
    threshold : float, optional
        Least score. For classical methods a peak's share of the highest value of all frames, for mSPCN the height in
        its heat map, for 3DML-ResNet the probability; both have one from the training.
    centre_side : int, optional
        For mSPCN, of what the centre of mass is taken, see `targets.decode_heatmap`; by default as the settings say.
    weights : str, optional
        A network's weights instead of those of the settings, see `ulmpaper.networks.weights.find_weights`.

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
        if n == "told" and self.method != "ml3d":
            raise ValueError(f"only ml3d has a network that counts: give {self.method} a number, or 'true'")
        if self.method == "mspcn" and n is not None:
            raise ValueError("mspcn takes what is above its threshold: give it no n_bubbles")
        if self.method != "mspcn" and self.centre_side is not None:
            raise ValueError(f"only mspcn has a heat map: give {self.method} no centre_side")
        if self.method in METHODS and self.weights is not None:
            raise ValueError(f"{self.method} is no network and has no weights")
        if self.threshold is not None and not self.threshold >= 0:
            raise ValueError(f"threshold must be 0 or more, not {self.threshold}")


def locate_all(
    frames: ArrayLike, cfg: Config, ways: Mapping[str, Method], *, n_true: ArrayLike | None = None
) -> tuple[dict[str, pd.DataFrame], tuple[str, ...]]:
    """Find the bubbles of the same frames in several ways.

    Parameters
    ----------
    frames : array_like (T, Z, X)
        B-mode amplitude, or IQ, of which the amplitude is taken.
    cfg : Config
        Settings of the methods and of the use of networks.
    ways : mapping of str to Way
        The ways by name.
    n_true : array_like (T,) of int, optional
        True number of bubbles in each frame, for ways that are told.

    Returns
    -------
    bubbles : dict of str to DataFrame
        Bubble table of each way.
    notes : tuple of str
        In what the frames are unlike those that the networks were trained on.

    Raises
    ------
    ValueError
        A way asks for the true number, but `n_true` is missing.

    Examples
    --------
    >>> from ulmpaper.config import load_config
    >>> from ulmpaper.core.testcard import simulate_testcard
    >>> block = simulate_testcard(n_frames=3, n_bubbles=5, shape_px=(40, 48), rng=np.random.default_rng(0))
    >>> ways = {"RS": Method("radial", 5), "parabola": Method("parabola", "true")}
    >>> found, _ = locate_all(block.frames, load_config("smoke"), ways, n_true=[5, 5, 5])
    >>> {name: len(bubbles) for name, bubbles in found.items()}
    {'RS': 15, 'parabola': 15}
    """
    frames = check_frames(frames, allow_complex=True)
    amplitude = np.abs(frames) if frames.dtype.kind == "c" else frames
    if n_true is None and any(way.n_bubbles == "true" for way in ways.values()):
        raise ValueError("a way asks for the true number of bubbles: give n_true")
    true = np.zeros(len(frames), int) if n_true is None else np.asarray(n_true, dtype=int)
    found = {name: _classical(amplitude, cfg, way, true) for name, way in ways.items() if way.method in METHODS}
    notes: list[str] = []
    for method, read in (("ml3d", _ml3d), ("mspcn", _mspcn)):
        looks: dict[tuple[str | None, int | None], dict[str, Method]] = {}
        for name, way in ways.items():
            if way.method == method:
                looks.setdefault((way.weights, way.centre_side), {})[name] = way
        for (file, _), those in looks.items():
            found |= read(amplitude, cfg, those, file, true, notes)
    return {name: found[name] for name in ways}, tuple(dict.fromkeys(notes))


def number_grid(
    methods: Iterable[str], *, n_bubbles: Iterable[int] = (), shares: Iterable[float] = ()
) -> dict[str, Method]:
    """Ways of classical methods to choose from: with a fixed number of bubbles, or with a least share of the peak.

    Examples
    --------
    >>> list(number_grid(["radial"], n_bubbles=[20, 40], shares=[0.1]))
    ['radial, n = 20', 'radial, n = 40', 'radial, > 0.1']
    """
    ways: dict[str, Method] = {}
    for method in methods:
        ways |= {f"{method}, n = {n}": Method(method, n) for n in n_bubbles}
        ways |= {f"{method}, > {share:.3g}": Method(method, threshold=share) for share in shares}
    return ways


def threshold_grid(
    thresholds: Iterable[float], *, method: str = "mspcn", weights: str | None = None
) -> dict[str, Method]:
    """Ways of a network to choose from.

    Examples
    --------
    >>> list(threshold_grid([2, 4.5]))
    ['mspcn, > 2', 'mspcn, > 4.5']
    """
    return {f"{method}, > {t:.3g}": Method(method, threshold=float(t), weights=weights) for t in thresholds}


def best_settings(ways: Mapping[str, Method], scores: pd.Series) -> dict[str, str]:
    """Name the way with the highest score for each method; the first of equal ones.

    Parameters
    ----------
    ways : mapping of str to Way
        The ways by name.
    scores : Series
        A score for each name; NaN is the lowest.

    Returns
    -------
    dict of str to str
        Name by method, the best method first.

    Examples
    --------
    >>> ways = number_grid(["radial", "weighted"], n_bubbles=[20, 40])
    >>> best_settings(ways, pd.Series([0.1, 0.2, 0.5, 0.4], index=list(ways)))
    {'weighted': 'weighted, n = 20', 'radial': 'radial, n = 40'}
    """
    best: dict[str, str] = {}
    order = scores.loc[list(ways)].fillna(-np.inf).sort_values(ascending=False, kind="stable")
    for name in order.index:
        best.setdefault(ways[name].method, name)
    return best


def _classical(amplitude: NDArray, cfg: Config, way: Method, true: NDArray) -> pd.DataFrame:
    n: Any = way.n_bubbles
    if n is None:
        n = _ALL
    elif n == "true":
        n = max(1, round(float(true.mean())))
    least = cfg.locate.min_score if way.threshold is None else way.threshold * float(amplitude.max())
    limits: dict[str, Any] = {
        "roi_px": cfg.locate.roi_px,
        "max_peaks_in_roi": cfg.locate.max_peaks_in_roi,
        "pala": cfg.pala,
    }
    return locate(amplitude, method=way.method, n_bubbles=n, min_score=least, **limits)


def _ml3d(
    amplitude: NDArray, cfg: Config, ways: Mapping[str, Method], file: str | None, true: NDArray, notes: list[str]
) -> dict[str, pd.DataFrame]:
    """Decode as many bubbles as the greediest way asks for; the others take the most probable of them."""
    from ulmpaper.networks.localize import domain_gap, load_network, locate_ml3d  # here, since torch is slow to load

    told = _told(amplitude, cfg) if any(way.n_bubbles in (None, "told") for way in ways.values()) else true
    asked = np.rint(cfg.count.margin * told).astype(int)
    by_word = {None: asked, "told": asked, "true": true}
    counts = {
        name: np.full(len(amplitude), way.n_bubbles) if isinstance(way.n_bubbles, int) else by_word[way.n_bubbles]
        for name, way in ways.items()
    }
    file = cfg.ml3d.weights if file is None else file
    about = load_network("ml3d", file)[1]
    usual = about.get("threshold", 0.0) if cfg.ml3d.threshold is None else cfg.ml3d.threshold
    least = {name: usual if way.threshold is None else way.threshold for name, way in ways.items()}
    table = locate_ml3d(
        amplitude,
        net=file,
        n_bubbles=np.max(list(counts.values()), axis=0),
        stride=cfg.ml3d.stride,
        mirrored=cfg.ml3d.mirrored,
        threshold=min(least.values()),
        min_distance_px=cfg.ml3d.min_distance_px,
        precision=cfg.compute.precision,
        compiled=cfg.compute.compile,
        warn=lambda _: None,  # of so many bubbles
        **_use(cfg),
    )
    first, counted = next(iter(counts)), ways[next(iter(ways))].n_bubbles in (None, "told")
    text = domain_gap(amplitude, told if counted else counts[first], about)
    notes += [f"ml3d: {text}"] if text else []
    rank = table.groupby("frame").cumcount().to_numpy()
    wanted = {name: rank < n[table["frame"].to_numpy()] for name, n in counts.items()}
    return {name: _above(table[wanted[name]], threshold) for name, threshold in least.items()}


def _told(amplitude: NDArray, cfg: Config) -> NDArray[np.int64]:
    """Number of bubbles that the counting network tells of each frame."""
    from ulmpaper.networks.localize import load_network
    from ulmpaper.networks.predict import predict_counts

    counter, about = load_network("count", cfg.count.weights)
    side = about.get("tile_px", cfg.count.tile_px)
    use: dict[str, Any] = {"batch": cfg.compute.batch, "device": cfg.compute.device}
    return np.rint(predict_counts(counter, amplitude, tile_px=side, **use)).astype(int)


def _mspcn(
    amplitude: NDArray, cfg: Config, ways: Mapping[str, Method], file: str | None, true: NDArray, notes: list[str]
) -> dict[str, pd.DataFrame]:
    """Decode at the lowest threshold; the others take the higher peaks."""
    from ulmpaper.networks.localize import load_network, locate_mspcn

    file = cfg.mspcn.weights if file is None else file
    usual = cfg.mspcn.threshold or load_network("mspcn", file)[1].get("threshold", 0.0)
    least = {name: usual if way.threshold is None else way.threshold for name, way in ways.items()}
    said: list[str] = []
    side = next(iter(ways.values())).centre_side or cfg.mspcn.centre_side  # of all of them the same
    options: dict[str, Any] = {
        "centre_side": side,
        "precision": cfg.compute.precision,
        "warn": said.append,
        **_use(cfg),
    }
    table = locate_mspcn(amplitude, net=file, threshold=min(least.values()), **options)
    notes += [f"mspcn: {text}" for text in said] if len(ways) == 1 else []
    return {name: _above(table, threshold) for name, threshold in least.items()}


def _above(table: pd.DataFrame, threshold: float) -> pd.DataFrame:
    return table[table["score"] > threshold].reset_index(drop=True)


def _use(cfg: Config) -> dict[str, Any]:
    return {"batch": cfg.compute.batch, "tile_px": cfg.compute.tile_px, "device": cfg.compute.device}


NEAR_PX, FAR_PX = LIMITS_PX["near"], LIMITS_PX["far"]
TRUTH = "truth"
_SUMS = (
    *("n_frames", "n_true", "n_found", "hits_near", "hits_far", "squared_error"),
    *("count_error", "count_bias", "n_tracks", "n_false_tracks"),
)


@dataclass(frozen=True)
class Comparison:
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


def compare(
    blocks: Iterable[Block],
    cfg: Config,
    ways: Mapping[str, Method],
    *,
    span: int = 100,
    draw: bool = True,
    n_jobs: int = 1,
) -> Comparison:
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
    >>> from ulmpaper.core.testcard import simulate_testcard
    >>> block = simulate_testcard(n_frames=40, n_bubbles=5, shape_px=(40, 48), rng=np.random.default_rng(0))
    >>> made = compare([block], load_config("smoke"), {"RS": Method("radial", 5)}, span=20)
    >>> made.density("RS").shape, made.sums["RS"].n_true.tolist()
    ((400, 480), [100, 100])
    """
    check_positive(span=span, n_jobs=n_jobs)
    if TRUTH in ways:
        raise ValueError(f"no way may be called {TRUTH!r}: that is the name of the true map")
    runner = joblib.Parallel(n_jobs=n_jobs, return_as="generator", pre_dispatch=n_jobs, max_nbytes=None)
    with joblib.parallel_config("loky", inner_max_num_threads=1) if n_jobs != 1 else joblib.parallel_config():
        parts = list(runner(joblib.delayed(_compare_block)(block, cfg, dict(ways), span, draw) for block in blocks))
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


def _compare_block(block: Block, cfg: Config, ways: dict[str, Method], span: int, draw: bool) -> Comparison:
    """One block."""
    truth, n_frames = block.truth[list(BUBBLE_COLUMNS)], len(block.frames)
    n_true = np.bincount(truth["frame"], minlength=n_frames)
    tables, notes = locate_all(block.frames, cfg, ways, n_true=n_true)
    px_mm = block.px_mm or cfg.acquisition.px_mm
    rate_hz = block.frame_rate_hz or cfg.acquisition.frame_rate_hz
    n_groups = -(-n_frames // span)
    shape_px = (block.frames.shape[1], block.frames.shape[2])
    sums, lines, points = {}, {}, {}
    for name, found in {TRUTH: truth, **tables}.items():
        pairs = match_bubbles(found, truth, max_distance_px=FAR_PX)
        paired = np.zeros(len(found), dtype=bool)
        paired[pairs["pred"]] = True
        tracks = link_tracks(found[: len(found) if draw else 0].assign(paired=paired[: None if draw else 0]), cfg)
        about = tracks.groupby("track").agg(frame=("frame", "mean"), paired=("paired", "mean"))
        group = (about["frame"] // span).astype(int)
        sums[name] = _sums(pairs, found, n_true, span)
        sums[name]["n_tracks"] = np.bincount(group, minlength=n_groups)
        sums[name]["n_false_tracks"] = np.bincount(group[about["paired"] < 0.5], minlength=n_groups)
        paths = draw_lines(tracks, cfg, px_mm=px_mm, frame_rate_hz=rate_hz)
        lines[name] = _pixels(paths, group, n_groups, shape_px, cfg)
        points[name] = _pixels(tracks.assign(vz=0.0, vx=0.0), group, n_groups, shape_px, cfg)
    shape = map_shape(shape_px, upsample=cfg.render.upsample, pala=cfg.pala)
    groups = pd.DataFrame({"block": 0, "group": np.arange(n_groups)})
    upsample, source = cfg.render.upsample, block.source
    return Comparison(groups, sums, lines, points, shape, upsample, px_mm, rate_hz, source, notes, cfg.pala)


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
    size = int(np.prod(map_shape(shape_px, upsample=upsample, pala=pala)))
    of_row = group.reindex(paths["track"]).to_numpy()
    parts = [map_sums(paths[of_row == k], shape_px, upsample=upsample, pala=pala) for k in range(n_groups)]
    values = np.concatenate([part.count for part in parts]).astype(np.float32)
    ends = np.cumsum([0, *(len(part.pixel) for part in parts)])
    return sparse.csr_array((values, np.concatenate([part.pixel for part in parts]), ends), shape=(n_groups, size))
