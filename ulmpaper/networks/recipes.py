"""The three trainings: network, target, loss and score of each."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from ulmpaper.config import Config, Fitted
from ulmpaper.core.records import Block
from ulmpaper.metrics.bubbles import (
    LIMITS_PX,
    SCORES,
    join_sequences,
    match_bubbles,
    score_bubbles,
)
from ulmpaper.networks.loss import count_loss, mixture_loss, ml3d_loss, mspcn_loss, sigma_loss
from ulmpaper.networks.model import CountNet
from ulmpaper.networks.predict import count_tiles
from ulmpaper.networks.targets import decode_heatmap, decode_offsets, encode_heatmap, encode_offsets
from ulmpaper.networks.windows import Encode, over_peak

Loss = Callable[[Tensor, Tensor], tuple[Tensor, dict[str, Tensor]]]
Run = Callable[[Tensor], Tensor]
Score = Callable[[Run, Sequence[Block]], dict[str, float]]

_PROBABILITIES = np.linspace(0.05, 0.95, 19)  # thresholds tried for 3DML-ResNet
_HEIGHTS = np.geomspace(0.5, 40, 23)  # thresholds tried for mSPCN, which learns 50 for a bubble
_MANY = 3  # multiple of the true count that is decoded to choose a threshold
# Settings of the use of a network: they change nothing in its training.
_OF_USE = (
    "stride",
    "scale",
    "each_window",
    "mirrored",
    "min_distance_px",
    "centre_side",
    "margin",
    "weights",
    "threshold",
)


@dataclass(frozen=True)
class Recipe:
    """All that the trainings of the three networks do not share.

    Parameters
    ----------
    name : str
        ``ml3d``, ``count`` or ``mspcn``, as the section of the settings.
    settings : Fitted
        That section.
    arguments : mapping
        Keyword arguments of the network's class.
    n_frames, crop_px : int, int or None
        Frames and side of a window.
    as_tiles : bool
        Cut windows as tiles, see `ulmpaper.networks.Batches`.
    as_volumes : bool
        The network takes windows (B, 1, N, Z, X) and not single frames (B, 1, Z, X).
    encode : callable
        Target of a window, from its bubbles, number of frames and size.
    loss : callable
        Loss and its parts, from the network's output and the target.
    score : callable
        Scores on validation blocks, from the network as a function of normalized frames (B, N, Z,
        X) and the blocks. Of these, ``score`` chooses the best weights: the higher the better.
    part : str, optional
        Only the layer of this name is trained, in a network that is trained already.
    """

    name: str
    settings: Fitted
    arguments: Mapping[str, Any]
    n_frames: int
    crop_px: int | None
    as_tiles: bool
    as_volumes: bool
    encode: Encode
    loss: Loss
    score: Score
    part: str | None = None

    @property
    def layout(self) -> torch.memory_format:
        """Memory layout that is quicker on CPUs and on GPUs."""
        return torch.channels_last_3d if self.as_volumes else torch.channels_last

    def inputs(self, frames: Tensor) -> Tensor:
        """Shape `frames` (B, N, Z, X) as the network takes them."""
        return frames[:, None] if self.as_volumes else frames


def _ml3d(cfg: Config) -> Recipe:
    """3DML-ResNet (paper, sections II-A, II-C)."""
    own = cfg.ml3d
    arguments: dict[str, Any] = {
        "features": own.features,
        "blocks": own.blocks,
        "temporal_kernel": own.temporal_kernel,
        "output": own.output,
    }
    loss: Loss = functools.partial(ml3d_loss, sigma_px=own.sigma_px, masked=own.masked)
    score = _score_ml3d
    if own.loss == "mixture":
        arguments |= {"sigma": True, "output": "beyond"}
        loss, score = mixture_loss, _score_mixture
    if own.sigma:
        arguments["sigma"] = True
        loss, score = sigma_loss, _score_sigma
    return Recipe(
        name="ml3d",
        settings=own,
        arguments=arguments,
        n_frames=own.window,
        crop_px=own.crop_px,
        as_tiles=False,
        as_volumes=True,
        encode=encode_offsets,
        loss=loss,
        score=functools.partial(score, min_distance_px=own.min_distance_px),
        part="spread" if own.sigma else None,
    )


def _count(cfg: Config) -> Recipe:
    """The network that counts bubbles (paper, section II-A), here those of a tile."""
    own = cfg.count
    return Recipe(
        name="count",
        settings=own,
        arguments={"n_max": own.n_max, "features": own.features},
        n_frames=1,
        crop_px=own.tile_px,
        as_tiles=True,
        as_volumes=False,
        encode=functools.partial(_encode_count, n_max=own.n_max),
        loss=_loss_count,
        score=functools.partial(_score_count, tile_px=own.tile_px),
    )


def _mspcn(cfg: Config) -> Recipe:
    """mSPCN, to which the paper compares (Liu et al., IEEE Trans. Med. Imaging 39 (2020) 3064)."""
    own = cfg.mspcn
    return Recipe(
        name="mspcn",
        settings=own,
        arguments={"upsample": own.upsample},
        n_frames=1,
        crop_px=own.crop_px,
        as_tiles=False,
        as_volumes=False,
        encode=functools.partial(_encode_mspcn, upsample=own.upsample),
        loss=functools.partial(mspcn_loss, sparsity=own.sparsity),
        score=functools.partial(_score_mspcn, upsample=own.upsample, centre_side=own.centre_side),
    )


RECIPES: dict[str, Callable[[Config], Recipe]] = {"ml3d": _ml3d, "count": _count, "mspcn": _mspcn}


def training_settings(cfg: Config, name: str) -> dict[str, Any]:
    """All settings that the outcome of a training depends on, with dotted names.

    Examples
    --------
    >>> from ulmpaper import load_config
    >>> settings = training_settings(load_config("smoke"), "ml3d")
    >>> settings["ml3d.features"], "ml3d.stride" in settings
    (8, False)
    """
    settings: dict[str, Any] = {"seed": cfg.seed}
    for section in ("acquisition", "cam", "train", name):
        for key, value in dataclasses.asdict(getattr(cfg, section)).items():
            if key not in _OF_USE:
                is_tuple = isinstance(value, tuple)  # JSON knows lists only
                settings[f"{section}.{key}"] = list(value) if is_tuple else value
    return settings


# --- 3DML-ResNet -------------------------------------------------------------------------------


def _score_ml3d(net: Run, blocks: Sequence[Block], *, min_distance_px: float) -> dict[str, float]:
    """Detection scores with the true counts given, and the best threshold for counts too high."""
    exact = []
    generous = []
    for block in blocks:
        maps = net(_normalized(block)[None])[0]
        n_true = np.bincount(block.truth["frame"], minlength=len(block.frames))
        found = decode_offsets(maps, _MANY * n_true, min_distance_px=min_distance_px)
        # Bubbles come by falling score, so the first of a frame are those of the true count.
        rank = found.groupby("frame").cumcount()
        exact.append(found[rank < n_true[found["frame"]]])
        generous.append(found)
    best = _best_threshold(generous, blocks, _PROBABILITIES)
    return {**_scores(exact, blocks), "threshold": best["threshold"]}


def _score_sigma(net: Run, blocks: Sequence[Block], *, min_distance_px: float) -> dict[str, float]:
    """How well expected errors fit the true ones, and the best threshold.

    ``error_over_sigma_z`` and ``_x`` are standard deviations of the ratios, 1 where sigma is right.
    """
    best = _score_ml3d(net, blocks, min_distance_px=min_distance_px)
    ratios, logs = [], []
    for block in blocks:
        maps = net(_normalized(block)[None])[0]
        found = decode_offsets(
            maps, maps[0, 0].numel(), threshold=best["threshold"], min_distance_px=min_distance_px
        )
        pairs = match_bubbles(found, block.truth, max_distance_px=max(LIMITS_PX.values()))
        sigma = found.loc[pairs["pred"], ["sigma_z", "sigma_x"]].to_numpy()
        error = found.loc[pairs["pred"], ["z", "x"]].to_numpy()
        error = error - block.truth.loc[pairs["truth"], ["z", "x"]].to_numpy()
        ratios.append(error / sigma)
        logs.append(np.log(sigma))
    ratio = np.concatenate(ratios)
    score = -float(np.mean(np.concatenate(logs) + ratio**2 / 2)) if len(ratio) else 0.0
    z, x = ratio.std(axis=0).tolist() if len(ratio) else (0.0, 0.0)
    return {**best, "score": score, "error_over_sigma_z": z, "error_over_sigma_x": x}


def _score_mixture(
    net: Run, blocks: Sequence[Block], *, min_distance_px: float
) -> dict[str, float]:
    """Detection scores, of which one chooses the weights, and how well expected errors fit."""
    detection = _score_ml3d(net, blocks, min_distance_px=min_distance_px)
    return {**_score_sigma(net, blocks, min_distance_px=min_distance_px), **detection}


# --- the counting network ----------------------------------------------------------------------


def _encode_count(
    bubbles: pd.DataFrame, n_frames: int, shape_px: tuple[int, int], *, n_max: int | None
) -> Tensor:
    """Number of bubbles in the frame, at most the largest that the network can predict."""
    return torch.tensor(len(bubbles) if n_max is None else min(len(bubbles), n_max))


def _loss_count(outputs: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of the counts, which has no parts."""
    return count_loss(outputs, targets), {}


