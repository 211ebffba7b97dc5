"""Simulated sequences: motion, density, identity, seeds, and what they refuse."""

from __future__ import annotations

import functools
import socket
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ulmpaper.config import Config, load_config
from ulmpaper.core.filters import svd_filter
from ulmpaper.core.localize import locate_peaks
from ulmpaper.core.records import Block
from ulmpaper.metrics.bubbles import detection_scores, match_bubbles
from ulmpaper.simulator import simulate
from ulmpaper.simulator.flow import MEAN_AMPLITUDE, advect, cross_plane
from ulmpaper.simulator.psf import (
    SHIPPED_BANK,
    PsfBank,
    gaussian_bank,
    linear_array_psf,
    read_bank,
    resample,
)
from ulmpaper.simulator.psf_from_frames import psf_width
from ulmpaper.simulator.simulate import (
    SPLITS,
    Scene,
    cam_block,
    cam_blocks,
    cam_pictures,
    cam_scene,
    invivo_block,
    invivo_blocks,
    invivo_scene,
    phantom_blocks,
    psf_bank,
    simulate_block,
)

SHAPE = (48, 60)


def channel(speed_px: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    """A straight horizontal vessel."""
    mask = np.zeros(SHAPE, dtype=bool)
    mask[20:29] = True
    return mask, np.stack([np.zeros(SHAPE), speed_px * mask])


def disc() -> tuple[np.ndarray, np.ndarray]:
    """Solid rotation: free of divergence, and no bubble leaves."""
    z, x = np.mgrid[: SHAPE[0], : SHAPE[1]] - np.array([24, 30])[:, None, None]
    maps = 0.02 * np.stack([x, -z])
    return z**2 + x**2 <= 20**2, maps.astype(float)


@pytest.fixture(scope="module")
def bank() -> PsfBank:
    return gaussian_bank(8, rng=np.random.default_rng(0))


@pytest.fixture(scope="module")
def whirl() -> pd.DataFrame:
    return advect(*disc(), n_frames=400, n_bubbles=60, n_psf=8, rng=np.random.default_rng(3))


def test_every_frame_has_its_bubbles(whirl: pd.DataFrame) -> None:
    assert (whirl.groupby("frame").size() == 60).all()
    assert whirl["frame"].is_monotonic_increasing
    assert whirl.groupby("frame")["bubble"].nunique().eq(60).all()


def test_a_bubble_keeps_what_it_was_born_with(whirl: pd.DataFrame) -> None:
    lives = whirl.groupby("bubble")
    assert (lives[["score", "psf", "phase"]].nunique() == 1).all(axis=None)
    # One stretch of frames each.
    assert (lives["frame"].agg(np.ptp) + 1 == lives.size()).all()
    assert set(whirl["psf"]) == set(range(8))
    assert whirl["score"].between(0.5, 1).all()
    assert whirl["phase"].between(0, 2 * np.pi).all()


def test_bubbles_stay_in_the_mask_and_below_the_top_speed(whirl: pd.DataFrame) -> None:
    mask, maps = disc()
    pixel = np.rint(whirl[["z", "x"]].to_numpy()).astype(int)
    assert mask[tuple(pixel.T)].all()
    steps = whirl.groupby("bubble")[["z", "x"]].diff().dropna()
    assert np.hypot(steps["z"], steps["x"]).max() <= np.hypot(*maps).max() + 1e-9


def test_steps_follow_the_maps(whirl: pd.DataFrame) -> None:
    steps = whirl.groupby("bubble")[["z", "x"]].diff().shift(-1)
    same = steps.notna().all(axis=1) & whirl["bubble"].eq(whirl["bubble"].shift(-1))
    expected = np.stack([0.02 * (whirl["x"] - 30), -0.02 * (whirl["z"] - 24)], axis=1)
    np.testing.assert_allclose(steps[same], expected[same], atol=1e-9)


def test_lives_are_as_long_as_asked_for() -> None:
    mask, maps = disc()
    table = advect(
        mask, maps, n_frames=600, n_bubbles=200, mean_life=50, rng=np.random.default_rng(3)
    )
    born = table["bubble"].nunique() - 200
    # A few more are replaced at the rim, where a step of rotation leads out.
    assert born / (599 * 200) == pytest.approx(1 / 50, rel=0.15)


def test_density_stays_uniform_in_a_flow_free_of_divergence() -> None:
    mask, maps = disc()
    table = advect(
        mask, maps / 2, n_frames=1000, n_bubbles=800, mean_life=40, rng=np.random.default_rng(5)
    )
    late = table[table["frame"] >= 100]
    counts = np.histogram2d(late["z"], late["x"], bins=[np.arange(n + 1) - 0.5 for n in SHAPE])[0]
    z, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    radius = np.hypot(z - 24, x - 30)
    rings = [mask & (radius >= low) & (radius < low + 4) for low in range(1, 20, 4)]
    quarters = [mask & (z < 24) & (x < 30), mask & (z > 24) & (x > 30)]
    for part in [*rings, *quarters]:
        assert counts[part].sum() / counts.sum() == pytest.approx(part.sum() / mask.sum(), rel=0.1)


def test_bubbles_that_come_to_a_pixel_without_flow_are_replaced_and_none_starts_there() -> None:
    mask = np.ones(SHAPE, dtype=bool)
    maps = np.zeros((2, *SHAPE))
    maps[1, :, :30] = 0.5
    table = advect(mask, maps, n_frames=200, n_bubbles=50, rng=np.random.default_rng(0))
    assert table["x"].max() <= 29.5
    steps = table.sort_values(["bubble", "frame"]).groupby("bubble")["x"].diff().dropna()
    assert steps.min() >= 0.25


@pytest.mark.parametrize("amplitude", ["uniform", "lognormal"])
def test_amplitudes_have_the_same_mean(amplitude: str) -> None:
    scores = advect(
        *disc(), n_frames=1, n_bubbles=1200, amplitude=amplitude, rng=np.random.default_rng(0)
    )["score"]
    assert scores.mean() == pytest.approx(MEAN_AMPLITUDE, abs=0.03)
    assert scores.max() <= 1 or amplitude == "lognormal"


def test_fading_bubbles_come_and_go(whirl: pd.DataFrame) -> None:
    faded = cross_plane(whirl, speed=0.02, rng=np.random.default_rng(0))
    share = faded["score"] / whirl["score"]
    assert share.between(0, 1).all()
    assert share.groupby(whirl["bubble"]).max().mean() > 0.6
    assert (share.groupby(whirl["bubble"]).agg(np.ptp) > 0.1).mean() > 0.3
    pd.testing.assert_frame_equal(faded.drop(columns="score"), whirl.drop(columns="score"))
    with pytest.raises(ValueError, match="speed must be a number above 0"):
        cross_plane(whirl, speed=0, rng=np.random.default_rng(0))


def test_block_shows_its_truth(bank: PsfBank) -> None:
    rng = np.random.default_rng(2)
    block = simulate_block(
        *disc(), bank, n_frames=20, n_bubbles=6, rng=rng, px_mm=0.1, frame_rate_hz=500.0
    )
    assert block.frames.shape == (20, *SHAPE)
    assert block.frames.dtype == np.float32
    assert (block.px_mm, block.frame_rate_hz) == (0.1, 500.0)
    assert "Gaussian PSFs" in block.source
    found = locate_peaks(block.frames, method="parabola", n_bubbles=6, min_score=0.3)
    pairs = found.merge(block.bubbles, on="frame", suffixes=("", "_true"))
    distance = np.hypot(pairs["z"] - pairs["z_true"], pairs["x"] - pairs["x_true"])
    assert distance.groupby([pairs["frame"], pairs["z"]]).min().median() < 0.2


def test_background_has_the_ratio_asked_for(bank: PsfBank) -> None:
    for ratio_db in (20.0, 30.0):
        block = simulate_block(
            *disc(), bank, n_frames=2, n_bubbles=0, ratio_db=ratio_db, rng=np.random.default_rng(0)
        )
        rms = np.sqrt(np.mean(block.frames**2, dtype=float))
        assert 20 * np.log10(MEAN_AMPLITUDE / rms) == pytest.approx(ratio_db, abs=1e-3)
        np.testing.assert_array_equal(block.frames[0], block.frames[1])
        assert len(block.bubbles) == 0
    dark = simulate_block(
        *disc(), bank, n_frames=2, n_bubbles=0, ratio_db=None, rng=np.random.default_rng(0)
    )
    assert dark.frames.max() == 0


def test_ranges_are_drawn_for_each_sequence(bank: PsfBank) -> None:
    rng = np.random.default_rng(0)
    speckle = np.ones((60, 60), dtype=np.complex64)
    blocks = [
        simulate_block(
            *disc(),
            bank,
            n_frames=1,
            n_bubbles=(3, 6),
            ratio_db=(15.0, 35.0),
            speckle=speckle,
            rng=rng,
        )
        for _ in range(40)
    ]
    assert {len(block.bubbles) for block in blocks} == {3, 4, 5, 6}
    ratio = 20 * np.log10([MEAN_AMPLITUDE / np.median(block.frames) for block in blocks])
    assert 15 <= ratio.min() < 18 < 32 < ratio.max() <= 35


def test_memory_lets_the_background_change(bank: PsfBank) -> None:
    block = simulate_block(
        *disc(),
        bank,
        n_frames=40,
        n_bubbles=0,
        memory=0.9,
        iq=True,
        ratio_db=0.0,
        rng=np.random.default_rng(0),
    )
    assert block.frames.dtype == np.complex64
    frames = block.frames.reshape(40, -1)
    power = np.mean(np.abs(frames) ** 2)
    assert np.mean(frames[1:] * frames[:-1].conj()).real / power == pytest.approx(0.9, abs=0.05)
    assert power == pytest.approx(MEAN_AMPLITUDE**2, rel=0.3)


SETTINGS = {
    "n_frames": 5,
    "n_bubbles": (2, 9),
    "ratio_db": (20.0, 30.0),
    "cross_speed": 0.01,
    "memory": 0.9,
}


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 7))
def test_a_seed_fixes_every_byte(seed: int, batch_frames: int) -> None:
    bank = gaussian_bank(3, rng=np.random.default_rng(0))
    first, again = (
        simulate_block(
            *disc(), bank, rng=np.random.default_rng(seed), batch_frames=batch, **SETTINGS
        )
        for batch in (4, batch_frames)
    )
    assert first.frames.tobytes() == again.frames.tobytes()
    pd.testing.assert_frame_equal(first.bubbles, again.bubbles)
    other = simulate_block(*disc(), bank, rng=np.random.default_rng(seed + 1), **SETTINGS)
    assert other.frames.tobytes() != first.frames.tobytes()


