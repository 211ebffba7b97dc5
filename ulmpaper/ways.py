"""Ways to find bubbles, side by side: methods and networks, each with the one or two numbers that it is given.

A network looks at the frames once, however many ways read its maps.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from ulmpaper import localize
from ulmpaper.config import Config
from ulmpaper.records import check_choice, check_frames
from ulmpaper.settings import METHODS, NETWORKS

N_BUBBLES = ("told", "true")
_ALL = 10**6  # more peaks than a frame has


@dataclass(frozen=True)
class Way:
    """A method, and how many bubbles it is to find.

    Parameters
    ----------
    method : str
        A method of `localize.METHODS`, ``ml3d`` or ``mspcn``.
    n_bubbles : int or {"told", "true"}, optional
        Bubbles in each frame: a number, for 3DML-ResNet also what the counting network tells (its default), or the
        true number. Classical methods get the true number as its mean over the frames, and take all peaks by default.
        mSPCN goes by its threshold alone.
    threshold : float, optional
        Least score. For classical methods a peak's share of the highest value of all frames, for mSPCN the height in
        its heat map, for 3DML-ResNet the probability; both have one from the training.
    centre_side : int, optional
        For mSPCN, of what the centre of mass is taken, see `decode.decode_heatmap`; by default as the settings say.
    weights : str, optional
        A network's weights instead of those of the settings, see `ulmpaper.weights.find_weights`.

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
            check_choice(n, N_BUBBLES, "number of bubbles")
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


