"""Detection and localization: known places, invariances, the slow obvious version, and PALA's own
rows.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from ulmpaper.core.localize import locate_peaks
from ulmpaper.core.records import Block
from ulmpaper.core.subpixel import METHODS

PALA_NAMES = {
    "no_shift": "none",
    "wa": "weighted",
    "interp_cubic": "cubic",
    "interp_lanczos": "lanczos",
    "interp_spline": "spline",
    "gaussian_fit": "gaussian",
    "radial": "radial",
}
# Largest error [px] for a lone noise-free Gaussian of standard deviation 1 px, anywhere in its
# pixel.
TOLERANCE = {
    "none": 0.5,
    "weighted": 0.06,
    "radial": 0.06,
    "gaussian": 2e-3,
    "parabola": 1e-6,
    "cubic": 0.16,
    "lanczos": 0.07,
    "spline": 0.12,
}


def peaks_alone(frames: np.ndarray, n_bubbles: int, **settings: object) -> pd.DataFrame:
    """All peaks, on whole pixels, however many lie in a window."""
    return locate_peaks(frames, "none", n_bubbles, max_peaks_in_roi=99, **settings)


def gaussian(
    z: float, x: float, shape: tuple[int, int] = (15, 17), sigma: float = 1.0
) -> np.ndarray:
    zz, xx = np.mgrid[: shape[0], : shape[1]]
    return np.exp(-((zz - z) ** 2 + (xx - x) ** 2) / (2 * sigma**2))


def oracle_frames(file: np.lib.npyio.NpzFile) -> np.ndarray:
    if "frames" in file:
        return file["frames"].astype(float)
    return (
        file["frames_lo"].astype(np.uint16) | (file["frames_hi"].astype(np.uint16) << 8)
    ).astype(float)


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=30, deadline=None)
@given(dz=st.floats(-0.49, 0.49), dx=st.floats(-0.49, 0.49))
def test_a_lone_bubble_is_found_where_it_is(method: str, dz: float, dx: float) -> None:
    found = locate_peaks(gaussian(7 + dz, 8 + dx)[None], method=method, n_bubbles=1)
    assert len(found) == 1
    assert abs(found.z[0] - 7 - dz) <= TOLERANCE[method]
    assert abs(found.x[0] - 8 - dx) <= TOLERANCE[method]


@pytest.mark.parametrize("method", METHODS)
def test_localization_shifts_with_the_image(method: str, flow: Block) -> None:
    frames = flow.frames[:5]
    moved = np.pad(frames, ((0, 0), (6, 0), (0, 9)))[:, : frames.shape[1]][..., -frames.shape[2] :]
    here = locate_peaks(frames, method=method, n_bubbles=100, min_score=0.3)
    there = locate_peaks(moved, method=method, n_bubbles=100, min_score=0.3)
    n_z, n_x = frames.shape[1:]
    # Only what lies well inside both pictures can be compared.
    here = here[(here.z > 4) & (here.z < n_z - 12) & (here.x > 14) & (here.x < n_x - 6)]
    pairs = here.assign(z=here.z + 6, x=here.x - 9).merge(
        there, on=["frame", "score"], suffixes=("", "_moved")
    )
    assert len(pairs) == len(here) > 5
    np.testing.assert_allclose(pairs[["z", "x"]], pairs[["z_moved", "x_moved"]], atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_numbers_may_be_of_any_class_and_scale(method: str, flow: Block) -> None:
    frames = np.rint(flow.frames[:3] * 10_000).astype(np.uint16)
    whole = locate_peaks(frames, method=method, n_bubbles=10)
    floats = locate_peaks(frames.astype(float) / 8, method=method, n_bubbles=10)
    np.testing.assert_allclose(whole[["frame", "z", "x"]], floats[["frame", "z", "x"]], atol=1e-6)


def plateaus_by_labelling(image: np.ndarray) -> list[np.ndarray]:
    """Regional maxima the slow way: label equal values, look at all neighbours of each label."""
    found = []
    for value in np.unique(image[image > 0]):
        labels, n = ndimage.label(image == value, np.ones((3, 3)))
        for number in range(1, n + 1):
            inside = labels == number
            ring = ndimage.binary_dilation(inside, np.ones((3, 3))) & ~inside
            if not ring.any() or image[ring].max() < value:
                found.append(np.argwhere(inside))
    return found


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(np.uint8, (11, 12), elements=st.integers(0, 3)))
def test_maxima_equal_the_slow_obvious_version(image: np.ndarray) -> None:
    plateaus = plateaus_by_labelling(image)
    found = peaks_alone(image[None], 1000, roi_px=3)
    expected = []
    for pixels in plateaus:
        distance = ((pixels - pixels.mean(axis=0)) ** 2).sum(axis=1)
        z, x = pixels[np.argmin(distance)]
        # A frame of one value shows nothing.
        if 1 <= z < 10 and 1 <= x < 11 and len(pixels) < image.size:
            expected.append((z, x))
    assert sorted(zip(found.z, found.x, strict=True)) == sorted(expected)
    # PALA blanks the border first and counts every pixel of a plateau.
    blanked = np.zeros_like(image)
    blanked[2:-2, 2:-2] = image[2:-2, 2:-2]
    theirs = peaks_alone(image[None], 1000, roi_px=3, pala=True)
    every = [tuple(p) for pixels in plateaus_by_labelling(blanked) for p in pixels]
    assert sorted(zip(theirs.z, theirs.x, strict=True)) == sorted(every)


def test_the_strongest_are_kept_and_ties_are_not_lost() -> None:
    frame = np.zeros((20, 40))
    frame[10, 5:36:5] = [3, 1, 2, 2, 2, 5, 4]
    assert sorted(peaks_alone(frame[None], 3).score) == [3, 4, 5]
    assert sorted(peaks_alone(frame[None], 4).score) == [2, 3, 4, 5]
    assert sorted(peaks_alone(frame[None], 4, pala=True).score) == [3, 4, 5]


def test_a_bubble_between_two_pixels_is_one_bubble() -> None:
    frame = gaussian(7, 8.5)[None]
    assert len(locate_peaks(frame, method="none", n_bubbles=5)) == 1
    assert len(locate_peaks(frame, method="none", n_bubbles=5, pala=True)) == 2


def test_a_bubble_beside_the_border_is_not_moved_inwards() -> None:
    frame = gaussian(2.1, 8)[None]
    found = locate_peaks(frame, method="parabola", n_bubbles=1)
    assert found.z[0] == pytest.approx(2.1, abs=1e-6)
    assert len(locate_peaks(gaussian(1.2, 8)[None], n_bubbles=1)) == 0


def clipped(kind: str, at: tuple[float, float], radius: float) -> np.ndarray:
    """A lone bubble that saturates the range of its numbers, as stored by a scanner."""
    z, x = np.mgrid[:31, :31]
    squared = (z - at[0]) ** 2 + (x - at[1]) ** 2
    if kind == "bool":
        return squared <= radius**2 + 0.5  # at least one pixel
    bubble = np.exp((radius**2 - squared) / 4)
    return (np.minimum(bubble, 1) * np.iinfo(kind).max).astype(kind)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["bool", "uint8", "int16"])
@settings(max_examples=15)
@given(st.floats(-0.5, 0.5), st.floats(-0.5, 0.5), st.floats(0, 9))
def test_a_saturated_bubble_is_one_bubble_at_its_centre(
    method: str, kind: str, dz: float, dx: float, radius: float
) -> None:
    frame = clipped(kind, (15 + dz, 15 + dx), radius)
    found = locate_peaks(frame[None], method, 5)
    assert len(found) == 1
    # Plateaus of fewer than four pixels stay with the method, which sees one side of them higher.
    limit = 1.0 if method == "none" else 0.75 if radius < 1.5 else 0.5
    assert np.hypot(found.z[0] - 15 - dz, found.x[0] - 15 - dx) < limit


def test_a_ring_is_one_bubble_and_palas_rule_drops_large_plateaus() -> None:
    z, x = np.mgrid[:31, :31]
    distance = np.hypot(z - 15, x - 14)
    ring = ((distance > 3) & (distance < 5))[None]
    found = locate_peaks(ring, "parabola", 5)
    np.testing.assert_allclose(found[["z", "x"]], [[15, 14]])
    assert len(locate_peaks(clipped("uint8", (15, 15), 3)[None], "parabola", 5, pala=True)) == 0
    assert len(locate_peaks(np.ones((1, 9, 9)), "parabola", 5)) == 0


@pytest.mark.parametrize("method", METHODS)
def test_each_method_works_in_its_least_window_or_refuses(method: str) -> None:
    rng = np.random.default_rng(0)
    places = 7 + rng.uniform(-0.45, 0.45, (40, 2))
    frames = np.stack([gaussian(*place) for place in places])
    if method == "radial":
        with pytest.raises(ValueError, match="roi_px must be odd and 5 or more with the method"):
            locate_peaks(frames, method, 1, roi_px=3)
        return
    found = locate_peaks(frames, method, 1, roi_px=3)
    mirrored = locate_peaks(frames[:, ::-1], method, 1, roi_px=3)
    assert len(found) >= 38
    assert np.median(np.hypot(*(found[["z", "x"]] - places[found.frame]).to_numpy().T)) < 0.4
    np.testing.assert_allclose(mirrored.z, 14 - found.z, atol=0.1 + 1e-9)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", [1e-300, 2.0**-140, 1e-40, 1e25, 1e200, 1e307])
def test_places_do_not_depend_on_the_amplitude(method: str, scale: float) -> None:
    frames = np.stack([gaussian(7.3, 8.2), 0.2 * gaussian(6.7, 8.4)])
    usual = locate_peaks(frames, method, 1)
    other = locate_peaks(frames * scale, method, 1)
    np.testing.assert_allclose(other[["z", "x"]], usual[["z", "x"]], atol=1e-6)


def test_spline_of_pala_is_stretched() -> None:
    frame = gaussian(7.3, 8)[None]
    ours = locate_peaks(frame, method="spline", n_bubbles=1).z[0] - 7
    theirs = locate_peaks(frame, method="spline", n_bubbles=1, pala=True).z[0] - 7
    assert theirs / ours == pytest.approx(1.225, abs=0.25)


@pytest.mark.parametrize("method", METHODS)
def test_nothing_to_find(method: str) -> None:
    found = locate_peaks(np.zeros((3, 9, 9)), method=method)
    assert found.columns.tolist() == ["frame", "z", "x", "score"]
    assert len(found) == 0
    assert len(locate_peaks(np.ones((2, 9, 9)), method=method, n_bubbles=3)) <= 2


def test_frames_in_pieces_equal_the_whole(flow: Block) -> None:
    whole = locate_peaks(flow.frames)
    parts = [locate_peaks(flow.frames[[t]]).assign(frame=t) for t in range(len(flow.frames))]
    assert whole.equals(
        type(whole)(np.concatenate(parts), columns=whole.columns).astype(whole.dtypes)
    )


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda f: locate_peaks(f, method="radail"),
            ValueError,
            "unknown method 'radail': did you mean 'radial'",
        ),
        (
            lambda f: locate_peaks(f, n_bubbles=0),
            ValueError,
            "n_bubbles must be a whole number, 1 or more, not 0",
        ),
        (
            lambda f: locate_peaks(f, roi_px=4),
            ValueError,
            "roi_px must be odd and 5 or more with the method radial, not 4",
        ),
        (
            lambda f: locate_peaks(f, roi_px=11),
            ValueError,
            "9 x 9 px are smaller than the window of 11 x 11",
        ),
        (
            lambda f: locate_peaks(f * np.r_[-0.5, np.ones(8)]),
            ValueError,
            r"negative values \(down to -0.5, first in frame 0\).*core.envelope",
        ),
        (
            lambda f: locate_peaks(-f),
            ValueError,
            r"negative values \(down to -1, first in frame 0\).*undo the decibel scale",
        ),
        (lambda f: locate_peaks(f, n_bubbles=2.5), ValueError, "n_bubbles must be a whole number"),
        (lambda f: locate_peaks(f, n_bubbles=np.nan), ValueError, "n_bubbles must be a whole"),
        (lambda f: locate_peaks(f, min_score=np.nan), ValueError, "min_score must be a finite"),
        (lambda f: locate_peaks(f, min_score="1"), ValueError, "min_score must be a finite"),
        (lambda f: locate_peaks(f, roi_px=5.5), ValueError, "roi_px must be a whole number"),
        (lambda f: locate_peaks(f, max_peaks_in_roi=None), ValueError, "must be a whole number"),
        (lambda f: locate_peaks(f * 1j), TypeError, "amplitude is needed"),
        (lambda f: locate_peaks(f[0], n_bubbles=3), ValueError, "three axes"),
    ],
)
def test_bad_input(call, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(np.ones((2, 9, 9)))


def against_pala(
    oracle_dir: Path, name: str, key: str, **settings_: object
) -> tuple[np.ndarray, np.ndarray, int]:
    """Our rows, PALA's rows in our coordinates, and how many more rows we have; rows paired by
    frame and peak.
    """
    with np.load(oracle_dir / f"{name}.npz") as file:
        theirs, frames = file[f"loc_{key}"], oracle_frames(file)
    ours = locate_peaks(frames, pala=True, **settings_)
    ours = ours[["score", "z", "x", "frame"]].to_numpy()
    theirs = theirs - [0, 1, 1, 1]
    if len(ours) == len(theirs):
        return ours, theirs, 0
    fewer, other = (ours, theirs) if len(ours) < len(theirs) else (theirs, ours)
    paired = []
    for row in fewer:
        near = other[(other[:, 3] == row[3]) & (other[:, 0] == row[0])]
        paired.append(near[np.argmin(np.abs(near[:, 1:3] - row[1:3]).sum(axis=1))])
    return fewer, np.array(paired), len(ours) - len(theirs)


@pytest.mark.parametrize(
    "key", ["no_shift", "wa", "interp_cubic", "interp_lanczos", "interp_spline", "radial"]
)
@pytest.mark.parametrize(("name", "n_bubbles"), [("flow", 40), ("dense", 90)])
def test_rows_equal_palas(oracle_dir: Path, name: str, n_bubbles: int, key: str) -> None:
    ours, theirs, more = against_pala(
        oracle_dir, name, key, n_bubbles=n_bubbles, method=PALA_NAMES[key]
    )
    assert more == 0
    error = np.abs(ours - theirs)
    assert (error[:, [0, 3]] == 0).all()
    if key == "radial":
        assert np.mean(error.max(axis=1) <= 1e-6) >= 0.995
        assert error.max() <= 0.05
    else:
        assert error.max() <= 1e-9


@pytest.mark.parametrize(
    ("key", "settings_", "share", "limit"),
    [
        ("no_shift", {}, 1, 1e-9),
        ("wa", {}, 1, 1e-9),
        ("wa_fwhm5", {"roi_px": 7, "max_peaks_in_roi": 7}, 1, 1e-9),
        ("interp_cubic", {}, 0.99, 0.1),
        ("interp_lanczos", {}, 0.99, 0.1),
        ("interp_spline", {}, 0.99, 0.1),
        ("radial", {}, 0.75, 0.1),
        ("radial_nlm2", {"max_peaks_in_roi": 2}, 0.75, 0.1),
        ("radial_fwhm5", {"roi_px": 7, "max_peaks_in_roi": 7}, 0.75, 0.1),
    ],
)
def test_plateaus_equal_palas(
    oracle_dir: Path, key: str, settings_: dict, share: float, limit: float
) -> None:
    method = PALA_NAMES[key.removesuffix("_nlm2").removesuffix("_fwhm5")]
    ours, theirs, more = against_pala(
        oracle_dir, "plateau", key, n_bubbles=25, method=method, **settings_
    )
    assert abs(more) <= (1 if key == "radial_fwhm5" else 0)
    error = np.abs(ours - theirs)[:, 1:3].max(axis=1)
    assert np.mean(error <= 1e-6) >= share
    assert error.max() <= limit + 1e-9
    if method == "radial":
        assert np.mean(error <= 0.02) >= 0.99


@pytest.mark.parametrize(("name", "n_bubbles", "share"), [("flow", 40, 0.95), ("dense", 90, 0.90)])
def test_gaussian_fit_against_pala(
    oracle_dir: Path, name: str, n_bubbles: int, share: float
) -> None:
    how = {"n_bubbles": n_bubbles, "method": "gaussian"}
    ours, theirs, _ = against_pala(oracle_dir, name, "gaussian_fit", **how)
    assert np.mean(np.abs(ours - theirs)[:, 1:3].max(axis=1) <= 0.02) >= share
    ours, theirs, more = against_pala(oracle_dir, name, "gaussian_fit_converged", **how)
    assert abs(more) <= 3
    assert np.mean(np.abs(ours - theirs)[:, 1:3].max(axis=1) <= 0.005) >= 0.99


def test_isolated_bubbles_of_the_flow_are_all_found(oracle_dir: Path) -> None:
    with np.load(oracle_dir / "flow.npz") as file:
        frames, truth = oracle_frames(file), file["ground_truth"]
    found = locate_peaks(frames, method="radial", n_bubbles=40)
    truth = truth[
        (truth[:, 4] > 0)
        & (truth[:, 2] > 4)
        & (truth[:, 2] < 79)
        & (truth[:, 3] > 4)
        & (truth[:, 3] < 138)
    ]
    errors = []
    for frame in range(len(frames)):
        here, seen = (
            truth[truth[:, 1] == frame][:, 2:4],
            found[found.frame == frame][["z", "x"]].to_numpy(),
        )
        distance = np.linalg.norm(here[:, None] - here[None], axis=2) + 99 * np.eye(len(here))
        for place in here[distance.min(axis=1) > 6]:
            errors.append(np.linalg.norm(seen - place, axis=1).min())
    assert len(errors) > 500
    assert max(errors) < 0.5
    assert np.sqrt(np.mean(np.square(errors))) < 0.12
