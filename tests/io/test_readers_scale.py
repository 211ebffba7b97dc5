"""Where the scale of frames is found, and what is done with pixels that are not square."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import _pala_files as pala
import h5py
import numpy as np
import pytest
from scipy.io import savemat

from ulmpaper.core.records import Block, UlmWarning
from ulmpaper.core.scale import doubt_scale, same_scale
from ulmpaper.io.pixels import square_frames
from ulmpaper.io.readers import open_frames, store_frames
from ulmpaper.io.store import BlockStore

IQ = np.random.default_rng(0).random((6, 7, 8)) * (1 + 1j)  # (z, x, t)
SCALE = {
    "Trans": {"frequency": 7.7},
    "PData": {"PDelta": np.array([[0.5, 0, 0.5]])},
    "UF": {"FrameRateUF": 500.0},
}


@pytest.mark.parametrize("version", pala.VERSIONS)
@pytest.mark.parametrize("name", ["IQ", "IQ_filt", "bf", "Data"])
def test_scale_beside_frames_of_any_name(version: str, name: str, tmp_path: Path) -> None:
    frames: Any = {"IQ": IQ} if name == "Data" else IQ
    pala.write_mat(tmp_path / "a.mat", {name: frames, **SCALE}, version)
    file = open_frames(tmp_path / "a.mat")
    assert file.px_mm == pytest.approx(0.1)
    assert file.frame_rate_hz == 500
    assert "PData.PDelta of a.mat" in str(file.px_mm_from)
    assert "1540 m/s, which is assumed" in str(file.px_mm_from)
    assert file.rate_from == "UF.FrameRateUF of a.mat"


@pytest.mark.parametrize("version", pala.VERSIONS)
@pytest.mark.parametrize(
    ("numbers", "px_mm", "rate"),
    [
        ({"px_mm": 0.1, "FrameRate": 500}, 0.1, 500),
        ({"pixel_size_um": 50, "frame_rate_hz": 500.0}, 0.05, 500),
        ({"pixelSize_m": 5e-5, "fps": 25}, 0.05, 25),
        ({"dx_mm": 0.1, "dz_mm": 0.1, "frameRate": 100}, 0.1, 100),
        ({"p": {"px_mm": 0.1, "frame_rate": 100}}, 0.1, 100),
        ({"frame_rate_khz": 2.0}, None, 2000),
        ({"dx": 0.1, "dz": 0.1}, None, None),
        ({"dx_mm": 0.1}, None, None),
        ({"px_mm": -1.0, "fps": 0}, None, None),
        ({"px_mm": np.nan, "FrameRate": np.inf}, None, None),
    ],
)
def test_numbers_by_name(
    version: str, numbers: dict, px_mm: float | None, rate: float | None, tmp_path: Path
) -> None:
    pala.write_mat(tmp_path / "a.mat", {"stack": IQ, **numbers}, version)
    file = open_frames(tmp_path / "a.mat")
    assert file.px_mm == (None if px_mm is None else pytest.approx(px_mm))
    assert file.frame_rate_hz == rate
    assert (file.px_mm_from is None, file.rate_from is None) == (px_mm is None, rate is None)


def test_units_that_are_not_said(tmp_path: Path) -> None:
    savemat(tmp_path / "a.mat", {"stack": IQ, "dx": 0.1, "dz": 0.1})
    notes = " ".join(open_frames(tmp_path / "a.mat").notes)
    assert "dx of a.mat is 0.1, but its name does not say the unit" in notes
    assert "nobody states the pixel pitch" in notes


@pytest.mark.parametrize("where", ["file", "group", "array"])
def test_attributes_of_hdf5(where: str, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["run/frames"] = np.ones((4, 5, 6))
        item = {"file": file, "group": file["run"], "array": file["run/frames"]}[where]
        item.attrs["px_mm"] = 0.1
        item.attrs["frame_rate"] = 400
        file["other/px_mm"] = 0.7
    opened = open_frames(tmp_path / "a.h5")
    assert (opened.frame_rate_hz, opened.px_mm) == (400, 0.1)


def test_units_as_attributes(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["frames"] = np.ones((4, 5, 6))
        for name in ("dx", "dz"):
            file[name] = 1e-4
            file[name].attrs["units"] = "m"
    assert open_frames(tmp_path / "a.h5").px_mm == pytest.approx(0.1)


@pytest.mark.parametrize("missing", ["PData", "Trans"])
@pytest.mark.parametrize("version", pala.VERSIONS)
def test_what_is_not_stated_is_not_filled_in(version: str, missing: str, tmp_path: Path) -> None:
    rest = {name: value for name, value in SCALE.items() if name != missing}
    pala.write_mat(tmp_path / "a.mat", {"IQ": IQ, **rest}, version)
    file = open_frames(tmp_path / "a.mat")
    assert (file.px_mm, file.px_mm_from) == (None, None)
    assert any("stated" in note for note in file.notes)


def test_the_user_counts_before_the_file(tmp_path: Path) -> None:
    savemat(tmp_path / "a.mat", {"IQ": IQ, **SCALE})
    file = open_frames(tmp_path / "a.mat", px_mm=0.2, frame_rate_hz=800)
    assert (file.px_mm, file.frame_rate_hz) == (0.2, 800)
    assert file.px_mm_from == file.rate_from == "stated by you"
    assert "you state a pixel pitch of 0.2 mm, which counts" in " ".join(file.notes)
    assert "says 500 Hz" in " ".join(file.notes)


@pytest.mark.parametrize("px_mm", [0, -1, (0.1, 0), (0.1, 0.1, 0.1), np.nan])
def test_pitches_that_are_none(px_mm: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((4, 5, 6)))
    with pytest.raises(ValueError, match="px_mm"):
        open_frames(tmp_path / "a.npy", px_mm=px_mm)


@pytest.mark.parametrize("pair", [(0.1 + 0.2, 0.3), (float(np.float32(0.3)), 0.3)])
def test_square_up_to_rounding(pair: tuple[float, float], tmp_path: Path) -> None:
    grid = {"PData": {"PDelta": np.array([[pair[0], 0, pair[1]]])}, "Trans": {"frequency": 15.4}}
    savemat(tmp_path / "a.mat", {"IQ": IQ, **grid})
    file = open_frames(tmp_path / "a.mat")
    assert (file.px_mm, file.shape_px, file.stretch) == (pytest.approx(0.03), (6, 7), (1.0, 1.0))


def test_one_helper_says_what_is_the_same(tmp_path: Path) -> None:
    assert same_scale(0.07, float(np.float32(0.07)))
    assert same_scale(None, None)
    assert not same_scale(0.07, 0.0701)
    assert not same_scale(None, 0.07)
    for number, name in ((np.float64, "a"), (np.float32, "b")):
        grid = {"Trans": {"frequency": number(15.4)}, "PData": {"PDelta": number([0.7, 0, 0.7])}}
        savemat(tmp_path / f"{name}.mat", {"IQ": IQ, **grid})
    paths = [tmp_path / "a.mat", tmp_path / "b.mat"]
    assert store_frames(paths, tmp_path / "both.h5") == 16
    with BlockStore(tmp_path / "c.h5", "w") as store:
        store.append(Block(np.ones((2, 8, 8)), px_mm=0.1))
        with pytest.raises(ValueError, match="pixel pitch"):
            store.append(Block(np.ones((2, 8, 8)), px_mm=0.1001))


@pytest.mark.parametrize(
    ("px_mm", "rate", "said"),
    [
        (100, None, "pixel pitch of 100 mm is outside 0.001 to 1 mm; is it in um"),
        (1e-4, None, "is it in m?"),
        (None, 0.5, "frame rate of 0.5 Hz is outside 1 to 100000 Hz; is it in kHz"),
        (None, 1e7, "outside 1 to 100000 Hz"),
    ],
)
def test_implausible_scale(
    px_mm: float | None, rate: float | None, said: str, tmp_path: Path
) -> None:
    np.save(tmp_path / "a.npy", np.ones((4, 5, 6)))
    with pytest.warns(UlmWarning) as warned:
        open_frames(tmp_path / "a.npy", px_mm=px_mm, frame_rate_hz=rate)
    assert said in str(warned[0].message)
    assert "a.npy" in str(warned[0].message)


def test_plausible_scale() -> None:
    for px_mm, rate in ((1e-3, 1.0), (1.0, 1e5), (0.09856, 1000.0), (None, None)):
        doubt_scale(px_mm, rate, "a")


@pytest.mark.parametrize(("frequency", "unit"), [(15.6e6, "Hz"), (7700.0, "kHz")])
def test_frequency_in_another_unit(frequency: float, unit: str, tmp_path: Path) -> None:
    scale = {"UF": {"TwFreq": frequency}, "PData": {"PDelta": np.array([[1.0, 0, 1.0]])}}
    savemat(tmp_path / "a.mat", {"IQ": IQ, **scale})
    with pytest.warns(UlmWarning) as warned:
        open_frames(tmp_path / "a.mat")
    said = " ".join(str(warning.message) for warning in warned)
    assert "is read in MHz" in said
    assert f"is it in {unit}?" in said


def spots(pitch: tuple[float, float], *, iq: bool) -> np.ndarray:
    """A bubble at z = 1.02 mm, x = 0.93 mm, seen with pixels of this pitch over 2 x 2 mm."""
    z, x = (np.arange(round(2 / p) + 1) * p for p in pitch)
    spot = np.exp(-((z[:, None] - 1.02) ** 2 + (x - 0.93) ** 2) / (2 * 0.15**2))
    frame = spot * np.exp(1j * 0.7) if iq else spot
    return np.stack([frame, 2 * frame]).astype(np.complex64 if iq else np.float32)


@pytest.mark.parametrize("pitch", [(0.1, 0.05), (0.05, 0.1), (0.05, 0.125), (0.1, 0.1)])
@pytest.mark.parametrize("iq", [False, True])
def test_square_pixels_show_the_same(pitch: tuple[float, float], iq: bool, tmp_path: Path) -> None:
    """As if the frames had been taken with square pixels in the first place."""
    np.save(tmp_path / "a.npy", spots(pitch, iq=iq))
    file = open_frames(tmp_path / "a.npy", px_mm=pitch)
    fine = min(pitch)
    expected = spots((fine, fine), iq=iq)
    block = file.read()
    assert (file.px_mm, file.shape_px) == (fine, expected.shape[1:])
    assert block.frames.dtype == expected.dtype == file.dtype
    np.testing.assert_allclose(block.frames, expected, atol=0.02)
    assert iq or block.frames.min() >= 0
    assert any("not square" in note for note in file.notes) == (pitch[0] != pitch[1])
    for k, single in enumerate(file.blocks(1)):
        np.testing.assert_array_equal(single.frames[0], block.frames[k])


def test_stored_values_stay() -> None:
    frames = np.random.default_rng(0).random((3, 5, 6)).astype(np.float32)
    finer = square_frames(frames, (3.0, 1.0))
    np.testing.assert_allclose(finer[:, ::3], frames, atol=1e-6)
    assert square_frames(frames[:, :1], (2.0, 1.0)).shape == (3, 1, 6)
    assert square_frames(frames[:, :2], (2.0, 1.5)).shape == (3, 3, 8)


def test_grid_of_verasonics_scripts_is_read(tmp_path: Path) -> None:
    grid = {"Trans": {"frequency": 15.625}, "PData": {"PDelta": np.array([[1.0146, 0, 0.5]])}}
    savemat(tmp_path / "a.mat", {"IQ": IQ, **grid})
    file = open_frames(tmp_path / "a.mat")
    assert file.px_mm == pytest.approx(0.5 * 1540 / 15.625e3)
    assert file.shape_px == (6, 13)
    square = open_frames(tmp_path / "a.mat", px_mm=0.1)  # the user says that they are square
    assert (square.px_mm, square.shape_px) == (0.1, (6, 7))


def test_struct_array_by_references(tmp_path: Path) -> None:
    """PData(1:2).PDelta in v7.3: the first counts, as in v5."""
    with h5py.File(tmp_path / "a.mat", "w") as file:
        file["IQ"] = np.ones((4, 5, 6))
        file["Trans/frequency"] = [[15.4]]
        kept = [file.create_dataset(f"#refs#/{k}", data=[[k], [0], [k]]) for k in (0.5, 9.0)]
        field = file.create_dataset("PData/PDelta", (2, 1), dtype=h5py.ref_dtype)
        field[:, 0] = [item.ref for item in kept]
    assert open_frames(tmp_path / "a.mat").px_mm == pytest.approx(0.05)


def test_two_pitches_on_the_command_line(tmp_path: Path) -> None:
    """As in Python; run.json says that pixels were made square, and other axes are another run."""
    frames = np.random.default_rng(0).random((40, 24, 12))
    np.save(tmp_path / "a.npy", frames)
    stated = ["acquisition.px_mm=0.1,0.05", "acquisition.frame_rate_hz=500"]
    command = [sys.executable, "-m", "ulmpaper", "ulm", str(tmp_path / "a.npy"), "-o"]
    command += [str(tmp_path / "out"), *(word for pair in stated for word in ("--set", pair))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    about = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (about["px_mm"], about["axes"]) == (0.05, "tzx")
    assert any("not square" in note for note in about["notes"])
    with np.load(tmp_path / "out" / "maps.npz") as maps:
        assert maps["power_doppler"].shape == (47, 12)
    again = subprocess.run([*command, "--axes", "xzt"], capture_output=True, text=True, check=False)
    assert (again.returncode, "results of another run" in again.stderr) == (2, True)
