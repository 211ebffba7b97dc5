"""Scenes and blocks from settings: seeds, splits, order, what is in them."""

from __future__ import annotations

import functools
import socket
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from ulmpaper import scenes
from ulmpaper.bank import SHIPPED_BANK, linear_array_psf, read_bank, resample
from ulmpaper.config import Config, load_config
from ulmpaper.filters import svd_filter
from ulmpaper.localize import locate
from ulmpaper.metrics import detection_scores, match_bubbles
from ulmpaper.psf import psf_width
from ulmpaper.records import Block
from ulmpaper.simulate import advect

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
def brain() -> tuple[Config, scenes.Scene]:
    cfg = smoke(BRAIN)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scenes, "_at_hand", lambda *_: False)
        return cfg, scenes.invivo_scene(cfg)


def same(a: Block, b: Block) -> bool:
    pd.testing.assert_frame_equal(a.bubbles, b.bubbles)
    return np.array_equal(a.frames, b.frames) and a.source == b.source


def jaccard(frames: np.ndarray, truth: pd.DataFrame, n_bubbles: int) -> float:
    found = locate(np.abs(frames), n_bubbles=n_bubbles)
    pairs = match_bubbles(found, truth, max_distance_px=0.5)
    return detection_scores(pairs, len(found), len(truth), max_distance_px=0.5)["jaccard"]


