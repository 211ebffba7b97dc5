"""Speed and memory, measured on this machine and printed as a Markdown table.

    make bench                      all
    python benchmarks/bench.py ulm  one section
    python benchmarks/bench.py gpu  the paper's network on a GPU, see bench_gpu.py
    python benchmarks/bench.py --write   also put the table into benchmarks/README.md

Speeds of steps are frames per CPU second of one core: best of several runs in one process, which is
what a busy machine disturbs least. Whole processes are timed from outside, start-up included:
median of several runs."""

from __future__ import annotations

import argparse
import datetime as dt
import functools
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import joblib
import numpy as np
import torch
from bench_gpu import bench_gpu, keep
from bench_peers import bench_growth, bench_peers
from scipy import io
from torch import nn

from ulmpaper.config import METHODS, load_config
from ulmpaper.core.records import Block, check_choice
from ulmpaper.core.render import map_sums
from ulmpaper.core.testcard import simulate_testcard
from ulmpaper.core.track import drop_short, interpolate, link
from ulmpaper.io.store import BlockStore
from ulmpaper.metrics.bubbles import detection_scores, match_bubbles
from ulmpaper.networks.localize import load_network
from ulmpaper.networks.model import ML3DResNet
from ulmpaper.networks.predict import predict_counts, predict_maps
from ulmpaper.networks.targets import decode_offsets
from ulmpaper.networks.weights import resolve_precision
from ulmpaper.pipeline.detect import locate
from ulmpaper.simulator.flow import displacement_maps
from ulmpaper.simulator.phantom import phantom_block
from ulmpaper.simulator.simulate import (
    cam_scene,
    invivo_block,
    invivo_scene,
    psf_bank,
    simulate_block,
)
from ulmpaper.simulator.vessels import grow_network, photograph, segment_vessels

README = Path(__file__).with_name("README.md")
SHAPE = (84, 143)
Row = tuple[str, str, str, str]


def best_cpu_s(call: Callable[[], object], repeats: int = 5) -> float:
    """Least CPU time of a call [s]."""
    taken = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        taken.append(time.process_time() - start)
    return min(taken)


def whole_process(command: list[str], repeats: int = 3) -> tuple[float, float, float]:
    """Median wall time [s], CPU time [s] and peak memory [MB] of a command."""
    runs = []
    for _ in range(repeats):
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
        runs.append(
            (time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1000)
        )
    wall, cpu, peak = (statistics.median(values) for values in zip(*runs, strict=True))
    return wall, cpu, peak


def bench_ulm() -> list[Row]:
    """Steps of the classical chain at 84 x 143 px and 40 bubbles a frame."""
    n_frames = 400
    block = simulate_testcard(
        n_frames=n_frames, n_bubbles=40, shape_px=SHAPE, rng=np.random.default_rng(0)
    )
    rows = []
    for method in METHODS:
        speed = n_frames / best_cpu_s(lambda m=method: locate(block.frames, method=m))
        rows.append(
            (
                f"locate, {method}",
                f"{speed:,.0f} frames/s",
                ">= 1,500" if method == "radial" else "",
                "",
            )
        )
    bubbles = locate(block.frames)
    scale = {"px_mm": 0.1, "frame_rate_hz": 1000.0}
    tracks = drop_short(link(bubbles))
    paths = interpolate(tracks, **scale)
    speed = n_frames / best_cpu_s(lambda: interpolate(drop_short(link(bubbles)), **scale))
    rows.append(
        (
            "link + interpolate",
            f"{speed:,.0f} frames/s",
            ">= 1,500",
            f"{len(bubbles) / n_frames:.0f} a frame",
        )
    )
    speed = n_frames / best_cpu_s(lambda: map_sums(paths, SHAPE))
    rows.append(("all maps", f"{speed:,.0f} frames/s", "", f"{len(paths):,} points"))
    return rows


