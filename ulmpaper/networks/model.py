"""The three networks: 3DML-ResNet, the one that counts bubbles, and mSPCN of the comparison.

Frames go in divided by the maximum of their batch (paper, section II-E).
"""

from __future__ import annotations

import copy
import functools
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

from ulmpaper.core.arguments import explained
from ulmpaper.core.records import check_choice, check_whole

_LONGEST = 99  # frames that a convolution may span
_MOST_FEATURES, _MOST_BLOCKS, _MOST_UPSAMPLE = 4096, 1000, 100
_P_BIAS = -4.0  # so p starts at 2 %: bubbles are rare
_BLOCK_WEIGHT = 0.3  # of the layers of a residual block, at the start
# Cells of 4 x 4 px that the sum over a frame is divided by: with fewer, it is too large for the
# layers behind, with more too small.
_POOL_CELLS = 32
_LEAST_SIGMA_PX = 0.01
_SIGMA_BIAS = -2.0  # so sigma starts at 0.13 px


class _Beyond(nn.Module):
    """Sigmoid for p; offsets from -1/2 to 3/2, as steep as a sigmoid in the middle of the pixel."""

    def forward(self, maps: Tensor) -> Tensor:
        return torch.cat([maps[:, :1].sigmoid(), 0.5 + (maps[:, 1:] / 4).tanh()], dim=1)


_OUTPUTS = {"sigmoid": nn.Sigmoid, "linear": nn.Identity, "beyond": _Beyond}


class SkipSum(nn.Module):
    """Sum, element by element, of the input of some layers and their output.

    Parameters
    ----------
    start : float, optional
        First value of the learned weight of the layers' output; without it the sum has no weight.

    Notes
    -----
    The paper's "weighted element-wise sum" (Fig. 1) with one number for all channels, which is our
    reading.

    Examples
    --------
    >>> SkipSum(0.25)(torch.ones(2), torch.ones(2)).tolist()
    [1.25, 1.25]
    """

    @explained
    def __init__(self, start: float | None = None) -> None:
        super().__init__()
        self.weight = None if start is None else nn.Parameter(torch.tensor(float(start)))

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        """Return `before` + weight * `after`, tensors of equal shape."""
        return before + (after if self.weight is None else self.weight * after)


class ResidualBlock(nn.Module):
    """Convolution, PReLU, convolution, weighted sum with the input; keeps (B, F, N, Z, X).

    Parameters
    ----------
    features : int
        Channels F.
    temporal_kernel : int
        Frames that a convolution spans, odd.

    Notes
    -----
    Paper, Fig. 1. The PReLU has one slope for all channels; the paper does not say.

    Examples
    --------
    >>> ResidualBlock(4)(torch.zeros(1, 4, 3, 8, 9)).shape
    torch.Size([1, 4, 3, 8, 9])
    """

    @explained
    def __init__(self, features: int, temporal_kernel: int = 3) -> None:
        super().__init__()
        features = check_whole(features=features)
        temporal_kernel = check_whole(temporal_kernel=temporal_kernel)
        self.conv1 = _conv3d(features, features, temporal_kernel)
        self.prelu = nn.PReLU()
        self.conv2 = _conv3d(features, features, temporal_kernel)
        self.sum = SkipSum(_BLOCK_WEIGHT)

    def forward(self, features: Tensor) -> Tensor:
        """Refine `features`."""
        return self.sum(features, self.conv2(self.prelu(self.conv1(features))))


