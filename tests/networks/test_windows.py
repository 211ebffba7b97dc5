"""Windows to train on: each step's own, wherever it is made, and true to their bubbles."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ulmpaper.config import load_config
from ulmpaper.core.records import Block, bubble_table
from ulmpaper.core.testcard import simulate_testcard
from ulmpaper.io.store import BlockStore
from ulmpaper.networks.targets import encode_offsets
from ulmpaper.networks.windows import (
    Batches,
    SimulatedSource,
    StoredSource,
    _flip,
    cut,
    seeded_sequence,
)
from ulmpaper.simulator.psf_from_frames import correlation_width
from ulmpaper.simulator.simulate import cam_block


def random_block(seed: int, n: int = 12) -> Block:
    """Frames that show a bubble's number in its pixel."""
    rng = np.random.default_rng(seed)
    frame, z, x = rng.integers(4, size=n), rng.uniform(-0.5, 29.49, n), rng.uniform(-0.5, 39.49, n)
    table = bubble_table(frame, z, x, np.arange(1.0, n + 1))
    frames = np.zeros((4, 30, 40), dtype=np.float32)
    frames[frame, np.floor(z + 0.5).astype(int), np.floor(x + 0.5).astype(int)] = table["score"]
    return Block(frames, table, 0.1, 1000.0)


def assert_true(block: Block) -> None:
    """Every bubble lies in the pixel that shows it, or one that a later bubble took."""
    for bubble in block.truth.itertuples():
        value = block.frames[
            bubble.frame, int(np.floor(bubble.z + 0.5)), int(np.floor(bubble.x + 0.5))
        ]
        assert value >= bubble.score


@given(st.integers(0, 10**6), st.tuples(st.booleans(), st.booleans(), st.booleans()), st.booleans())
@settings(max_examples=40, deadline=None)
def test_parts_and_their_mirror_images_keep_their_bubbles(
    seed: int, axes: tuple[bool, bool, bool], at_bubble: bool
) -> None:
    block, rng = random_block(seed), np.random.default_rng(seed)
    part = cut(block, 16, rng=rng, at_bubble=at_bubble)
    assert part.frames.shape == (4, 16, 16)
    assert len(part.truth) == len(part.truth.query("-0.5 <= z < 15.5 and -0.5 <= x < 15.5"))
    assert np.count_nonzero(part.frames) <= len(part.truth)
    assert not at_bubble or len(part.truth)
    assert_true(part)
    turned = _flip(part, np.array(axes))
    assert_true(turned)
    again = _flip(turned, np.array(axes))
    np.testing.assert_array_equal(again.frames, part.frames)
    np.testing.assert_allclose(
        again.truth[["frame", "z", "x"]], part.truth[["frame", "z", "x"]], atol=1e-12
    )


def test_of_iq_in_a_store_the_amplitude_is_taken(tmp_path: Path) -> None:
    rng, block = np.random.default_rng(0), random_block(0)
    iq = block.frames * np.exp(2j * np.pi * rng.random(block.frames.shape))
    with BlockStore(tmp_path / "iq.h5", "w") as store:
        store.append(dataclasses.replace(block, frames=iq.astype(np.complex64)))
    windows = Batches(
        StoredSource(str(tmp_path / "iq.h5")), encode_offsets, n_steps=1, n_sequences=1, n_frames=4
    )
    assert windows[0].frames.min() == 0
    np.testing.assert_allclose(windows[0].frames.sum(), block.frames.sum(), rtol=1e-5)


def test_speckle_of_a_training_is_that_of_a_test_whatever_the_pixel() -> None:
    cfg = load_config(
        "smoke", {"acquisition.px_mm": 0.04928, "cam.ratio_db": (-40, -40), "cam.memory": 1.0}
    )
    one = seeded_sequence(SimulatedSource(cfg), 1, 0, "speckle", 0).frames[0]
    other = cam_block(cfg, "test", 0).frames[0]
    widths = [correlation_width(np.asarray(frame)[None]) for frame in (one, other)]
    np.testing.assert_allclose(widths[0], widths[1], rtol=0.25)


def test_offsets_are_mirrored_with_the_frames() -> None:
    block = random_block(3)
    maps = encode_offsets(block.truth, 4, (30, 40))
    turned = encode_offsets(_flip(block, np.array([False, True, True])).truth, 4, (30, 40)).flip(
        -1, -2
    )
    torch.testing.assert_close(turned[0], maps[0])
    torch.testing.assert_close(
        turned[1:], torch.where(maps[:1] > 0, 1 - maps[1:], 0), atol=1e-6, rtol=0
    )


