"""Grown networks and their photographs: Murray's law, a brute-force lumen, light lost in blood."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage as ndi

from ulmpaper.vessels import VesselNetwork, grow_network, grow_vessels, lumen_mask, photograph

SHAPE = (128, 160)


@pytest.fixture(scope="module")
def network() -> VesselNetwork:
    return grow_network(SHAPE, rng=np.random.default_rng(3))


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(2, 3.5))
def test_radii_follow_murrays_law_at_every_node(seed: int, exponent: float) -> None:
    network = grow_network((64, 64), rng=np.random.default_rng(seed), leaf_radius_px=0.7, murray_exponent=exponent)
    inner = np.unique(network.parent[network.parent >= 0])
    power = network.radius_px**exponent
    children = np.zeros(len(power))
    for node, parent in enumerate(network.parent):
        if parent >= 0:
            children[parent] += power[node]
    assert children[inner] == pytest.approx(power[inner])
    leaves = np.setdiff1d(np.arange(len(power)), inner)
    assert network.radius_px[leaves] == pytest.approx(0.7)


def test_trees_enter_from_outside_and_fork_in_two(network: VesselNetwork) -> None:
    roots = np.flatnonzero(network.parent < 0)
    assert len(roots) in (2, 3)
    outside = (network.nodes[roots] < 0) | (network.nodes[roots] > np.array(SHAPE) - 1)
    assert outside.any(axis=1).all()
    assert np.bincount(network.parent[network.parent >= 0]).max() == 2
    assert (network.parent < np.arange(len(network.parent))).all()


def test_segments_are_short_and_no_tissue_is_far_from_blood(network: VesselNetwork) -> None:
    child = np.flatnonzero(network.parent >= 0)
    length = np.linalg.norm(network.nodes[child] - network.nodes[network.parent[child]], axis=1)
    assert length.max() < 8
    lumen = lumen_mask(network)
    assert 0.08 < lumen.mean() < 0.25
    assert np.percentile(ndi.distance_transform_edt(~lumen), 95) < 12


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_lumen_equals_the_slow_obvious_version(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = (40, 50)
    nodes = np.array([[20.0, 25.0]]) + np.cumsum(rng.uniform(-4, 4, (6, 2)), axis=0)
    parent, radius = np.array([-1, 0, 1, 1, 2, 3]), rng.uniform(0.6, 5, 6)
    lumen = lumen_mask(VesselNetwork(nodes, parent, radius, shape))
    z, x = np.indices(shape)
    depth = np.full(shape, -np.inf)  # inside the wall, of the deepest of all segments
    for node in range(1, 6):
        start, along = nodes[parent[node]], nodes[node] - nodes[parent[node]]
        share = ((z - start[0]) * along[0] + (x - start[1]) * along[1]) / (along @ along)
        foot = start[:, None, None] + share.clip(0, 1) * along[:, None, None]
        depth = np.maximum(depth, radius[node] - np.hypot(z - foot[0], x - foot[1]))
    assert lumen[depth > 0.75].all()
    assert not lumen[depth < -0.75].any()


def test_blood_takes_light_by_its_thickness() -> None:
    rows = [20, 60, 100]
    radius = np.array([1.5, 3.0, 6.0])
    nodes = np.array([[row, x] for row in rows for x in (-20.0, 180.0)])
    network = VesselNetwork(nodes, np.array([-1, 0, -1, 2, -1, 4]), np.repeat(radius, 2), (120, 160))
    picture = photograph(network, rng=np.random.default_rng(0))
    axis = np.array([picture[row].mean() for row in rows])
    tissue = np.array([picture[row + 17].mean() for row in rows])
    # The camera's blur softens the thin vessel, and some light is lost round the vessels too.
    lost = -np.log(axis / tissue) / (2 * radius)
    assert (np.diff(axis) < 0).all()
    assert lost[1:] == pytest.approx(0.17, abs=0.03)
    assert 0.08 < lost[0] < 0.2


def test_picture_is_dark_in_vessels_and_the_same_for_the_same_seed(network: VesselNetwork) -> None:
    picture = photograph(network, rng=np.random.default_rng(0))
    assert picture.dtype == np.float32
    assert picture.shape == SHAPE
    assert 0 <= picture.min() < picture.max() <= 1
    lumen = lumen_mask(network)
    assert picture[lumen].mean() < 0.9 * picture[~lumen].mean()
    first, again, other = (grow_vessels((64, 80), rng=np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"shape_px": (63, 100)}, ValueError, "two whole numbers .* of 64 or more, not \\(63, 100\\)"),
        ({"shape_px": (64,)}, ValueError, "shape_px"),
        ({"shape_px": (64.0, 64.0)}, ValueError, "shape_px"),
        ({"leaf_radius_px": 0}, ValueError, "leaf_radius_px must be a number above 0"),
        ({"murray_exponent": np.nan}, ValueError, "murray_exponent"),
        ({"rng": 7}, TypeError, "write np.random.default_rng\\(seed\\)"),
    ],
)
def test_bad_input_gets_one_clear_error(change: dict, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        grow_network(**{"shape_px": (64, 64), "rng": np.random.default_rng(0), **change})


def test_photograph_needs_a_generator(network: VesselNetwork) -> None:
    with pytest.raises(TypeError, match="rng must be a numpy"):
        photograph(network, rng=0)  # type: ignore[arg-type]
