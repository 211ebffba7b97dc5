"""Grown networks and their photographs: Murray's law, a brute-force lumen, light lost in blood."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage as ndi

from ulmpaper.simulator.vessels import (
    VesselNetwork,
    grow_network,
    lumen_mask,
    photograph,
    segment_vessels,
    vessels_from_density_map,
)

SHAPE = (128, 160)


@pytest.fixture(scope="module")
def network() -> VesselNetwork:
    return grow_network(SHAPE, rng=np.random.default_rng(3))


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(2, 3.5))
def test_radii_follow_murrays_law_at_every_node(seed: int, exponent: float) -> None:
    network = grow_network(
        (64, 64), rng=np.random.default_rng(seed), leaf_radius_px=0.7, murray_exponent=exponent
    )
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
    network = VesselNetwork(
        nodes, np.array([-1, 0, -1, 2, -1, 4]), np.repeat(radius, 2), (120, 160)
    )
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
    first, again, other = (
        photograph(network, rng=np.random.default_rng(seed)) for seed in (5, 5, 6)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (
            {"shape_px": (63, 100)},
            ValueError,
            "two whole numbers .* of 64 or more, not \\(63, 100\\)",
        ),
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


SCALE = {"px_mm": 0.1, "frame_rate_hz": 1000.0}


def dice(mask: np.ndarray, truth: np.ndarray) -> float:
    return 2 * (mask & truth).sum() / (mask.sum() + truth.sum())


def photo(seed: int, shape_px: tuple[int, int] = (200, 200)) -> tuple[np.ndarray, np.ndarray]:
    """Photograph of a network, and its true lumen."""
    rng = np.random.default_rng(seed)
    network = grow_network(shape_px, rng=rng)
    return photograph(network, rng=rng), lumen_mask(network)


@pytest.mark.parametrize("seed", [0, 100])
def test_the_lumen_is_found(seed: int) -> None:
    picture, lumen = photo(seed)
    assert dice(segment_vessels(picture), lumen) > 0.75
    assert dice(segment_vessels(picture, method="contrast"), lumen) > 0.7


@settings(max_examples=6, deadline=None)
@given(st.sampled_from(["uint8", "float", "float32"]), st.floats(0.01, 1000), st.booleans())
def test_any_scale_and_colour_gives_the_same_mask(kind: str, factor: float, alpha: bool) -> None:
    picture = (photo(1, (96, 96))[0] * 255).astype(np.uint8)
    expected = segment_vessels(picture)
    noise = np.random.default_rng(0).integers(
        0, picture.max(), (96, 96, 4 if alpha else 3), dtype=np.uint8
    )
    noise[..., 1] = picture
    colour = noise if kind == "uint8" else noise.astype(kind) * factor
    assert (segment_vessels(colour) != expected).mean() < 0.001


def test_bright_vessels_are_found_as_dark_ones() -> None:
    picture, lumen = photo(2, (128, 128))
    mask = segment_vessels(picture.max() - picture, bright=True)
    assert dice(mask, segment_vessels(picture)) > 0.99
    assert dice(mask, lumen) > 0.75


def test_wide_lumens_are_filled_and_specks_dropped() -> None:
    picture = np.ones((120, 120))
    picture[50:70] = 0.3  # twenty pixels wide: the ridge filter sees its walls only
    picture[10:13, 10:13] = 0.3
    mask = segment_vessels(picture)
    assert mask[51:69, 5:-5].all()
    assert not mask[:40].any()


@pytest.mark.parametrize(
    ("image", "change", "error", "match"),
    [
        (np.zeros((4, 4)), {}, ValueError, r"8 px or more, not shape \(4, 4\)"),
        (np.zeros((20, 20, 2)), {}, ValueError, r"picture \(Z, X\) or \(Z, X, 3\)"),
        (np.zeros((20, 20)), {}, ValueError, "not be black all over"),
        (np.full((20, 20), 7), {}, ValueError, "image is constant"),
        (np.full((20, 20), np.nan), {}, ValueError, "finite brightnesses"),
        (np.full((20, 20), -1.0), {}, ValueError, "finite brightnesses from 0"),
        (np.full((20, 20), "a"), {}, TypeError, "image must hold numbers"),
        (np.eye(20), {"method": "fragni"}, ValueError, "did you mean 'frangi'"),
        (
            np.eye(20),
            {"percentiles": (90, 80)},
            ValueError,
            "percentiles must be two ascending numbers from 0 to 100",
        ),
        (np.eye(20), {"contrasts": (0.1, 2.0)}, ValueError, "contrasts .* from 0 to 1"),
        (np.eye(20), {"min_area_px": 0}, ValueError, "min_area_px"),
    ],
)
def test_bad_photographs_get_one_clear_error(
    image: np.ndarray, change: dict, error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        segment_vessels(image, **change)


def jet(share: np.ndarray) -> np.ndarray:
    """The colour map jet, from its corners."""
    corners = (
        [0.375, 0.625, 0.875, 1.125],
        [0.125, 0.375, 0.625, 0.875],
        [-0.125, 0.125, 0.375, 0.625],
    )
    return np.stack([np.interp(share, at, [0, 1, 1, 0]) for at in corners], axis=-1)


def drawn_maps() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Density, direction, speed as PALA paints them: vessels down at 0.3, up at 0.6 of the top."""
    z, x = np.indices((240, 320))
    down = np.exp(-(((x - 90 - 15 * np.sin(z / 40)) / 5) ** 2))
    up = np.exp(-(((x - 220 + 15 * np.sin(z / 50)) / 7) ** 2))
    density = np.where(np.maximum(down, up) > 0.01, np.maximum(down, up), 0)
    share = np.where(x < 155, 0.3, 0.6)
    speed = (jet(share ** (2 / 3)) * density[..., None] ** 0.25) ** 0.6
    speed[:100, :30] = (jet(np.linspace(1, 0, 100) ** (2 / 3)) ** 0.6)[:, None]
    shown = np.cbrt(density)
    colour = np.where((x < 155)[..., None], [1.0, 0.5, 0], [0, 0.5, 1.0]) * shown[..., None]
    grey = np.repeat(shown[..., None], 3, axis=2)
    for picture in (grey, colour, speed):
        picture[225:229, 10:60] = 1
    return tuple((picture * 255).astype(np.uint8) for picture in (grey, colour, speed))


