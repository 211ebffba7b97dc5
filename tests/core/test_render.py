"""Maps: hand-made paths, streaming against all at once, and PALA's own maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ulmpaper.core.grid import map_index, map_shape
from ulmpaper.core.records import bubble_table
from ulmpaper.core.render import Maps, density, map_sums, power_doppler
from ulmpaper.core.track import add_velocity, interpolate

SCALE = {"px_mm": 1.0, "frame_rate_hz": 1000.0}


def path_table(rows: list[tuple]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["track", "frame", "z", "x", "vz", "vx"])


@st.composite
def path_tables(draw: st.DrawFn) -> pd.DataFrame:
    n = draw(st.integers(0, 60))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    paths = pd.DataFrame(rng.uniform(-1, 5, (n, 5)), columns=["frame", "z", "x", "vz", "vx"])
    return paths.assign(track=rng.integers(0, 4, n)).sort_values(
        ["track", "frame"], ignore_index=True
    )


def maps_of(paths: pd.DataFrame, shape: tuple[int, int], **how: object) -> Maps:
    maps = Maps(shape, **how)
    maps.add(map_sums(paths, shape, **how))
    return maps


def test_a_track_counts_once_in_a_pixel_and_two_tracks_twice() -> None:
    paths = path_table(
        [(0, 0, 1, 1, 3, 4), (0, 1, 2, 1, 6, 8), (0, 2, 1, 1, 0, 1), (1, 0, 1, 1, -4, 3)]
    )
    maps = maps_of(paths, (3, 3), upsample=1)
    assert maps.density.tolist() == [[0, 0, 0], [0, 2, 0], [0, 1, 0]]
    # Track 0 passes pixel (1, 1) at 5 and 1 mm/s, mean 3; track 1 at 5 mm/s upwards.
    assert maps.velocity[1, 1] == pytest.approx((3 + 5) / 2)
    assert maps.direction[1, 1] == pytest.approx((3 - 5) / 2)
    assert maps.mean_velocity[2, 1] == pytest.approx((10 + 1) / 2)


@settings(max_examples=50, deadline=None)
@given(path_tables(), st.integers(1, 3))
def test_maps_equal_the_slow_obvious_version(paths: pd.DataFrame, upsample: int) -> None:
    shape = (4, 3)
    count, total = (
        np.zeros(map_shape(shape, upsample=upsample)),
        np.zeros(map_shape(shape, upsample=upsample)),
    )
    for _, track in paths.groupby("track"):
        seen: dict[tuple[int, int], list[float]] = {}
        for row in track.itertuples():
            z, x = int(np.floor((row.z + 0.5) * upsample)), int(np.floor((row.x + 0.5) * upsample))
            if 0 <= z < count.shape[0] and 0 <= x < count.shape[1]:
                seen.setdefault((z, x), []).append(np.hypot(row.vz, row.vx))
        for pixel, speeds in seen.items():
            count[pixel] += 1
            total[pixel] += np.mean(speeds)
    maps = maps_of(paths, shape, upsample=upsample)
    np.testing.assert_array_equal(maps.density, count)
    np.testing.assert_allclose(maps.velocity, total / np.maximum(count, 1), atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(path_tables(), path_tables())
def test_blocks_add_up(first: pd.DataFrame, second: pd.DataFrame) -> None:
    together = pd.concat([first, second.assign(track=second.track + 10)], ignore_index=True)
    streamed = Maps((4, 4), upsample=2)
    for paths in (first, second):
        streamed.add(map_sums(paths, (4, 4), upsample=2))
    for name, whole in maps_of(together, (4, 4), upsample=2).as_dict().items():
        np.testing.assert_allclose(streamed.as_dict()[name], whole, atol=1e-12)


@settings(max_examples=30)
@given(path_tables(), st.integers(0, 2**32 - 1), st.booleans())
def test_maps_do_not_depend_on_the_order_of_rows(
    paths: pd.DataFrame, seed: int, pala: bool
) -> None:
    wanted = maps_of(paths, (4, 4), upsample=2, pala=pala).as_dict()
    by_frame = paths.sort_values(["frame", "track"])
    for other in (paths.sample(frac=1, random_state=seed), by_frame, paths[::-1]):
        for name, values in maps_of(other, (4, 4), upsample=2, pala=pala).as_dict().items():
            np.testing.assert_array_equal(values, wanted[name])


def test_mean_speed_goes_by_time() -> None:
    # 1 mm/s for 9 frames, then 11 mm/s for one: 2 mm/s.
    paths = path_table([(0, 0, 1, 1, 1, 0), (0, 9, 2, 1, 1, 0), (0, 10, 3, 1, 11, 0)])
    assert maps_of(paths, (4, 4), upsample=1).mean_velocity[1, 1] == pytest.approx(2)


@pytest.mark.parametrize("exponent", [-160, -75, -66, 0, 66, 100])
def test_power_goes_by_the_square_of_the_amplitude(exponent: int) -> None:
    frames = np.random.default_rng(0).normal(size=(5, 4, 3)).astype(np.complex128)
    kind = np.complex64 if abs(exponent) < 100 else np.complex128
    power = power_doppler((frames * 2.0**exponent).astype(kind))
    expected = (np.abs(frames) ** 2).mean(axis=0)
    np.testing.assert_allclose(power / 2.0 ** (2 * exponent), expected, rtol=1e-5)


@pytest.mark.parametrize("scale", [1e200, 1e-200])
def test_squares_beyond_double_precision_are_refused(scale: float) -> None:
    with pytest.raises(ValueError, match="no square in double precision"):
        power_doppler(np.full((2, 3, 3), scale))
    assert power_doppler(np.zeros((2, 3, 3))).sum() == 0


def test_the_map_covers_the_frame_and_nothing_else() -> None:
    assert map_index([-0.5, -0.51, 3.49, 3.5], upsample=10).tolist() == [0, -1, 39, 40]
    centres = (np.arange(40) + 0.5) / 10 - 0.5
    np.testing.assert_array_equal(map_index(centres, upsample=10), np.arange(40))


def test_palas_grid_is_larger_by_one_and_shifted() -> None:
    assert map_shape((84, 143), pala=True) == (841, 1431)
    centres = (np.arange(841) + 1) / 10 - 1
    np.testing.assert_array_equal(map_index(centres, pala=True), np.arange(841))


def test_no_track_gives_empty_maps() -> None:
    for pala in (False, True):
        assert (density(path_table([]).astype(float), (4, 4), pala=pala) == 0).all()


def test_power_doppler_is_mean_power() -> None:
    iq = np.array([[[1 + 1j]], [[3.0]]])
    assert power_doppler(iq).tolist() == [[5.5]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: density(p, (0, 4)), "z must be a whole number, 1 or more, not 0"),
        (lambda p: density(p, (4, 4), upsample=0), "upsample must be a whole number"),
        (lambda p: density(p.drop(columns="vz"), (4, 4)), r"lacks the column\(s\) vz"),
        (lambda p: density(p, (4.5, 4)), "z must be a whole number"),
        (lambda p: density(p, (4, 4, 4)), r"the size of a frame, \(z, x\)"),
        (lambda p: density(p, 4), r"the size of a frame, \(z, x\)"),
        (lambda p: density(p, (4, 4), upsample=2.5), "upsample must be a whole number"),
        (lambda p: density(p, (4, 4), upsample=10**7), "give an upsample below"),
        (lambda p: power_doppler(np.ones((4, 4))), "three axes"),
    ],
)
def test_bad_input(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(path_table([(0, 0, 1, 1, 3, 4)]))


@pytest.mark.parametrize("name", ["flow", "dense"])
@pytest.mark.parametrize(
    "key",
    ["no_shift", "wa", "interp_cubic", "interp_lanczos", "interp_spline", "gaussian_fit", "radial"],
)
def test_maps_equal_palas(oracle_dir: Path, name: str, key: str) -> None:
    with np.load(oracle_dir / f"{name}.npz") as file:
        oracle = {k: file[k] for k in file.files if "frames" not in k}
    number, row = oracle[f"track_{key}"].T
    score, z, x, frame = oracle[f"loc_{key}"][row].T
    tracks = bubble_table(frame - 1, z - 1, x - 1, score).assign(track=number)
    maps = maps_of(interpolate(tracks, **SCALE), (84, 143), pala=True)
    np.testing.assert_array_equal(maps.density, oracle[f"density_{key}"])
    if key == "radial":
        points = density(add_velocity(tracks, **SCALE), (84, 143), pala=True)
        np.testing.assert_array_equal(points, oracle["density_points_radial"])
        for ours, theirs in (
            ("velocity", "vel_norm_radial"),
            ("direction", "vel_z_radial"),
            ("mean_velocity", "velmean_radial"),
        ):
            expected = oracle[theirs]
            error = np.abs(getattr(maps, ours) - expected)
            # One track's speeds are shifted where PALA's own speed map lacks a pixel of its density
            # map.
            assert (error > 1e-5 * np.abs(expected).max()).mean() < 1e-4