def test_large_speckle_is_used_and_small_is_refused(bank: PsfBank) -> None:
    one = np.full((100, 100), 2 + 0j, dtype=np.complex64)
    block = simulate_block(
        *disc(),
        bank,
        n_frames=1,
        n_bubbles=0,
        speckle=one,
        ratio_db=0.0,
        rng=np.random.default_rng(0),
    )
    np.testing.assert_allclose(block.frames, 2 * MEAN_AMPLITUDE, rtol=1e-6)
    with pytest.raises(ValueError, match=r"holds no frame of \(48, 60\) px: make a larger one"):
        simulate_block(
            *disc(), bank, n_frames=1, n_bubbles=0, speckle=one[:40], rng=np.random.default_rng(0)
        )


def test_fast_flow_warns(bank: PsfBank) -> None:
    with pytest.warns(
        UserWarning, match=r"bubbles move up to 1.5 px a frame: are the maps in px/frame"
    ):
        advect(*channel(1.5), n_frames=2, n_bubbles=3, rng=np.random.default_rng(0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"mask": np.zeros(SHAPE, dtype=bool)},
            "with a vessel in it, not bool of shape .* with 0 pixels set",
        ),
        ({"mask": np.ones(SHAPE)}, "picture .* of True and False .* not float64"),
        ({"mask": np.ones((2, 3, 4), dtype=bool)}, r"of shape \(2, 3, 4\)"),
        ({"maps": np.zeros((2, 5, 5))}, r"have the shape \(2, 48, 60\), not \(2, 5, 5\)"),
        ({"maps": np.full((2, *SHAPE), np.nan)}, "NaN or infinite"),
        (
            {"maps": np.zeros((2, *SHAPE))},
            "n_bubbles must be 0 to 0, the pixels of the mask that have flow, not 3",
        ),
        ({"n_bubbles": 541}, "n_bubbles must be 0 to 540"),
        ({"n_bubbles": -1}, "n_bubbles must be 0 to 540"),
        ({"n_bubbles": (9, 3)}, r"n_bubbles must be 0 to 540, .* not \(9, 3\)"),
        ({"n_frames": 0}, "n_frames must be a number above 0"),
        ({"px_mm": 0}, "px_mm must be a number above 0"),
        ({"frame_rate_hz": -1.0}, "frame_rate_hz must be a number above 0"),
        ({"amplitude": "unifrom"}, "unknown amplitude 'unifrom': did you mean 'uniform'"),
        ({"memory": 1.5}, "memory is a correlation, 0 to 1, not 1.5"),
    ],
)
def test_bad_input_is_refused(changes: dict, message: str, bank: PsfBank) -> None:
    mask, maps = channel()
    arguments = {"mask": mask, "maps": maps, "n_frames": 2, "n_bubbles": 3, **changes}
    with pytest.raises(ValueError, match=message):
        simulate_block(
            arguments.pop("mask"),
            arguments.pop("maps"),
            bank,
            rng=np.random.default_rng(0),
            **arguments,
        )