def test_whole_frames_and_too_small_ones() -> None:
    block = random_block(0)
    assert cut(block, None, rng=np.random.default_rng(0)) is block
    with pytest.raises(ValueError, match="31 x 31 px does not fit into frames of"):
        cut(block, 31, rng=np.random.default_rng(0))


def windows(n_sequences: int = 2, rank: int = 0, world: int = 1, **overrides: object) -> Batches:
    cfg = load_config("smoke", overrides)
    shape = {"n_steps": 3, "n_frames": 2, "crops": 2, "crop_px": 24, "gain": (0.5, 1.0), "seed": 5}
    return Batches(
        SimulatedSource(cfg),
        encode_offsets,
        n_sequences=n_sequences,
        rank=rank,
        world=world,
        **shape,  # type: ignore[arg-type]
    )


def test_a_step_does_not_depend_on_others() -> None:
    one, other = windows(), windows()
    other[0], other[1]
    for field in ("frames", "gain", "targets"):
        assert torch.equal(getattr(one[2], field), getattr(other[2], field))
    assert not torch.equal(one[1].frames, one[2].frames)
    with pytest.raises(IndexError, match="from 0 to 2"):
        one[3]


def test_processes_share_what_one_would_take() -> None:
    whole = windows(4)[1]
    parts = [windows(2, rank=rank, world=2)[1] for rank in range(2)]
    assert torch.equal(torch.cat([part.frames for part in parts]), whole.frames)
    assert torch.equal(torch.cat([part.targets for part in parts]), whole.targets)


def test_tiles_lie_anywhere_and_change_their_size() -> None:
    source = SimulatedSource(load_config("smoke"))
    shape = {"n_steps": 20, "n_sequences": 1, "crops": 8, "n_frames": 1, "crop_px": 24}

    def counted(bubbles: pd.DataFrame, *_: object) -> torch.Tensor:
        return torch.tensor(len(bubbles))

    batches = [Batches(source, counted, as_tiles=True, **shape)[step] for step in range(20)]  # type: ignore[arg-type]
    sides = np.array([batch.frames.shape[2:] for batch in batches])
    assert (sides.min(), sides.max()) == (12, 24)
    assert (sides[:, 0] != sides[:, 1]).any()
    # Of the bubbles of a frame, tiles hold their share of the area; squares at bubbles hold more.
    share = sum(batch.targets.sum() for batch in batches) / sum(
        8 * 10 * np.prod(side) / (64 * 72) for side in sides
    )
    assert 0.7 < share < 1.2


def test_targets_belong_to_their_frames() -> None:
    """Where a target says bubble, the frame is brighter than elsewhere."""
    batch = windows(8)[0]
    there = batch.targets[:, 0] > 0
    assert there.sum() > 10
    assert batch.frames[there].mean() > 4 * batch.frames[~there].mean()
    assert batch.gain.shape == (16, 1, 1, 1)
    assert ((batch.gain >= 0.5) & (batch.gain <= 1)).all()


def test_settings_widen_the_range() -> None:
    def frames(seed: int, **overrides: object) -> np.ndarray:
        cfg = load_config("smoke", {k.replace("__", "."): v for k, v in overrides.items()})
        return SimulatedSource(cfg)(np.random.default_rng(seed), 3).frames

    still, moving = frames(0), frames(0, train__still=0.0)
    dark = still.max(axis=0) < np.quantile(still, 0.3)
    assert np.ptp(moving[:, dark], axis=0).mean() > 5 * np.ptp(still[:, dark], axis=0).mean()
    assert frames(0, train__psf="iq").sum() != still.sum()
    assert (
        frames(0, train__stretch=(1.5, 1.5)).sum()
        > 1.1 * frames(0, train__stretch=(0.75, 0.75)).sum()
    )


def test_a_hot_pixel_does_not_make_a_batch_of_stored_frames_dark(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    block = simulate_testcard(n_frames=20, n_bubbles=6, shape_px=(40, 48), rng=rng)
    hot = block.frames.copy()
    hot[:, 3, 4] = 50
    windows = []
    for name, frames in (("clean", block.frames), ("hot", hot)):
        path = tmp_path / f"{name}.h5"
        with BlockStore(path, "w") as store:
            store.append(dataclasses.replace(block, frames=frames))
        source = StoredSource(str(path))
        windows.append(source(np.random.default_rng(1), 10).frames)
    others = np.ones(windows[0].shape, dtype=bool)
    others[:, 3, 4] = False
    np.testing.assert_array_equal(windows[0][others], windows[1][others])
    assert windows[1].max() == windows[0][others].max()
