"""Other software on the same frames in the same run, and how the cost of the chain grows."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
from scipy.optimize import curve_fit, linear_sum_assignment
from skimage.feature import peak_local_max

from ulmpaper.core.filters import svd_filter
from ulmpaper.core.records import bubble_table
from ulmpaper.core.testcard import simulate_testcard
from ulmpaper.core.track import drop_short, link
from ulmpaper.metrics.bubbles import detection_scores, match_bubbles
from ulmpaper.pipeline.detect import locate

Row = tuple[str, str, str, str]
SHAPE, N_FRAMES, N_BUBBLES, FLOOR, REACH_PX = (84, 143), 200, 40, 0.25, 2.0
MIN_LENGTH = 15


# --- the other chains --------------------------------------------------------------------------


def plain_locate(frames: np.ndarray) -> pd.DataFrame:
    """As one writes it with scikit-image and scipy: maxima, and a Gaussian fitted to each."""
    grid = np.stack(np.mgrid[-2:3, -2:3]).reshape(2, -1).astype(float)

    def spot(at: np.ndarray, height: float, z: float, x: float, width: float) -> np.ndarray:
        return height * np.exp(-((at[0] - z) ** 2 + (at[1] - x) ** 2) / (2 * width**2))

    rows = []
    for t, frame in enumerate(frames):
        for z, x in peak_local_max(
            frame, min_distance=1, threshold_abs=FLOOR, exclude_border=2, num_peaks=N_BUBBLES
        ):
            window = frame[z - 2 : z + 3, x - 2 : x + 3].ravel()
            try:
                (height, dz, dx, _), _ = curve_fit(spot, grid, window, [window.max(), 0, 0, 1.2])
            except RuntimeError:  # the fit did not converge
                continue
            rows.append((t, z + dz, x + dx, height))
    return bubble_table(*np.array(rows).T)


def plain_link(bubbles: pd.DataFrame) -> pd.DataFrame:
    """The Hungarian method from frame to frame, in a loop."""
    track = np.full(len(bubbles), -1)
    rows = bubbles.groupby("frame").indices
    places = bubbles[["z", "x"]].to_numpy()
    n_tracks = 0
    for frame in sorted(rows):
        here = rows[frame]
        before = rows.get(frame - 1, np.empty(0, dtype=int))
        if len(before):
            distance = np.linalg.norm(places[before][:, None] - places[here], axis=2)
            cost = np.where(distance > REACH_PX, 1e6, distance)
            for i, j in zip(*linear_sum_assignment(cost), strict=True):
                if cost[i, j] < 1e6:
                    track[here[j]] = track[before[i]]
        for j in here[track[here] < 0]:
            track[j] = n_tracks
            n_tracks += 1
    return drop_short(bubbles.assign(track=track), MIN_LENGTH)


def trackpy_chain() -> tuple[Callable, Callable] | None:
    """Its `batch` and `link`, quiet and in one process; None where it is not installed."""
    try:
        import trackpy
    except ImportError:
        return None
    trackpy.quiet()

    def find(frames: np.ndarray) -> pd.DataFrame:
        found = trackpy.batch(frames, 5, minmass=FLOOR, separation=3, processes=1, preprocess=True)
        return bubble_table(found["frame"], found["y"], found["x"], found["mass"])

    def join(bubbles: pd.DataFrame) -> pd.DataFrame:
        named = bubbles.rename(columns={"z": "y"})
        linked = trackpy.link(named, REACH_PX, pos_columns=["y", "x"])
        linked = linked.rename(columns={"y": "z", "particle": "track"})
        return drop_short(linked.sort_values(["track", "frame"]), MIN_LENGTH)

    return find, join


def timed(call: Callable, *arguments: object) -> tuple[object, float]:
    """What a call returns, and its CPU time [s]."""
    start = time.process_time()
    result = call(*arguments)
    return result, time.process_time() - start


def bench_peers() -> list[Row]:
    """Finding and linking by others, with their scores; the clutter filter by a whole SVD."""
    rng = np.random.default_rng(0)
    block = simulate_testcard(n_frames=N_FRAMES, n_bubbles=N_BUBBLES, shape_px=SHAPE, rng=rng)

    def own_link(bubbles: pd.DataFrame) -> pd.DataFrame:
        return drop_short(link(bubbles, max_distance_px=REACH_PX), MIN_LENGTH)

    chains = {
        "ulmpaper, parabola": (
            lambda frames: locate(frames, "parabola", N_BUBBLES, min_score=FLOOR),
            own_link,
        ),
        "scikit-image, curve_fit, Hungarian": (plain_locate, plain_link),
    }
    if other := trackpy_chain():
        chains["trackpy"] = other
    rows = []
    ours: dict[str, float] = {}
    for name, (find, join) in chains.items():
        found, find_s = timed(find, block.frames)
        tracks, link_s = timed(join, found)
        ours = ours or {"find": find_s, "link": link_s}
        pairs = match_bubbles(found, block.truth, max_distance_px=0.5)
        jaccard = detection_scores(pairs, max_distance_px=0.5)["jaccard"]
        words = f"{find_s / ours['find']:.1f} x; Jaccard index at 0.5 px {jaccard:.3f}"
        rows.append((f"find, {name}", f"{N_FRAMES / find_s:,.0f} frames/s", "", words))
        words = f"{link_s / ours['link']:.1f} x; {tracks['track'].nunique()} tracks"
        rows.append((f"link, {name}", f"{N_FRAMES / link_s:,.0f} frames/s", "", words))
    if "trackpy" not in chains:
        rows.append(("trackpy", "not installed", "", "pip install trackpy"))
    return rows + bench_filter()


def bench_filter() -> list[Row]:
    """The clutter filter beside numpy's SVD of the whole block."""
    rng = np.random.default_rng(0)
    shape = (400, 78, 118)
    iq = (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)

    def whole() -> np.ndarray:
        u, s, v = np.linalg.svd(iq.reshape(len(iq), -1), full_matrices=False)
        s[:9] = 0
        return ((u * s) @ v).reshape(shape)

    _, own_s = timed(svd_filter, iq, 10)
    _, whole_s = timed(whole)
    return [
        ("clutter filter, ulmpaper", f"{own_s:.2f} s", "", "400 frames of 78 x 118 px, IQ"),
        ("clutter filter, numpy's SVD", f"{whole_s:.2f} s", "", f"{whole_s / own_s:.1f} x"),
    ]