smoke = functools.partial(load_config, "smoke")
# Blocks of as many frames as the clutter filter needs, where vessels are grown.
BRAIN = {"invivo.n_frames": 200, "invivo.n_bubbles": 40, "invivo.n_blocks": 3, "invivo.upsample": 5}


@pytest.fixture(autouse=True)
def _nothing_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No real data, unless a test asks for it; and no network, ever."""
    monkeypatch.setenv("ULMPAPER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.delenv("ULMPAPER_DATA_MIRROR", raising=False)

    def no_network(*_: object) -> None:
        raise AssertionError("scenes must not use the network")

    monkeypatch.setattr(socket.socket, "connect", no_network)


@pytest.fixture(scope="module")
def brain() -> tuple[Config, Scene]:
    cfg = smoke(BRAIN)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulate, "_at_hand", lambda *_: False)
        return cfg, invivo_scene(cfg)


def same(a: Block, b: Block) -> bool:
    pd.testing.assert_frame_equal(a.bubbles, b.bubbles)
    return np.array_equal(a.frames, b.frames) and a.source == b.source


def jaccard(frames: np.ndarray, truth: pd.DataFrame, n_bubbles: int) -> float:
    found = locate_peaks(np.abs(frames), n_bubbles=n_bubbles)
    pairs = match_bubbles(found, truth, max_distance_px=0.5)
    return detection_scores(pairs, max_distance_px=0.5)["jaccard"]


class TestCam:
    """The paper's simulator."""

    @pytest.mark.parametrize("number", [0, 1000])
    def test_scene_is_a_segmented_picture_with_flow(self, number: int) -> None:
        cfg = smoke()
        scene = cam_scene(cfg, number)
        assert scene.picture.shape == scene.mask.shape == scene.lumen.shape == cfg.cam.shape_px
        assert scene.maps.shape == (2, *cfg.cam.shape_px)
        assert (scene.picture.dtype, scene.maps.dtype) == (np.float32, np.float32)
        assert (scene.mask.dtype, scene.lumen.dtype, scene.upsample) == (bool, bool, 1)
        overlap = 2 * (scene.mask & scene.lumen).sum() / (scene.mask.sum() + scene.lumen.sum())
        assert overlap > 0.6, "the mask is cut out of another place than the truth"
        speed = np.hypot(*scene.maps)
        top_px = cfg.cam.max_speed_mm_s / (cfg.acquisition.px_mm * cfg.acquisition.frame_rate_hz)
        assert 0.3 * top_px < speed.max() <= 1.001 * top_px
        assert (speed[~scene.mask] == 0).all()

    def test_scenes_cannot_be_changed(self) -> None:
        with pytest.raises(ValueError, match="read-only"):
            cam_scene(smoke(), 0).mask[0, 0] = True

    def test_splits_share_no_picture(self) -> None:
        cfg = load_config("paper", {"cam.n_pictures": 1000, "cam.n_test_pictures": 1000})
        numbers = [set(cam_pictures(cfg, split)) for split in SPLITS]
        assert [len(of_split) for of_split in numbers] == [1000, 1000, 1000]
        assert len(set.union(*numbers)) == 3000
        pictures = [cam_scene(smoke(), first).picture for first in (0, 1, 1000, 2000)]
        for k, picture in enumerate(pictures):
            for other in pictures[:k]:
                assert abs(np.corrcoef(picture.ravel(), other.ravel())[0, 1]) < 0.5

    def test_more_pictures_leave_the_others_alone(self) -> None:
        few, many = (cam_scene.__wrapped__(smoke({"cam.n_pictures": n}), 1).picture for n in (2, 9))
        np.testing.assert_array_equal(few, many)

    def test_sequences_take_pictures_in_turn(self) -> None:
        cfg = smoke({"cam.n_pictures": 2})
        for number in (0, 1, 2):
            bubbles, mask = cam_block(cfg, "train", number).bubbles, cam_scene(cfg, number % 2).mask
            assert mask[tuple(np.rint(bubbles[["z", "x"]].to_numpy()).astype(int).T)].all()

    def test_block_alone_is_the_block_of_the_stream(self) -> None:
        cfg = smoke({"cam.n_frames": 70, "cam.sequence_frames": 30})
        blocks = list(cam_blocks(cfg, "validation"))
        assert [len(block.frames) for block in blocks] == [30, 30, 10]
        cam_scene.cache_clear()
        assert same(cam_block(cfg, "validation", 1), blocks[1])
        assert same(next(cam_blocks(cfg, "validation", first=1)), blocks[1])
        whole = cam_block(cfg, "validation", 2)
        np.testing.assert_array_equal(whole.frames[:10], blocks[2].frames)
        pd.testing.assert_frame_equal(whole.bubbles[whole.bubbles["frame"] < 10], blocks[2].bubbles)
        assert list(cam_blocks(cfg, "validation", first=3)) == []

    def test_seed_split_and_number_change_the_block(self) -> None:
        cfg = smoke({"cam.sequence_frames": 2})
        firsts = [
            cam_block(cfg, "train", 0),
            cam_block(cfg, "train", 2),  # the same picture
            cam_block(cfg, "test", 0),
            cam_block(smoke({"cam.sequence_frames": 2, "seed": 1}), "train", 0),
        ]
        assert len({block.frames.tobytes() for block in firsts}) == 4
        assert same(cam_block(cfg, "train", 0), firsts[0])

    def test_settings_reach_the_simulator(self) -> None:
        cfg = smoke(
            {
                "cam.n_bubbles": (5, 5),
                "acquisition.frame_rate_hz": 500,
                "cam.memory": 0.5,
                "cam.mean_life": 5,
            }
        )
        block = cam_block(cfg, "train", 0)
        assert block.frames.shape == (30, *cfg.cam.shape_px)
        assert block.frames.dtype == np.float32
        assert (block.bubbles.groupby("frame").size() == 5).all()
        assert (block.px_mm, block.frame_rate_hz) == (cfg.acquisition.px_mm, 500)
        assert block.bubbles["bubble"].nunique() > 15, "they die young"
        assert np.ptp(block.frames, axis=0).min() > 0, "the background changes"
        assert block.bubbles["psf"].max() > 100, "the whole bank is in use"

    def test_threads_of_torch_are_given_back(self) -> None:
        before = torch.get_num_threads()
        try:
            torch.set_num_threads(2)
            cam_block(smoke({"cam.sequence_frames": 2}), "train", 0)
            assert torch.get_num_threads() == 2
        finally:
            torch.set_num_threads(before)

    @pytest.mark.parametrize(
        ("overrides", "message"),
        [
            (
                {"cam.picture_px": 70},
                "do not fit into a picture of 70 x 70 px: raise cam.picture_px or lower",
            ),
            (
                {"cam.n_bubbles": (10, 9000)},
                "n_bubbles must be 0 to .* the pixels of the mask that have flow",
            ),
        ],
    )
    def test_settings_that_cannot_be_met(self, overrides: dict, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            cam_block(smoke(overrides), "train", 0)

    def test_unknown_split(self) -> None:
        with pytest.raises(ValueError, match="unknown split 'tests': did you mean 'test'"):
            cam_block(smoke(), "tests", 0)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"cam.n_bubbles": (90, 10)},
            r"n_bubbles must be two numbers, the lower one first, not \(90, 10\)",
        ),
        ({"cam.ratio_db": (30, 20)}, "ratio_db must be two numbers, the lower one first"),
        ({"cam.n_pictures": 1001}, "n_pictures must be 1000 or less, not 1001"),
        ({"cam.memory": 1.5}, "memory must be 1 or less"),
        ({"invivo.motion_px": 0}, "motion_px must be above 0"),
    ],
)
def test_settings_out_of_range(overrides: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        smoke(overrides)


class TestBank:
    """PSFs on the pixels of the frames."""

    def test_kinds(self) -> None:
        cfg = smoke()
        assert psf_bank(cfg).table.dtype == np.float32
        assert psf_bank(cfg, "iq").table.dtype == np.complex64
        assert psf_bank(smoke({"cam.psf": "iq"})) is psf_bank(cfg, "iq"), "read once"
        np.testing.assert_array_equal(psf_bank(cfg).table, read_bank(SHIPPED_BANK).table)
        with pytest.raises(ValueError, match="unknown kind of PSF 'bmod': did you mean 'bmode'"):
            psf_bank(cfg, "bmod")

    @pytest.mark.parametrize("kind", ["iq", "gaussian"])
    def test_no_psf_is_in_two_splits(self, kind: str) -> None:
        banks = [psf_bank(smoke(), kind, split).table for split in SPLITS]
        tables = np.concatenate([table.reshape(len(table), -1) for table in banks])
        assert len(np.unique(tables.view(np.float32), axis=0)) == len(tables)
        with pytest.raises(ValueError, match="unknown split"):
            psf_bank(smoke(), kind, "tests")

    @pytest.mark.parametrize("kind", ["bmode", "iq", "gaussian"])
    @pytest.mark.parametrize("share", [0.5, 0.8])
    def test_other_pixels_leave_psfs_as_wide_in_millimetres(self, kind: str, share: float) -> None:
        cfg, fine = smoke(), smoke({"acquisition.px_mm": share * smoke().acquisition.px_mm})
        bank, other = psf_bank(cfg, kind), psf_bank(fine, kind)
        assert other.px_wavelengths == pytest.approx(share)
        np.testing.assert_allclose(
            share * psf_width(other.table, other.oversample),
            psf_width(bank.table, bank.oversample),
            rtol=0.03,
        )

    def test_half_pixels_meet_the_same_samples(self) -> None:
        bank = linear_array_psf()
        half = resample(bank, px_wavelengths=0.5, oversample=4)
        assert (half.half_px, half.oversample, half.px_wavelengths) == (10, 4, 0.5)
        np.testing.assert_allclose(half.table, bank.table, atol=1e-6)
        np.testing.assert_allclose(resample(half, px_wavelengths=1.0).table, bank.table, atol=1e-6)
        assert resample(bank) is bank


class TestPhantom:
    """The test by other physics."""

    def test_sequences_go_on_and_come_from_the_cache(self, tmp_path: Path) -> None:
        cfg = smoke({"phantom.n_sequences": 2, "phantom.n_frames": 2, "phantom.n_bubbles": 3})
        first, second = phantom_blocks(cfg, cache_dir=tmp_path)
        assert first.frames.shape == (2, 84, 143)
        assert len(second.bubbles) == 6
        assert not np.array_equal(first.frames, second.frames)
        (again,) = phantom_blocks(cfg, [2], cache_dir=None)
        assert same(again, second)


class TestInvivo:
    """Bubbles under tissue."""

    def test_grown_scene_is_finer_than_the_frames(self, brain: tuple[Config, Scene]) -> None:
        cfg, scene = brain
        fine = tuple(scene.upsample * n for n in cfg.invivo.shape_px)
        assert scene.picture.shape == scene.mask.shape == scene.lumen.shape == fine
        assert (scene.upsample, scene.source) == (5, "grown vessels")
        top_px = cfg.invivo.max_speed_mm_s / (cfg.acquisition.px_mm * cfg.acquisition.frame_rate_hz)
        assert 0.5 * top_px < np.hypot(*scene.maps).max() <= 1.001 * top_px

    def test_real_map_where_it_is_at_hand(
        self, data_mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cfg = smoke()
        assert invivo_scene(cfg).source == "grown vessels"
        monkeypatch.setenv("ULMPAPER_DATA_MIRROR", str(data_mirror))
        mirrored = invivo_scene(cfg, tmp_path)
        assert mirrored.source == "PALA's map of a rat's brain"
        assert mirrored.lumen is None
        assert mirrored.picture.max() > 0.5
        assert mirrored.picture[mirrored.mask].mean() > 2 * mirrored.picture[~mirrored.mask].mean()
        # Where its directions meet, vessels end; bubbles neither stand still there nor pile up.
        px = mirrored.upsample
        bubbles = advect(
            mirrored.mask,
            px * mirrored.maps,
            n_frames=400,
            n_bubbles=200,
            rng=np.random.default_rng(0),
        )
        steps = (
            bubbles.sort_values(["bubble", "frame"]).groupby("bubble")[["z", "x"]].diff().dropna()
            / px
        )
        assert (np.hypot(steps["z"], steps["x"]) < 0.01).mean() < 0.01
        pixels = np.unique(np.rint(bubbles[["z", "x"]].to_numpy()), axis=0, return_counts=True)[1]
        busiest = np.sort(pixels)[-mirrored.mask.sum() // 100 :]
        assert busiest.sum() < 0.15 * len(bubbles)
        monkeypatch.delenv("ULMPAPER_DATA_MIRROR")
        np.testing.assert_array_equal(invivo_scene(cfg, tmp_path).maps, mirrored.maps)

    def test_true_bubbles_lie_in_the_fine_vessels(self, brain: tuple[Config, Scene]) -> None:
        cfg, scene = brain
        block = invivo_block(cfg, 0, scene)
        assert block.frames.shape == (200, *cfg.invivo.shape_px)
        assert block.frames.dtype == np.complex64
        assert (block.px_mm, block.frame_rate_hz) == (
            cfg.acquisition.px_mm,
            cfg.acquisition.frame_rate_hz,
        )
        fine = np.rint(scene.upsample * (block.bubbles[["z", "x"]].to_numpy() + 0.5) - 0.5).astype(
            int
        )
        assert scene.mask[tuple(fine.T)].all()
        # Steps are in pixels of the frames.
        steps = block.bubbles.groupby("bubble")[["z", "x"]].diff().dropna()
        assert np.hypot(steps["z"], steps["x"]).max() <= 1.001 * np.hypot(*scene.maps).max()

    def test_tissue_hides_the_bubbles_and_the_filter_brings_them_back(
        self, brain: tuple[Config, Scene]
    ) -> None:
        cfg, scene = brain
        block = invivo_block(cfg, 0, scene)
        raw, filtered = (
            jaccard(f, block.bubbles, 40) for f in (block.frames, svd_filter(block.frames, 10))
        )
        assert raw < 0.05
        assert filtered > 0.5

    def test_levels_are_those_of_the_settings(self, brain: tuple[Config, Scene]) -> None:
        _, scene = brain
        quiet = {**BRAIN, "invivo.n_bubbles": 0, "invivo.tissue_db": -200}
        noise = invivo_block(smoke({**quiet, "invivo.noise_db": 20}), 0, scene).frames
        assert np.sqrt(np.mean(np.abs(noise) ** 2)) == pytest.approx(0.075, rel=0.1)
        overlap = np.abs(np.vdot(noise[0], noise[1])) / np.vdot(noise[0], noise[0]).real
        assert overlap < 0.2, "the noise is new in each frame"
        tissue = invivo_block(smoke({**quiet, "invivo.tissue_db": 20}), 0, scene).frames
        assert np.sqrt(np.mean(np.abs(tissue) ** 2)) == pytest.approx(7.5, rel=0.1)

    def test_blocks_do_not_depend_on_processes(self, brain: tuple[Config, Scene]) -> None:
        _, scene = brain
        cfg = smoke({**BRAIN, "invivo.n_frames": 16})
        blocks = list(invivo_blocks(cfg, scene))
        parallel = list(invivo_blocks(cfg, scene, first=1, n_jobs=2))
        assert [len(blocks), len(parallel)] == [3, 2]
        assert same(parallel[0], blocks[1])
        assert same(parallel[1], blocks[2])
        assert same(invivo_block(cfg, 2, scene), blocks[2])
        assert not np.array_equal(blocks[0].frames, blocks[1].frames)

    def test_half_pixels(self, brain: tuple[Config, Scene]) -> None:
        """Speckle keeps its size in wavelengths: on half the pixels neighbours are more alike."""
        _, scene = brain

        def likeness(px_mm: float) -> float:
            settings = {"invivo.n_frames": 16, "invivo.n_bubbles": 0, "acquisition.px_mm": px_mm}
            frame = np.abs(invivo_block(smoke(settings), 0, scene).frames[0])
            return float(np.corrcoef(frame[:-1].ravel(), frame[1:].ravel())[0, 1])

        assert likeness(0.04928) > likeness(0.09856) + 0.2
