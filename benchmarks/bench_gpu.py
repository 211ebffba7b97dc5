"""The networks of the paper's size on a GPU: the card's ceiling, and the gain of each measure.

    python benchmarks/bench.py gpu

Rates are those of multiplications and additions of the 3-D convolutions alone, over the rate of one
large product of bfloat16 matrices on the same card in the same run. Times are taken by the card's
own clock, median of several.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

import ulmpaper
from ulmpaper.config import Config, load_config
from ulmpaper.io.files import write_atomic
from ulmpaper.metrics.bubbles import score_bubbles
from ulmpaper.networks.checkpoint import revision
from ulmpaper.networks.localize import load_network
from ulmpaper.networks.loss import ml3d_loss
from ulmpaper.networks.model import ML3DResNet
from ulmpaper.networks.predict import compile_parts, predict_maps, with_quicker_convolutions
from ulmpaper.networks.recipes import RECIPES
from ulmpaper.networks.targets import decode_offsets
from ulmpaper.networks.train import training_windows
from ulmpaper.networks.windows import SimulatedSource, seeded_sequence
from ulmpaper.simulator.flow import advect
from ulmpaper.simulator.imaging import synthesize
from ulmpaper.simulator.simulate import cam_scene, psf_bank, simulate_block

Row = tuple[str, str, str, str]
RESULTS = Path(ulmpaper.__file__).parent / "paper" / "results"
MEASURES = ("float32", "bfloat16", "channels last", "quickest kernels", "transposed", "compiled")


def seconds(call: Callable[[], object], least: int = 3, budget_s: float = 0.8) -> float:
    """Median time that the card takes for a call [s]; the first two do not count."""
    for _ in range(2):
        call()
    torch.cuda.synchronize()
    taken: list[float] = []
    while len(taken) < least or sum(taken) < budget_s:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        taken.append(start.elapsed_time(end) / 1000)
    return statistics.median(taken)


def ceilings() -> tuple[float, float]:
    """Rates of a product of bfloat16 matrices [operations/s] and of copying [bytes/s]."""
    a, b = torch.randn(2, 8192, 8192, device="cuda", dtype=torch.bfloat16)
    rate = 2 * 8192**3 / seconds(lambda: a @ b)
    source = torch.randn(2**30, device="cuda")
    target = torch.empty_like(source)
    return rate, 2 * source.nbytes / seconds(lambda: target.copy_(source))


@contextlib.contextmanager
def measures(n: int, *, training: bool = False) -> Iterator[nn.Module]:
    """The paper's network with the first `n` of `MEASURES`; in training without transposed ones."""
    torch.manual_seed(0)
    torch._dynamo.reset()
    net: nn.Module = ML3DResNet().cuda()
    if n > 4 and not training:
        net = with_quicker_convolutions(net)
    if n > 2:
        net.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    if n > 5:
        compile_parts(net)
    kernels = torch.backends.cudnn.flags(enabled=True, benchmark=n > 3, allow_tf32=False)
    with kernels, torch.autocast("cuda", torch.bfloat16, enabled=n > 1):
        yield net


def operations(net: nn.Module, frames: torch.Tensor) -> int:
    """Multiplications and additions of a forward pass."""
    return 2 * sum(w.numel() for w in net.parameters() if w.ndim == 5) * frames.numel()


def bench_inference(rate: float) -> list[Row]:
    """Windows of 10 frames, one new frame in each: the stride of 1."""
    rows = []
    for shape in ((250, 250), (84, 143)):
        frames = torch.rand(4, 1, 10, *shape, device="cuda")
        for n, name in enumerate(MEASURES, 1):
            with measures(n) as net, torch.no_grad():
                taken = seconds(functools.partial(net, frames))
                share = operations(net, frames) / taken / rate
            goal = ">= 60 frames/s" if n == len(MEASURES) and shape == (250, 250) else ""
            words = f"inference, {shape[0]} x {shape[1]} px, {'and ' if n > 1 else ''}{name}"
            speed = f"{len(frames) / taken:,.1f} frames/s"
            rows.append((words, speed, goal, f"{100 * share:.0f} % of the matrix rate"))
    return rows


def bench_training(rate: float) -> list[Row]:
    """Forward and backward pass and a step of Adam."""
    rows = []
    for batch, side in ((4, 250), (8, 64)):
        frames = torch.rand(batch, 1, 10, side, side, device="cuda")
        targets = (torch.rand(batch, 3, 10, side, side, device="cuda") > 0.99).float()
        for n in (2, 3, 4, 6):
            with measures(n, training=True) as net:
                optimizer = torch.optim.Adam(net.parameters(), lr=1e-4)
                taken = seconds(functools.partial(train_step, net, optimizer, frames, targets))
                share = 3 * operations(net, frames) / taken / rate  # the backward pass counts twice
            goal = ">= 40 %" if n == len(MEASURES) else ""
            measure = f"{'and ' if n > 2 else ''}{MEASURES[n - 1]}"
            words = f"training, {batch} windows of {side} x {side} px, {measure}"
            speed = f"{10 * batch / taken:,.0f} frames/s"
            rows.append((words, f"{100 * share:.0f} % of the matrix rate", goal, speed))
    return rows


