"""Write golden.json: what the package makes of a few frames, for the tests of the lab's JavaScript.

    python tests/lab/make_golden.py

Frames are whole numbers up to 65535, in base64, so that both sides read the same.
"""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ulmpaper.core import drop_short, interpolate, link, locate_peaks, map_sums, simulate_testcard
from ulmpaper.core.records import bubble_table
from ulmpaper.metrics import score_bubbles

GOLDEN = Path(__file__).with_name("golden.json")
METHODS = ("parabola", "radial", "weighted", "none")
SHAPE = (40, 48)
UPSAMPLE = 10


def main() -> None:
    """Write the file anew."""
    GOLDEN.write_text(json.dumps({**golden(), "files": files()}) + "\n", encoding="utf-8")


def golden() -> dict[str, Any]:
    """Everything that the tests compare with."""
    rng = np.random.default_rng(20)
    return {
        "located": [
            located(noisy_frames(rng), n_bubbles=12, min_score=9000.0),
            located(noisy_frames(rng), n_bubbles=60, min_score=0.0),
            located(saturated_frames(rng), n_bubbles=40, min_score=20.0),
        ],
        "tracked": [tracked(rng, step) for step in (0.6, 1.5)],
        "scored": [scored(rng, spread) for spread in (0.15, 0.4)],
    }


def noisy_frames(rng: np.random.Generator) -> NDArray:
    """Three frames of a flow, some of its spots on top of each other."""
    block = simulate_testcard(n_frames=3, n_bubbles=14, shape_px=SHAPE, noise=0.04, rng=rng)
    return np.rint(block.frames * 30000).astype(np.uint16)


def saturated_frames(rng: np.random.Generator) -> NDArray:
    """Two frames of 8 bits, coarse and too bright: many plateaus, large and small."""
    block = simulate_testcard(n_frames=2, n_bubbles=10, shape_px=SHAPE, noise=0.03, rng=rng)
    return np.minimum(np.rint(block.frames * 45) * 6, 255).astype(np.uint16)


def located(frames: NDArray, *, n_bubbles: int, min_score: float) -> dict[str, Any]:
    """Frames, and the bubbles that each method finds in them."""
    return {
        "shape": list(frames.shape),
        "frames": base64.b64encode(frames.astype("<u2").tobytes()).decode(),
        "n_bubbles": n_bubbles,
        "min_score": min_score,
        "found": {
            method: rows(
                locate_peaks(frames.astype(np.float32), method, n_bubbles, min_score=min_score)
            )
            for method in METHODS
        },
    }


def tracked(rng: np.random.Generator, step_px: float) -> dict[str, Any]:
    """Bubbles in motion, some missing and some false; their tracks and the map of the long ones."""
    n_frames, n_moving, max_distance_px, min_length = 40, 11, 1.6, 5
    start = rng.uniform(0, 1, (n_moving, 2)) * SHAPE
    way = rng.normal(0, step_px / 2, (n_frames, n_moving, 2)) * 0.4 + rng.normal(
        0, step_px / 2, (n_moving, 2)
    )
    at = start + np.cumsum(way, axis=0)
    frame = np.repeat(np.arange(n_frames), n_moving)
    is_seen = rng.uniform(size=len(frame)) < 0.94
    false = rng.uniform(0, 1, (2 * n_frames, 2)) * SHAPE
    # Not on the edge of a map pixel, where rounding decides.
    z, x = np.concatenate([at.reshape(-1, 2)[is_seen], false]).round(3).T + 0.00037
    frame = np.concatenate([frame[is_seen], np.repeat(np.arange(n_frames), 2)])
    table = bubble_table(frame, z, x, np.ones(len(z))).sort_values("frame", kind="stable")
    tracks = link(table, max_distance_px=max_distance_px)
    long = drop_short(tracks, min_length)
    paths = interpolate(
        long, px_mm=0.1, frame_rate_hz=1000, max_distance_px=max_distance_px, upsample=UPSAMPLE
    )
    sums = map_sums(paths, SHAPE, upsample=UPSAMPLE)
    return {
        "shape": list(SHAPE),
        "n_frames": n_frames,
        "bubbles": table[["frame", "z", "x"]].to_numpy().tolist(),
        "max_distance_px": max_distance_px,
        "track": table.merge(tracks, on=["frame", "z", "x"])["track"].tolist(),
        "min_length": min_length,
        "n_long": int(long["track"].nunique()),
        "upsample": UPSAMPLE,
        "map_pixel": sums.pixel.tolist(),
        "map_count": sums.count.astype(int).tolist(),
    }


def scored(rng: np.random.Generator, spread_px: float) -> dict[str, Any]:
    """Found and true bubbles of some frames, and their scores."""
    frame = np.repeat(np.arange(4), 12)
    truth = pd.DataFrame({"frame": frame, "z": rng.uniform(0, 9, 48), "x": rng.uniform(0, 9, 48)})
    off = rng.normal(0, spread_px, (48, 2))
    found = truth.assign(z=truth["z"] + off[:, 0], x=truth["x"] + off[:, 1])
    found = found[rng.uniform(size=48) < 0.85]
    false = pd.DataFrame({"frame": [0, 2, 3], "z": rng.uniform(0, 9, 3), "x": rng.uniform(0, 9, 3)})
    found = pd.concat([found, false]).sort_values("frame", kind="stable", ignore_index=True)
    found, truth = found.round(3), truth.round(3)
    return {
        "found": found.to_numpy().tolist(),
        "truth": truth.to_numpy().tolist(),
        "scores": score_bubbles(found, truth),
    }


def files() -> list[dict[str, Any]]:
    """Small recordings as files in base64, with their values in double precision."""
    import tifffile

    values = (np.arange(2 * 5 * 6).reshape(2, 5, 6) * 37 % 251).astype(float)
    made = []
    for dtype in ("<f4", "<f8", "|u1", "<u2", "<i2", "<i4", "<u4", "<i8"):
        with io.BytesIO() as file:
            np.save(file, values.astype(dtype))
            made.append((f"npy {dtype}", file.getvalue()))
    for dtype, order in (("u1", "<"), ("u2", "<"), ("u2", ">"), ("f4", "<"), ("f4", ">")):
        with io.BytesIO() as file:
            tifffile.imwrite(
                file,
                values.astype(dtype),
                byteorder=order,
                photometric="minisblack",
                rowsperstrip=3,
            )
            made.append((f"tiff {order}{dtype}", file.getvalue()))
    return [
        {
            "name": name,
            "bytes": base64.b64encode(content).decode(),
            "shape": list(values.shape),
            "values": values.reshape(-1).tolist(),
        }
        for name, content in made
    ]


def rows(bubbles: pd.DataFrame) -> list[list[float]]:
    """Rows (frame, z, x, score)."""
    return bubbles[["frame", "z", "x", "score"]].to_numpy(dtype=float).round(9).tolist()


if __name__ == "__main__":
    main()
