"""Which array of a file holds the frames, what its axes mean, and IQ in all its forms."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import _pala_files as pala
import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.io import savemat

from ulmpaper.io.axes import (
    COLUMN_MAJOR,
    ROW_MAJOR,
    ArrayInfo,
    check_axes,
    find_pairs,
    infer_axes,
    take_frames,
)
from ulmpaper.io.readers import open_frames, read_frames

N_T, N_Z, N_X = 7, 5, 6


@pytest.fixture
def iq(rng: np.random.Generator) -> np.ndarray:
    """IQ (t, z, x), every value different."""
    parts = rng.integers(-1000, 1000, (2, N_T, N_Z, N_X))
    return (parts[0] + 1j * parts[1]).astype(np.complex64)


def write_h5(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array


WRITERS: dict[str, Callable[[Path, np.ndarray], None]] = {
    "a.npy": np.save,
    "a.h5": lambda path, array: write_h5(path, {"frames": array}),
    "v5.mat": lambda path, array: savemat(path, {"frames": array}),
    "v7.3.mat": lambda path, array: pala.write_mat(path, {"frames": array}, "v7.3"),
}


@given(
    axes=st.permutations("tzx").map("".join),
    spare=st.lists(st.integers(0, 3), max_size=2),
    parts=st.none() | st.integers(0, 3),
)
def test_named_axes_are_taken_in_any_order(axes: str, spare: list[int], parts: int | None) -> None:
    """Every way to order the axes of IQ, with axes of one entry, gives the same frames."""
    rng = np.random.default_rng(0)
    iq = (rng.random((N_T, N_Z, N_X)) + 1j * rng.random((N_T, N_Z, N_X))).astype(np.complex64)
    array = iq.transpose(["tzx".index(axis) for axis in axes])
    if parts is not None:
        array = np.stack([array.real, array.imag], axis=parts)
        axes = axes[:parts] + "c" + axes[parts:]
    for place in spare:
        array = np.expand_dims(array, place)
        axes = axes[:place] + "1" + axes[place:]
    assert check_axes(axes, array.shape, "a") == axes
    assert check_axes(axes.replace("1", ""), array.shape, "a") == axes
    np.testing.assert_array_equal(take_frames(array, axes, 2, 6), iq[2:6])


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("axes", ["zxt", "xzt", "txz", "tzxc", "ctzx", "zcxt", "tz1x"])
def test_axes_by_the_user(name: str, axes: str, iq: np.ndarray, tmp_path: Path) -> None:
    letters = axes.replace("c", "").replace("1", "")
    array = iq.transpose(["tzx".index(axis) for axis in letters])
    for place, axis in enumerate(axes):
        if axis == "c":
            array = np.stack([array.real, array.imag], axis=place)
        if axis == "1":
            array = np.expand_dims(array, place)
    WRITERS[name](tmp_path / name, array)
    file = open_frames(tmp_path / name, axes=axes)
    assert (file.axes, file.n_frames, file.shape_px) == (axes, N_T, (N_Z, N_X))
    assert file.dtype == np.complex64
    np.testing.assert_array_equal(np.concatenate([b.frames for b in file.blocks(3)]), iq)
    assert any("stated by you" in note for note in file.notes)


@pytest.mark.parametrize(
    ("shape", "order", "axes"),
    [
        ((5, 6, 7), COLUMN_MAJOR, "zxt"),
        ((5, 6, 1), COLUMN_MAJOR, "zxt"),
        ((5, 6, 1, 7), COLUMN_MAJOR, "zx1t"),
        ((5, 6, 1, 1), COLUMN_MAJOR, "zx1t"),
        ((5, 6, 1, 1, 7), COLUMN_MAJOR, "zx11t"),
        ((7, 5, 6), ROW_MAJOR, "tzx"),
        ((7, 1, 5, 6), ROW_MAJOR, "t1zx"),
        ((7, 5, 6, 1), ROW_MAJOR, "tzx1"),
        ((1, 1, 5, 6), ROW_MAJOR, "t1zx"),
        ((1, 5, 6, 1), ROW_MAJOR, "tzx1"),
        ((2, 7, 5, 6), ROW_MAJOR, ""),
        ((7, 5, 6, 2), ROW_MAJOR, ""),
        ((5, 6, 7, 2), COLUMN_MAJOR, ""),
        ((7, 5, 6, 3), ROW_MAJOR, ""),
        ((5, 5, 5, 7), COLUMN_MAJOR, ""),
        ((5, 6), ROW_MAJOR, ""),
    ],
)
def test_axes_by_the_writer(shape: tuple[int, ...], order: str, axes: str) -> None:
    assert infer_axes(shape, order, "").axes == axes


@pytest.mark.parametrize("name", WRITERS)
def test_one_entry_is_no_axis(name: str, iq: np.ndarray, tmp_path: Path) -> None:
    array = iq[:, None] if name in ("a.npy", "a.h5") else iq.transpose(1, 2, 0)[:, :, None]
    WRITERS[name](tmp_path / name, array)
    np.testing.assert_array_equal(read_frames(tmp_path / name).frames, iq)


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((2, 9, 5, 6), "f4", r"shape \(2, 9, 5, 6\), .*--axes c.* \(axes=\"c.*t time"),
        ((9, 5, 6, 2), "i2", r"shape \(9, 5, 6, 2\), .*--axes ...c \(axes=\"...c\""),
        ((9, 2, 5, 6), "f8", r"--axes .c.. "),
        ((9, 5, 6, 4), "c8", r"shape \(9, 5, 6, 4\), .*at least one is too much.*take one plane"),
        ((9, 5, 6, 7), "f4", "too much, as in volumes"),
        ((2, 2, 9, 5, 6), "f4", "too much"),
    ],
)
def test_what_is_ambiguous_is_refused(
    name: str, shape: tuple[int, ...], dtype: str, message: str, tmp_path: Path
) -> None:
    WRITERS[name](tmp_path / name, np.ones(shape, dtype))
    for variable in (None, {"a.npy": "array"}.get(name, "frames")):
        with pytest.raises(ValueError, match=message) as caught:
            open_frames(tmp_path / name, variable)
        assert name in str(caught.value)
        assert "single frame" not in str(caught.value)


def test_colours(tmp_path: Path) -> None:
    for n_colours in (3, 4):
        np.save(tmp_path / "a.npy", np.ones((9, 5, 6, n_colours), np.uint8))
        with pytest.raises(ValueError, match=rf"last axis, of {n_colours}, .*frames\[..., 0\]"):
            open_frames(tmp_path / "a.npy")


def test_few_frames_raise_a_doubt(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((10, 20, 30)))
    assert any("fewer frames (10)" in note for note in open_frames(tmp_path / "a.npy").notes)
    assert not any("fewer" in note for note in open_frames(tmp_path / "a.npy", axes="zxt").notes)


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ("zx", "t, z and x once each"),
        ("zxtt", "t, z and x once each"),
        ("yxt", "t, z and x once each.*not 'yxt'"),
        ("zxtc", r"shape \(7, 5, 6\), 3 axes, but axes='zxtc' names 4"),
        ("", "t, z and x once each"),
    ],
)
def test_axes_that_do_not_fit(axes: str, message: str, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((N_T, N_Z, N_X)))
    with pytest.raises(ValueError, match=message):
        open_frames(tmp_path / "a.npy", "array", axes=axes)


def test_axes_of_the_wrong_length(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((3, N_T, N_Z, N_X)))
    with pytest.raises(ValueError, match="c has 3 entries, not 2"):
        open_frames(tmp_path / "a.npy", "array", axes="ctzx")
    np.save(tmp_path / "a.npy", np.ones((2, N_T, N_Z, N_X), complex))
    with pytest.raises(ValueError, match="array is complex, so it has no axis c"):
        open_frames(tmp_path / "a.npy", axes="ctzx")


PAIRS = [
    ("I", "Q"),
    ("i", "q"),
    ("IData", "QData"),
    ("iq_real", "iq_imag"),
    ("re", "im"),
    ("DataReal", "DataImag"),
    ("bf_I", "bf_Q"),
    ("inphase", "quadrature"),
]


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("kind", ["h5", "v5", "v7.3", "npz"])
def test_iq_as_two_arrays(pair: tuple[str, str], kind: str, iq: np.ndarray, tmp_path: Path) -> None:
    parts = dict(zip(pair, (iq.real.astype("i2"), iq.imag.astype("i2")), strict=True))
    path = tmp_path / ("a.h5" if kind == "h5" else "a.npz" if kind == "npz" else "a.mat")
    if kind == "h5":
        write_h5(path, {f"run/{name}": part for name, part in parts.items()})
    elif kind == "npz":
        np.savez(path, **parts)
    else:
        turned = {name: part.transpose(1, 2, 0) for name, part in parts.items()}
        pala.write_mat(path, turned, kind)
    file = open_frames(path)
    assert file.dtype == np.complex64
    assert "two parts of IQ" in " ".join(file.notes)
    np.testing.assert_array_equal(file.read().frames, iq)
    named = ",".join(f"run/{name}" if kind == "h5" else name for name in pair)
    np.testing.assert_array_equal(read_frames(path, named).frames, iq)


def test_two_arrays_of_any_names(iq: np.ndarray, tmp_path: Path) -> None:
    arrays = {"left": iq.real, "right": iq.imag, "short": iq.real[:3], "iq": iq}
    write_h5(tmp_path / "a.h5", arrays)
    frames = read_frames(tmp_path / "a.h5", "left, right").frames
    np.testing.assert_array_equal(frames, iq)
    with pytest.raises(ValueError, match=r"left and short differ in shape"):
        open_frames(tmp_path / "a.h5", "left,short")
    with pytest.raises(ValueError, match=r"iq is complex, so it needs no second"):
        open_frames(tmp_path / "a.h5", "left,iq")
    with pytest.raises(ValueError, match=r"no stack of frames 'wrong'"):
        open_frames(tmp_path / "a.h5", "left,wrong")


def test_pairs_are_of_one_shape_and_real() -> None:
    info = ArrayInfo((4, 5, 6), "tzx", "", "int16")
    other = info._replace(shape=(4, 5, 7))
    assert not find_pairs({"I": info, "Q": other})
    assert not find_pairs({"I": info, "Q": info._replace(dtype="complex64")})
    assert not find_pairs({"image": info, "imaginary": info, "IQ": info, "signal": info})


@pytest.mark.parametrize("fields", [("real", "imag"), ("r", "i"), ("re", "im"), ("I", "Q")])
@pytest.mark.parametrize("number", ["i2", "f4", "f8", "u1"])
def test_complex_numbers_as_pairs(
    fields: tuple[str, str], number: str, iq: np.ndarray, tmp_path: Path
) -> None:
    iq = np.abs(iq.real) % 200 + 1j * (np.abs(iq.imag) % 200)
    pairs = np.empty(iq.shape, [(name, number) for name in fields])
    pairs[fields[0]] = iq.real
    pairs[fields[1]] = iq.imag
    np.save(tmp_path / "a.npy", pairs)
    write_h5(tmp_path / "a.h5", {"iq": pairs})
    for name in ("a.npy", "a.h5"):
        file = open_frames(tmp_path / name)
        assert file.dtype == np.complex64
        np.testing.assert_array_equal(file.read().frames, iq.astype(np.complex64))
    assert open_frames(tmp_path / "a.npy").stored_dtype == (
        f"{np.dtype(number).name} ({', '.join(fields)})"
    )


@pytest.mark.parametrize("dtype", ["uint8", "int16", "bool", "float64", "complex128", ">i2"])
def test_stored_type_is_said(dtype: str, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((N_T, N_Z, N_X), dtype))
    file = open_frames(tmp_path / "a.npy")
    assert file.stored_dtype == np.dtype(dtype).name
    assert file.dtype == file.read().frames.dtype


def test_large_numbers_are_refused_by_file_and_frame(tmp_path: Path) -> None:
    from ulmpaper.core.records import check_block

    frames = np.ones((N_T, N_Z, N_X))
    frames[4, 1, 1] = 1e308
    np.save(tmp_path / "a.npy", frames)
    (block,) = open_frames(tmp_path / "a.npy").blocks(10, start=2)
    with pytest.raises(ValueError, match=r"a\.npy .* first in frame 4"):
        check_block(block)


def test_the_frames_of_known_names_count_before_others(iq: np.ndarray, tmp_path: Path) -> None:
    write_h5(tmp_path / "a.h5", {"other": np.ones((3, 4, 5)), "run/IQ": iq})
    file = open_frames(tmp_path / "a.h5")
    assert file.variable == "run/IQ"
    assert "run/IQ is taken, not other" in file.notes


def test_channel_data_are_no_frames(tmp_path: Path) -> None:
    for version in pala.VERSIONS:
        pala.write_mat(tmp_path / "a.mat", {"RcvData": np.ones((64, 8, 5), np.int16)}, version)
        with pytest.raises(ValueError, match=r"channel data \(RcvData\).*beamform them first"):
            open_frames(tmp_path / "a.mat")