class TestCam:
    """The paper's simulator."""

    @pytest.mark.parametrize("number", [0, 1000])
    def test_scene_is_a_segmented_picture_with_flow(self, number: int) -> None:
        cfg = smoke()
        scene = scenes.cam_scene(cfg, number)
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
            scenes.cam_scene(smoke(), 0).mask[0, 0] = True

    def test_splits_share_no_picture(self) -> None:
        cfg = load_config("paper", {"cam.n_pictures": 1000, "cam.n_test_pictures": 1000})
        numbers = [set(scenes.cam_pictures(cfg, split)) for split in scenes.SPLITS]
        assert [len(of_split) for of_split in numbers] == [1000, 1000, 1000]
        assert len(set.union(*numbers)) == 3000
        pictures = [scenes.cam_scene(smoke(), first).picture for first in (0, 1, 1000, 2000)]
        for k, picture in enumerate(pictures):
            for other in pictures[:k]:
                assert abs(np.corrcoef(picture.ravel(), other.ravel())[0, 1]) < 0.5

    def test_more_pictures_leave_the_others_alone(self) -> None:
        few, many = (scenes.cam_scene.__wrapped__(smoke({"cam.n_pictures": n}), 1).picture for n in (2, 9))
        np.testing.assert_array_equal(few, many)

    def test_sequences_take_pictures_in_turn(self) -> None:
        cfg = smoke({"cam.n_pictures": 2})
        for number in (0, 1, 2):
            bubbles, mask = scenes.cam_block(cfg, "train", number).bubbles, scenes.cam_scene(cfg, number % 2).mask
            assert mask[tuple(np.rint(bubbles[["z", "x"]].to_numpy()).astype(int).T)].all()

    def test_block_alone_is_the_block_of_the_stream(self) -> None:
        cfg = smoke({"cam.n_frames": 70, "cam.sequence_frames": 30})
        blocks = list(scenes.cam_blocks(cfg, "validation"))
        assert [len(block.frames) for block in blocks] == [30, 30, 10]
        scenes.cam_scene.cache_clear()
        assert same(scenes.cam_block(cfg, "validation", 1), blocks[1])
        assert same(next(scenes.cam_blocks(cfg, "validation", first=1)), blocks[1])
        whole = scenes.cam_block(cfg, "validation", 2)
        np.testing.assert_array_equal(whole.frames[:10], blocks[2].frames)
        pd.testing.assert_frame_equal(whole.bubbles[whole.bubbles["frame"] < 10], blocks[2].bubbles)
        assert list(scenes.cam_blocks(cfg, "validation", first=3)) == []

    def test_seed_split_and_number_change_the_block(self) -> None:
        cfg = smoke({"cam.sequence_frames": 2})
        firsts = [
            scenes.cam_block(cfg, "train", 0),
            scenes.cam_block(cfg, "train", 2),  # the same picture
            scenes.cam_block(cfg, "test", 0),
            scenes.cam_block(smoke({"cam.sequence_frames": 2, "seed": 1}), "train", 0),
        ]
        assert len({block.frames.tobytes() for block in firsts}) == 4
        assert same(scenes.cam_block(cfg, "train", 0), firsts[0])

    def test_settings_reach_the_simulator(self) -> None:
        cfg = smoke({"cam.n_bubbles": (5, 5), "acquisition.frame_rate_hz": 500, "cam.memory": 0.5, "cam.mean_life": 5})
        block = scenes.cam_block(cfg, "train", 0)
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
            scenes.cam_block(smoke({"cam.sequence_frames": 2}), "train", 0)
            assert torch.get_num_threads() == 2
        finally:
            torch.set_num_threads(before)

    @pytest.mark.parametrize(
        ("overrides", "message"),
        [
            ({"cam.picture_px": 70}, "do not fit into a picture of 70 x 70 px: raise cam.picture_px or lower"),
            ({"cam.n_bubbles": (10, 9000)}, "n_bubbles must be 0 to .* the pixels of the mask that have flow"),
        ],
    )
    def test_settings_that_cannot_be_met(self, overrides: dict, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            scenes.cam_block(smoke(overrides), "train", 0)

    def test_unknown_split(self) -> None:
        with pytest.raises(ValueError, match="unknown split 'tests': did you mean 'test'"):
            scenes.cam_block(smoke(), "tests", 0)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"cam.n_bubbles": (90, 10)}, r"n_bubbles must be two numbers, the lower one first, not \(90, 10\)"),
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
        assert scenes.psf_bank(cfg).table.dtype == np.float32
        assert scenes.psf_bank(cfg, "iq").table.dtype == np.complex64
        assert scenes.psf_bank(smoke({"cam.psf": "iq"})) is scenes.psf_bank(cfg, "iq"), "read once"
        np.testing.assert_array_equal(scenes.psf_bank(cfg).table, read_bank(SHIPPED_BANK).table)
        with pytest.raises(ValueError, match="unknown kind of PSF 'bmod': did you mean 'bmode'"):
            scenes.psf_bank(cfg, "bmod")

    @pytest.mark.parametrize("kind", ["bmode", "iq"])
    @pytest.mark.parametrize("share", [0.5, 0.8])
    def test_other_pixels_leave_psfs_as_wide_in_millimetres(self, kind: str, share: float) -> None:
        cfg, fine = smoke(), smoke({"acquisition.px_mm": share * smoke().acquisition.px_mm})
        bank, other = scenes.psf_bank(cfg, kind), scenes.psf_bank(fine, kind)
        assert other.px_wavelengths == pytest.approx(share)
        np.testing.assert_allclose(
            share * psf_width(other.table, other.oversample), psf_width(bank.table, bank.oversample), rtol=0.03
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
        first, second = scenes.phantom_blocks(cfg, cache_dir=tmp_path)
        assert first.frames.shape == (2, 84, 143)
        assert len(second.bubbles) == 6
        assert not np.array_equal(first.frames, second.frames)
        (again,) = scenes.phantom_blocks(cfg, [2], cache_dir=None)
        assert same(again, second)


class TestInvivo:
    """Bubbles under tissue."""

    def test_grown_scene_is_finer_than_the_frames(self, brain: tuple[Config, scenes.Scene]) -> None:
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
        assert scenes.invivo_scene(cfg).source == "grown vessels"
        monkeypatch.setenv("ULMPAPER_DATA_MIRROR", str(data_mirror))
        mirrored = scenes.invivo_scene(cfg, tmp_path)
        assert mirrored.source == "PALA's map of a rat's brain"
        assert mirrored.lumen is None
        assert mirrored.picture.max() > 0.5
        assert mirrored.picture[mirrored.mask].mean() > 2 * mirrored.picture[~mirrored.mask].mean()
        # Where its directions meet, vessels end; bubbles neither stand still there nor pile up.
        px = mirrored.upsample
        bubbles = advect(mirrored.mask, px * mirrored.maps, n_frames=400, n_bubbles=200, rng=np.random.default_rng(0))
        steps = bubbles.sort_values(["bubble", "frame"]).groupby("bubble")[["z", "x"]].diff().dropna() / px
        assert (np.hypot(steps["z"], steps["x"]) < 0.01).mean() < 0.01
        pixels = np.unique(np.rint(bubbles[["z", "x"]].to_numpy()), axis=0, return_counts=True)[1]
        busiest = np.sort(pixels)[-mirrored.mask.sum() // 100 :]
        assert busiest.sum() < 0.15 * len(bubbles)
        monkeypatch.delenv("ULMPAPER_DATA_MIRROR")
        np.testing.assert_array_equal(scenes.invivo_scene(cfg, tmp_path).maps, mirrored.maps)

    def test_true_bubbles_lie_in_the_fine_vessels(self, brain: tuple[Config, scenes.Scene]) -> None:
        cfg, scene = brain
        block = scenes.invivo_block(cfg, 0, scene)
        assert block.frames.shape == (200, *cfg.invivo.shape_px)
        assert block.frames.dtype == np.complex64
        assert (block.px_mm, block.frame_rate_hz) == (cfg.acquisition.px_mm, cfg.acquisition.frame_rate_hz)
        fine = np.rint(scene.upsample * (block.bubbles[["z", "x"]].to_numpy() + 0.5) - 0.5).astype(int)
        assert scene.mask[tuple(fine.T)].all()
        # Steps are in pixels of the frames.
        steps = block.bubbles.groupby("bubble")[["z", "x"]].diff().dropna()
        assert np.hypot(steps["z"], steps["x"]).max() <= 1.001 * np.hypot(*scene.maps).max()

    def test_tissue_hides_the_bubbles_and_the_filter_brings_them_back(self, brain: tuple[Config, scenes.Scene]) -> None:
        cfg, scene = brain
        block = scenes.invivo_block(cfg, 0, scene)
        raw, filtered = (jaccard(f, block.bubbles, 40) for f in (block.frames, svd_filter(block.frames, 10)))
        assert raw < 0.05
        assert filtered > 0.5

    def test_levels_are_those_of_the_settings(self, brain: tuple[Config, scenes.Scene]) -> None:
        _, scene = brain
        quiet = {**BRAIN, "invivo.n_bubbles": 0, "invivo.tissue_db": -200}
        noise = scenes.invivo_block(smoke({**quiet, "invivo.noise_db": 20}), 0, scene).frames
        assert np.sqrt(np.mean(np.abs(noise) ** 2)) == pytest.approx(0.075, rel=0.1)
        overlap = np.abs(np.vdot(noise[0], noise[1])) / np.vdot(noise[0], noise[0]).real
        assert overlap < 0.2, "the noise is new in each frame"
        tissue = scenes.invivo_block(smoke({**quiet, "invivo.tissue_db": 20}), 0, scene).frames
        assert np.sqrt(np.mean(np.abs(tissue) ** 2)) == pytest.approx(7.5, rel=0.1)

    def test_blocks_do_not_depend_on_processes(self, brain: tuple[Config, scenes.Scene]) -> None:
        _, scene = brain
        cfg = smoke({**BRAIN, "invivo.n_frames": 16})
        blocks = list(scenes.invivo_blocks(cfg, scene))
        parallel = list(scenes.invivo_blocks(cfg, scene, first=1, n_jobs=2))
        assert [len(blocks), len(parallel)] == [3, 2]
        assert same(parallel[0], blocks[1])
        assert same(parallel[1], blocks[2])
        assert same(scenes.invivo_block(cfg, 2, scene), blocks[2])
        assert not np.array_equal(blocks[0].frames, blocks[1].frames)

    def test_half_pixels(self, brain: tuple[Config, scenes.Scene]) -> None:
        """Speckle keeps its size in wavelengths, so on half the pixels neighbours are more alike."""
        _, scene = brain

        def likeness(px_mm: float) -> float:
            settings = {"invivo.n_frames": 16, "invivo.n_bubbles": 0, "acquisition.px_mm": px_mm}
            frame = np.abs(scenes.invivo_block(smoke(settings), 0, scene).frames[0])
            return float(np.corrcoef(frame[:-1].ravel(), frame[1:].ravel())[0, 1])

        assert likeness(0.04928) > likeness(0.09856) + 0.2