def find_bubbles(
    frames: ArrayLike, cfg: Config, ways: Mapping[str, Way], *, n_true: ArrayLike | None = None
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
    >>> from ulmpaper.example import example_block
    >>> block = example_block(n_frames=3, n_bubbles=5, shape_px=(40, 48), rng=np.random.default_rng(0))
    >>> ways = {"RS": Way("radial", 5), "parabola": Way("parabola", "true")}
    >>> found, _ = find_bubbles(block.frames, load_config("smoke"), ways, n_true=[5, 5, 5])
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
        looks: dict[tuple[str | None, int | None], dict[str, Way]] = {}
        for name, way in ways.items():
            if way.method == method:
                looks.setdefault((way.weights, way.centre_side), {})[name] = way
        for (file, _), those in looks.items():
            found |= read(amplitude, cfg, those, file, true, notes)
    return {name: found[name] for name in ways}, tuple(dict.fromkeys(notes))


def number_grid(
    methods: Iterable[str], *, n_bubbles: Iterable[int] = (), shares: Iterable[float] = ()
) -> dict[str, Way]:
    """Ways of classical methods to choose from: with a fixed number of bubbles, or with a least share of the peak.

    Examples
    --------
    >>> list(number_grid(["radial"], n_bubbles=[20, 40], shares=[0.1]))
    ['radial, n = 20', 'radial, n = 40', 'radial, > 0.1']
    """
    ways: dict[str, Way] = {}
    for method in methods:
        ways |= {f"{method}, n = {n}": Way(method, n) for n in n_bubbles}
        ways |= {f"{method}, > {share:.3g}": Way(method, threshold=share) for share in shares}
    return ways


def threshold_grid(thresholds: Iterable[float], *, method: str = "mspcn", weights: str | None = None) -> dict[str, Way]:
    """Ways of a network to choose from.

    Examples
    --------
    >>> list(threshold_grid([2, 4.5]))
    ['mspcn, > 2', 'mspcn, > 4.5']
    """
    return {f"{method}, > {t:.3g}": Way(method, threshold=float(t), weights=weights) for t in thresholds}


def choose(ways: Mapping[str, Way], scores: pd.Series) -> dict[str, str]:
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
    >>> choose(ways, pd.Series([0.1, 0.2, 0.5, 0.4], index=list(ways)))
    {'weighted': 'weighted, n = 20', 'radial': 'radial, n = 40'}
    """
    best: dict[str, str] = {}
    order = scores.loc[list(ways)].fillna(-np.inf).sort_values(ascending=False, kind="stable")
    for name in order.index:
        best.setdefault(ways[name].method, name)
    return best


def _classical(amplitude: NDArray, cfg: Config, way: Way, true: NDArray) -> pd.DataFrame:
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
    return localize.locate(amplitude, method=way.method, n_bubbles=n, min_score=least, **limits)


def _ml3d(
    amplitude: NDArray, cfg: Config, ways: Mapping[str, Way], file: str | None, true: NDArray, notes: list[str]
) -> dict[str, pd.DataFrame]:
    """Decode as many bubbles as the greediest way asks for; the others take the most probable of them."""
    from ulmpaper import domain, infer  # here, since torch takes seconds to load

    told = _told(amplitude, cfg) if any(way.n_bubbles in (None, "told") for way in ways.values()) else true
    asked = np.rint(cfg.count.margin * told).astype(int)
    by_word = {None: asked, "told": asked, "true": true}
    counts = {
        name: np.full(len(amplitude), way.n_bubbles) if isinstance(way.n_bubbles, int) else by_word[way.n_bubbles]
        for name, way in ways.items()
    }
    file = cfg.ml3d.weights if file is None else file
    about = infer.trained("ml3d", file)[1]
    usual = about.get("threshold", 0.0) if cfg.ml3d.threshold is None else cfg.ml3d.threshold
    least = {name: usual if way.threshold is None else way.threshold for name, way in ways.items()}
    table = infer.locate_ml3d(
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
    text = domain.difference(amplitude, told if counted else counts[first], about)
    notes += [f"ml3d: {text}"] if text else []
    rank = table.groupby("frame").cumcount().to_numpy()
    wanted = {name: rank < n[table["frame"].to_numpy()] for name, n in counts.items()}
    return {name: _above(table[wanted[name]], threshold) for name, threshold in least.items()}


def _told(amplitude: NDArray, cfg: Config) -> NDArray[np.int64]:
    """Number of bubbles that the counting network tells of each frame."""
    from ulmpaper import infer, predict

    counter, about = infer.trained("count", cfg.count.weights)
    side = about.get("tile_px", cfg.count.tile_px)
    use: dict[str, Any] = {"batch": cfg.compute.batch, "device": cfg.compute.device}
    return np.rint(predict.predict_counts(counter, amplitude, tile_px=side, **use)).astype(int)


def _mspcn(
    amplitude: NDArray, cfg: Config, ways: Mapping[str, Way], file: str | None, true: NDArray, notes: list[str]
) -> dict[str, pd.DataFrame]:
    """Decode at the lowest threshold; the others take the higher peaks."""
    from ulmpaper import infer

    file = cfg.mspcn.weights if file is None else file
    usual = cfg.mspcn.threshold or infer.trained("mspcn", file)[1].get("threshold", 0.0)
    least = {name: usual if way.threshold is None else way.threshold for name, way in ways.items()}
    said: list[str] = []
    side = next(iter(ways.values())).centre_side or cfg.mspcn.centre_side  # of all of them the same
    options: dict[str, Any] = {
        "centre_side": side,
        "precision": cfg.compute.precision,
        "warn": said.append,
        **_use(cfg),
    }
    table = infer.locate_mspcn(amplitude, net=file, threshold=min(least.values()), **options)
    notes += [f"mspcn: {text}" for text in said] if len(ways) == 1 else []
    return {name: _above(table, threshold) for name, threshold in least.items()}


def _above(table: pd.DataFrame, threshold: float) -> pd.DataFrame:
    return table[table["score"] > threshold].reset_index(drop=True)


def _use(cfg: Config) -> dict[str, Any]:
    return {"batch": cfg.compute.batch, "tile_px": cfg.compute.tile_px, "device": cfg.compute.device}
