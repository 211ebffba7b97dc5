"""One pass over time: a network of 3-D convolutions that sees every frame once, chunk by chunk.

A convolution needs a frame's neighbours. Each layer keeps the last frames of the chunk before, so
the maps are those of the whole sequence in one piece, in the memory of a chunk. They lag behind:
the maps of a frame come when all frames that the network sees around it were there.
"""

from __future__ import annotations

import copy
from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ulmpaper.networks.model import SkipSum

_TIME = 2  # axis of frames in (B, F, N, Z, X)
_CONVOLUTIONS = (nn.Conv3d, nn.ConvTranspose3d)


class Stream:
    """A network that takes a sequence in chunks.

    Parameters
    ----------
    net : Module
        Network of 3-D convolutions that keep the size of (B, F, N, Z, X), of `SkipSum`, and of
        layers that treat each frame by itself, such as `ulmpaper.networks.ML3DResNet`. Left as it
        is.

    Examples
    --------
    >>> from ulmpaper.networks import ML3DResNet
    >>> net, frames = ML3DResNet(4, 1), torch.rand(1, 1, 9, 8, 8)
    >>> stream = Stream(net)
    >>> parts = [stream(frames[:, :, :6]), stream(frames[:, :, 6:], is_last=True)]
    >>> [part.shape[2] for part in parts]
    [1, 8]
    >>> torch.allclose(torch.cat(parts, dim=2), net(frames), atol=1e-6)
    True
    """

    def __init__(self, net: nn.Module) -> None:
        self._memory = _Memory()
        self._net = _streaming(copy.deepcopy(net), self._memory)

    def __call__(self, frames: Tensor, *, is_last: bool = False, tile: Hashable = 0) -> Tensor:
        """Maps that became complete with the next `frames` (B, 1, n, Z, X); n may be 0.

        Sequences that are fed in turns, as the tiles of a frame are, differ in `tile`.
        """
        self._memory.turn_to(tile, is_last)
        return self._net(frames)


class _Memory:
    """What the layers keep of each tile: its last frames, by layer."""

    def __init__(self) -> None:
        self._tiles: dict[Hashable, dict[nn.Module, Tensor]] = {}
        self.kept: dict[nn.Module, Tensor] = {}
        self.is_last = False

    def turn_to(self, tile: Hashable, is_last: bool) -> None:
        self.kept = self._tiles.setdefault(tile, {})
        self.is_last = is_last


def _streaming(net: nn.Module, memory: _Memory) -> nn.Module:
    """Put in layers that remember; returns `net`."""
    for parent in list(net.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, _CONVOLUTIONS) and layer.kernel_size[0] > 1:
                setattr(parent, name, _Convolution(layer, memory))
            elif isinstance(layer, SkipSum):
                setattr(parent, name, _Sum(layer, memory))
    return net


class _Convolution(nn.Module):
    """A convolution whose first and last frames alone border on zeros."""

    def __init__(self, layer: Any, memory: _Memory) -> None:
        super().__init__()
        self._span = layer.kernel_size[0]
        # Of a chunk with its neighbours, the frames whose neighbours are all there; a transposed
        # convolution leaves out what its padding says.
        layer.padding = (
            0 if isinstance(layer, nn.Conv3d) else self._span - 1,
            *layer.padding[1:],
        )
        self.layer = layer
        self._memory = memory

    def forward(self, frames: Tensor) -> Tensor:
        border = self._span // 2
        kept = self._memory.kept.get(self)
        if kept is None:
            frames = _pad_time(frames, before=border)
        else:
            frames = torch.cat([kept, frames], dim=_TIME)
        if self._memory.is_last:
            frames = _pad_time(frames, after=border)
        n = frames.shape[_TIME]
        if n < self._span:
            self._memory.kept[self] = frames
            shape = (len(frames), self.layer.out_channels, 0, *frames.shape[3:])
            return frames.new_zeros(shape)
        self._memory.kept[self] = frames[:, :, n - self._span + 1 :].clone()
        return self.layer(frames)


class _Sum(nn.Module):
    """A sum whose first term waits for the second, which went through convolutions."""

    def __init__(self, layer: SkipSum, memory: _Memory) -> None:
        super().__init__()
        self.layer = layer
        self._memory = memory

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        kept = self._memory.kept.get(self)
        if kept is not None:
            before = torch.cat([kept, before], dim=_TIME)
        n = after.shape[_TIME]
        self._memory.kept[self] = before[:, :, n:].clone()
        return self.layer(before[:, :, :n], after)


def _pad_time(frames: Tensor, before: int = 0, after: int = 0) -> Tensor:
    """Add frames of zeros."""
    return functional.pad(frames, (0, 0, 0, 0, before, after))
