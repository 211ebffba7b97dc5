"""One door for finding bubbles: classical methods, networks, or any function of windows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
from numpy.typing import ArrayLike, NDArray

from ulmpaper.config import NETWORKS, Config, Settings, as_config, method_name
from ulmpaper.core.localize import locate_peaks
from ulmpaper.core.records import Block

Method = str | Callable[[NDArray], tuple[NDArray, NDArray]]


def locate(
    frames: ArrayLike | Block,
    method: Method = "radial",
    n_bubbles: int | None = None,
    *,
    cfg: Settings = None,
    min_score: float | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Detect bubbles and localize them below the pixel, by a classical method or a network.

    Parameters
    ----------
    frames : array_like (T, Z, X) or Block
        B-mode amplitude, 0 or more.
    method : str or callable
        Classical: ``none, weighted, radial, gaussian, parabola, cubic, lanczos, spline``, or a
        function that takes windows (n, k, k) round peaks and returns the shifts (dz, dx) of the
        bubbles from their centres [px]. Networks: ``ml3d`` (3DML-ResNet) or ``mspcn``.
    n_bubbles : int, optional
        At most this many bubbles in a frame; networks also take one number for each frame. By
        default ``locate.n_bubbles``; for ``ml3d`` the predicted count; for ``mspcn`` all above its
        threshold.
    cfg : Config, mapping or str, optional
        Settings, as in `ulm`; what is given here directly counts before them.
    min_score : float, optional
        Bubbles must score more: amplitude of the peak, probability, or height in the heat map.
    **options
        Further parameters of `ulmpaper.core.locate_peaks`, `ulmpaper.networks.locate_ml3d` or
        `ulmpaper.networks.locate_mspcn`.

    Returns
    -------
    DataFrame
        Bubble table ``frame, z, x, score`` in pixels.

    Raises
    ------
    TypeError, ValueError
        See these functions; unknown method (with the nearest name) or option.

    Warns
    -----
    UlmWarning
        The frames are unlike those that the network was trained on.

    Examples
    --------
    >>> import numpy as np
    >>> z, x = np.mgrid[:15, :15]
    >>> frame = np.exp(-((z - 7.2) ** 2 + (x - 6.6) ** 2) / 2)
    >>> locate(frame[None], "parabola", 1).round(3).values.tolist()
    [[0.0, 7.2, 6.6, 0.905]]
    """
    cfg = as_config(cfg)
    if isinstance(frames, Block):
        frames = frames.frames
    if min_score is None:
        min_score = cfg.locate.min_score
    if not callable(method):
        method = method_name(method)
    if callable(method) or method not in NETWORKS:
        given = {
            "roi_px": cfg.locate.roi_px,
            "max_peaks_in_roi": cfg.locate.max_peaks_in_roi,
            "pala": cfg.pala,
        }
        n = cfg.locate.n_bubbles if n_bubbles is None else n_bubbles
        return locate_peaks(frames, method, n, min_score=min_score, **{**given, **options})
    # Here, since torch takes seconds to load.
    from ulmpaper.networks.localize import locate_ml3d, locate_mspcn

    options = {**_network_options(cfg, method), "n_bubbles": n_bubbles, **options}
    bubbles = (
        locate_ml3d(frames, **options) if method == "ml3d" else locate_mspcn(frames, **options)
    )
    return bubbles[bubbles["score"] > min_score].reset_index(drop=True)


def _network_options(cfg: Config, method: str) -> dict[str, Any]:
    """Keywords of ``locate_ml3d`` or ``locate_mspcn`` from the settings of their use.

    How a network was made and trained is in its weights, so ``ml3d.window`` and ``count.tile_px``
    play no part.
    """
    options: dict[str, Any] = {
        "batch": cfg.compute.batch,
        "tile_px": cfg.compute.tile_px,
        "device": cfg.compute.device,
        "precision": cfg.compute.precision,
    }
    if method == "mspcn":
        own = cfg.mspcn
        return {
            **options,
            "net": own.weights,
            "scale": own.scale,
            "threshold": own.threshold,
            "centre_side": own.centre_side,
        }
    return {
        **options,
        "net": cfg.ml3d.weights,
        "count_net": cfg.count.weights,
        "threshold": cfg.ml3d.threshold,
        "stride": cfg.ml3d.stride,
        "scale": cfg.ml3d.scale,
        "each_window": cfg.ml3d.each_window,
        "mirrored": cfg.ml3d.mirrored,
        "min_distance_px": cfg.ml3d.min_distance_px,
        "count_margin": cfg.count.margin,
        "compiled": cfg.compute.compile,
    }


def network_digests(cfg: Config) -> tuple[dict[str, str], int]:
    """Digests of the networks of the settings, and the frames that they look at together."""
    from ulmpaper.networks.localize import check_networks  # here, since torch takes seconds to load

    return check_networks(cfg)