@pytest.mark.parametrize("shape", [None, (120, 160)])
def test_drawn_maps_come_back_as_flow_without_their_bars(shape: tuple[int, int] | None) -> None:
    mask, maps = vessels_from_density_map(*drawn_maps(), **SCALE, shape_px=shape, max_speed_mm_s=10)
    shrink = 240 // len(mask)
    assert mask.shape == maps.shape[1:] == (shape or (240, 320))
    assert not maps[:, ~mask].any()
    assert not mask[200 // shrink :, : 60 // shrink].any()  # no vessel under the bars
    assert not mask[: 120 // shrink, : 60 // shrink].any()
    left, right = mask[:, : 155 // shrink], mask[:, 155 // shrink :]
    assert left.any(axis=1).all()
    assert right.any(axis=1).all()
    falls, rises = maps[0, :, : 155 // shrink][left], maps[0, :, 155 // shrink :][right]
    assert (falls > 0).mean() > 0.99
    assert (rises < 0).mean() > 0.99
    top_px = 10 / (SCALE["px_mm"] * SCALE["frame_rate_hz"])
    speed = np.hypot(*maps)
    assert np.median(speed[:, : 155 // shrink][left]) == pytest.approx(0.3 * top_px, rel=0.03)
    assert np.median(speed[:, 155 // shrink :][right]) == pytest.approx(0.6 * top_px, rel=0.03)


def test_density_alone_gets_flow_by_its_shape() -> None:
    density = drawn_maps()[0]
    mask, maps = vessels_from_density_map(density[..., 0], **SCALE, rng=np.random.default_rng(0))
    assert np.hypot(*maps).max() == pytest.approx(0.05, rel=0.05)
    assert (np.hypot(*maps) > 0).sum() == mask.sum()
    with pytest.warns(UserWarning, match="px per frame"):
        vessels_from_density_map(density, px_mm=0.01, frame_rate_hz=100)


@pytest.mark.parametrize(
    ("pictures", "change", "match"),
    [
        (
            (np.zeros((20, 20)),),
            {},
            "density_rgb must hold finite brightnesses from 0 and not be black",
        ),
        (
            (np.eye(20), np.ones((20, 21, 3))),
            {},
            r"direction_rgb must have the size of density_rgb, \(20, 20\)",
        ),
        ((np.eye(20), None, np.full((20, 20, 3), np.inf)), {}, "speed_rgb must hold finite"),
        ((np.eye(20),), {"shape_px": (4, 4)}, "shape_px must be two whole numbers"),
        ((np.eye(20),), {"px_mm": 0}, "px_mm must be a number above 0"),
        ((drawn_maps()[0],), {"min_area_px": 100_000}, "mask is empty"),
    ],
)
def test_bad_maps_get_one_clear_error(pictures: tuple, change: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        vessels_from_density_map(*pictures, **{**SCALE, **change})


@pytest.fixture(scope="module")
def rat_brain(data_mirror: Path) -> list[np.ndarray]:
    from PIL import Image

    paths = [
        data_mirror / f"PALA_InVivoRatBrain_example_{kind}.tif"
        for kind in ("MatOut", "MatOut_zdir", "VelMorm")
    ]
    if missing := [path.name for path in paths if not path.is_file()]:
        pytest.skip(f"PALA's pictures of the rat brain are not here: {', '.join(missing)}")
    return [np.asarray(Image.open(path).convert("RGB")) for path in paths]


def test_the_rat_brain_flows_as_it_is_coloured(rat_brain: list[np.ndarray]) -> None:
    density, direction, _ = rat_brain
    mask, maps = vessels_from_density_map(*rat_brain, **SCALE, shape_px=(260, 393))
    assert 0.08 < mask.mean() < 0.2
    assert not mask[:70, :16].any()  # under the colour bar
    assert not mask[242:246, 20:52].any()  # under the scale bar
    assert 0.03 < np.hypot(*maps).max() <= 0.05
    # Every third pixel of the pictures is the centre of a pixel of the new grid.
    z, x = (
        np.rint((np.arange(n) + 0.5) * size / n - 0.5).astype(int)
        for n, size in zip((260, 393), (781, 1181), strict=True)
    )
    colour = direction[np.ix_(z, x)].astype(int)
    clear = (
        mask & (np.abs(maps[0]) > 0.5 * np.hypot(*maps)) & (density[np.ix_(z, x)].max(axis=2) > 60)
    )
    agrees = np.sign(maps[0]) == np.sign(colour[..., 0] - colour[..., 2])
    assert agrees[clear].mean() > 0.95
