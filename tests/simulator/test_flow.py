"""Displacement maps: tubes of known flow, conservation, bubbles that stay in their vessel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike
from scipy import ndimage as ndi

from ulmpaper.simulator import flow
from ulmpaper.simulator.flow import displacement_maps, drop_small

# With 1 mm pixels and 1 frame per second, steps are speeds; the fastest moves one pixel per frame.
UNIT = {"px_mm": 1.0, "frame_rate_hz": 1.0, "max_speed_mm_s": 1.0}


def capsule(shape: tuple[int, int], start: ArrayLike, end: ArrayLike, radius: float) -> np.ndarray:
    """Pixels within `radius` of the line from `start` to `end`."""
    z, x = np.indices(shape)
    along = np.subtract(end, start)
    share = ((z - start[0]) * along[0] + (x - start[1]) * along[1]) / (along @ along)
    z, x = z - start[0] - share.clip(0, 1) * along[0], x - start[1] - share.clip(0, 1) * along[1]
    return np.hypot(z, x) <= radius


def quarter_ring(radius: float = 60.0, half_width: float = 6.5) -> np.ndarray:
    z, x = np.indices((90, 90))
    return np.abs(np.hypot(z, x) - radius) <= half_width


# A trunk from the upper border that divides in two, none of the three along the grid.
NODE, TRUNK, BRANCHES = (75.0, 75.0), (95.0, 35.0), ((105.0, -25.0), (80.0, 105.0))


def fork(radius: float, child_radius: float) -> np.ndarray:
    shape = (160, 160)
    mask = capsule(shape, np.subtract(NODE, TRUNK), NODE, radius)
    for branch in BRANCHES:
        mask |= capsule(shape, NODE, np.add(NODE, branch), child_radius)
    return mask


def flux(maps: np.ndarray, centre: ArrayLike, normal: ArrayLike, reach: float) -> float:
    """Flow along `normal` through a cut across a vessel, in the plane [px^2/frame]."""
    normal = np.array(normal) / np.hypot(*normal)
    s = np.arange(-reach, reach, 0.1)
    points = np.array(centre)[:, None] + np.array([-normal[1], normal[0]])[:, None] * s
    return float(
        sum(
            n * ndi.map_coordinates(m, points, order=1) for n, m in zip(normal, maps, strict=True)
        ).sum()
        * 0.1
    )


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 8), st.booleans())
def test_a_straight_tube_has_poiseuilles_profile(half_width: int, upright: bool) -> None:
    mask = np.zeros((60, 90), dtype=bool)
    mask[30 - half_width : 31 + half_width] = True
    maps = displacement_maps(mask.T if upright else mask, **UNIT)
    across, along = maps if not upright else maps[::-1].transpose(0, 2, 1)
    radius = half_width + 0.5
    parabola = 1 - (np.arange(-half_width, half_width + 1) / radius) ** 2
    assert np.hypot(across, along)[mask].reshape(-1, 90) == pytest.approx(
        np.repeat(parabola[:, None], 90, axis=1), abs=1e-5
    )
    assert np.abs(across[:, 10:-10]).max() < 1e-3
    assert np.abs(across).max() < 0.2
    assert len(np.unique(np.sign(along[mask]))) == 1


@st.composite
def blobs(draw: st.DrawFn) -> np.ndarray:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = draw(st.integers(8, 50)), draw(st.integers(8, 50))
    field = ndi.gaussian_filter(rng.standard_normal(shape), draw(st.floats(0, 4)))
    return field > np.quantile(field, draw(st.floats(0.1, 0.9)))


@settings(max_examples=40, deadline=None)
@given(blobs(), st.booleans(), st.floats(0.1, 50))
def test_any_mask_gets_finite_flow_inside_and_none_outside(
    mask: np.ndarray, veins: bool, speed: float
) -> None:
    rng = np.random.default_rng(0) if veins else None
    maps = displacement_maps(
        mask, px_mm=0.1, frame_rate_hz=1000, max_speed_mm_s=speed, min_area_px=1, rng=rng
    )
    assert maps.dtype == np.float32
    assert maps.shape == (2, *mask.shape)
    assert np.isfinite(maps).all()
    assert np.hypot(*maps).max() <= speed / 100 * (1 + 1e-5)
    assert not maps[:, ~mask].any()


def test_steps_scale_with_speed_pitch_and_frame_rate() -> None:
    mask = fork(8, 6)
    maps = displacement_maps(mask, **UNIT)
    scaled = displacement_maps(mask, px_mm=0.2, frame_rate_hz=500, max_speed_mm_s=5)
    assert scaled == pytest.approx(maps * 5 / (0.2 * 500), abs=1e-6)
    assert np.hypot(*maps).max() == pytest.approx(1, abs=0.02)


def test_as_much_flows_through_every_section_of_a_bend() -> None:
    maps = displacement_maps(quarter_ring(), **UNIT)
    angles = np.radians(np.arange(5, 86, 5))
    through = [
        flux(maps, (60 * np.sin(a), 60 * np.cos(a)), (np.cos(a), -np.sin(a)), 12) for a in angles
    ]
    # Plane Poiseuille flow: 2/3 of the top speed over a width of 13 px, less a little at the wall.
    assert np.abs(through) == pytest.approx(np.mean(np.abs(through)), rel=0.08)
    assert np.mean(np.abs(through)) == pytest.approx(2 / 3 * 13, rel=0.08)
    assert len(np.unique(np.sign(through))) == 1


def test_flow_divides_at_a_fork_and_murrays_branches_carry_it_all() -> None:
    radius, child_radius = 10.0, 10.0 / 2 ** (1 / 3)
    maps = displacement_maps(fork(radius, child_radius), **UNIT)
    trunk = [
        flux(maps, np.subtract(NODE, np.multiply(TRUNK, share)), TRUNK, 14)
        for share in (0.3, 0.4, 0.5)
    ]
    branches = np.array(
        [
            [flux(maps, np.add(NODE, np.multiply(way, s)), way, 12) for way in BRANCHES]
            for s in (0.4, 0.5, 0.6)
        ]
    )
    assert min(trunk) > 0  # the wide end at the border is the inlet, and nothing flows back
    assert branches.min() > 0
    # Blood flows through round vessels: a plane section counts once more with the radius.
    assert branches.sum(axis=1) * child_radius == pytest.approx(np.array(trunk) * radius, rel=0.06)


def test_direction_is_smooth_along_a_fork() -> None:
    mask = fork(8, 6)
    maps = displacement_maps(mask, **UNIT)
    unit = maps / np.maximum(np.hypot(*maps), 1e-12)
    both = mask[1:] & mask[:-1]
    cosine = (unit[:, 1:] * unit[:, :-1]).sum(axis=0)[both]
    assert cosine.min() > 0.5
    assert maps[0][mask].min() > 0


def advect(maps: np.ndarray, at: np.ndarray) -> np.ndarray:
    return at + np.stack([ndi.map_coordinates(part, at.T, order=1) for part in maps], axis=1)


def test_bubbles_stay_in_a_bend_and_keep_their_density() -> None:
    mask = quarter_ring()
    rng = np.random.default_rng(1)
    maps = displacement_maps(mask, **{**UNIT, "max_speed_mm_s": 0.5})
    pixels = np.argwhere(mask)
    start = at = pixels[rng.integers(len(pixels), size=40_000)] + rng.uniform(
        -0.5, 0.5, (40_000, 2)
    )
    for _ in range(60):
        at = advect(maps, at)
    distance, angle = np.hypot(*at.T), np.degrees(np.arctan2(at[:, 0], at[:, 1]))
    # The flow moves 30 px: sections nearer to the ends are emptied by it, or filled up.
    middle = (angle > 32) & (angle < 58)
    assert np.abs(distance - np.hypot(*start.T))[middle].max() < 0.8  # the wall is a staircase
    sections, _ = np.histogram(angle[middle], 6, range=(32, 58))
    layers, edges = np.histogram(distance[middle], 5, range=(54.5, 65.5))
    layers = layers / (edges[1:] + edges[:-1])  # outer layers are longer
    assert sections / sections.mean() == pytest.approx(np.ones(6), abs=0.12)
    assert layers / layers.mean() == pytest.approx(np.ones(5), abs=0.12)


def test_a_ring_without_ends_is_fed_on_one_side_and_drained_on_the_other() -> None:
    z, x = np.indices((80, 80)) - 40
    ring = np.abs(np.hypot(z, x) - 25) <= 4
    maps = displacement_maps(ring, **UNIT)
    azimuth = np.stack([x, -z]) / np.maximum(np.hypot(z, x), 1)  # turning from x towards -z
    turning = (maps * azimuth).sum(axis=0)
    assert 0.3 < (turning[ring] > 0).mean() < 0.7
    assert (np.hypot(*maps)[ring] > 0).all()


def test_a_disc_is_crossed_from_side_to_side() -> None:
    z, x = np.indices((40, 40)) - 20
    maps = displacement_maps(np.hypot(z, x) <= 8, **UNIT)
    middle = maps[:, np.hypot(z, x) <= 4]
    assert np.hypot(*middle.mean(axis=1)) > 0.9 * np.hypot(*middle).mean()


@pytest.fixture(scope="module")
def tubes() -> np.ndarray:
    mask = np.zeros((120, 60), dtype=bool)
    for row in range(4, 120, 12):
        mask[row : row + 5] = True
    return mask


def test_the_generator_turns_whole_pieces_round(tubes: np.ndarray) -> None:
    plain = displacement_maps(tubes, **UNIT)
    mixed, again, other = (
        displacement_maps(tubes, **UNIT, rng=np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    assert np.array_equal(mixed, again)
    assert not np.array_equal(mixed, other)
    turned = [np.sign(mixed[1, row + 2] * plain[1, row + 2]) for row in range(4, 120, 12)]
    assert {tuple(np.unique(signs)) for signs in turned} == {(-1.0,), (1.0,)}
    assert np.abs(mixed) == pytest.approx(np.abs(plain), abs=1e-6)


def test_small_pieces_lie_still_and_change_nothing(tubes: np.ndarray) -> None:
    speck = tubes.copy()
    speck[0:2, 20:40] = True
    assert np.array_equal(displacement_maps(speck, **UNIT), displacement_maps(tubes, **UNIT))
    assert displacement_maps(speck, **UNIT, min_area_px=40)[:, 0:2, 20:40].any()


def test_a_vessel_that_ends_beside_another_does_not_drain_it() -> None:
    mask = np.zeros((80, 100), dtype=bool)
    mask[40:51] = True
    mask[5:39, 50:53] = True
    maps = displacement_maps(mask, **UNIT)
    assert len(np.unique(np.sign(maps[1, 40:51]))) == 1
    assert np.abs(maps[0, 43:48]).max() < 0.1


def test_a_vessel_one_pixel_wide_flows() -> None:
    mask = np.zeros((20, 80), dtype=bool)
    mask[10] = True
    assert np.hypot(*displacement_maps(mask, **UNIT))[10] == pytest.approx(1, abs=1e-5)


def test_measured_direction_and_speed_overrule_the_shape(tubes: np.ndarray) -> None:
    upright = tubes.T
    down = np.where(np.arange(120) // 12 % 2 == 0, 1.0, -1.0) * np.ones((60, 1))
    share = np.full(upright.shape, 0.25)
    maps = displacement_maps(
        upright, **UNIT, downward=down, speed_share=share, rng=np.random.default_rng(0)
    )
    assert (np.sign(maps[0]) == down)[upright].all()
    assert np.hypot(*maps)[upright] == pytest.approx(0.25)
    undecided = displacement_maps(upright, **UNIT, downward=np.zeros(upright.shape))
    assert np.array_equal(undecided, displacement_maps(upright, **UNIT))


@pytest.mark.parametrize("sign", [1, -1])
def test_bubbles_end_where_measured_directions_meet(sign: int) -> None:
    mask = np.zeros((60, 40), dtype=bool)
    mask[:, 10:19] = True
    down = sign * np.where(np.arange(60) < 30, 1.0, -1.0)[:, None] * np.ones(40)
    maps = displacement_maps(
        mask, **{**UNIT, "max_speed_mm_s": 0.3}, downward=down, speed_share=np.ones(mask.shape)
    )
    moves = np.hypot(*maps) > 0
    assert (moves == (mask & ~np.isin(np.arange(60), (29, 30))[:, None])).all()
    assert (np.sign(maps[0]) == down)[moves].all()
    table = flow.advect(
        mask, maps, n_frames=500, n_bubbles=30, mean_life=1e9, rng=np.random.default_rng(0)
    )
    steps = table.sort_values(["bubble", "frame"]).groupby("bubble")[["z", "x"]].diff().dropna()
    assert np.hypot(steps.z, steps.x).min() > 0.07, (
        "half a step at a wall, a quarter in a corner; none stands still"
    )
    assert table.groupby("bubble").size().max() < 30 / 0.15, "all reach the end"
    rows, _ = np.histogram(table.z, [2, 9, 16, 23] if sign > 0 else [5, 12, 19, 26])
    assert rows.max() < 8 * rows.min(), "they do not pile up"


def test_steps_over_a_pixel_are_warned_of(tubes: np.ndarray) -> None:
    with pytest.warns(UserWarning, match="move 5.00 px per frame: trackers lose them"):
        displacement_maps(tubes, px_mm=0.1, frame_rate_hz=10)


def test_drop_small_counts_corners_as_connected() -> None:
    mask = np.eye(6, dtype=bool)
    mask[0, 5] = True
    assert np.array_equal(drop_small(mask, 2), np.eye(6, dtype=bool))
    assert not drop_small(mask, 7).any()


GOOD = np.pad(np.ones((10, 10), dtype=bool), 5)
HOLES = np.where(GOOD, np.nan, 0.0)


@pytest.mark.parametrize(
    ("mask", "change", "error", "match"),
    [
        (np.zeros((20, 20), dtype=bool), {}, ValueError, "mask is empty: there are no vessels"),
        (np.ones((20, 20), dtype=bool), {}, ValueError, "mask is full: there are no walls"),
        (GOOD[None], {}, ValueError, r"two axes \(z, x\) .* not shape \(1, 20, 20\)"),
        (np.ones((2, 9), dtype=bool), {}, ValueError, "3 px or more"),
        (GOOD * 255, {}, ValueError, "write e.g. mask > 0"),
        (HOLES, {}, ValueError, "True and False"),
        (GOOD.astype(str), {}, TypeError, "not <U5"),
        (
            GOOD,
            {"min_area_px": 101},
            ValueError,
            "no piece of the mask has 101 px or more: lower min_area_px",
        ),
        (GOOD, {"min_area_px": 0}, ValueError, "min_area_px must be a number above 0"),
        (GOOD, {"px_mm": 0}, ValueError, "px_mm must be a number above 0, not 0"),
        (GOOD, {"frame_rate_hz": -1.0}, ValueError, "frame_rate_hz"),
        (GOOD, {"max_speed_mm_s": np.inf}, ValueError, "max_speed_mm_s"),
        (GOOD, {"rng": 3}, TypeError, "rng must be a numpy"),
        (
            GOOD,
            {"downward": np.ones(20)},
            ValueError,
            r"downward must have the mask's shape \(20, 20\)",
        ),
        (GOOD, {"downward": HOLES}, ValueError, "downward must hold finite numbers"),
        (
            GOOD,
            {"speed_share": GOOD * 2.0},
            ValueError,
            "speed_share must hold finite numbers from 0 to 1",
        ),
    ],
)
def test_bad_input_gets_one_clear_error(
    mask: np.ndarray, change: dict, error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        displacement_maps(mask, **{**UNIT, **change})
