"""Bubbles by networks.

Weights come from a file, from the package, or as a network in memory. They bring along how they
were trained: the length of a window, the size of the tiles in which bubbles are counted, the
thresholds.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from torch import nn

from ulmpaper.config import Config
from ulmpaper.core.progress import count_frames
from ulmpaper.core.records import bubble_table, check_amplitude, warn_user
from ulmpaper.networks.domain import domain_gap
from ulmpaper.networks.model import Network
from ulmpaper.networks.predict import (
    Mirrored,
    predict_counts,
    predict_heatmaps,
    predict_maps,
    without_hot_pixels,
)
from ulmpaper.networks.sampling import AS_IT_IS, Factors, at_own_scale
from ulmpaper.networks.targets import MIN_DISTANCE_PX, decode_heatmap, decode_offsets
from ulmpaper.networks.weights import find_weights, read_network, resolve_device

Weights = Network | str | os.PathLike | None

_WINDOW = 10  # frames, where weights do not say
_TILE_PX = 64  # where weights do not say

# --- networks, loaded --------------------------------------------------------------------------


def load_network(recipe: str, weights: Weights = None) -> Network:
    """Load a trained network.

    Parameters
    ----------
    recipe : {"ml3d", "count", "mspcn"}
        Which network.
    weights : path-like or Module, optional
        See `ulmpaper.networks.find_weights`; by default those that come with the package. A network
        in memory comes back as it is.

    Returns
    -------
    Module
        The network; its ``about`` describes its training, as its file records it. The same file
        gives the same object: copy it before you change it.

    Raises
    ------
    FileNotFoundError, ValueError
        See `ulmpaper.networks.read_network` and `ulmpaper.networks.shipped_weights`.

    Examples
    --------
    >>> load_network("ml3d").about["window"]
    10
    """
    if isinstance(weights, nn.Module):
        return weights
    path = find_weights(recipe, weights)
    changed = path.stat().st_mtime_ns if path.exists() else 0
    return _read_cached(recipe, path, changed)


@functools.lru_cache(maxsize=4)
def _read_cached(recipe: str, path: Path, changed: int) -> Network:
    """Network of a file that was last changed at `changed`."""
    return read_network(path, recipe=recipe)


def check_networks(cfg: Config) -> tuple[dict[str, str], int]:
    """Check before hours of work that the networks of the settings are there.

    Parameters
    ----------
    cfg : Config
        Settings; ``cfg.locate.method`` is a network.

    Returns
    -------
    digests : dict
        Networks in use, with the digests of their training's settings.
    window : int
        Fewest frames that a block may have: those of a window; 1 in one pass over time.

    Raises
    ------
    FileNotFoundError, ValueError
        No weights, or no such device.
    """
    resolve_device(cfg.compute.device)
    names = {"ml3d": ("ml3d", "count"), "mspcn": ("mspcn",)}[cfg.locate.method]
    about = {name: load_network(name, getattr(cfg, name).weights).about for name in names}
    digests = {name: about[name].get("digest", "unknown") for name in names}
    by_window = "ml3d" in about and cfg.ml3d.stride is not None
    window = about["ml3d"].get("window", _WINDOW) if by_window else 1
    return digests, window


# --- bubbles -----------------------------------------------------------------------------------


def locate_ml3d(
    frames: ArrayLike,
    *,
    net: Weights = None,
    count_net: Weights = None,
    n_bubbles: ArrayLike | None = None,
    window: int | None = None,
    stride: int | None = 1,
    scale: str | Factors = AS_IT_IS,
    each_window: bool = False,
    mirrored: bool = False,
    threshold: float | None = None,
    min_distance_px: float = MIN_DISTANCE_PX,
    count_tile_px: int | None = None,
    count_margin: float = 1.0,
    batch: int = 4,
    tile_px: int | None = None,
    device: str = "auto",
    precision: str = "float32",
    compiled: bool = False,
) -> pd.DataFrame:
    """Detect and localize bubbles by 3DML-ResNet, as many as the counting network predicts.

    Parameters
    ----------
    frames : array_like (T, Z, X)
        B-mode amplitude, 0 or more.
    net, count_net : path-like or Module, optional
        Weights of the two networks, see `load_network`.
    n_bubbles : int or array_like (T,) of int, optional
        Bubbles in each frame, instead of the predicted counts. Fewer where fewer are probable
        enough.
    window : int, optional
        Frames that go through the network together, at most T but in one pass; by default as in the
        training, or 10.
    stride, each_window, batch, tile_px, device, precision, compiled
        See `ulmpaper.networks.predict_maps`.
    scale : {"auto"} or (float, float)
        Factors on the number of pixels along z and x before the network looks, see
        `ulmpaper.networks.own_scale`; ``auto`` measures them in these frames.
    mirrored : bool
        Average the predictions for frames and their mirror images, see
        `ulmpaper.networks.Mirrored`: somewhat better, at twice the work.
    threshold : float, optional
        Least probability of a bubble; by default the best on the validation data of the training,
        or 0.
    min_distance_px : float
        See `ulmpaper.networks.decode_offsets`.
    count_tile_px : int, optional
        See `ulmpaper.networks.predict_counts`; by default as in the training, or 64.
    count_margin : float
        At most this multiple of the predicted count is kept, if above the threshold. A count that
        is too low loses bubbles; one that is too high does no harm where the threshold sorts them
        out.

    Returns
    -------
    DataFrame
        Bubble table in pixels; ``score`` is the probability. By frame, then from the most probable
        bubble down. A frame of zeros has no bubble.

    Raises
    ------
    TypeError, ValueError, FileNotFoundError, MemoryError
        See `load_network`, `ulmpaper.networks.predict_maps` and `ulmpaper.networks.decode_offsets`.

    Warns
    -----
    UlmWarning
        The frames are unlike those of the training, see `ulmpaper.networks.domain_gap`; a pixel
        holds more than 2.5 times the highest other value, and is replaced by those around it.

    Notes
    -----
    Paper, sections II-A and II-B.

    Examples
    --------
    >>> from ulmpaper.networks import ML3DResNet
    >>> found = locate_ml3d(np.ones((10, 16, 16)), net=ML3DResNet(4, 1), n_bubbles=2)
    >>> found.columns.tolist()
    ['frame', 'z', 'x', 'score']
    """
    frames = without_hot_pixels(check_amplitude(frames))
    is_lit = np.asarray(frames.any(axis=(1, 2)))
    if not is_lit.any():
        return bubble_table([], [], [], [])
    network = load_network("ml3d", net)
    about = _about(network)
    sampled = at_own_scale(frames, scale, about)
    if window is None:
        window = about.get("window", _WINDOW)
    if threshold is None:
        threshold = about.get("threshold", 0.0)
    chunks = predict_maps(
        Mirrored(network) if mirrored else network,
        sampled,
        window=window,
        stride=stride,
        each_window=each_window,
        batch=batch,
        tile_px=tile_px,
        device=device,
        precision=precision,
        compiled=compiled,
    )
    if n_bubbles is None:
        counter = load_network("count", count_net)
        if count_tile_px is None:
            count_tile_px = _about(counter).get("tile_px", _TILE_PX)
        predicted = predict_counts(
            counter, sampled, tile_px=count_tile_px, batch=batch, device=device
        )
        counts = np.where(is_lit, np.rint(predicted), 0)
        most = np.rint(count_margin * counts)
    else:
        counts = np.where(is_lit, _per_frame(n_bubbles, len(frames)), 0)
        most = counts  # a given number needs no margin
    _warn_of_gap(sampled.some(), counts, about)
    tables = []
    for first, maps in count_frames(chunks, len(frames)):
        table = decode_offsets(
            maps,
            most[first : first + maps.shape[1]],
            threshold=threshold,
            min_distance_px=min_distance_px,
        )
        tables.append((first, table))
    return sampled.restore(_numbered(tables))


def locate_mspcn(
    frames: ArrayLike,
    *,
    net: Weights = None,
    threshold: float | None = None,
    n_bubbles: ArrayLike | None = None,
    scale: str | Factors = AS_IT_IS,
    centre_side: int = 1,
    batch: int = 4,
    tile_px: int | None = None,
    device: str = "auto",
    precision: str = "float32",
) -> pd.DataFrame:
    """Detect and localize bubbles by mSPCN, frame by frame.

    Parameters
    ----------
    frames, batch, tile_px, device, precision
        As in `locate_ml3d`; `batch` counts frames.
    net : path-like or Module, optional
        Weights, see `load_network`.
    threshold : float, optional
        Smallest peak of the heat map that is a bubble; by default, and without `n_bubbles`, the
        best on the validation data of the training.
    n_bubbles : int or array_like (T,) of int, optional
        Most bubbles in each frame.
    scale
        As in `locate_ml3d`.
    centre_side : int
        See `ulmpaper.networks.decode_heatmap`.

    Returns
    -------
    DataFrame
        Bubble table in pixels; ``score`` is the peak of the heat map. By frame, then from the
        highest peak down. A frame of zeros has no bubble.

    Raises
    ------
    TypeError, ValueError, FileNotFoundError, MemoryError
        See `load_network`, `ulmpaper.networks.predict_heatmaps` and
        `ulmpaper.networks.decode_heatmap`.

    Warns
    -----
    UlmWarning
        The frames are unlike those of the training, see `ulmpaper.networks.domain_gap`; a pixel
        holds more than 2.5 times the highest other value, and is replaced by those around it.

    Notes
    -----
    Liu et al., IEEE Trans. Med. Imaging 39 (2020) 3064, with the target of
    `ulmpaper.networks.encode_heatmap`. The authors' own weights put bubbles elsewhere, see
    `ulmpaper.networks.MSPCN`.

    Examples
    --------
    >>> from ulmpaper.networks import MSPCN
    >>> locate_mspcn(np.ones((2, 16, 16)), net=MSPCN(2), n_bubbles=0).columns.tolist()
    ['frame', 'z', 'x', 'score']
    """
    frames = without_hot_pixels(check_amplitude(frames))
    is_lit = np.asarray(frames.any(axis=(1, 2)))
    if not is_lit.any():
        return bubble_table([], [], [], [])
    network = load_network("mspcn", net)
    about = _about(network)
    if threshold is None and n_bubbles is None:
        threshold = about.get("threshold")
    most = None if n_bubbles is None else _per_frame(n_bubbles, len(frames))
    sampled = at_own_scale(frames, scale, about)
    chunks = predict_heatmaps(
        network, sampled, batch=batch, tile_px=tile_px, device=device, precision=precision
    )
    tables = []
    for first, heatmap in count_frames(chunks, len(frames)):
        table = decode_heatmap(
            heatmap,
            heatmap.shape[-1] // sampled.shape[2],
            threshold=threshold,
            counts=None if most is None else most[first : first + len(heatmap)],
            centre_side=centre_side,
        )
        tables.append((first, table))
    bubbles = _numbered(tables)
    bubbles = bubbles[is_lit[bubbles["frame"]]].reset_index(drop=True)
    _warn_of_gap(sampled.some(), np.bincount(bubbles["frame"], minlength=len(frames)), about)
    return sampled.restore(bubbles)


def _about(network: nn.Module) -> Mapping[str, Any]:
    """What is known of a network's training; nothing of a module that is not ours."""
    return getattr(network, "about", {})


def _per_frame(n_bubbles: ArrayLike, n_frames: int) -> NDArray:
    """Numbers (T,) of one number or of T."""
    if np.shape(n_bubbles) not in ((), (n_frames,)):
        raise ValueError(
            f"n_bubbles must be one number, or one for each of {n_frames} frames: "
            f"{np.shape(n_bubbles)}"
        )
    return np.broadcast_to(n_bubbles, n_frames)


def _numbered(parts: Iterable[tuple[int, pd.DataFrame]]) -> pd.DataFrame:
    """One table from those of chunks, each with the number of its first frame."""
    tables = [table.assign(frame=table["frame"] + first) for first, table in parts]
    return pd.concat(tables, ignore_index=True)


def _warn_of_gap(frames: NDArray, counts: NDArray, about: Mapping[str, Any]) -> None:
    """Warn of frames unlike those of the training."""
    text = domain_gap(frames, counts, about)
    if text:
        warn_user(text)