def train_step(
    net: nn.Module, optimizer: torch.optim.Optimizer, frames: torch.Tensor, targets: torch.Tensor
) -> None:
    """Forward and backward pass and a step of the optimizer."""
    optimizer.zero_grad(set_to_none=True)
    ml3d_loss(net(frames), targets)[0].backward()
    optimizer.step()


def bench_simulator(cfg: Config) -> list[Row]:
    """Frames of 250 x 250 px with 60 bubbles, drawn on the card, and windows made by a worker."""
    scene = cam_scene(cfg, 0)
    bank = psf_bank(cfg)
    n_frames = 2000
    bubbles = advect(
        scene.mask,
        scene.maps,
        n_frames=n_frames,
        n_bubbles=60,
        n_psf=len(bank),
        rng=np.random.default_rng(0),
    )
    draw = functools.partial(
        synthesize,
        bubbles,
        bank,
        scene.mask.shape,
        n_frames=n_frames,
        device="cuda",
        batch_frames=128,
    )
    drawn = f"{n_frames / seconds(draw):,.0f} frames/s"
    start = time.perf_counter()
    simulate_block(
        scene.mask,
        scene.maps,
        bank,
        n_frames=n_frames,
        n_bubbles=60,
        device="cuda",
        batch_frames=128,
        rng=np.random.default_rng(0),
    )
    simulated = f"{n_frames / (time.perf_counter() - start):,.0f} frames/s"
    windows = training_windows(RECIPES["ml3d"](cfg), cfg)
    windows[0]  # the first one makes what all share
    start = time.perf_counter()
    n_seen = sum(windows[step].frames[:, :, 0, 0].numel() for step in range(1, 6))
    made = f"{n_seen / (time.perf_counter() - start):,.0f} frames/s"
    return [
        ("frames drawn", drawn, ">= 20,000", "250 x 250 px, 60 bubbles, one process"),
        ("simulate_block", simulated, "", "with drift of the bubbles, and back to the CPU"),
        ("windows for a training, a worker", made, "", "whole frames, on the CPU"),
    ]


def bench_use(cfg: Config) -> list[Row]:
    """`predict_maps` as users call it, and the scores of shipped weights in bfloat16."""
    rows: list[Row] = []
    net: nn.Module = ML3DResNet()
    for shape in ((250, 250), (84, 143)):
        frames = np.random.default_rng(0).random((200, *shape), np.float32)
        for _ in range(2):  # the first time compiles
            start = time.perf_counter()
            chunks = predict_maps(net, frames, device="cuda", precision="bfloat16", compiled=True)
            for _, maps in chunks:
                decode_offsets(maps, 60, threshold=0.5)
            speed = len(frames) / (time.perf_counter() - start)
        words = f"from frames to bubbles, {shape[0]} x {shape[1]} px"
        rows.append((words, f"{speed:,.1f} frames/s", "", "stride 1, bfloat16, compiled"))
    block = seeded_sequence(SimulatedSource(cfg, "validation"), 60, cfg.seed, "benchmark", 0)
    n_true = np.bincount(block.truth["frame"], minlength=60)
    net = load_network("ml3d", cfg.ml3d.weights)
    p = {}
    for precision in ("float32", "bfloat16"):
        chunks = predict_maps(
            net, block.frames, window=net.about["window"], device="cuda", precision=precision
        )
        maps = torch.cat([part for _, part in chunks], dim=1)
        p[precision] = maps[0]
        near = score_bubbles(decode_offsets(maps, n_true), block.truth)["jaccard_near"]
        words = f"Jaccard index at 0.25 px, {precision}"
        rows.append((words, f"{near:.4f}", "", "weights shipped, simulated frames"))
    apart = float((p["float32"] - p["bfloat16"]).abs().max())
    rows.append(("largest difference of p", f"{apart:.4f}", "", "between the two"))
    return rows


def keep(rows: list[Row]) -> None:
    """Put the rows where the book reads them."""
    table = pd.DataFrame(rows, columns=["what", "measured", "asked", "note"])
    write_atomic(RESULTS / "benchmark.csv", table.to_csv(index=False).encode())
    about = json.loads((RESULTS / "about.json").read_text(encoding="utf-8"))
    about["benchmark"] = {
        "date": str(dt.date.today()),
        "revision": revision(),
        "hardware": torch.cuda.get_device_name(),
        "torch": torch.__version__,
    }
    write_atomic(RESULTS / "about.json", json.dumps(about, indent=1).encode())


def bench_gpu() -> list[Row]:
    """All rows; none where there is no CUDA device."""
    if not torch.cuda.is_available():
        return []
    cfg = load_config("paper")
    rate, copying = ceilings()
    card = f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    return [
        ("product of bfloat16 matrices", f"{rate / 1e12:,.0f} TFLOP/s", "", card),
        ("copy, read and written", f"{copying / 1e12:.2f} TB/s", "", ""),
        *bench_inference(rate),
        *bench_training(rate),
        *bench_simulator(cfg),
        *bench_use(cfg),
    ]
