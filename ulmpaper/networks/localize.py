"""Bubbles by networks, and a check that frames are like those of the training.

Weights come from a file, from the package, or as a network in memory. What they were trained with comes with them: the
length of a window, the size of the tiles in which bubbles are counted, the thresholds.

Frames held against those that a network was trained on: how wide bubbles look, and how many there are.
"""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from torch import nn

from ulmpaper.config import Config
from ulmpaper.core.records import UlmWarning, bubble_table, check_frames
from ulmpaper.networks.model import Network
from ulmpaper.networks.predict import predict_counts, predict_heatmaps, predict_maps
from ulmpaper.networks.targets import MIN_DISTANCE_PX, Mirrored, decode_heatmap, decode_offsets
from ulmpaper.networks.weights import find_weights, read_network, resolve_device
from ulmpaper.simulator.psf_from_frames import bubble_width

Weights = Network | str | os.PathLike | None
_WINDOW, _TILE_PX = 10, 64  # where weights do not say


def load_network(recipe: str, weights: Weights = None) -> Network:
    """Load a trained network.

    Parameters
    ----------
    recipe : {"ml3d", "count", "mspcn"}
        Which network.
    weights : path-like or Module, optional
        See `ulmpaper.networks.find_weights`; by default those that come with the package. A network in memory comes
        back as it is.

    Returns
    -------
    Module
        The network; its ``about`` holds what its file says of its training. The same file gives the same object: copy
        it before you change it.

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
    return _read(recipe, path, changed)


def locate_ml3d(
    frames: ArrayLike,
    *,
    net: Weights = None,
    count_net: Weights = None,
    n_bubbles: ArrayLike | None = None,
    window: int | None = None,
    stride: int = 1,
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
    """Detect and localize bubbles by 3DML-ResNet, as many as the counting network tells.

    Parameters
    ----------
    frames : array_like (T, Z, X)
        B-mode amplitude, 0 or more.
    net, count_net : path-like or Module, optional
        Weights of the two networks, see `load_network`.
    n_bubbles : int or array_like (T,) of int, optional
        Bubbles in each frame, instead of what the counting network tells. Fewer where fewer are probable enough.
    window : int, optional
        Frames that go through the network together, at most T; by default as in the training, or 10.
    stride, batch, tile_px, device, precision, compiled
        See `ulmpaper.networks.predict.predict_maps`.
    mirrored : bool
        See `ulmpaper.networks.targets.Mirrored`: somewhat better, at twice the work.
    threshold : float, optional
        Least probability of a bubble; by default the best on the validation data of the training, or 0.
    min_distance_px : float
        See `ulmpaper.networks.targets.decode_offsets`.
    count_tile_px : int, optional
        See `ulmpaper.networks.predict.predict_counts`; by default as in the training, or 64.
    count_margin : float
        Times the told number of bubbles that are looked for. A number too low loses bubbles; one too high does no harm
        where the threshold sorts them out.

    Returns
    -------
    DataFrame
        Bubble table in pixels; ``score`` is the probability. By frame, then from the most probable bubble down. A
        frame of zeros has no bubble.

    Raises
    ------
    TypeError, ValueError, FileNotFoundError, MemoryError
        See `load_network`, `ulmpaper.networks.predict.predict_maps` and `ulmpaper.networks.targets.decode_offsets`.

    Notes
    -----
    Paper, sections II-A and II-B.

    Examples
    --------
    >>> from ulmpaper.networks.model import ML3DResNet
    >>> locate_ml3d(np.ones((10, 16, 16)), net=ML3DResNet(4, 1), n_bubbles=2).columns.tolist()
    ['frame', 'z', 'x', 'score']
    """
    frames = check_frames(frames)
    lit = np.asarray(frames.any(axis=(1, 2)))
    if not lit.any():
        return bubble_table([], [], [], [])
    network = load_network("ml3d", net)
    about = network.about
    window = about.get("window", _WINDOW) if window is None else window
    use: dict[str, Any] = {"batch": batch, "device": device}
    how: dict[str, Any] = {
        "stride": stride,
        "tile_px": tile_px,
        "precision": precision,
        "compiled": compiled,
        **use,
    }
    maps = predict_maps(Mirrored(network) if mirrored else network, frames, window=window, **how)
    margin = 1.0
    if n_bubbles is None:
        counter = load_network("count", count_net)
        side = counter.about.get("tile_px", _TILE_PX) if count_tile_px is None else count_tile_px
        n_bubbles, margin = (
            np.rint(predict_counts(counter, frames, tile_px=side, **use)),
            count_margin,
        )
    counts = np.where(lit, _per_frame(n_bubbles, len(frames)), 0)
    wanted = counts if margin == 1 else np.rint(margin * counts)
    threshold = about.get("threshold", 0.0) if threshold is None else threshold
    read = functools.partial(decode_offsets, threshold=threshold, min_distance_px=min_distance_px)
    _warn_of_gap(frames, counts, about)
    return _numbered(
        (first, read(chunk, wanted[first : first + chunk.shape[1]])) for first, chunk in maps
    )


def locate_mspcn(
    frames: ArrayLike,
    *,
    net: Weights = None,
    threshold: float | None = None,
    n_bubbles: ArrayLike | None = None,
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
        Smallest peak of the heat map that is a bubble; by default, and without `n_bubbles`, the best on the
        validation data of the training.
    n_bubbles : int or array_like (T,) of int, optional
        Most bubbles in each frame.
    centre_side : int
        See `ulmpaper.networks.targets.decode_heatmap`.

    Returns
    -------
    DataFrame
        Bubble table in pixels; ``score`` is the peak of the heat map. By frame, then from the highest peak down. A
        frame of zeros has no bubble.

    Raises
    ------
    TypeError, ValueError, FileNotFoundError, MemoryError
        See `load_network`, `ulmpaper.networks.predict.predict_heatmaps` and `ulmpaper.networks.targets.decode_heatmap`.

    Notes
    -----
    Liu et al., IEEE Trans. Med. Imaging 39 (2020) 3064, with the target of `ulmpaper.networks.targets.encode_heatmap`. The
    authors' own weights put bubbles elsewhere, see `ulmpaper.networks.model.MSPCN`.
    """
    frames = check_frames(frames)
    lit = np.asarray(frames.any(axis=(1, 2)))
    if not lit.any():
        return bubble_table([], [], [], [])
    network = load_network("mspcn", net)
    about = network.about
    if threshold is None and n_bubbles is None:
        threshold = about.get("threshold")
    most, parts = None if n_bubbles is None else _per_frame(n_bubbles, len(frames)), []
    use: dict[str, Any] = {
        "batch": batch,
        "tile_px": tile_px,
        "device": device,
        "precision": precision,
    }
    for first, heat in predict_heatmaps(network, frames, **use):
        counts = None if most is None else most[first : first + len(heat)]
        u = heat.shape[-1] // frames.shape[2]
        table = decode_heatmap(heat, u, threshold=threshold, counts=counts, centre_side=centre_side)
        parts.append((first, table))
    bubbles = _numbered(parts)
    bubbles = bubbles[lit[bubbles["frame"]]].reset_index(drop=True)
    _warn_of_gap(frames, np.bincount(bubbles["frame"], minlength=len(frames)), about)
    return bubbles


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
        Frames that they look at together, so the least that a block may have.

    Raises
    ------
    FileNotFoundError, ValueError
        No weights, or no such device.
    """
    resolve_device(cfg.compute.device)
    names = {"ml3d": ("ml3d", "count"), "mspcn": ("mspcn",)}[cfg.locate.method]
    about = {name: load_network(name, getattr(cfg, name).weights).about for name in names}
    digests = {name: about[name].get("digest", "unknown") for name in names}
    return digests, about.get("ml3d", {"window": 1}).get("window", _WINDOW)


@functools.lru_cache(maxsize=4)
def _read(recipe: str, path: Path, changed: int) -> Network:
    """Network of a file that was last changed at `changed`."""
    return read_network(path, recipe=recipe)


def _warn_of_gap(frames: NDArray, counts: NDArray, about: Mapping[str, Any]) -> None:
    if text := domain_gap(frames, counts, about):
        warnings.warn(text, UlmWarning, stacklevel=3)  # names the line that calls `locate_...`


def _per_frame(n_bubbles: ArrayLike, n_frames: int) -> NDArray:
    if np.shape(n_bubbles) not in ((), (n_frames,)):
        raise ValueError(
            f"n_bubbles must be one number, or one for each of {n_frames} frames: {np.shape(n_bubbles)}"
        )
    return np.broadcast_to(n_bubbles, n_frames)


def _numbered(parts: Iterable[tuple[int, pd.DataFrame]]) -> pd.DataFrame:
    """One table from those of chunks that begin with some frame."""
    tables = [table.assign(frame=table["frame"] + first) for first, table in parts]
    return pd.concat(tables, ignore_index=True)


_TOLERANCE = 0.15  # more than what pixels add to the width of narrow bubbles


def domain_gap(frames: ArrayLike, counts: ArrayLike, about: Mapping[str, Any]) -> str | None:
    """Say, with figures, in what frames differ from those that a network was trained on.

    Parameters
    ----------
    frames : array_like (T, Z, X)
        B-mode amplitude.
    counts : array_like (T,)
        Bubbles found or expected in each frame.
    about : mapping
        As from `ulmpaper.networks.weights.read_network`. Its ``domain`` holds ranges of the training: ``fwhm_z_px``,
        ``fwhm_x_px`` [px], ``bubbles_per_px``, and one number, ``px_wavelengths``.

    Returns
    -------
    str or None
        A sentence; None where nothing is outside by more than 15 %, or where `about` knows no domain.

    Examples
    --------
    >>> about = {"domain": {"bubbles_per_px": [0.001, 0.002]}}
    >>> print(domain_gap(np.zeros((2, 50, 80)), [20, 24], about))
    the frames are unlike those of the training: 0.0055 bubbles per pixel (0.001 to 0.002); expect missed and false
    bubbles, or train weights for such frames (ulmpaper train)
    >>> domain_gap(np.zeros((2, 50, 80)), [5, 6], about) is None
    True
    """
    domain = about.get("domain", {})
    if not domain:
        return None
    width_z, width_x = bubble_width(frames) or (None, None)
    measured = {
        "fwhm_z_px": (width_z, "px width of a bubble in depth"),
        "fwhm_x_px": (width_x, "px width across"),
        "bubbles_per_px": (
            np.asarray(counts).mean() / np.prod(np.shape(frames)[1:]),
            "bubbles per pixel",
        ),
    }
    outside = {
        key: _outside(value, what, domain.get(key)) for key, (value, what) in measured.items()
    }
    said = [text for text in outside.values() if text]
    if not said:
        return None
    wide = outside["fwhm_z_px"] or outside["fwhm_x_px"]
    pitch = domain.get("px_wavelengths")
    resample = f"resample them to {pitch:g} wavelengths per pixel, " if wide and pitch else ""
    return (
        f"the frames are unlike those of the training: {', '.join(said)}; expect missed and false bubbles, "
        f"{resample}or train weights for such frames (ulmpaper train)"
    )


def _outside(value: float | None, what: str, limits: Sequence[float] | None) -> str | None:
    if (
        value is None
        or limits is None
        or limits[0] * (1 - _TOLERANCE) <= value <= limits[1] * (1 + _TOLERANCE)
    ):
        return None
    return f"{value:.2g} {what} ({limits[0]:.2g} to {limits[1]:.2g})"
