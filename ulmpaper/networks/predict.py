"""Networks on whole sequences: sliding windows, tiles, counting, quick kernels.

Frames may be an array, or anything that has a shape and is read by slices (a memory map, a data set
of an HDF5 file): only a few windows are in memory at a time. Networks see frames divided by the
highest value of all frames, or by `scale`; hot pixels are replaced before. They run without
gradients, on the device and in the memory layout that suit them; torch's number of threads is left
as it is.
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

from ulmpaper.core.health import (
    Outlier,
    find_outliers,
    highest_value,
    name_outliers,
    without_outliers,
)
from ulmpaper.core.records import (
    check_amplitude,
    check_frames,
    check_positive,
    check_whole,
    warn_user,
)
from ulmpaper.networks.model import CountNet, ResidualBlock
from ulmpaper.networks.stream import Stream
from ulmpaper.networks.weights import resolve_device, resolve_precision

_LEAST_WEIGHT = 1e-6  # of a prediction in the mean of the offsets: never a division by 0

# --- what a network makes of a sequence --------------------------------------------------------


def predict_maps(
    net: nn.Module,
    frames: Any,
    *,
    window: int = 10,
    stride: int | None = 1,
    batch: int = 4,
    tile_px: int | None = None,
    device: str = "auto",
    precision: str = "float32",
    compiled: bool = False,
    scale: float | None = None,
    each_window: bool = False,
) -> Iterator[tuple[int, Tensor]]:
    """Predict the offset maps of every frame, averaged over windows or in one pass over time.

    Parameters
    ----------
    net : Module
        Maps (B, 3, N, Z, X) of frames (B, 1, N, Z, X), such as `ulmpaper.networks.ML3DResNet`.
    frames : array_like (T, Z, X)
        B-mode amplitude, 0 or more.
    window : int
        Frames N that go through the network together.
    stride : int, optional
        Frames from the start of one window to the next, at most `window`. The last window ends with
        the last frame. None: one pass over all frames, however many they are; see
        `ulmpaper.networks.stream.Stream`.
    batch : int
        Windows that go through the network together; in one pass, as many frames.
    tile_px : int, optional
        Side of the tiles in which frames are processed, to save memory. A tile comes with the
        surroundings that the network sees, so the result is the same. By default frames are
        processed whole.
    device, precision : str
        See `ulmpaper.networks.resolve_device` and `ulmpaper.networks.resolve_precision`.
    compiled : bool
        See `compile_parts`; one pass is not compiled.
    scale : float, optional
        Value that becomes 1, instead of the highest of all frames.
    each_window : bool
        Divide each window by its own highest value as well, as the paper does; not in one pass.

    Yields
    ------
    first : int
        Frame with which the chunk begins.
    maps : Tensor (3 or 5, n, Z, X) float32
        p, oz, ox (and sigma_z, sigma_x) of the next n frames, on the CPU; see
        `ulmpaper.networks.decode_offsets`.

    Raises
    ------
    TypeError, ValueError
        See `ulmpaper.core.check_amplitude`; fewer frames than `window`, `stride` above `window`.
        One pass takes any number of frames.
    MemoryError
        Out of memory; says which setting to lower.

    Notes
    -----
    Paper, section II-A: the window is shifted by a frame at a time; the average is ours. p is
    averaged as it is, the others weighted by p, because windows that see the bubble know where it
    is. One pass is ours as well: each frame is computed once, with all neighbours in time.

    Examples
    --------
    >>> from ulmpaper.networks import ML3DResNet
    >>> net, frames = ML3DResNet(4, 1), np.ones((9, 16, 12))
    >>> maps = predict_maps(net, frames, window=5, stride=2, batch=2, device="cpu")
    >>> [(first, tuple(part.shape)) for first, part in maps]
    [(0, (3, 4, 16, 12)), (4, (3, 5, 16, 12))]
    """
    check_positive(window=window)
    if stride is None:
        if each_window:
            raise ValueError("in one pass there are no windows to normalize: set a stride")
        check_positive(batch=batch)
        run = _runner(net, tile_px, device, precision, one_pass=True)
        return _one_pass(run, _Scaled(frames, scale), window * batch)
    check_positive(stride=stride)
    frames = _Scaled(frames, scale)
    n_frames = frames.shape[0]
    if n_frames < window:
        raise ValueError(
            f"{n_frames} frames are fewer than the window of {window}: give more, or a smaller "
            "window"
        )
    if stride > window:
        raise ValueError(
            f"a stride of {stride} leaves frames out between windows of {window}: take {window} "
            "or less"
        )
    check_positive(batch=batch)
    run = _runner(net, tile_px, device, precision, compiled=compiled)
    starts = [*range(0, n_frames - window, stride), n_frames - window]
    return _average_windows(run, frames, starts, window, batch, each_window=each_window)


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
        Maps (B, 1, uZ, uX) of frames (B, 1, Z, X), such as `ulmpaper.networks.MSPCN`.
    frames, batch, tile_px, device, precision, scale
        As in `predict_maps`; `batch` counts frames.

    Yields
    ------
    first : int
        Frame with which the chunk begins.
    maps : Tensor (n, 1, uZ, uX) float32
        Heat maps of the next n frames, on the CPU; see `ulmpaper.networks.decode_heatmap`.

    Raises
    ------
    TypeError, ValueError, MemoryError
        See `predict_maps`.

    Examples
    --------
    >>> from ulmpaper.networks import MSPCN
    >>> maps = predict_heatmaps(MSPCN(2), np.ones((3, 9, 8)), batch=2, device="cpu")
    >>> [(first, tuple(part.shape)) for first, part in maps]
    [(0, (2, 1, 18, 16)), (2, (1, 1, 18, 16))]
    """
    check_positive(batch=batch)
    scaled = _Scaled(frames, scale)
    run = _runner(net, tile_px, device, precision)
    return ((first, run(part[:, None]).cpu()) for first, part in scaled.read_all(batch))


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
        Outputs of tiles (B, 1, Z, X), such as `ulmpaper.networks.CountNet`.
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
    Ours, since the paper's network counts whole frames of one size: the predicted counts of
    `count_tiles` are added up. A tile of zeros holds no bubbles.

    Examples
    --------
    >>> predict_counts(CountNet(9, features=4), np.zeros((2, 70, 40)))
    array([0., 0.])
    """
    check_positive(batch=batch, tile_px=tile_px)
    scaled = _Scaled(frames, scale)
    run = _runner(net, None, device, "float32")
    counts = np.zeros(scaled.shape[0])
    for first, part in scaled.read_all(batch):
        for tile in count_tiles(part, tile_px):
            is_lit = tile.amax(dim=(1, 2)) > 0
            predicted = CountNet.expected(run(tile[:, None])).cpu() * is_lit
            counts[first : first + len(part)] += predicted.double().numpy()
    return counts


def count_tiles(frames: Tensor, tile_px: int) -> list[Tensor]:
    """Cut frames (T, Z, X) into tiles of nearly one size, as few as sides up to `tile_px` allow.

    Returns
    -------
    list of Tensor (T, z, x)
        The tiles, row by row.

    Examples
    --------
    >>> [tuple(tile.shape) for tile in count_tiles(torch.zeros(1, 84, 60), 64)]
    [(1, 42, 60), (1, 42, 60)]
    """
    tile_px = check_whole(tile_px=tile_px)
    if frames.ndim != 3 or 0 in frames.shape[1:]:
        raise ValueError(
            f"frames have three axes (t, z, x), z and x not empty, not shape {tuple(frames.shape)}"
        )
    rows, columns = (math.ceil(size / tile_px) for size in frames.shape[1:])
    return [
        tile
        for row in frames.tensor_split(rows, dim=1)
        for tile in row.tensor_split(columns, dim=2)
    ]


class Mirrored(nn.Module):
    """Average what a localizer predicts for frames and for their mirror images, left to right.

    Parameters
    ----------
    net : Module
        Maps (B, 3, N, Z, X) of frames (B, 1, N, Z, X), such as `ulmpaper.networks.ML3DResNet`.

    Notes
    -----
    Ours. Frames have no preferred side, but a trained network is not exactly symmetric: the errors
    of its two predictions differ, and their mean errs less, at twice the work. Offsets are weighted
    by p, as in `predict_maps`.

    Examples
    --------
    >>> from ulmpaper.networks import ML3DResNet
    >>> net = Mirrored(ML3DResNet(4, 1))
    >>> frames = torch.rand(1, 1, 5, 16, 12)
    >>> torch.allclose(net(frames)[:, 0], net(frames.flip(-1))[:, 0].flip(-1), atol=1e-6)
    True
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, frames: Tensor) -> Tensor:
        """Maps (B, 3, N, Z, X) float32 of `frames` (B, 1, N, Z, X)."""
        maps, other = self.net(torch.cat([frames, frames.flip(-1)])).float().chunk(2)
        other = other.flip(-1)
        # Mirrored, an offset from the left edge counts from the right one.
        other = torch.cat([other[:, :2], 1 - other[:, 2:3], other[:, 3:]], dim=1)
        weight = maps[:, :1].clamp(min=_LEAST_WEIGHT)
        other_weight = other[:, :1].clamp(min=_LEAST_WEIGHT)
        others = (weight * maps[:, 1:] + other_weight * other[:, 1:]) / (weight + other_weight)
        return torch.cat([(maps[:, :1] + other[:, :1]) / 2, others], dim=1)