class ML3DResNet(nn.Module):
    """Find and localize bubbles in a window of frames: (B, 1, N, Z, X) to (B, 3, N, Z, X).

    The three maps are p, the probability that a pixel holds a bubble, and oz, ox, its position in
    that pixel from 0 (upper or left edge) over 1/2 (centre) to 1; see
    `ulmpaper.networks.decode_offsets`. B, N, Z and X are free. With `sigma` there are two more, the
    standard deviations of the error that is expected of the position along z and x [px].

    Parameters
    ----------
    features : int
        Channels of the hidden layers.
    blocks : int
        Residual blocks.
    temporal_kernel : int
        Frames that a convolution spans, odd: 3 in the paper; 1 treats every frame by itself.
    output : str
        ``sigmoid`` keeps the maps between 0 and 1; ``linear`` leaves them as they are; ``beyond``
        lets offsets reach half a pixel beyond their pixel.
    sigma : bool
        Predict how far off each position may be, by one more layer.

    Raises
    ------
    ValueError
        A number is not above 0, an even `temporal_kernel`, an unknown `output`, input of another
        shape.

    Notes
    -----
    Paper, section II-A and Fig. 1. Ours, because the paper does not say: zeros around the window in
    space and time; the sigmoid ("all CNN outputs remain positive", section II-E); p's bias, which
    starts at -4 so that an untrained network sees few bubbles, and the blocks' weights, which start
    at 0.3.

    Examples
    --------
    >>> net = ML3DResNet(features=4, blocks=1)
    >>> net(torch.zeros(2, 1, 5, 16, 18)).shape
    torch.Size([2, 3, 5, 16, 18])
    >>> sum(p.numel() for p in ML3DResNet().parameters())
    5237975
    """

    @explained
    def __init__(
        self,
        features: int = 96,
        blocks: int = 10,
        *,
        temporal_kernel: int = 3,
        output: str = "sigmoid",
        sigma: bool = False,
    ):
        super().__init__()
        self.about: dict[str, Any] = {}  # record of its training, from its file
        features = check_whole(features=features)
        blocks = check_whole(blocks=blocks)
        if blocks > _MOST_BLOCKS:
            raise ValueError(f"blocks must be {_MOST_BLOCKS} or less, not {blocks}")
        temporal_kernel = check_whole(temporal_kernel=temporal_kernel)
        check_choice(output, _OUTPUTS, "output")
        self.extract = _conv3d(1, features, temporal_kernel)
        self.blocks = nn.Sequential(
            *(ResidualBlock(features, temporal_kernel) for _ in range(blocks))
        )
        self.fuse = _conv3d(features, features, temporal_kernel)
        self.sum = SkipSum()
        self.reconstruct = _conv3d(features, 3, temporal_kernel)
        self.output = _OUTPUTS[output]()
        if output != "linear":
            nn.init.constant_(self.reconstruct.bias[:1], _P_BIAS)  # type: ignore[index]
        self.spread = _conv3d(features, 2, temporal_kernel) if sigma else None
        if self.spread is not None:
            nn.init.zeros_(self.spread.weight)
            nn.init.constant_(self.spread.bias, _SIGMA_BIAS)  # type: ignore[arg-type]

    def forward(self, frames: Tensor) -> Tensor:
        """Maps (B, 3 or 5, N, Z, X) of `frames` (B, 1, N, Z, X)."""
        _check_shape(frames, "B, 1, N, Z, X")
        first = self.extract(frames)
        features = self.sum(first, self.fuse(self.blocks(first)))
        maps = self.output(self.reconstruct(features))
        if self.spread is None:
            return maps
        sigma = _LEAST_SIGMA_PX + functional.softplus(self.spread(features))
        return torch.cat([maps, sigma], dim=1)


