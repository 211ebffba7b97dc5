"""For each public function: how a valid call is made from small frames, tables and files.

`VALID` maps ``room.name`` to a function of `World` and a random generator that gives the arguments
of a call; `LEFT_OUT` names what is not called, and why.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

import ulmpaper
from ulmpaper import config, core, io, metrics, networks, paper, pipeline, simulator
from ulmpaper.core.records import Block

Call = tuple[tuple, dict[str, Any]]
SHAPE = (24, 30)
SCALE = {"px_mm": 0.1, "frame_rate_hz": 1000.0}


def call(*args: Any, **kwargs: Any) -> Call:
    return args, kwargs


class World(SimpleNamespace):
    """What calls are made of; `folder` is theirs to write to."""

    folder: Path

    def fresh(self, suffix: str = "") -> Path:
        """A path that nothing has been written to."""
        self.n_paths += 1
        return self.folder / f"{self.n_paths}{suffix}"

    @functools.cached_property
    def figure(self) -> Any:
        return ulmpaper.plot_map(self.density, "density")

    @functools.cached_property
    def comparison(self) -> paper.Comparison:
        return paper.compare([self.block], self.methods, self.cfg, span=6)

    @functools.cached_property
    def scores(self) -> paper.Scores:
        return self.comparison.bubble_scores(rng=np.random.default_rng(0), n_draws=3)

    @functools.cached_property
    def look(self) -> pipeline.Look:
        return ulmpaper.look(self.block)

    @functools.cached_property
    def side_by_side(self) -> pipeline.SideBySide:
        return pipeline.compare_methods(self.block, "radial,parabola", self.cfg)


def make_world(folder: Path) -> World:

    rng = np.random.default_rng(5)
    block = core.simulate_testcard(n_frames=12, n_bubbles=4, shape_px=SHAPE, rng=rng)
    torch.manual_seed(0)
    cfg = config.load_config("smoke", {"locate.n_bubbles": 4, "track.min_length": 3})
    iq = (block.frames * np.exp(1j * np.arange(12))[:, None, None]).astype(np.complex64)
    tracks = core.drop_short(core.link(block.truth), 3)
    paths = core.interpolate(tracks, **SCALE)
    maps = core.render_maps(tracks, SHAPE, **SCALE)
    mask = np.zeros((40, 40), dtype=bool)
    mask[12:22] = True
    bank = simulator.gaussian_bank(3, rng=rng)
    bubbles = block.truth.assign(psf=0, phase=0.0)
    scene = simulator.cam_scene(cfg, 0)
    folder.mkdir(exist_ok=True)
    np.save(folder / "frames.npy", block.frames)
    np.save(folder / "few.npy", block.frames[:4])
    block.truth.to_csv(folder / "truth.csv", index=False)
    with io.BlockStore(folder / "store.h5", "w") as store:
        for _ in range(6):
            store.append(block)
    result = ulmpaper.ulm(block, cfg)
    result.save(folder / "result")
    ml3d = networks.ML3DResNet(4, 1)
    networks.write_network(
        folder / "ml3d.safetensors",
        ml3d,
        recipe="ml3d",
        network={"features": 4, "blocks": 1},
        about={},
    )
    simulator.write_bank(bank, folder / "bank.npz")
    offsets = networks.encode_offsets(block.truth, 12, SHAPE)
    return World(
        folder=folder,
        n_paths=0,
        block=block,
        frames=block.frames,
        iq=iq,
        bubbles=block.truth,
        drawn=bubbles,
        inside=core.bubble_table([0, 0], [5.0, 9.5], [6.0, 12.0], [1.0, 0.5]),
        tracks=tracks,
        moving=core.add_velocity(tracks, **SCALE),
        paths=paths,
        density=maps.density,
        maps=maps,
        windows=rng.random((6, 5, 5)),
        cfg=cfg,
        mask=mask,
        flow=simulator.displacement_maps(mask, **SCALE),
        bank=bank,
        network=simulator.grow_network((64, 64), rng=rng),
        vessels=rng.random((64, 64)),
        speckle=simulator.speckle((64, 64), rng=rng),
        scene=scene,
        acquisition=simulator.Acquisition(shape_px=(24, 20)),
        result=result,
        file=io.open_frames(folder / "frames.npy"),
        pairs=metrics.match_bubbles(block.truth, block.truth),
        centreline=metrics.mask_centreline(maps.density > 0),
        curve=metrics.fourier_ring_correlation(rng.random((40, 40)), rng.random((40, 40))),
        ml3d=ml3d,
        count=networks.CountNet(None, 4),
        mspcn=networks.MSPCN(2),
        offsets=offsets,
        five_maps=torch.cat([offsets, torch.full((2, 12, *SHAPE), 0.1)]),
        heat=networks.encode_heatmap(block.truth, 12, SHAPE, upsample=2),
        recipe=networks.RECIPES["ml3d"](cfg),
        methods={"RS": paper.Method("radial", 4), "few": paper.Method("parabola", 2)},
        best={"RS": "RS", "mSPCN": "mSPCN", "3DML-ResNet": "3DML-ResNet"},
    )


def rng_of(rng: np.random.Generator) -> np.random.Generator:
    """A generator of its own, so that a call does not change those after it."""
    return np.random.default_rng(int(rng.integers(1000)))


def choose(rng: np.random.Generator, *values: Any) -> Any:
    return values[rng.integers(len(values))]


Maker = Callable[[World, np.random.Generator], Call]

_CORE: dict[str, Maker] = {
    "Block": lambda w, r: call(w.frames, w.bubbles, 0.1, 1000.0, "test", first_frame=2),
    "Block.first": lambda w, r: call(w.block, 5),
    "bubble_table": lambda w, r: call([0, 1], [1.0, 2.0], [3.0, 4.0], [1, 1]),
    "drop_short": lambda w, r: call(w.tracks, 4),
    "interpolate": lambda w, r: call(w.tracks, **SCALE, upsample=4, smooth_points=3),
    "link": lambda w, r: call(w.bubbles, max_distance_px=2.0, max_gap=choose(r, 0, 1)),
    "render_maps": lambda w, r: call(w.tracks, SHAPE, **SCALE, upsample=3, smooth_points=5),
    "FrameHealth": lambda w, r: call(12, zero=(3,)),
    "FrameHealth.sentences": lambda w, r: call(core.check_health(w.frames)),
    "Maps": lambda w, r: call(SHAPE, upsample=4, pala=choose(r, True, False)),
    "Maps.add": lambda w, r: call(core.Maps(SHAPE), core.map_sums(w.paths, SHAPE)),
    "add_velocity": lambda w, r: call(w.tracks, **SCALE, smooth_points=5),
    "bubble_width": lambda w, r: call(w.frames),
    "butter_bandpass": lambda w, r: call(w.iq, (50.0, 250.0), frame_rate_hz=1000.0, order=1),
    "check_amplitude": lambda w, r: call(w.frames, what="frames", first_frame=3),
    "check_bubbles": lambda w, r: call(w.bubbles, columns=("frame", "z")),
    "check_choice": lambda w, r: call("radial", ["radial", "none"], "method"),
    "check_frames": lambda w, r: call(w.frames, allow_complex=True),
    "check_health": lambda w, r: call(w.frames, 3),
    "check_positive": lambda w, r: call(a=1, b=2.5),
    "density": lambda w, r: call(w.paths, SHAPE, upsample=3),
    "envelope": lambda w, r: call(w.frames),
    "frame_position": lambda w, r: call([0, 5], upsample=4),
    "isolated_bubbles": lambda w, r: call(w.frames, half_px=3, min_contrast=3.0, clear_px=4.0),
    "locate_peaks": lambda w, r: call(w.frames, "radial", 5, roi_px=5, min_score=0.1),
    "map_index": lambda w, r: call([0.5, 3.2], upsample=4),
    "map_shape": lambda w, r: call(SHAPE, upsample=4),
    "map_sums": lambda w, r: call(w.paths, SHAPE, upsample=3),
    "per_track": lambda w, r: call(w.moving, frame_rate_hz=1000.0),
    "power_doppler": lambda w, r: call(choose(r, w.iq, w.frames)),
    "psf_width": lambda w, r: call(w.bank.table, 8),
    "simulate_testcard": lambda w, r: call(
        n_frames=3, n_bubbles=2, rng=rng_of(r), shape_px=SHAPE, noise=0.1
    ),
    "smooth": lambda w, r: call(w.tracks, 5, acceleration_px=choose(r, None, 0.05)),
    "svd_filter": lambda w, r: call(w.iq, 1, 9),
    "to_db": lambda w, r: call(w.frames, floor_db=-40.0),
    "track_summary": lambda w, r: call(w.moving, frame_rate_hz=1000.0),
    **dict.fromkeys(
        (function.__name__ for function in core.METHODS.values()),
        lambda w, r: call(w.windows, pala=choose(r, True, False)),
    ),
}
_IO: dict[str, Maker] = {
    "BlockStore": lambda w, r: call(w.folder / "store.h5"),
    "BlockStore.append": lambda w, r: call(io.BlockStore(w.fresh(".h5"), "w"), w.block),
    "BlockStore.window": lambda w, r: call(io.BlockStore(w.folder / "store.h5"), 2, 4),
    "FrameFile.blocks": lambda w, r: call(w.file, 5, start=1, stop=9, min_frames=2),
    "ResultWriter": lambda w, r: call(w.fresh(), {"a": 1}, overwrite=True),
    "atomic_path": lambda w, r: call(w.fresh(".txt")),
    "fingerprint": lambda w, r: call([w.folder / "few.npy", w.folder / "truth.csv"]),
    "open_frames": lambda w, r: call(
        w.folder / choose(r, "frames.npy", "store.h5"), axes=choose(r, None, "tzx"), **SCALE
    ),
    "read_frames": lambda w, r: call(
        w.folder / choose(r, "frames.npy", "store.h5"), px_mm=choose(r, 0.1, (0.1, 0.05))
    ),
    "read_insilico": lambda w, r: call(w.folder, 1),
    "read_ratbrain": lambda w, r: call(w.folder, 1),
    "read_ratkidney": lambda w, r: call(w.folder),
    "read_table": lambda w, r: call(
        w.folder / "result" / "tables.h5", choose(r, "bubbles", "tracks")
    ),
    "read_truth": lambda w, r: call(choose(r, w.bubbles, w.folder / "truth.csv"), [w.file]),
    "registry_table": lambda w, r: call(w.folder),
    "store_frames": lambda w, r: call(
        [w.folder / "frames.npy"], w.fresh(".h5"), truth=choose(r, None, w.bubbles)
    ),
    "unpack": lambda w, r: call(w.folder / "frames.npy"),
    "write_atomic": lambda w, r: call(w.fresh(".txt"), b"text"),
}
_METRICS: dict[str, Maker] = {
    "detection_scores": lambda w, r: call(w.pairs, max_distance_px=0.5),
    "fourier_ring_correlation": lambda w, r: call(r.random((20, 20)), r.random((20, 20)), px=0.1),
    "frc_resolution": lambda w, r: call(w.curve, choose(r, "half_bit", "one_seventh")),
    "gridding_index": lambda w, r: call(w.density, 10),
    "is_shown": lambda w, r: call(w.centreline, w.density, upsample=10),
    "join_sequences": lambda w, r: call([w.bubbles, w.bubbles], [w.bubbles, w.bubbles]),
    "localization_errors": lambda w, r: call(w.pairs),
    "mask_centreline": lambda w, r: call(w.mask),
    "match_bubbles": lambda w, r: call(w.bubbles, w.bubbles, 0.5),
    "saturation": lambda w, r: call(w.density),
    "score_bubbles": lambda w, r: call(w.bubbles, w.bubbles),
    "score_image": lambda w, r: call(w.density, w.density, upsample=10),
    "score_lengths": lambda w, r: call(w.centreline, w.density, w.density, upsample=10),
    "score_lines": lambda w, r: call(w.density, w.density, upsample=10),
    "score_maps": lambda w, r: call(w.density, w.density, upsample=10),
    "subpixel_histogram": lambda w, r: call(w.bubbles, 7),
}
_SIMULATOR: dict[str, Maker] = {
    "Acquisition": lambda w, r: call((-5.0, 5.0), 1.9, SHAPE, (16.0, -10.0), 1.0, 1540.0, 0.0),
    "Acquisition.to_px": lambda w, r: call(w.acquisition, [20.0], [0.0]),
    "PsfBank": lambda w, r: call(w.bank.table, 8, 5, 1.0, "test"),
    "acquire": lambda w, r: call(w.inside, 1, w.acquisition),
    "acquire_spans": lambda w, r: call(w.inside, [(0, 1)], w.acquisition),
    "add_oscillation": lambda w, r: call(w.bank, phase_rad=0.5),
    "advect": lambda w, r: call(
        w.mask, w.flow, n_frames=4, n_bubbles=choose(r, 3, (2, 4)), rng=rng_of(r), n_psf=2
    ),
    "bank_from_patches": lambda w, r: call([w.windows[0], w.windows[1]], pitch_px=0.5, half_px=2),
    "cam_block": lambda w, r: call(w.cfg, "test", 0),
    "cam_blocks": lambda w, r: call(w.cfg, "test", first=0),
    "cam_pictures": lambda w, r: call(w.cfg, "train"),
    "cam_scene": lambda w, r: call(w.cfg, 0),
    "correlation_width": lambda w, r: call(w.frames),
    "crb_px": lambda w, r: call(w.bank, [0], snr_db=[20.0]),
    "cross_plane": lambda w, r: call(
        w.bubbles.assign(bubble=np.arange(len(w.bubbles)) % 4), speed=0.1, rng=rng_of(r)
    ),
    "cut_speckle": lambda w, r: call(w.speckle, SHAPE, 3, rng=rng_of(r), memory=0.5),
    "displacement_maps": lambda w, r: call(
        w.mask, **SCALE, max_speed_mm_s=3.0, min_area_px=10, rng=rng_of(r)
    ),
    "drop_small": lambda w, r: call(w.mask, 10),
    "extract_psfs": lambda w, r: call(
        w.frames, rng=rng_of(r), n_psf=1, half_px=3, min_contrast=2.0, clear_px=4.0, max_border=0.9
    ),
    "fine_grid": lambda w, r: call(3, 4),
    "gaussian_bank": lambda w, r: call(2, rng=rng_of(r), half_px=4, oversample=4, skew=0.1),
    "grow_network": lambda w, r: call((64, 70), rng=rng_of(r), leaf_radius_px=0.8),
    "invivo_block": lambda w, r: call(w.cfg, 0, w.scene),
    "invivo_blocks": lambda w, r: call(w.cfg, w.scene, first=0),
    "linear_array_psf": lambda w, r: call(half_px=4, oversample=4),
    "literal_rf": lambda w, r: call(w.drawn[:3], w.bank, SHAPE, n_frames=12),
    "lumen_mask": lambda w, r: call(w.network),
    "phantom_block": lambda w, r: call(1, n_frames=1, n_bubbles=2, seed=1),
    "phantom_centreline": lambda w, r: call(w.acquisition),
    "phantom_geometry": lambda w, r: call(),
    "photograph": lambda w, r: call(w.network, rng=rng_of(r)),
    "psf_bank": lambda w, r: call(w.cfg, choose(r, "bmode", "iq", "gaussian", None), "test"),
    "read_bank": lambda w, r: call(w.folder / "bank.npz", oversample=4),
    "resample": lambda w, r: call(w.bank, px_wavelengths=1.1, oversample=4),
    "seeded_stream": lambda w, r: call(2024, "name", 3),
    "segment_vessels": lambda w, r: call(w.vessels, method=choose(r, "frangi", "contrast")),
    "simulate_block": lambda w, r: call(
        w.mask, w.flow, w.bank, n_frames=3, n_bubbles=2, rng=rng_of(r), ratio_db=(20.0, 30.0)
    ),
    "simulate_dataset": lambda w, r: call("cam", w.fresh(".h5"), w.cfg),
    "speckle": lambda w, r: call(SHAPE, rng=rng_of(r), bank=w.bank, density=1.0),
    "synthesize": lambda w, r: call(w.drawn, w.bank, SHAPE, n_frames=12, iq=True),
    "tissue_clutter": lambda w, r: call(SHAPE, 4, rng=rng_of(r), frame_rate_hz=1000.0),
    "true_map": lambda w, r: call(upsample=4, acquisition=w.acquisition),
    "vessels_from_density_map": lambda w, r: call(
        np.where(np.eye(64, k=0) + np.eye(64, k=1) + np.eye(64, k=2) > 0, 0.9, 0.1), **SCALE
    ),
    "write_bank": lambda w, r: call(w.bank, w.fresh(".npz")),
    "write_pala": lambda w, r: call(
        Block(w.iq[:, :24, :20], w.bubbles), w.folder / "pala", 1, acquisition=w.acquisition
    ),
}
_NETWORKS: dict[str, Maker] = {
    "ML3DResNet": lambda w, r: call(4, 1, temporal_kernel=3, output="linear"),
    "CountNet": lambda w, r: call(choose(r, None, 5), 4),
    "MSPCN": lambda w, r: call(2),
    "Mirrored": lambda w, r: call(w.ml3d),
    "ResidualBlock": lambda w, r: call(4, 1),
    "SkipSum": lambda w, r: call(0.5),
    "SimulatedSource": lambda w, r: call(w.cfg, "train"),
    "StoredSource": lambda w, r: call(str(w.folder / "store.h5"), (0.0, 0.5)),
    "Batches": lambda w, r: call(
        networks.StoredSource(str(w.folder / "store.h5")),
        networks.encode_offsets,
        n_steps=1,
        n_sequences=1,
        n_frames=2,
        crop_px=16,
    ),
    "blur": lambda w, r: call(w.offsets, sigma_px=0.5),
    "count_loss": lambda w, r: call(w.offsets[0, 0, 0, :4, None], w.offsets[0, 0, 0, :4] + 1),
    "count_tiles": lambda w, r: call(w.offsets[0], 16),
    "cut": lambda w, r: call(w.block, choose(r, 16, (8, 10), None), rng=rng_of(r)),
    "decode_heatmap": lambda w, r: call(w.heat, 2, threshold=0.5, counts=3, side=3),
    "decode_offsets": lambda w, r: call(w.offsets, 4, threshold=0.5, min_distance_px=0.5),
    "detection_loss": lambda w, r: call(w.offsets, w.offsets, sigma_px=0.5),
    "domain_gap": lambda w, r: call(w.frames, np.full(12, 4.0), {}),
    "own_scale": lambda w, r: call(
        w.frames, {"domain": {"fwhm_z_px": [1, 2], "fwhm_x_px": [1, 3]}}
    ),
    "encode_heatmap": lambda w, r: call(w.bubbles, 12, SHAPE, upsample=2),
    "encode_offsets": lambda w, r: call(w.bubbles, 12, SHAPE),
    "find_weights": lambda w, r: call("ml3d", choose(r, None, w.folder / "ml3d.safetensors")),
    "layer_table": lambda w, r: call(w.ml3d, (1, 1, 3, 9, 8)),
    "load_network": lambda w, r: call("ml3d", w.folder / "ml3d.safetensors"),
    "locate_ml3d": lambda w, r: call(
        w.frames, net=w.ml3d, n_bubbles=4, window=4, stride=2, threshold=0.5, device="cpu"
    ),
    "locate_mspcn": lambda w, r: call(w.frames, net=w.mspcn, threshold=0.5, n_bubbles=3),
    "ml3d_loss": lambda w, r: call(w.offsets, w.offsets, sigma_px=0.5),
    "mixture_loss": lambda w, r: call(w.five_maps[None], w.offsets[None]),
    "mspcn_loss": lambda w, r: call(w.heat, w.heat, sparsity=0.5),
    "offset_loss": lambda w, r: call(w.offsets, w.offsets, masked=True),
    "predict_counts": lambda w, r: call(w.count, w.frames, tile_px=16, batch=2),
    "predict_heatmaps": lambda w, r: call(w.mspcn, w.frames, batch=2, scale=2.0),
    "predict_maps": lambda w, r: call(w.ml3d, w.frames, window=4, stride=2, tile_px=None),
    "read_network": lambda w, r: call(w.folder / "ml3d.safetensors", recipe="ml3d"),
    "resolve_device": lambda w, r: call(choose(r, "cpu", "auto")),
    "resolve_precision": lambda w, r: call("float32", networks.resolve_device("cpu")),
    "seeded_sequence": lambda w, r: call(
        networks.StoredSource(str(w.folder / "store.h5")), 3, 1, "name", 0
    ),
    "sigma_loss": lambda w, r: call(w.five_maps, w.offsets),
    "shipped_weights": lambda w, r: call("ml3d", missing_ok=True),
    "training_windows": lambda w, r: call(w.recipe, w.cfg, w.folder / "store.h5"),
    "validation_blocks": lambda w, r: call(w.recipe, w.cfg, w.folder / "store.h5"),
    "write_network": lambda w, r: call(
        w.fresh(".safetensors"),
        w.ml3d,
        recipe="ml3d",
        network={"features": 4, "blocks": 1},
        about={},
    ),
}
_PIPELINE: dict[str, Maker] = {
    "Look.save": lambda w, r: call(w.look, w.fresh(".html")),
    "MapTotals": lambda w, r: call(w.cfg),
    "SideBySide.save": lambda w, r: call(w.side_by_side, w.fresh()),
    "UlmResult.save": lambda w, r: call(w.result, w.fresh(), overwrite=True),
    "compare_methods": lambda w, r: call(
        choose(r, w.block, w.frames), choose(r, "radial", ["none", "parabola"]), w.cfg
    ),
    "draw_lines": lambda w, r: call(w.tracks, w.cfg, **SCALE),
    "locate": lambda w, r: call(choose(r, w.frames, w.block), "radial", 4, min_score=0.1),
    "look_briefly": lambda w, r: call(w.file),
    "save_result": lambda w, r: call(w.result, w.fresh(), overwrite=True),
    "ulm": lambda w, r: call(
        choose(r, w.block, w.folder / "frames.npy", [w.block, w.block]),
        choose(r, w.cfg, {"locate.n_bubbles": 4}),
        choose(r, "radial", "parabola", None),
        n_jobs=1,
    ),
    "ulm_blocks": lambda w, r: call([w.block], w.cfg, method="weighted", n_jobs=1),
}
_TOP: dict[str, Maker] = {
    "load_config": lambda w, r: call("quick", {"track.max_gap": 1}),
    "look": lambda w, r: call(choose(r, w.block, w.folder / "frames.npy"), w.cfg),
    "plot_frame": lambda w, r: call(w.frames[0], w.bubbles, w.bubbles, px_mm=0.1, title="A"),
    "plot_map": lambda w, r: call(w.density, choose(r, "density", "velocity"), px_mm=0.1),
    "plot_tracks": lambda w, r: call(w.tracks, SHAPE, px_mm=0.1, title="A"),
    "simulate": lambda w, r: call("testcard", w.cfg, split="test", number=0, n_frames=3),
}
_CONFIG: dict[str, Maker] = {
    "as_config": lambda w, r: call(choose(r, w.cfg, "smoke", {"seed": 3})),
    "config_table": lambda w, r: call(w.cfg),
    "method_name": lambda w, r: call("RS"),
    "read_overrides": lambda w, r: call("track.max_gap=1"),
}
_PLOTS: dict[str, Maker] = {
    "save_figure": lambda w, r: call(w.figure, w.fresh(".png")),
}
_PAPER: dict[str, Maker] = {
    "Comparison.bubble_scores": lambda w, r: call(w.comparison, rng=rng_of(r), n_draws=2),
    "Comparison.density": lambda w, r: call(w.comparison, "RS", points=True),
    "Comparison.map_scores": lambda w, r: call(w.comparison, rng=rng_of(r), n_draws=1),
    "Method": lambda w, r: call("radial", 4, 0.5),
    "Player": lambda w, r: call(w.frames, {"true": w.bubbles}, scale=2, label="A"),
    "Scores.difference": lambda w, r: call(w.scores, "RS", "few"),
    "Scores.text": lambda w, r: call(w.scores, 2),
    "as_picture": lambda w, r: call(w.figure, dpi=30),
    "best_settings": lambda w, r: call(w.methods, w.scores.values["jaccard_far"]),
    "classical_label": lambda w, r: call({"parabola": "parabola, 20 bubbles"}),
    "compare": lambda w, r: call([w.block], w.methods, w.cfg, span=6),
    "export_figure": lambda w, r: call(w.figure, w.folder, "figure"),
    "export_table": lambda w, r: call(w.scores.values, w.folder, "table", digits=2),
    "locate_all": lambda w, r: call(w.frames, w.methods, w.cfg, n_true=np.full(12, 4)),
    "number_grid": lambda w, r: call(["radial"], n_bubbles=[4, 5], shares=[0.5]),
    "paper_sized": lambda w, r: call("table1"),
    "per_frame": lambda w, r: call(w.ml3d, (16, 16), window=2, stride=1),
    "plot_centrelines": lambda w, r: call({"a": w.centreline.assign(state="a")}, {"a": "red"}),
    "plot_figure1": lambda w, r: call(networks.layer_table(w.ml3d, (1, 1, 3, 64, 48))),
    "plot_figure2": lambda w, r: call(w.vessels[:40, :40], w.mask, w.flow, **SCALE),
    "plot_figure3": lambda w, r: call({"truth": w.density, "RS": w.density}, px_mm=0.1),
    "plot_figure4": lambda w, r: call({"truth": w.density, "RS": w.density}, px_mm=0.1),
    "save_film": lambda w, r: call([paper.as_picture(w.figure, dpi=20)], w.fresh(".gif")),
    "sequence_numbers": lambda w, r: call(w.cfg, "test"),
    "settings_to_try": lambda w, r: call(n_bubbles=[4], shares=[0.5]),
    "start_run": lambda w, r: call(
        "nb",
        profile="smoke",
        overrides="seed=3",
        source="simulated",
        data_dir=w.folder,
        out_dir=w.folder / "out",
    ),
    "threshold_grid": lambda w, r: call([0.1, 0.2], method="mspcn"),
}
VALID: dict[str, Maker] = {
    f"{room}.{name}".removeprefix("top."): maker
    for room, makers in {
        "top": _TOP,
        "core": _CORE,
        "io": _IO,
        "metrics": _METRICS,
        "simulator": _SIMULATOR,
        "networks": _NETWORKS,
        "pipeline": _PIPELINE,
        "config": _CONFIG,
        "plots": _PLOTS,
        "paper": _PAPER,
    }.items()
    for name, maker in makers.items()
}
_MADE = "made by the package, not by users"
LEFT_OUT = {
    "fetch": "network",
    "train": "trains",
    "core.UlmWarning": "a warning",
    "io.FrameFile": _MADE,
    "simulator.Scene": _MADE,
    "simulator.Tube": _MADE,
    "simulator.VesselNetwork": _MADE,
    "simulator.invivo_scene": "needs a recording of 3 GB",
    "simulator.phantom_blocks": "minutes",
    "networks.Recipe": _MADE,
    "networks.RunSummary": _MADE,
    "pipeline.Look": _MADE,
    "pipeline.SideBySide": _MADE,
    "pipeline.UlmResult": _MADE,
    "paper.Comparison": _MADE,
    "paper.NotebookRun": _MADE,
    "paper.Scores": _MADE,
    "paper.insilico_blocks": "minutes",
    "paper.measure_costs": "starts a process",
    "paper.ratbrain_files": "needs PALA's files",
    **dict.fromkeys(
        [
            "paper.map_panels",
            "paper.paper_sized_rows",
            "paper.plot_figure5",
            "paper.plot_scores",
            "paper.ranking",
            "paper.scores_beside_paper",
            "paper.sentences",
            "paper.table1",
            "paper.table2",
            "paper.table_methods",
            "paper.table_results",
            "paper.table_rivals",
            "paper.table_slugs",
        ],
        "takes what the notebooks' own cells make",
    ),
}
# A second or so each: called a tenth as often.
HEAVY = {
    "networks.layer_table",
    "paper.as_picture",
    "paper.export_figure",
    "paper.plot_figure1",
    "paper.plot_figure2",
    "paper.plot_figure3",
    "paper.plot_figure4",
    "paper.save_film",
    "pipeline.Look.save",
    "pipeline.SideBySide.save",
    "pipeline.UlmResult.save",
    "pipeline.save_result",
    "plots.save_figure",
    "simulator.crb_px",
    "simulator.invivo_block",
    "simulator.invivo_blocks",
    "simulator.phantom_block",
    "simulator.phantom_geometry",
    "simulator.simulate_dataset",
}
