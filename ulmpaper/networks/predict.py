"""Networks on whole sequences: sliding windows, tiles, counting, quick kernels.

Frames may be an array, or whatever has a shape and is read by slices (a memory map, a data set of an HDF5 file): only a
few windows are in memory at a time. Networks see frames divided by the highest value of all that are given, or by
`scale`. They are moved to the device and laid out as it likes best; torch's number of threads is left as it is.

How networks run in use: without gradients, and on a GPU as quickly as it can, with the same results.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ulmpaper.core.records import check_frames, check_positive
from ulmpaper.networks.model import CountNet, ResidualBlock
from ulmpaper.networks.targets import LEAST_WEIGHT
from ulmpaper.networks.weights import resolve_device, resolve_precision


def predict_maps(
    net: nn.Module,
    frames: Any,
    *,
    window: int = 10,
    stride: int = 1,
    batch: int = 4,
    tile_px: int | None = None,
    device: str = "auto",
    precision: str = "float32",
    compiled: bool = False,
    scale: float | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """Predict the offset maps of every frame, averaged over the windows that see it.

    Parameters
    ----------
    net : Module
        Maps (B, 3, N, Z, X) of frames (B, 1, N, Z, X), such as `ulmpaper.networks.model.ML3DResNet`.
    frames : array_like (T, Z, X)
        B-mode amplitude, 0 or more.
    window : int
        Frames N that go through the network together.
    stride : int
        Frames from the start of one window to the next, at most `window`. The last window ends with the last frame.
    batch : int
        Windows that go through the network together.
    tile_px : int, optional
        Side of the tiles in which frames are looked at, to save memory. A tile comes with the surroundings that the
        network sees, so the result is the same. By default frames are looked at whole.
    device, precision : str
        See `ulmpaper.networks.weights.resolve_device` and `ulmpaper.networks.weights.resolve_precision`.
    compiled : bool
        See `ulmpaper.networks.predict.compile_parts`.
    scale : float, optional
        Value that becomes 1, instead of the highest of all frames.

    Yields
    ------
    first : int
        Frame with which the chunk begins.
    maps : Tensor (3, n, Z, X) float32
        p, oz, ox of the next n frames, on the CPU; see `ulmpaper.networks.targets.decode_offsets`.

    Raises
    ------
    TypeError, ValueError
        See `records.check_frames`; negative values, fewer frames than `window`, `stride` above `window`.
    MemoryError
        Out of memory; says which setting to lower.

    Notes
    -----
    Paper, section II-A: the window is shifted by a frame at a time; the average is ours. p is averaged as it is and
    oz, ox weighted by p, for the windows that see the bubble know where it is.

    Examples
    --------
    >>> from ulmpaper.networks.model import ML3DResNet
    >>> maps = predict_maps(ML3DResNet(4, 1), np.ones((9, 16, 12)), window=5, stride=2, batch=2, device="cpu")
    >>> [(first, tuple(part.shape)) for first, part in maps]
    [(0, (3, 4, 16, 12)), (4, (3, 5, 16, 12))]
    """
    check_positive(window=window, stride=stride)
    frames = _sliceable(frames)
    n_frames = frames.shape[0]
    if n_frames < window:
        raise ValueError(
            f"{n_frames} frames are fewer than the window of {window}: give more, or a smaller window"
        )
    if stride > window:
        raise ValueError(
            f"a stride of {stride} leaves frames out between windows of {window}: take {window} or less"
        )
    run = _runner(net, batch, tile_px, device, precision, compiled)
    starts = [*range(0, n_frames - window, stride), n_frames - window]
    return _slide(run, frames, _scale(frames, scale), starts, window, batch)


def predict_heatmaps(
    net: nn.Module,
    frames: Any,
    *,
    batch: int = 4,
    tile_px: int | None = None,
    device: str = "auto",
    precision: str = "float32",
    scale: float | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """Predict the heat maps of every frame.

    Parameters
    ----------
    net : Module
        Maps (B, 1, uZ, uX) of frames (B, 1, Z, X), such as `ulmpaper.networks.model.MSPCN`.
    frames, batch, tile_px, device, precision, scale
        As in `predict_maps`; `batch` counts frames.

    Yields
    ------
    first : int
        Frame with which the chunk begins.
    maps : Tensor (n, 1, uZ, uX) float32
        Heat maps of the next n frames, on the CPU; see `ulmpaper.networks.targets.decode_heatmap`.

    Raises
    ------
    TypeError, ValueError, MemoryError
        See `predict_maps`.

    Examples
    --------
    >>> from ulmpaper.networks.model import MSPCN
    >>> [(first, tuple(part.shape)) for first, part in predict_heatmaps(MSPCN(2), np.ones((3, 9, 8)), batch=2)]
    [(0, (2, 1, 18, 16)), (2, (1, 1, 18, 16))]
    """
    frames = _sliceable(frames)
    run = _runner(net, batch, tile_px, device, precision)
    return (
        (first, run(part[:, None]).cpu())
        for first, part in _read_all(frames, batch, _scale(frames, scale))
    )


def predict_counts(
    net: nn.Module,
    frames: Any,
    *,
    tile_px: int = 64,
    batch: int = 4,
    device: str = "auto",
    scale: float | None = None,
) -> NDArray[np.float64]:
    """Count the bubbles of every frame.

    Parameters
    ----------
    net : Module
        Outputs of tiles (B, 1, Z, X), such as `ulmpaper.networks.model.CountNet`.
    frames, batch, device, scale
        As in `predict_maps`; `batch` counts frames.
    tile_px : int
        Largest side of the tiles that the network was trained on.

    Returns
    -------
    ndarray (T,) float64
        Expected number of bubbles in each frame, not rounded.

    Raises
    ------
    TypeError, ValueError, MemoryError
        See `predict_maps`.

    Notes
    -----
    Ours, as the paper's network counts whole frames of one size: the numbers of `count_tiles` are added up. Nothing is
    counted in a tile of zeros.

    Examples
    --------
    >>> predict_counts(CountNet(9, features=4), np.zeros((2, 70, 40)))
    array([0., 0.])
    """
    frames = _sliceable(frames)
    check_positive(tile_px=tile_px)
    run = _runner(net, batch, None, device, "float32")
    counts = np.zeros(frames.shape[0])
    for first, part in _read_all(frames, batch, _scale(frames, scale)):
        for tile in count_tiles(part, tile_px):
            told = CountNet.expected(run(tile[:, None])).cpu() * (tile.amax(dim=(1, 2)) > 0)
            counts[first : first + len(part)] += told.double().numpy()
    return counts


def count_tiles(frames: Tensor, tile_px: int) -> list[Tensor]:
    """Cut frames (T, Z, X) into tiles of nearly one size, row by row, as few as sides up to `tile_px` allow.

    Examples
    --------
    >>> [tuple(tile.shape) for tile in count_tiles(torch.zeros(1, 84, 60), 64)]
    [(1, 42, 60), (1, 42, 60)]
    """
    rows, columns = (math.ceil(size / tile_px) for size in frames.shape[1:])
    return [
        tile
        for row in frames.tensor_split(rows, dim=1)
        for tile in row.tensor_split(columns, dim=2)
    ]


def _slide(
    run: Callable[[Tensor], Tensor],
    frames: Any,
    scale: float,
    starts: list[int],
    window: int,
    batch: int,
) -> Iterator[tuple[int, Tensor]]:
    """Run windows that begin at `starts` and yield what no later window sees."""
    first = 0
    held = torch.empty(0, *frames.shape[1:])  # frames from `first` on
    sums = torch.empty(
        4, 0, *frames.shape[1:]
    )  # over windows, of p, of the weight w, of w oz and of w ox
    opened, closed = (
        np.bincount(np.add(starts, k), minlength=frames.shape[0] + 1) for k in (0, window)
    )
    n_windows = torch.from_numpy(np.cumsum(opened - closed))[:, None, None]  # that see a frame
    for k in range(0, len(starts), batch):
        group = starts[k : k + batch]
        end = group[-1] + window
        held = torch.cat([held, _read(frames, first + len(held), end, scale)])
        maps = run(
            torch.stack([held[start - first : start - first + window] for start in group])[:, None]
        )
        weight = maps[:, :1].clamp(min=LEAST_WEIGHT)
        terms = torch.cat([maps[:, :1], weight, weight * maps[:, 1:]], dim=1)
        sums = functional.pad(sums.to(terms.device), (0, 0, 0, 0, 0, end - first - sums.shape[1]))
        for start, term in zip(group, terms, strict=True):
            sums[:, start - first : start - first + window] += term
        done = starts[k + batch] - first if k + batch < len(starts) else end - first
        total = sums[:, :done].cpu()
        yield first, torch.cat([total[:1] / n_windows[first : first + done], total[2:] / total[1]])
        held, sums, first = held[done:], sums[:, done:], first + done


def _runner(
    net: nn.Module,
    batch: int,
    tile_px: int | None,
    device: str,
    precision: str,
    compiled: bool = False,
) -> Callable[[Tensor], Tensor]:
    """Function that puts frames (B, 1, ..., Z, X) through `net` on the device."""
    check_positive(batch=batch, **({} if tile_px is None else {"tile_px": tile_px}))
    place = resolve_device(device)
    dtype = resolve_precision(precision, place)
    layers = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d | nn.Conv3d)]
    margin = sum(
        max(layer.kernel_size[-2:]) // 2 for layer in layers
    )  # one after another, all of stride 1
    layout = (
        torch.channels_last_3d
        if any(isinstance(layer, nn.Conv3d) for layer in layers)
        else torch.channels_last
    )
    net.to(place)
    if place.type == "cuda":
        net = with_quicker_convolutions(net)
    if compiled:
        net = compile_parts(copy.deepcopy(net))
    net.to(memory_format=layout)  # type: ignore[call-overload]

    def run(frames: Tensor) -> Tensor:
        with inference_mode(place, dtype):
            frames = frames.to(place)
            return (
                net(frames) if tile_px is None else _tiled(net, frames, tile_px, margin)
            ).float()

    return run


def _tiled(net: nn.Module, frames: Tensor, tile_px: int, margin: int) -> Tensor:
    """What `net` makes of `frames`, put together from tiles that overlap by its field of view."""

    def spans(size: int) -> list[tuple[int, int, int, int]]:
        edges = np.linspace(0, size, math.ceil(size / tile_px) + 1).astype(int).tolist()
        return [
            (max(0, a - margin), a, b, min(size, b + margin)) for a, b in itertools.pairwise(edges)
        ]

    def tile(
        top: int, z: int, z_end: int, bottom: int, left: int, x: int, x_end: int, right: int
    ) -> Tensor:
        maps = net(frames[..., top:bottom, left:right])
        u = maps.shape[-1] // (right - left)
        return maps[..., u * (z - top) : u * (z_end - top), u * (x - left) : u * (x_end - left)]

    across = spans(frames.shape[-1])
    return torch.cat(
        [torch.cat([tile(*z, *x) for x in across], dim=-1) for z in spans(frames.shape[-2])], dim=-2
    )


def _sliceable(frames: Any) -> Any:
    """Return `frames` as they are if they have a shape, else as an array; three axes, none of them empty."""
    frames = frames if hasattr(frames, "shape") else np.asarray(frames)
    if len(frames.shape) != 3 or 0 in frames.shape:
        check_frames(frames)  # says what is wrong
    return frames


def _read(frames: Any, start: int, stop: int, scale: float = 1.0) -> Tensor:
    part = check_frames(frames[start:stop], what=f"frames {start} to {stop - 1}")
    if part.min() < 0:
        raise ValueError(
            f"frames hold negative values (down to {part.min():g}) but amplitude is needed: "
            "take filters.envelope of radio-frequency data, or undo the decibel scale"
        )
    return torch.from_numpy(np.asarray(part / scale, dtype=np.float32))


def _read_all(frames: Any, size: int, scale: float = 1.0) -> Iterator[tuple[int, Tensor]]:
    for start in range(0, frames.shape[0], size):
        yield start, _read(frames, start, min(start + size, frames.shape[0]), scale)


def _scale(frames: Any, scale: float | None) -> float:
    """Value that becomes 1: what is given, or the highest, but 1 where all frames are dark."""
    if scale is None:
        return max(float(part.max()) for _, part in _read_all(frames, 64)) or 1.0
    check_positive(scale=scale)
    return scale


def with_quicker_convolutions(net: nn.Module) -> nn.Module:
    """Copy a network with its 3-D convolutions written as transposed ones.

    Parameters
    ----------
    net : Module
        Any network; left as it is. Its 3-D convolutions keep the size of the frames, with zeros around.

    Returns
    -------
    Module
        A network that gives the same, for use, not for training: its weights have other shapes.

    Notes
    -----
    A convolution is the transposed one with mirrored kernels. cuDNN 9 computes that one, which is the backward pass of
    convolutions, with newer matrix instructions: for 96 channels in bfloat16 on an H200 twice as fast.

    Examples
    --------
    >>> conv, frames = nn.Conv3d(2, 3, 3, padding=1), torch.rand(1, 2, 4, 5, 6)
    >>> torch.allclose(with_quicker_convolutions(nn.Sequential(conv))(frames), conv(frames), atol=1e-5)
    True
    """
    net = copy.deepcopy(net)
    for parent in list(net.modules()):
        for name, layer in parent.named_children():
            if isinstance(layer, nn.Conv3d):
                setattr(parent, name, _transposed(layer))
    return net


def compile_parts(net: nn.Module) -> nn.Module:
    """Let torch compile a network's residual blocks, or all of it where it has none; returns it.

    Notes
    -----
    All blocks are compiled as one, so the first call takes seconds and not minutes; what stands between convolutions
    becomes one pass over memory.
    """
    blocks: list[nn.Module] = [layer for layer in net.modules() if isinstance(layer, ResidualBlock)]
    for part in blocks or [net]:
        part.compile()
    return net


@contextlib.contextmanager
def inference_mode(place: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """No gradients, `dtype` in earnest (not TF32 for float32), and clear words where memory runs out.

    Examples
    --------
    >>> with inference_mode(torch.device("cpu"), torch.bfloat16):
    ...     nn.Linear(2, 1)(torch.ones(1, 2)).dtype
    torch.bfloat16
    """
    # On a GPU the first batch tries out which way of convolving is the quickest for its shape.
    kernels = torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False)
    try:
        with (
            torch.no_grad(),
            kernels,
            torch.autocast(place.type, dtype, enabled=dtype != torch.float32),
        ):
            yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(
            error, MemoryError | torch.cuda.OutOfMemoryError
        ) and "allocate memory" not in str(error):
            raise
        raise MemoryError(
            "out of memory: lower compute.batch, or set a smaller compute.tile_px"
        ) from error


def _transposed(conv: nn.Conv3d) -> nn.ConvTranspose3d:
    shape: Any = conv.kernel_size
    layer = nn.ConvTranspose3d(
        conv.in_channels, conv.out_channels, shape, padding=tuple(k // 2 for k in shape)
    )
    layer.weight = nn.Parameter(conv.weight.detach().flip(2, 3, 4).transpose(0, 1).contiguous())
    layer.bias = None if conv.bias is None else nn.Parameter(conv.bias.detach())
    return layer
