"""The three trainings: which network, on what, with which loss, and how it is judged."""

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
from ulmpaper.metrics.bubbles import LIMITS_PX, SCORES, join_sequences, score_bubbles
from ulmpaper.networks.loss import count_loss, ml3d_loss, mspcn_loss
from ulmpaper.networks.model import CountNet
from ulmpaper.networks.predict import count_tiles
from ulmpaper.networks.targets import decode_heatmap, decode_offsets, encode_heatmap, encode_offsets
from ulmpaper.networks.windows import Encode

_PROBABILITIES = np.linspace(0.05, 0.95, 19)
_HEIGHTS = np.geomspace(0.5, 40, 23)  # mSPCN learns to put out 50 for a bubble
_MANY = 3  # times as many bubbles as are true are looked at
Loss = Callable[[Tensor, Tensor], tuple[Tensor, dict[str, Tensor]]]


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
        What the network is made with, see `ulmpaper.networks.weights.CLASSES`.
    n_frames, crop_px : int, int or None
        Frames and side of a window.
    as_tiles : bool
        Cut windows as tiles, see `ulmpaper.networks.windows.Batches`.
    encode : callable
        Target of a window, from its bubbles, number of frames and size.
    loss : callable
        Loss and its parts, from the network's output and the target.
    score : callable
        Scores on validation blocks, from the network as a function of normalized frames (B, N, Z, X) and the blocks.
        The first is the one that counts, the higher the better.
    """

    name: str
    settings: Fitted
    arguments: Mapping[str, Any]
    n_frames: int
    crop_px: int | None
    as_tiles: bool
    encode: Encode
    loss: Loss
    score: Callable[[Callable[[Tensor], Tensor], Sequence[Block]], dict[str, float]]

    @property
    def volumes(self) -> bool:
        """Whether the network takes windows (B, 1, N, Z, X) and not single frames (B, 1, Z, X)."""
        return self.name == "ml3d"

    @property
    def layout(self) -> torch.memory_format:
        """Memory layout that is quicker on CPUs and on GPUs."""
        return torch.channels_last_3d if self.volumes else torch.channels_last

    def inputs(self, frames: Tensor) -> Tensor:
        """Shape `frames` (B, N, Z, X) as the network takes them."""
        return frames[:, None] if self.volumes else frames


def ml3d(cfg: Config) -> Recipe:
    """3DML-ResNet (paper, sections II-A, II-C)."""
    s = cfg.ml3d
    names = ("features", "blocks", "temporal_kernel", "output")
    return Recipe(
        "ml3d",
        s,
        {name: getattr(s, name) for name in names},
        s.window,
        s.crop_px,
        False,
        encode_offsets,
        functools.partial(ml3d_loss, sigma_px=s.sigma_px, masked=s.masked),
        functools.partial(_score_ml3d, min_distance_px=s.min_distance_px),
    )


def count(cfg: Config) -> Recipe:
    """The network that counts bubbles (paper, section II-A), here those of a tile."""
    s = cfg.count
    return Recipe(
        "count",
        s,
        {"n_max": s.n_max, "features": s.features},
        1,
        s.tile_px,
        True,
        functools.partial(_encode_count, n_max=s.n_max),
        _loss_count,
        functools.partial(_score_count, tile_px=s.tile_px),
    )


def mspcn(cfg: Config) -> Recipe:
    """mSPCN, to which the paper compares (Liu et al., IEEE Trans. Med. Imaging 39 (2020) 3064)."""
    s = cfg.mspcn
    return Recipe(
        "mspcn",
        s,
        {"upsample": s.upsample},
        1,
        s.crop_px,
        False,
        functools.partial(_encode_mspcn, upsample=s.upsample),
        functools.partial(mspcn_loss, sparsity=s.sparsity),
        functools.partial(_score_mspcn, upsample=s.upsample, centre_side=s.centre_side),
    )


RECIPES: dict[str, Callable[[Config], Recipe]] = {"ml3d": ml3d, "count": count, "mspcn": mspcn}


def training_settings(cfg: Config, name: str) -> dict[str, Any]:
    """All settings that the outcome of a training depends on, with dotted names.

    Examples
    --------
    >>> from ulmpaper.config import load_config
    >>> settings = training_settings(load_config("smoke"), "ml3d")
    >>> settings["ml3d.features"], "ml3d.stride" in settings
    (8, False)
    """
    in_use = (
        "stride",
        "mirrored",
        "min_distance_px",
        "centre_side",
        "margin",
        "weights",
        "threshold",
    )
    sections = ("acquisition", "cam", "train", name)
    pairs = {
        f"{section}.{key}": list(value) if isinstance(value, tuple) else value
        for section in sections
        for key, value in dataclasses.asdict(getattr(cfg, section)).items()
        if key not in in_use
    }
    return {"seed": cfg.seed, **pairs}


def _score_ml3d(
    net: Callable[[Tensor], Tensor], blocks: Sequence[Block], *, min_distance_px: float
) -> dict[str, float]:
    """Detection scores with the true number of bubbles given, for counting is another network's work.

    Also the threshold that serves best where the number is too high.
    """
    told, many = [], []
    for block in blocks:
        maps = net(_normalized(block)[None])[0]
        n_true = np.bincount(block.truth["frame"], minlength=len(block.frames))
        found = decode_offsets(maps, _MANY * n_true, min_distance_px=min_distance_px)
        told.append(found[found.groupby("frame").cumcount() < n_true[found["frame"]]])
        many.append(found)
    return {
        **_scores(told, blocks),
        "threshold": _best_threshold(many, blocks, _PROBABILITIES)["threshold"],
    }


def _encode_count(
    bubbles: pd.DataFrame, n_frames: int, shape_px: tuple[int, int], *, n_max: int | None
) -> Tensor:
    """Number of bubbles in the picture, at most what the network can tell."""
    return torch.tensor(len(bubbles) if n_max is None else min(len(bubbles), n_max))


def _loss_count(outputs: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    return count_loss(outputs, targets), {}


def _score_count(
    net: Callable[[Tensor], Tensor], blocks: Sequence[Block], *, tile_px: int
) -> dict[str, float]:
    """Mean error of the number of bubbles in a frame, counted as `ulmpaper.networks.predict.predict_counts` does."""
    told, true = [], []
    for block in blocks:
        tiles = count_tiles(_normalized(block), tile_px)
        told.append(sum(CountNet.expected(net(tile[:, None])).numpy() for tile in tiles))
        places, size = block.truth[["z", "x"]].to_numpy() + 0.5, block.frames.shape[1:]
        inside = ((places >= 0) & (places < size)).all(axis=1)
        true.append(
            np.bincount(block.truth["frame"].to_numpy()[inside], minlength=len(block.frames))
        )
    error = np.concatenate(told) - np.concatenate(true)
    mean = max(float(np.concatenate(true).mean()), 1.0)
    share = float(np.abs(error).mean()) / mean
    return {"score": 1 - share, "error_share": share, "bias_share": float(error.mean()) / mean}


def _encode_mspcn(
    bubbles: pd.DataFrame, n_frames: int, shape_px: tuple[int, int], *, upsample: int
) -> Tensor:
    return encode_heatmap(bubbles, n_frames, shape_px, upsample=upsample)[:, 0]


def _score_mspcn(
    net: Callable[[Tensor], Tensor], blocks: Sequence[Block], *, upsample: int, centre_side: int
) -> dict[str, float]:
    """Detection scores at the threshold that serves these blocks best."""
    how: dict[str, Any] = {"threshold": float(_HEIGHTS[0]), "centre_side": centre_side}
    found = [decode_heatmap(net(_normalized(block)[:, None]), upsample, **how) for block in blocks]
    return _best_threshold(found, blocks, _HEIGHTS)


def _best_threshold(
    found: Sequence[pd.DataFrame], blocks: Sequence[Block], thresholds: NDArray[np.float64]
) -> dict[str, float]:
    """Scores at the threshold that serves the blocks best, and that threshold."""
    by_threshold = [
        {
            **_scores([table[table["score"] > threshold] for table in found], blocks),
            "threshold": float(threshold),
        }
        for threshold in thresholds
    ]
    return max(by_threshold, key=lambda scores: scores["score"])


def _scores(found: Sequence[pd.DataFrame], blocks: Sequence[Block]) -> dict[str, float]:
    """Detection scores over all blocks, 0 where there is nothing to divide by."""
    scores = score_bubbles(*join_sequences(found, [block.truth for block in blocks]))
    kept = {
        key: float(np.nan_to_num(scores[key]))
        for key in (f"{s}_{limit}" for limit in LIMITS_PX for s in SCORES)
    }
    return {"score": kept["jaccard_near"], **kept}


def _normalized(block: Block) -> Tensor:
    frames = torch.from_numpy(np.ascontiguousarray(np.abs(block.frames), dtype=np.float32))
    return frames / frames.amax().clamp(min=torch.finfo(frames.dtype).tiny)
