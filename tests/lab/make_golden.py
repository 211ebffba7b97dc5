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


def main() -> None:
    """Write the file anew."""
    made = {**answered(cases(np.random.default_rng(20))), "files": files()}
    GOLDEN.write_text(json.dumps(made) + "\n", encoding="utf-8")


def cases(rng: np.random.Generator) -> dict[str, Any]:
    """What is given to both sides."""
    return {
        "located": [
            recorded(noisy_frames(rng), n_bubbles=12, min_score=9000.0),
            recorded(noisy_frames(rng), n_bubbles=60, min_score=0.0),
            recorded(saturated_frames(rng), n_bubbles=40, min_score=20.0),
        ],
        "tracked": [moving(rng, step) for step in (0.6, 1.5)],
        "scored": [found_and_true(rng, spread) for spread in (0.15, 0.4)],
    }


def answered(given: dict[str, Any]) -> dict[str, Any]:
    """The cases with what the package makes of them."""
    return {
        "located": [{**case, **located(case)} for case in given["located"]],
        "tracked": [{**case, **tracked(case)} for case in given["tracked"]],
        "scored": [{**case, **scored(case)} for case in given["scored"]],
    }


def noisy_frames(rng: np.random.Generator) -> NDArray:
    """Three frames of a flow, some of its spots on top of each other."""
    block = simulate_testcard(n_frames=3, n_bubbles=14, shape_px=SHAPE, noise=0.04, rng=rng)
    return np.rint(block.frames * 30000).astype(np.uint16)


def saturated_frames(rng: np.random.Generator) -> NDArray:
    """Two frames of 8 bits, coarse and too bright: many plateaus, large and small."""
    block = simulate_testcard(n_frames=2, n_bubbles=10, shape_px=SHAPE, noise=0.03, rng=rng)
    return np.minimum(np.rint(block.frames * 45) * 6, 255).astype(np.uint16)


def recorded(frames: NDArray, *, n_bubbles: int, min_score: float) -> dict[str, Any]:
    """Frames, and how to look for bubbles in them."""
    return {
        "shape": list(frames.shape),
        "frames": base64.b64encode(frames.astype("<u2").tobytes()).decode(),
        "n_bubbles": n_bubbles,
        "min_score": min_score,
    }


def located(case: dict[str, Any]) -> dict[str, Any]:
    """Rows (frame, z, x, score) of the bubbles that each method finds."""
    frames = np.frombuffer(base64.b64decode(case["frames"]), "<u2").reshape(case["shape"])
    found = {}
    for method in METHODS:
        table = locate_peaks(
            frames.astype(np.float32), method, case["n_bubbles"], min_score=case["min_score"]
        )
        rows = table[["frame", "z", "x", "score"]].to_numpy(dtype=float)
        found[method] = rows.round(9).tolist()
    return {"found": found}


def moving(rng: np.random.Generator, step_px: float) -> dict[str, Any]:
    """Bubbles in motion, some missing and some false, and how to link them."""
    n_frames, n_moving = 30, 9
    start = rng.uniform(0, 1, (n_moving, 2)) * SHAPE
    drift = rng.normal(0, step_px / 2, (n_moving, 2))
    way = rng.normal(0, 0.2 * step_px, (n_frames, n_moving, 2)) + drift
    at = start + np.cumsum(way, axis=0)
    frame = np.repeat(np.arange(n_frames), n_moving)
    is_seen = rng.uniform(size=len(frame)) < 0.94
    false = rng.uniform(0, 1, (2 * n_frames, 2)) * SHAPE
    # Not on the edge of a map pixel, where rounding decides.
    places = np.concatenate([at.reshape(-1, 2)[is_seen], false]).round(3) + 0.00037
    frame = np.concatenate([frame[is_seen], np.repeat(np.arange(n_frames), 2)])
    order = np.argsort(frame, kind="stable")
    return {
        "shape": list(SHAPE),
        "n_frames": n_frames,
        "bubbles": np.column_stack([frame, places.round(5)])[order].tolist(),
        "max_distance_px": 1.6,
        "min_length": 5,
        "upsample": 10,
    }


def tracked(case: dict[str, Any]) -> dict[str, Any]:
    """Track of each bubble, and the map of the long tracks."""
    frame, z, x = np.array(case["bubbles"]).T
    table = bubble_table(frame.astype(int), z, x, np.ones(len(z)))
    tracks = link(table, max_distance_px=case["max_distance_px"])
    long = drop_short(tracks, case["min_length"])
    paths = interpolate(
        long,
        px_mm=0.1,
        frame_rate_hz=1000,
        max_distance_px=case["max_distance_px"],
        upsample=case["upsample"],
    )
    sums = map_sums(paths, tuple(case["shape"]), upsample=case["upsample"])
    return {
        "track": table.merge(tracks, on=["frame", "z", "x"])["track"].tolist(),
        "n_long": int(long["track"].nunique()),
        "map_pixel": sums.pixel.tolist(),
        "map_count": sums.count.astype(int).tolist(),
    }


def found_and_true(rng: np.random.Generator, spread_px: float) -> dict[str, Any]:
    """Rows (frame, z, x) of found and of true bubbles: some missed, some false."""
    truth = np.column_stack([np.repeat(np.arange(4), 12), rng.uniform(0, 9, (48, 2))])
    found = truth + np.column_stack([np.zeros(48), rng.normal(0, spread_px, (48, 2))])
    false = np.column_stack([[0, 2, 3], rng.uniform(0, 9, (3, 2))])
    found = np.concatenate([found[rng.uniform(size=48) < 0.85], false])
    found = found[np.argsort(found[:, 0], kind="stable")]
    return {"found": found.round(3).tolist(), "truth": truth.round(3).tolist()}


def scored(case: dict[str, Any]) -> dict[str, Any]:
    """Scores of the found bubbles."""
    tables = [
        pd.DataFrame(case[name], columns=["frame", "z", "x"]).astype({"frame": int})
        for name in ("found", "truth")
    ]
    return {"scores": score_bubbles(*tables)}


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


if __name__ == "__main__":
    main()