# --- windows, averaged -------------------------------------------------------------------------


def _average_windows(
    run: Callable[[Tensor], Tensor],
    frames: _Scaled,
    starts: list[int],
    window: int,
    batch: int,
    *,
    each_window: bool,
) -> Iterator[tuple[int, Tensor]]:
    """Run windows that begin at `starts`; yield the means of frames that no later window sees."""
    n_windows = _windows_per_frame(starts, window, frames.shape[0])
    # Of frames from `first` on: themselves, and sums over windows of p, weight w, and w times the
    # other maps.
    first = 0
    held = torch.empty(0, *frames.shape[1:])
    sums = None
    for k in range(0, len(starts), batch):
        group = starts[k : k + batch]
        end = group[-1] + window
        held = torch.cat([held, frames.read(first + len(held), end)])
        windows = torch.stack([held[start - first : start - first + window] for start in group])
        if each_window:
            highest = windows.amax(dim=(1, 2, 3), keepdim=True)
            windows = windows / highest.clamp(min=torch.finfo(windows.dtype).tiny)
        maps = run(windows[:, None])
        weight = maps[:, :1].clamp(min=_LEAST_WEIGHT)
        terms = torch.cat([maps[:, :1], weight, weight * maps[:, 1:]], dim=1)
        # Make room for the frames just read, and add every window where it belongs.
        if sums is None:
            sums = torch.empty(terms.shape[1], 0, *frames.shape[1:])
        n_new = end - first - sums.shape[1]
        sums = functional.pad(sums.to(terms.device), (0, 0, 0, 0, 0, n_new))
        for start, term in zip(group, terms, strict=True):
            sums[:, start - first : start - first + window] += term
        # Frames before the next window are done; behind the last window, all are.
        following = starts[k + batch] if k + batch < len(starts) else end
        n_done = following - first
        total = sums[:, :n_done].cpu()
        p = total[:1] / n_windows[first:following]
        yield first, torch.cat([p, total[2:] / total[1]])
        held = held[n_done:]
        sums = sums[:, n_done:]
        first = following