# --- how the cost grows ------------------------------------------------------------------------

GROWTH = {
    "frames": [(n, 40, 128) for n in (200, 2_000, 20_000)],
    "bubbles a frame": [(100, n, 400) for n in (10, 100, 500, 2_000)],
    "side of a frame [px]": [(100, 40, n) for n in (64, 128, 256, 512, 1_000)],
}


def film(n_frames: int, n_bubbles: int, side: int) -> Iterator[np.ndarray]:
    """Blocks of 100 frames: spots that move evenly, on noise."""
    rng = np.random.default_rng(0)
    at = rng.uniform(4, side - 5, (n_bubbles, 2))
    step = rng.normal(0, 0.3, (n_bubbles, 2))
    around = np.arange(-3, 4)
    for first in range(0, n_frames, 100):
        frames = rng.random((min(100, n_frames - first), side, side), dtype=np.float32) * 0.1
        for frame in frames:
            at += step
            out = (at < 4) | (at > side - 5)
            step[out] *= -1
            at = np.clip(at, 4, side - 5)
            pixel = np.rint(at).astype(int)
            away = pixel[:, :, None] + around - at[:, :, None]
            spots = np.exp(-(away[:, 0, :, None] ** 2 + away[:, 1, None, :] ** 2) / 2)
            z = pixel[:, 0, None, None] + around[:, None]
            x = pixel[:, 1, None, None] + around
            np.add.at(
                frame, (np.broadcast_to(z, spots.shape), np.broadcast_to(x, spots.shape)), spots
            )
        yield frames


def grow(n_frames: int, n_bubbles: int, side: int) -> None:
    """Run the chain on a film; print its CPU time [s] and the peak of memory [MB]."""
    import resource

    from ulmpaper.pipeline.blocks import MapTotals, ulm_blocks

    settings = {"locate.n_bubbles": n_bubbles, "locate.min_score": 0.5}
    settings |= {"acquisition.px_mm": 0.1, "acquisition.frame_rate_hz": 1000.0, "blocks.n_jobs": 1}
    from ulmpaper.config import load_config

    cfg = load_config("quick", settings)
    totals, spent = MapTotals(cfg), 0.0
    for frames in film(n_frames, n_bubbles, side):
        start = time.process_time()
        for result in ulm_blocks([frames], cfg):
            totals.add(result)
        spent += time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    print(json.dumps({"cpu_s": spent, "peak_mb": peak}))


def bench_growth() -> list[Row]:
    """Exponents of CPU time and memory, each size in a process of its own."""
    rows = []
    for axis, sizes in GROWTH.items():
        place = next(k for k in range(3) if len({size[k] for size in sizes}) > 1)
        measured = []
        for size in sizes:
            command = [sys.executable, __file__, *map(str, size)]
            said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            measured.append(json.loads(said))
        at = np.log([size[place] for size in sizes])
        cpu, peak = (np.array([m[name] for m in measured]) for name in ("cpu_s", "peak_mb"))
        # Of the upper half, where what does not grow counts least.
        slope = np.polyfit(at[-2:], np.log(cpu[-2:]), 1)[0]
        low, high = sizes[0][place], sizes[-1][place]
        words = f"{low:,} to {high:,}: {cpu[0]:.2f} to {cpu[-1]:.2f} s, "
        words += f"{peak[0]:.0f} to {peak[-1]:.0f} MB"
        rows.append((f"time by {axis}", f"to the power {slope:.2f}", "", words))
    return rows


if __name__ == "__main__":
    grow(*map(int, sys.argv[1:]))