def _score_count(net: Run, blocks: Sequence[Block], *, tile_px: int) -> dict[str, float]:
    """Mean error of the counts of whole frames, added up over tiles as in `predict_counts`."""
    predicted = []
    true = []
    for block in blocks:
        tiles = count_tiles(_normalized(block), tile_px)
        predicted.append(sum(CountNet.expected(net(tile[:, None])).numpy() for tile in tiles))
        # A tile's count, like its target, leaves out bubbles beyond the border of the frame.
        positions = block.truth[["z", "x"]].to_numpy() + 0.5
        inside = ((positions >= 0) & (positions < block.frames.shape[1:])).all(axis=1)
        frame = block.truth["frame"].to_numpy()[inside]
        true.append(np.bincount(frame, minlength=len(block.frames)))
    error = np.concatenate(predicted) - np.concatenate(true)
    mean = max(float(np.concatenate(true).mean()), 1.0)
    share = float(np.abs(error).mean()) / mean
    return {"score": 1 - share, "error_share": share, "bias_share": float(error.mean()) / mean}


# --- mSPCN -------------------------------------------------------------------------------------


def _encode_mspcn(
    bubbles: pd.DataFrame, n_frames: int, shape_px: tuple[int, int], *, upsample: int
) -> Tensor:
    """Heat maps (T, uZ, uX), which `Batches` stacks to (B, T, uZ, uX)."""
    return encode_heatmap(bubbles, n_frames, shape_px, upsample=upsample)[:, 0]