def bench_process() -> list[Row]:
    """Whole runs of the command line, and memory against the number of frames."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        block = simulate_testcard(
            n_frames=800, n_bubbles=40, shape_px=SHAPE, rng=np.random.default_rng(0)
        )
        mat = Path(folder) / "frames.mat"
        io.savemat(mat, {"frames": np.moveaxis(block.frames, 0, 2)})
        command = [sys.executable, "-m", "ulmpaper", "ulm"]
        out = ["-o", f"{folder}/out"]
        wall, cpu, peak = whole_process([*command, str(mat), *out])
        rows.append(
            (
                "800 frames, .mat to maps",
                f"{wall:.1f} s",
                "<= 4 s",
                f"CPU {cpu:.1f} s, peak {peak:.0f} MB",
            )
        )
        peaks = []
        for n_frames in (2_000, 20_000):
            path = Path(folder) / f"{n_frames}.h5"
            with BlockStore(path, "w") as store:
                for start in range(0, n_frames, 1000):
                    rng = np.random.default_rng(start)
                    store.append(
                        simulate_testcard(n_frames=1000, n_bubbles=40, shape_px=SHAPE, rng=rng)
                    )
            wall, cpu, peak = whole_process(
                [*command, str(path), "-o", f"{folder}/out-{n_frames}"], repeats=1
            )
            peaks.append(peak)
            speed = f"{n_frames / cpu:,.0f} frames/CPU s"
            rows.append(
                (
                    f"{n_frames:,} frames, .h5 to maps",
                    f"{peak:.0f} MB",
                    "",
                    f"{wall:.1f} s, {speed}",
                )
            )
        rows.append(
            ("memory, 20,000 over 2,000 frames", f"{peaks[1] / peaks[0]:.2f}", "<= 1.3", "")
        )
        rows += bench_stream(folder)
    wall, _, peak = whole_process([sys.executable, "-c", "import ulmpaper"], repeats=5)
    bare, _, _ = whole_process([sys.executable, "-c", ""], repeats=5)
    rows.append(
        ("import ulmpaper", f"{wall - bare:.3f} s", "< 0.3 s", "beyond the interpreter's own start")
    )
    return rows


def bench_stream(folder: str) -> list[Row]:
    """In vivo blocks of 800 frames, from a file of IQ to maps, in two processes."""
    cfg = load_config("quick", {"invivo.n_frames": 800})
    iq = invivo_block(cfg, 0, invivo_scene(cfg)).frames
    walls = []
    for n_blocks in (1, 11):
        path = Path(folder) / f"{n_blocks}.npy"
        stored = np.lib.format.open_memmap(path, "w+", iq.dtype, (n_blocks * 800, *iq.shape[1:]))
        for first in range(0, len(stored), 800):
            stored[first : first + 800] = iq
        stored.flush()
        command = [sys.executable, "-m", "ulmpaper", "ulm", str(path), "-o", f"{path}-out"]
        command += ["-j", "2", "--set", "filter.svd_low=10", "--set", "blocks.n_frames=800"]
        walls.append(whole_process(command, repeats=1)[0])
        path.unlink()
    size = f"{iq.shape[1]} x {iq.shape[2]} px, IQ, 9 components removed"
    return [
        (
            "in vivo block of 800 frames, alone",
            f"{walls[0]:.1f} s",
            "",
            f"start-up included; {size}",
        ),
        ("the same, each of ten more", f"{(walls[1] - walls[0]) / 10:.2f} s", "<= 0.8 s", "-j 2"),
    ]


def bench_simulate() -> list[Row]:
    """What training and test data cost; of two processes each measures its own CPU time."""
    cfg, n_frames = load_config("paper"), 500
    scene, bank = cam_scene(cfg, 0), psf_bank(cfg)

    def speed_of(call: Callable[[], object], n_frames: int, n_processes: int) -> float:
        times = joblib.Parallel(n_jobs=n_processes)(
            joblib.delayed(best_cpu_s)(call) for _ in range(n_processes)
        )
        return sum(n_frames / taken for taken in times)

    def block() -> Block:
        rng = np.random.default_rng(0)
        return simulate_block(
            scene.mask, scene.maps, bank, n_frames=n_frames, n_bubbles=60, rng=rng
        )

    rows = []
    for n_processes, words, asked in ((1, "one process", ""), (2, "two processes", ">= 1,500")):
        speed = f"{speed_of(block, n_frames, n_processes):,.0f} frames/s"
        rows.append((f"simulate_block, {words}", speed, asked, "250 x 250 px, 60 bubbles a frame"))
    scale = {"px_mm": cfg.acquisition.px_mm, "frame_rate_hz": cfg.acquisition.frame_rate_hz}
    taken = best_cpu_s(lambda: displacement_maps(scene.mask, **scale))
    rows.append(("displacement maps", f"{taken:.2f} s", "<= 0.5 s", "250 x 250 px"))
    rng = np.random.default_rng(0)
    taken = best_cpu_s(lambda: segment_vessels(photograph(grow_network(rng=rng), rng=rng)))
    rows.append(("picture of a CAM and its mask", f"{taken:.2f} s", "<= 5 s", "512 x 512 px"))
    speed = f"{speed_of(lambda: phantom_block(1, n_frames=10), 10, 2):.1f} frames/s"
    rows.append(
        ("flow phantom, two processes", speed, ">= 8", "PyMUST, 84 x 143 px, 3 tilts, 45 bubbles")
    )
    brain, brain_cfg = invivo_scene(cfg), load_config("paper", {"invivo.n_frames": 200})
    speed = f"{200 / best_cpu_s(lambda: invivo_block(brain_cfg, 0, brain)):,.0f} frames/s"
    rows.append(("invivo_block", speed, "", "78 x 118 px, tissue and noise"))
    peaks = []
    with tempfile.TemporaryDirectory() as folder:
        for n_frames in (800, 4000):
            command = [
                sys.executable,
                "-m",
                "ulmpaper",
                "simulate",
                "cam",
                "-o",
                f"{folder}/{n_frames}.h5",
            ]
            wall, cpu, peak = whole_process(
                [*command, "--set", f"cam.n_frames={n_frames}"], repeats=1
            )
            peaks.append(peak)
            speed = f"{n_frames / cpu:,.0f} frames/CPU s"
            rows.append(
                (
                    f"{n_frames:,} frames, settings to .h5",
                    f"{peak:.0f} MB",
                    "",
                    f"{wall:.1f} s, {speed}",
                )
            )
    rows.append(("memory, 4,000 over 800 frames", f"{peaks[1] / peaks[0]:.2f}", "<= 1.3", ""))
    return rows


def bench_networks() -> list[Row]:
    """Networks of the profile quick in one CPU thread: beside a convolution, in use, memory."""
    torch.set_num_threads(1)
    cfg, rows = load_config("quick"), []
    size = {"features": cfg.ml3d.features, "blocks": cfg.ml3d.blocks}
    net = ML3DResNet(**size).to(memory_format=torch.channels_last_3d)
    bare = nn.Conv3d(cfg.ml3d.features, cfg.ml3d.features, 3, padding=1).to(
        memory_format=torch.channels_last_3d
    )
    shape = (cfg.ml3d.batch, 1, cfg.ml3d.window, cfg.ml3d.crop_px, cfg.ml3d.crop_px)
    frames = torch.rand(shape)
    features = torch.rand(shape).expand(-1, cfg.ml3d.features, -1, -1, -1)
    features = features.contiguous(memory_format=torch.channels_last_3d)
    auto = resolve_precision("auto", torch.device("cpu"))

    def rate(layer: nn.Module, values: torch.Tensor, dtype: torch.dtype, training: bool) -> float:
        """Weights times positions per CPU second: multiplications of a forward pass."""

        def run() -> None:
            with (
                torch.set_grad_enabled(training),
                torch.autocast("cpu", dtype, enabled=dtype != torch.float32),
            ):
                output = layer(values.requires_grad_(training and layer is bare))
            if training:
                output.float().square().sum().backward()
                layer.zero_grad()

        return (
            sum(w.numel() for w in layer.parameters() if w.ndim == 5)
            * frames.numel()
            / best_cpu_s(run)
        )

    for dtype in dict.fromkeys((torch.float32, auto)):
        for training in (False, True):
            own, least = (
                rate(layer, values, dtype, training)
                for layer, values in ((net, frames), (bare, features))
            )
            words = (
                f"{'training' if training else 'inference'}, {str(dtype).removeprefix('torch.')}"
            )
            speed = f"{2e-9 * own * (3 if training else 1):,.0f} GFLOP/s"  # backward counts twice
            rows.append(
                (
                    f"rate over that of a bare conv3d, {words}",
                    f"{own / least:.2f}",
                    ">= 0.60",
                    speed,
                )
            )
    block = phantom_block(1, n_frames=60)
    amplitude, n_true = np.abs(block.frames), np.bincount(block.truth["frame"], minlength=60)
    net = load_network("ml3d")
    for stride in (1, 2, 5, 10, None):
        use = {"stride": stride, "window": net.about["window"], "precision": "auto"}
        maps = torch.cat([part for _, part in predict_maps(net, amplitude, **use)], dim=1)
        call = functools.partial(predict_maps, net, amplitude, **use)
        speed = 60 / best_cpu_s(lambda call=call: list(call()), repeats=2)  # type: ignore[misc]
        match = match_bubbles(decode_offsets(maps, n_true), block.truth, max_distance_px=0.5)
        near = detection_scores(match, max_distance_px=0.25)["jaccard"]
        words = f"Jaccard index at 0.25 px: {near:.3f}, {len(amplitude)} frames of the phantom"
        name = "one pass" if stride is None else f"stride {stride}"
        rows.append((f"3DML-ResNet, {name}", f"{speed:,.1f} frames/s", "", words))
    counter = load_network("count")
    speed = 60 / best_cpu_s(lambda: predict_counts(counter, amplitude), repeats=2)
    rows.append(("counting network", f"{speed:,.0f} frames/s", "", "beside either"))
    script = """