def _windows_per_frame(starts: list[int], window: int, n_frames: int) -> Tensor:
    """Number of windows (T, 1, 1) that see each frame."""
    begun = np.bincount(starts, minlength=n_frames + 1)
    ended = np.bincount(np.add(starts, window), minlength=n_frames + 1)
    return torch.from_numpy(np.cumsum(begun - ended))[:, None, None]


def _one_pass(
    run: Callable[[Tensor, bool], Tensor], frames: _Scaled, chunk: int
) -> Iterator[tuple[int, Tensor]]:
    """Run all frames, `chunk` at a time; yield maps as they become complete."""
    first = 0
    for start, part in frames.read_all(chunk):
        is_last = start + len(part) == frames.shape[0]
        maps = run(part[None, None], is_last)[0].cpu()
        if maps.shape[1]:
            yield first, maps
        first += maps.shape[1]


# --- a network, ready to run -------------------------------------------------------------------


def _runner(
    net: nn.Module,
    tile_px: int | None,
    device: str,
    precision: str,
    *,
    compiled: bool = False,
    one_pass: bool = False,
) -> Callable[..., Tensor]:
    """Function that puts frames (B, 1, ..., Z, X) through `net` on the device.

    In one pass, call it with one chunk after another, and say which is the last.
    """
    if tile_px is not None:
        check_positive(tile_px=tile_px)
    place = resolve_device(device)
    dtype = resolve_precision(precision, place)
    convolutions = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d | nn.Conv3d)]
    # How far the network sees: its convolutions stand one after another, all of stride 1.
    margin = sum(max(layer.kernel_size[-2:]) // 2 for layer in convolutions)
    is_3d = any(isinstance(layer, nn.Conv3d) for layer in convolutions)
    layout = torch.channels_last_3d if is_3d else torch.channels_last
    net.to(place)
    if place.type == "cuda":
        net = with_quicker_convolutions(net)
    if compiled:
        net = compile_parts(copy.deepcopy(net))
    net.to(memory_format=layout)  # type: ignore[call-overload]
    stream = Stream(net) if one_pass else None

    def run(frames: Tensor, is_last: bool = True) -> Tensor:
        def maps_of(frames: Tensor, tile: tuple[int, int] = (0, 0)) -> Tensor:
            return net(frames) if stream is None else stream(frames, is_last=is_last, tile=tile)

        with _inference_mode(place, dtype):
            frames = frames.to(place)
            maps = maps_of(frames) if tile_px is None else _tiled(maps_of, frames, tile_px, margin)
            return maps.float()

    return run


def _tiled(
    maps_of: Callable[[Tensor, tuple[int, int]], Tensor], frames: Tensor, tile_px: int, margin: int
) -> Tensor:
    """Maps of `frames`, put together from tiles that overlap by the network's field of view."""
    rows = []
    for top, z, z_end, bottom in _spans(frames.shape[-2], tile_px, margin):
        row = []
        for left, x, x_end, right in _spans(frames.shape[-1], tile_px, margin):
            maps = maps_of(frames[..., top:bottom, left:right], (z, x))
            u = maps.shape[-1] // (right - left)  # fine pixels per pixel
            inner_z = slice(u * (z - top), u * (z_end - top))
            inner_x = slice(u * (x - left), u * (x_end - left))
            row.append(maps[..., inner_z, inner_x])
        rows.append(torch.cat(row, dim=-1))
    return torch.cat(rows, dim=-2)


def _spans(size: int, tile_px: int, margin: int) -> list[tuple[int, int, int, int]]:
    """Start with margin, start, end and end with margin of each tile along one side."""
    edges = np.linspace(0, size, math.ceil(size / tile_px) + 1).astype(int).tolist()
    return [
        (max(0, start - margin), start, end, min(size, end + margin))
        for start, end in itertools.pairwise(edges)
    ]


@contextlib.contextmanager
def _inference_mode(place: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Inference mode: no gradients, true float32, a helpful out-of-memory error."""
    # On a GPU the first batch tries out which kernels are the quickest for its shape. TF32, which
    # rounds float32 to 10 bits, stays off.
    kernels = torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False)
    casting = torch.autocast(place.type, dtype, enabled=dtype != torch.float32)
    try:
        with torch.no_grad(), kernels, casting:
            yield
    except (MemoryError, RuntimeError) as error:
        # On the CPU torch raises a plain RuntimeError, which only its text gives away.
        is_memory = isinstance(error, MemoryError | torch.cuda.OutOfMemoryError)
        if not is_memory and "allocate memory" not in str(error):
            raise
        raise MemoryError(
            "out of memory: lower compute.batch, or set a smaller compute.tile_px"
        ) from error


def with_quicker_convolutions(net: nn.Module) -> nn.Module:
    """Copy a network with its 3-D convolutions written as transposed ones.

    Parameters
    ----------
    net : Module
        Any network; left as it is. Its 3-D convolutions keep the size of the frames, with zeros
        around.

    Returns
    -------
    Module
        A network with the same output, for use, not for training: its weights have other shapes.

    Notes
    -----
    A convolution is the transposed one with mirrored kernels. cuDNN 9 computes that one, which is
    the backward pass of convolutions, with newer matrix instructions: for 96 channels in bfloat16
    on an H200 twice as fast.

    Examples
    --------
    >>> conv, frames = nn.Conv3d(2, 3, 3, padding=1), torch.rand(1, 2, 4, 5, 6)
    >>> quicker = with_quicker_convolutions(nn.Sequential(conv))
    >>> torch.allclose(quicker(frames), conv(frames), atol=1e-5)
    True
    """
    net = copy.deepcopy(net)
    for parent in list(net.modules()):
        for name, layer in parent.named_children():
            if isinstance(layer, nn.Conv3d):
                setattr(parent, name, _transposed(layer))
    return net


def _transposed(conv: nn.Conv3d) -> nn.ConvTranspose3d:
    """The transposed convolution that computes the same."""
    shape: Any = conv.kernel_size
    padding = tuple(k // 2 for k in shape)
    layer = nn.ConvTranspose3d(conv.in_channels, conv.out_channels, shape, padding=padding)
    layer.weight = nn.Parameter(conv.weight.detach().flip(2, 3, 4).transpose(0, 1).contiguous())
    layer.bias = None if conv.bias is None else nn.Parameter(conv.bias.detach())
    return layer


def compile_parts(net: nn.Module) -> nn.Module:
    """Let torch compile a network's residual blocks, or all of it where it has none.

    Returns
    -------
    Module
        `net` itself.

    Notes
    -----
    All blocks are compiled as one, so the first call takes seconds and not minutes; the steps
    between convolutions become one pass over memory.
    """
    blocks: list[nn.Module] = [layer for layer in net.modules() if isinstance(layer, ResidualBlock)]
    for part in blocks or [net]:
        part.compile()
    return net


# --- frames ------------------------------------------------------------------------------------


def _sliceable(frames: Any) -> Any:
    """Return `frames` as they are if they have a shape, else as an array; check the three axes."""
    frames = frames if hasattr(frames, "shape") else np.asarray(frames)
    if len(frames.shape) != 3 or 0 in frames.shape:
        check_frames(frames)  # raises, with the reason
    return frames


def without_hot_pixels(frames: NDArray) -> NDArray:
    """Frames with hot pixels replaced by those around them, and a warning that names them."""
    outliers = find_outliers(frames)
    _warn_of_hot_pixels(outliers)
    return without_outliers(frames, outliers)


def _warn_of_hot_pixels(outliers: list[Outlier]) -> None:
    if outliers:
        warn_user(f"{name_outliers(outliers)}; the network sees those around it instead")


class _Scaled:
    """Frames over their highest value, or over `scale`, read by slices as float32.

    One hot pixel would make all other frames dark, so hot pixels neither count as the highest value
    nor reach a network.
    """

    def __init__(self, frames: Any, scale: float | None) -> None:
        self._frames = _sliceable(frames)
        self.shape = self._frames.shape
        self._outliers: list[Outlier] = []
        if scale is not None:
            check_positive(scale=scale)
            self._peak = scale
            return
        peak, outliers = highest_value(self)
        _warn_of_hot_pixels(outliers)
        self._outliers = outliers
        # In single precision, as frames are, unless that cannot hold it.
        with np.errstate(over="ignore"):
            single = float(np.float32(peak))
        is_held = np.finfo(np.float32).tiny <= single < np.inf
        self._peak = (single if is_held else peak) or 1.0

    def __getitem__(self, span: slice) -> NDArray:
        """Frames as they are, but for hot pixels."""
        part = check_amplitude(self._frames[span], first_frame=span.start)
        return without_outliers(part, self._outliers, span.start)

    def read_all(self, size: int) -> Iterator[tuple[int, Tensor]]:
        """All frames, `size` at a time, each chunk with its first frame's number."""
        for start in range(0, self.shape[0], size):
            yield start, self.read(start, min(start + size, self.shape[0]))

    def read(self, start: int, stop: int) -> Tensor:
        """Frames (n, Z, X) float32 from `start` to before `stop`."""
        return torch.from_numpy(np.asarray(self[start:stop] / self._peak, dtype=np.float32))
