"""What localization costs: multiplications, and time and memory in a fresh process."""

from __future__ import annotations

import copy
import math
import multiprocessing
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ulmpaper.config import METHODS
from ulmpaper.core.records import check_choice, check_positive
from ulmpaper.core.testcard import simulate_testcard
from ulmpaper.networks.model import layer_table
from ulmpaper.networks.predict import predict_counts, predict_heatmaps, predict_maps
from ulmpaper.networks.targets import decode_heatmap, decode_offsets
from ulmpaper.networks.weights import CLASSES, resolve_device
from ulmpaper.pipeline.detect import locate

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")
_SMALL = (16, 16)  # frames of the warm-up [px]


def multiplications(net: nn.Module, input_shape: tuple[int, ...]) -> pd.DataFrame:
    """Count the multiplications of a network, layer by layer; nothing is computed.

    Parameters
    ----------
    net : Module
        Left as it is.
    input_shape : tuple of int
        Shape of the frames with all axes, e.g. (1, 1, 10, 84, 143).

    Returns
    -------
    DataFrame
        The table of `ulmpaper.networks.model.layer_table` with ``values``, numbers that the layer
        puts out, and ``multiplications``: of convolutions one for each weight and place, zeros at
        the edges included, of full layers one for each weight. What is done once for each value
        (PReLU, sums) is left out, as are additions.

    Examples
    --------
    >>> from ulmpaper.networks.model import MSPCN
    >>> table = multiplications(MSPCN(4), (1, 1, 10, 20))
    >>> int(table.multiplications.sum()) // (10 * 20), int(table["values"].iloc[-1])
    (419904, 3200)
    """
    table = layer_table(net, input_shape)
    shapes_only = copy.deepcopy(net).to("meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        shapes_only(torch.empty(input_shape, device="meta"))
    flops = counter.get_flop_counts()
    # torch counts a multiplication and an addition for each weight and place.
    names = [f"{type(net).__name__}.{name}" for name in table["name"]]
    each = [sum(flops.get(name, {}).values()) // 2 for name in names]
    return table.assign(values=table["output_shape"].map(math.prod), multiplications=each)


def per_frame(
    net: nn.Module, shape_px: tuple[int, int], *, window: int | None = None, stride: int = 1
) -> pd.Series:
    """Add up what a network costs for each frame of a long sequence.

    Parameters
    ----------
    net : Module
        The network.
    shape_px : (int, int)
        Size of a frame (z, x) [px].
    window : int, optional
        Frames that go through the network together; without it they go one by one.
    stride : int
        Frames from one window to the next: every frame is seen ``window / stride`` times.

    Returns
    -------
    Series
        ``multiplications`` a frame; ``outputs``, numbers that the last layer puts out for a frame,
        seen once; ``largest``, numbers in the largest output of a layer, which must be in memory at
        once; ``parameters``.

    Examples
    --------
    >>> from ulmpaper.networks.model import ML3DResNet
    >>> costs = [per_frame(ML3DResNet(4, 1), (20, 30), window=10, stride=s) for s in (1, 10)]
    >>> float(costs[0].multiplications / costs[1].multiplications), int(costs[0].outputs)
    (10.0, 1800)
    """
    check_positive(stride=stride, **({} if window is None else {"window": window}))
    table = multiplications(net, (1, 1, *([] if window is None else [window]), *shape_px))
    sums = {
        "multiplications": table["multiplications"].sum() / (1 if window is None else stride),
        "outputs": table["values"].iloc[-1] / (window or 1),
        "largest": table["values"].max(),
        "parameters": table["parameters"].sum(),
    }
    return pd.Series(sums, dtype=float)


def measure_costs(
    method: str,
    *,
    shape_px: tuple[int, int],
    n_frames: int = 20,
    n_bubbles: int = 40,
    window: int = 10,
    network: Mapping[str, Any] | None = None,
    repeats: int = 3,
    device: str = "cpu",
) -> dict[str, float]:
    """Measure what a method costs, in a process that has done nothing else, on one thread.

    Parameters
    ----------
    method : str
        A method of `ulmpaper.core.localize.locate`, or the recipe ``ml3d``, ``count`` or ``mspcn``
        of a network.
    shape_px : (int, int)
        Size of a frame (z, x) [px].
    n_frames, n_bubbles, window : int
        Frames that are worked on, all at once, and bubbles read off each. For ``ml3d`` they are cut
        into windows, so `n_frames` is a multiple of `window`.
    network : mapping, optional
        Keyword arguments of the network's class. Its weights are random: they do not change what it
        costs.
    repeats : int
        The least time of so many runs counts.
    device : str
        See `ulmpaper.networks.weights.resolve_device`. On the CPU, seconds are those of the
        processor, which other programs disturb least; on a GPU those of the clock.

    Returns
    -------
    dict of str to float
        ``network_s``, seconds a frame in the network, of ``ml3d`` for a frame seen once (0 for
        other methods); ``readout_s``, seconds a frame to turn maps into bubbles, or all seconds of
        a classical method; ``memory_mb``, most memory in use beyond what was there before; NaN
        where the system does not tell.

    Raises
    ------
    ValueError
        Unknown method or device; keyword arguments that do not fit; frames that do not fill
        windows.
    """
    check_choice(method, (*METHODS, *CLASSES), "method")
    check_positive(n_frames=n_frames, window=window, repeats=repeats)
    if method == "ml3d" and n_frames % window:
        raise ValueError(f"{n_frames} frames do not fill windows of {window}: give a multiple")
    job = (
        method,
        tuple(shape_px),
        n_frames,
        n_bubbles,
        window,
        dict(network or {}),
        repeats,
        device,
    )
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measure, job)


def _measure(
    method: str,
    shape_px: tuple[int, int],
    n_frames: int,
    n_bubbles: int,
    window: int,
    network: Mapping[str, Any],
    repeats: int,
    device: str,
) -> dict[str, float]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    on_gpu = resolve_device(device).type == "cuda"
    net = CLASSES[method](**network).eval() if method in CLASSES else None
    rng = np.random.default_rng(0)
    frames = simulate_testcard(
        n_frames=n_frames, n_bubbles=n_bubbles, shape_px=shape_px, rng=rng
    ).frames
    run, read = _steps(method, net, n_frames, n_bubbles, window, device)
    read(run(np.ascontiguousarray(frames[:, : _SMALL[0], : _SMALL[1]])))
    _reset_peak(on_gpu)
    before = _peak_mb(on_gpu)
    seconds = []
    for _ in range(repeats):
        network_s, maps = _timed(run, frames, on_gpu)
        readout_s, _ = _timed(read, maps, on_gpu)
        del maps
        seconds.append((network_s, readout_s))
    network_s, readout_s = np.min(seconds, axis=0) / n_frames
    memory_mb = _peak_mb(on_gpu) - before
    return {
        "network_s": float(network_s),
        "readout_s": float(readout_s),
        "memory_mb": float(memory_mb),
    }


def _steps(
    method: str, net: Any, n_frames: int, n_bubbles: int, window: int, device: str
) -> tuple[Callable, Callable]:
    """What goes through the network, and what is made of it."""
    usual: dict[str, Any] = {"device": device, "scale": 1.0}
    if method == "ml3d":
        windows: dict[str, Any] = {"window": window, "stride": window, "batch": n_frames // window}
        return (
            lambda frames: list(predict_maps(net, frames, **windows, **usual)),
            lambda maps: [decode_offsets(part, n_bubbles) for _, part in maps],
        )
    if method == "mspcn":
        u = int(net.shuffle.upscale_factor)
        side = 2 * round(0.875 * u) + 1  # of the same size in pixels of the frames
        return (
            lambda frames: list(predict_heatmaps(net, frames, batch=n_frames, **usual)),
            lambda maps: [decode_heatmap(heat, u, counts=n_bubbles, side=side) for _, heat in maps],
        )
    if method == "count":
        return lambda frames: predict_counts(net, frames, batch=n_frames, **usual), np.rint
    return lambda frames: frames, lambda frames: locate(frames, method=method, n_bubbles=n_bubbles)


def _timed(step: Callable, what: Any, on_gpu: bool) -> tuple[float, Any]:
    """Seconds that a step takes, and what it returns."""
    clock = time.perf_counter if on_gpu else time.process_time
    start = clock()
    result = step(what)
    if on_gpu:
        torch.cuda.synchronize()
    return clock() - start, result


def _reset_peak(on_gpu: bool) -> None:
    """Let the peak of memory start from what is in use now, where the system can do that."""
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    elif _RESET.exists():
        _RESET.write_text("5")


def _peak_mb(on_gpu: bool) -> float:
    """Most memory in use since the last reset, or since the start [MB]."""
    if on_gpu:
        return torch.cuda.max_memory_allocated() / 1e6
    if _STATUS.exists():
        lines = dict(line.partition(":")[::2] for line in _STATUS.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024 / 1e6 if "VmHWM" in lines else math.nan
    import resource  # not on Windows, where this is not reached with the file system of Linux

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