import sys, numpy as np
from ulmpaper.networks.localize import load_network
from ulmpaper.networks.predict import predict_maps
frames = np.lib.format.open_memmap(sys.argv[1], "w+", np.float32, (int(sys.argv[2]), 84, 143))
frames[:] = np.random.default_rng(0).random(frames.shape[1:], np.float32)
for _ in predict_maps(load_network("ml3d"), frames, stride=None, precision="auto"):
    pass
"""
    peaks = []
    with tempfile.TemporaryDirectory() as folder:
        for n_frames in (400, 4000):
            _, _, peak = whole_process(
                [sys.executable, "-c", script, f"{folder}/a.npy", str(n_frames)], repeats=1
            )
            peaks.append(peak)
            rows.append(
                (
                    f"predict_maps of {n_frames:,} frames on disk",
                    f"{peak:.0f} MB",
                    "",
                    "84 x 143 px, one pass",
                )
            )
    rows.append(
        (
            "memory, 4,000 over 400 frames",
            f"{peaks[1] / peaks[0]:.2f}",
            "<= 1.3",
            "with the file's own pages",
        )
    )
    return rows


SECTIONS = {
    "ulm": bench_ulm,
    "process": bench_process,
    "simulate": bench_simulate,
    "networks": bench_networks,
}
SECTIONS |= {"peers": bench_peers, "growth": bench_growth, "gpu": bench_gpu}


def main() -> None:
    """Run the sections asked for and print their tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "sections", nargs="*", metavar="SECTION", help=f"any of {', '.join(SECTIONS)}"
    )
    parser.add_argument(
        "--write", action="store_true", help="put the tables into benchmarks/README.md"
    )
    arguments = parser.parse_args()
    python = platform.python_version()
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {python}, {dt.date.today()}"
    print(machine, end="\n\n")
    for name in arguments.sections or SECTIONS:
        rows = SECTIONS[check_choice(name, SECTIONS, "section")]()
        if not rows:
            print(f"{name}: there is no CUDA device here")
            continue
        table = "| what | measured | asked | |\n|---|---|---|---|\n"
        table += "".join("| " + " | ".join(row) + " |\n" for row in rows)
        print(table)
        if arguments.write:
            if name == "gpu":
                keep(rows)
            text = README.read_text(encoding="utf-8")
            start, end = f"<!-- {name} -->\n", f"<!-- end {name} -->"
            body = re.escape(start) + ".*?" + re.escape(end)
            README.write_text(
                re.sub(body, f"{start}{machine}\n\n{table}{end}", text, flags=re.S),
                encoding="utf-8",
            )


if __name__ == "__main__":
    main()