def _score_mspcn(
    net: Run, blocks: Sequence[Block], *, upsample: int, centre_side: int
) -> dict[str, float]:
    """Detection scores at the threshold that serves these blocks best."""
    lowest = float(_HEIGHTS[0])
    found = []
    for block in blocks:
        heatmaps = net(_normalized(block)[:, None])
        found.append(decode_heatmap(heatmaps, upsample, threshold=lowest, centre_side=centre_side))
    return _best_threshold(found, blocks, _HEIGHTS)


# --- shared ------------------------------------------------------------------------------------


def _best_threshold(
    found: Sequence[pd.DataFrame], blocks: Sequence[Block], thresholds: NDArray[np.float64]
) -> dict[str, float]:
    """Scores at the threshold that serves the blocks best, and that threshold."""
    tried = []
    for threshold in thresholds:
        kept = [table[table["score"] > threshold] for table in found]
        tried.append({**_scores(kept, blocks), "threshold": float(threshold)})
    return max(tried, key=lambda scores: scores["score"])


def _scores(found: Sequence[pd.DataFrame], blocks: Sequence[Block]) -> dict[str, float]:
    """Detection scores over all blocks, 0 where there is nothing to divide by."""
    scores = score_bubbles(*join_sequences(found, [block.truth for block in blocks]))
    kept = {}
    for limit in LIMITS_PX:
        for name in SCORES:
            key = f"{name}_{limit}"
            kept[key] = float(np.nan_to_num(scores[key]))
    return {"score": kept["jaccard_near"], **kept}


def _normalized(block: Block) -> Tensor:
    """Amplitude (T, Z, X) of a block, with a maximum of 1."""
    amplitude = np.abs(block.frames)
    return over_peak(torch.from_numpy(np.ascontiguousarray(amplitude, dtype=np.float32)))