class CountNet(nn.Module):
    """Count the bubbles of single frames: (B, 1, Z, X) to (B, n_max + 1) logits of 0 to n_max.

    Parameters
    ----------
    n_max : int or None
        Largest count that the network can predict. None makes it a regression: (B, 1), the count
        itself.
    features : int
        Channels of the first layer; the next ones have two and four times as many.

    Raises
    ------
    ValueError
        `n_max` or `features` is not above 0, input of another shape.

    Notes
    -----
    Paper, section II-A: a "classification-style network, composed of convolutional layers followed
    by fully connected layers". Its layout is ours. Features are summed over the frame, not
    averaged, since the number of bubbles grows with the area. Even so, logits are right only for
    frames of the size trained on; a regression roughly carries over. Weights start after He et al.
    (ICCV 2015): with torch's own start the logits learn nothing for hundreds of steps.

    Examples
    --------
    >>> net = CountNet(n_max=40, features=4)
    >>> logits = net(torch.zeros(2, 1, 33, 50))
    >>> logits.shape, net.expected(logits).shape
    (torch.Size([2, 41]), torch.Size([2]))
    """

    @explained
    def __init__(self, n_max: int | None = 100, features: int = 16) -> None:
        super().__init__()
        self.about: dict[str, Any] = {}  # record of its training, from its file
        features = check_whole(features=features)
        n_max = None if n_max is None else check_whole(n_max=n_max)
        if max(features, n_max or 0) > _MOST_FEATURES:
            raise ValueError(f"features and n_max must be {_MOST_FEATURES} or less")
        self.conv = nn.Sequential(
            nn.Conv2d(1, features, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(features, 2 * features, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(2 * features, 4 * features, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(4 * features, 4 * features, 3, padding=1),
            nn.ReLU(),
        )
        n_out = 1 if n_max is None else n_max + 1
        self.full = nn.Sequential(
            nn.Linear(4 * features, 8 * features), nn.ReLU(), nn.Linear(8 * features, n_out)
        )
        self.n_max = n_max
        for layer in [*self.conv, self.full[0]]:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, frames: Tensor) -> Tensor:
        """Logits (B, n_max + 1), or numbers (B, 1), of `frames` (B, 1, Z, X)."""
        _check_shape(frames, "B, 1, Z, X")
        return self.full(self.conv(frames).sum(dim=(2, 3)) / _POOL_CELLS)

    @staticmethod
    def expected(outputs: Tensor) -> Tensor:
        """Read the expected numbers (B,) float32 off `outputs`, 0 or more."""
        outputs = outputs.float()
        if outputs.shape[1] == 1:
            return outputs[:, 0].clamp(min=0)
        return outputs.softmax(dim=1) @ torch.arange(outputs.shape[1]).to(outputs)


class MSPCN(nn.Module):
    """Turn single frames into finer heat maps of bubbles: (B, 1, Z, X) to (B, 1, uZ, uX).

    Parameters
    ----------
    upsample : int
        Fine pixels u per pixel and side.

    Raises
    ------
    ValueError
        `upsample` is not above 0, input of another shape.

    Notes
    -----
    Liu et al., IEEE Trans. Med. Imaging 39 (2020) 3064, the paper's [3]. A 9 x 9 convolution, five
    residual blocks, one more convolution and a sum with the first features, all with 64 channels;
    then u^2 channels, shuffled into u x u fine pixels. Layers are named as the authors named them,
    ``conv1`` to ``conv13``, so their weights load. These put a bubble into fine pixel u (z + 1) -
    1, counted from 0, which `ulmpaper.networks.decode_heatmap` reads as z + 1/2 - 1/(2 u): 3/8 px
    too far down and right where u is 4.

    Examples
    --------
    >>> MSPCN(upsample=4)(torch.zeros(2, 1, 10, 12)).shape
    torch.Size([2, 1, 40, 48])
    """

    @explained
    def __init__(self, upsample: int = 4) -> None:
        super().__init__()
        self.about: dict[str, Any] = {}  # record of its training, from its file
        upsample = check_whole(upsample=upsample)
        if upsample > _MOST_UPSAMPLE:
            raise ValueError(f"upsample must be {_MOST_UPSAMPLE} or less, not {upsample}")
        self.conv1 = nn.Conv2d(1, 64, 9, padding=4)
        for k in range(2, 13):
            self.add_module(f"conv{k}", nn.Conv2d(64, 64, 3, padding=1))
        self.conv13 = nn.Conv2d(64, upsample**2, 3, padding=1)
        self.relu = nn.ReLU()
        self.sum = SkipSum()
        self.shuffle = nn.PixelShuffle(upsample)

    def forward(self, frames: Tensor) -> Tensor:
        """Heat maps (B, 1, uZ, uX) of `frames` (B, 1, Z, X)."""
        _check_shape(frames, "B, 1, Z, X")
        conv = {k: self.get_submodule(f"conv{k}") for k in range(1, 14)}
        first = features = self.relu(conv[1](frames))
        for k in range(2, 12, 2):
            features = self.sum(features, conv[k + 1](self.relu(conv[k](features))))
        return self.shuffle(conv[13](self.sum(first, conv[12](features))))


Network = ML3DResNet | CountNet | MSPCN


def layer_table(net: nn.Module, input_shape: tuple[int, ...]) -> pd.DataFrame:
    """List the layers of a network in the order in which they run.

    Parameters
    ----------
    net : Module
        Left as it is; nothing is computed, so any size is quick.
    input_shape : tuple of int
        Shape of the frames with all axes, e.g. (1, 1, 10, 250, 250).

    Returns
    -------
    DataFrame
        ``name`` of the layer in `net`; ``kind``, its class; ``kernel``, e.g. (3, 3, 3), or empty;
        ``output_shape``; ``parameters``, 0 when a layer runs again.

    Examples
    --------
    >>> table = layer_table(ML3DResNet(features=4, blocks=1), (1, 1, 10, 20, 30))
    >>> table[["name", "kind", "parameters"]].head(2)
                 name    kind  parameters
    0         extract  Conv3d         112
    1  blocks.0.conv1  Conv3d         436
    """
    ghost = copy.deepcopy(net).to("meta")  # tensors with shapes but without values
    columns = ["name", "kind", "kernel", "output_shape", "parameters"]
    rows: list[tuple] = []

    def note(name: str, layer: nn.Module, _: tuple, output: Tensor) -> None:
        kernel = getattr(layer, "kernel_size", ())
        # A layer that runs again has no parameters of its own.
        ran_before = any(row[0] == name for row in rows)
        n_parameters = 0 if ran_before else sum(p.numel() for p in layer.parameters())
        rows.append((name, type(layer).__name__, kernel, tuple(output.shape), n_parameters))

    for name, layer in ghost.named_modules():
        if not list(layer.children()):
            layer.register_forward_hook(functools.partial(note, name))
    with torch.no_grad():
        ghost(torch.empty(input_shape, device="meta"))
    return pd.DataFrame(rows, columns=columns)


def _conv3d(n_in: int, n_out: int, temporal_kernel: int) -> nn.Conv3d:
    """Convolution that keeps the size of the window."""
    if max(n_in, n_out) > _MOST_FEATURES:
        raise ValueError(f"features must be {_MOST_FEATURES} or less, not {max(n_in, n_out)}")
    if temporal_kernel % 2 == 0 or temporal_kernel > _LONGEST:
        raise ValueError(
            f"temporal_kernel must be odd and {_LONGEST} or less, not {temporal_kernel}: a frame "
            "and as many on both sides"
        )
    return nn.Conv3d(n_in, n_out, (temporal_kernel, 3, 3), padding=(temporal_kernel // 2, 1, 1))


def _check_shape(frames: Tensor, axes: str) -> None:
    """Refuse frames without the axes of the network."""
    if frames.ndim != axes.count(",") + 1 or frames.shape[1] != 1:
        raise ValueError(
            f"frames must have the shape ({axes}), not {tuple(frames.shape)}: "
            "unsqueeze what is missing"
        )
