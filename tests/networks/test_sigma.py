"""The error bar of each bubble: what is learnt, how pixels are merged, where it goes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ulmpaper as ulm
from ulmpaper.config import load_config
from ulmpaper.core.records import bubble_table
from ulmpaper.core.testcard import simulate_testcard
from ulmpaper.networks.loss import sigma_loss
from ulmpaper.networks.model import ML3DResNet
from ulmpaper.networks.predict import Mirrored, predict_maps
from ulmpaper.networks.sampling import at_own_scale
from ulmpaper.networks.targets import decode_offsets, encode_offsets

pytestmark = pytest.mark.usefixtures("one_thread")


@given(st.floats(0.03, 0.5), st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_loss_is_least_at_the_standard_deviation_of_the_errors(sigma: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = torch.zeros(3, 1, 80, 80)
    truth[0] = 1
    error = torch.from_numpy(sigma * rng.standard_normal((2, 1, 80, 80)).astype(np.float32))

    def loss(told: float) -> float:
        maps = torch.cat([torch.full((1, 1, 80, 80), 0.9), error, torch.full((2, 1, 80, 80), told)])
        return float(sigma_loss(maps, truth)[0])

    assert loss(sigma) < min(loss(0.8 * sigma), loss(1.25 * sigma))


def test_only_sigma_is_learnt_and_only_where_bubbles_are_found() -> None:
    maps = torch.rand(5, 1, 6, 6).requires_grad_()
    truth = torch.zeros(3, 1, 6, 6)
    truth[0, 0, 2, 3] = truth[0, 0, 4, 4] = 1
    with torch.no_grad():
        maps[0] = 0.9
        maps[0, 0, 4, 4] = 0.1
    sigma_loss(maps, truth)[0].backward()
    assert maps.grad is not None
    touched = maps.grad.nonzero()
    assert {tuple(at) for at in touched[:, 1:].tolist()} == {(0, 2, 3)}
    assert set(touched[:, 0].tolist()) == {3, 4}
    assert float(sigma_loss(maps.detach(), torch.zeros(3, 1, 6, 6))[0]) == 0


def test_pixels_that_mean_the_same_bubble_share_their_spread() -> None:
    """Slow and obvious: mean of squares about the common position, weighted by p."""
    maps = torch.zeros(5, 1, 5, 5)
    maps[:, 0, 2, 2] = torch.tensor([0.6, 0.95, 0.5, 0.10, 0.20])
    maps[:, 0, 3, 2] = torch.tensor([0.3, 0.05, 0.7, 0.30, 0.05])
    (found,) = decode_offsets(maps, 5).to_dict("records")
    p, z, x = np.array([2, 1]) / 3, np.array([2.45, 2.55]), np.array([2.0, 2.2])
    for axis, places, sigma in (("z", z, (0.1, 0.3)), ("x", x, (0.2, 0.05))):
        mean = p @ places
        assert found[axis] == pytest.approx(mean, abs=1e-6)
        spread = np.sqrt(p @ (np.square(sigma) + (places - mean) ** 2))
        assert found[f"sigma_{axis}"] == pytest.approx(spread, abs=1e-6)
    apart = decode_offsets(maps, 5, min_distance_px=0)
    np.testing.assert_allclose(apart[["sigma_z", "sigma_x"]], [[0.1, 0.2], [0.3, 0.05]], rtol=1e-6)


def test_three_maps_give_no_error_bar() -> None:
    bubble = bubble_table([0], [2.2], [1.6], [1.0])
    found = decode_offsets(encode_offsets(bubble, 1, (5, 5)), 1)
    assert found.columns.tolist() == ["frame", "z", "x", "score"]


@pytest.mark.parametrize("mirrored", [False, True])
def test_one_pass_and_windows_tell_the_same(mirrored: bool) -> None:
    torch.manual_seed(1)
    net = ML3DResNet(4, 1, sigma=True)
    torch.nn.init.normal_(net.spread.weight)
    frames = np.random.default_rng(0).random((9, 12, 14), dtype=np.float32)
    run = Mirrored(net) if mirrored else net
    whole = next(predict_maps(run, frames, window=9, stride=9, device="cpu"))[1]
    assert whole.shape == (5, 9, 12, 14)
    parts = predict_maps(run, frames, window=2, stride=None, batch=2, device="cpu")
    torch.testing.assert_close(torch.cat([part for _, part in parts], dim=1), whole)


def test_error_bars_scale_back_with_their_bubbles() -> None:
    sampled = at_own_scale(np.ones((1, 20, 40)), (0.5, 2.0), {})
    table = bubble_table([0], [4.0], [9.0], [1.0]).assign(sigma_z=0.1, sigma_x=0.1)
    back = sampled.restore(table)
    assert back[["sigma_z", "sigma_x"]].to_numpy().ravel().tolist() == pytest.approx([0.2, 0.05])
    again = sampled.carry(back)
    np.testing.assert_allclose(again.to_numpy(float), table.to_numpy(float))


def test_layer_is_trained_alone_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    ulm.train("ml3d", tmp_path / "trunk", "smoke")
    start = tmp_path / "trunk" / "best.safetensors"
    cfg = load_config("smoke", {"ml3d.sigma": True})
    with pytest.raises(ValueError, match="name one as start"):
        ulm.train("ml3d", tmp_path / "none", cfg)
    ulm.train("ml3d", tmp_path / "once", cfg, start=start)
    ulm.train("ml3d", tmp_path / "twice", cfg, start=start, stop_after=4)
    ulm.train("ml3d", tmp_path / "twice", cfg, start=start)
    trunk, once, twice = (
        ulm.load_network("ml3d", tmp_path / name / "best.safetensors").state_dict()
        for name in ("trunk", "once", "twice")
    )
    assert set(once) - set(trunk) == {"spread.weight", "spread.bias"}
    assert all(torch.equal(once[key], value) for key, value in trunk.items())
    assert all(torch.equal(once[key], value) for key, value in twice.items())


def test_mixture_begins_with_a_trained_network_and_learns_all_of_it(tmp_path: Path) -> None:
    ulm.train("ml3d", tmp_path / "trunk", "smoke")
    start = tmp_path / "trunk" / "best.safetensors"
    cfg = load_config("smoke", {"ml3d.loss": "mixture"})
    summary = ulm.train("ml3d", tmp_path / "mixture", cfg, start=start)
    assert {"error_over_sigma_z", "jaccard_near", "threshold"} <= set(summary.scores)
    before = ulm.load_network("ml3d", start).state_dict()
    net = ulm.load_network("ml3d", tmp_path / "mixture" / "best.safetensors")
    assert all(not torch.equal(net.state_dict()[key], value) for key, value in before.items())
    maps = net(torch.rand(1, 1, 5, 16, 16))
    assert maps.shape[1] == 5
    assert 0 <= maps[:, 0].min() <= maps[:, 0].max() <= 1
    assert -0.5 <= maps[:, 1:3].min() <= maps[:, 1:3].max() <= 1.5


def test_error_bars_reach_the_tables(rng: np.random.Generator) -> None:
    net = ML3DResNet(4, 1, sigma=True)
    block = simulate_testcard(n_frames=12, n_bubbles=4, shape_px=(24, 24), rng=rng)
    found = ulm.networks.locate_ml3d(block.frames, net=net, n_bubbles=3, threshold=0)
    assert found[["sigma_z", "sigma_x"]].gt(0).all(axis=None)
    assert {"sigma_z", "sigma_x"} <= set(ulm.link(found))
