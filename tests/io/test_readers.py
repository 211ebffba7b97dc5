"""Readers of PALA's layouts, streams of frames, and the block store."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import _pala_files as pala
import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy.io import savemat

from ulmpaper.core.records import Block, bubble_table
from ulmpaper.io.readers import open_frames, read_insilico, read_ratbrain, read_ratkidney
from ulmpaper.io.store import BlockStore

N_Z, N_X, N_T = 12, 9, 7
WAVELENGTH_MM = 1540 / 15.625e3
POINTS = [(0, 3.25, 4.5, 0.5), (2, 0.0, 0.0, 1.0), (2, 11.0, 8.0, 2.0), (6, 6.125, 1.75, 1.0)]


@pytest.fixture
def iq(rng: np.random.Generator) -> np.ndarray:
    """MATLAB's (z, x, t), every value different."""
    return rng.standard_normal((N_Z, N_X, N_T)) + 1j * rng.standard_normal((N_Z, N_X, N_T))


def as_frames(iq: np.ndarray) -> np.ndarray:
    """The slow, obvious way from (z, x, t) to (t, z, x)."""
    return np.stack([iq[:, :, t] for t in range(iq.shape[2])]).astype(np.complex64)


class TestInSilico:
    """PALA's simulated flow."""

    @pytest.mark.parametrize("version", pala.VERSIONS)
    def test_values_scale_and_truth(self, version: str, iq: np.ndarray, tmp_path: Path) -> None:
        truth = pala.list_pos(POINTS, N_T)
        pala.write_insilico(
            tmp_path, 3, iq, truth, version=version, settings=pala.insilico_settings(250.0)
        )
        block = read_insilico(tmp_path, 3)
        assert block.frames.dtype == np.complex64
        np.testing.assert_array_equal(block.frames, as_frames(iq))
        assert block.px_mm == pytest.approx(WAVELENGTH_MM)
        assert block.frame_rate_hz == 250.0
        assert block.source == "PALA in silico flow (PALA_InSilicoFlow_IQ003)"
        expected = pd.DataFrame(POINTS, columns=["frame", "z", "x", "score"]).sort_values(
            ["frame", "z"]
        )
        read = block.bubbles.sort_values(["frame", "z"], ignore_index=True)
        pd.testing.assert_frame_equal(read, expected, check_dtype=False)

    def test_a_file_alone_uses_the_constants_of_pala(self, iq: np.ndarray, tmp_path: Path) -> None:
        path = pala.write_insilico(tmp_path, 1, iq, pala.list_pos(POINTS, N_T))
        block = read_insilico(str(path))
        assert block.px_mm == pytest.approx(0.09856)
        assert block.frame_rate_hz is None
        assert block.bubbles[["z", "x"]].to_numpy()[0] == pytest.approx(POINTS[0][1:3])

    def test_grid_of_the_file_counts(self, iq: np.ndarray, tmp_path: Path) -> None:
        settings = pala.insilico_settings()
        settings["PData"] = {
            "Origin": np.array([[-10.0, 0, 2]]),
            "PDelta": np.array([[0.5, 0, 0.5]]),
        }
        settings["Trans"] = {"frequency": 20.0}
        truth = np.array([-8.0, 0.0, 3.0, 1.0]).reshape(1, 4, 1) * np.ones((1, 4, N_T))
        block = read_insilico(pala.write_insilico(tmp_path, 1, iq, truth, settings=settings))
        assert block.px_mm == pytest.approx(0.5 * 1540 / 20e3)
        np.testing.assert_allclose(block.bubbles[["z", "x"]], np.tile([2.0, 4.0], (N_T, 1)))

    def test_inside_is_what_pala_calls_so(self, iq: np.ndarray, tmp_path: Path) -> None:
        edges = [
            (0, -0.01, 4, 1),
            (1, N_Z + 1, 4, 1),
            (2, N_Z + 1.01, 4, 1),
            (3, 4, N_X + 1, 1),
            (4, 4, -0.01, 1),
        ]
        block = read_insilico(
            pala.write_insilico(tmp_path, 1, iq, pala.list_pos([*edges, (5, 0, 0, 1)], N_T))
        )
        assert block.bubbles["frame"].tolist() == [1, 3, 5]

    def test_absent_bubbles_and_unknown_reflectivity(self, iq: np.ndarray, tmp_path: Path) -> None:
        truth = pala.list_pos([(0, 5, 5, np.nan)], N_T)
        truth[:, 2, 1] = 20.0
        block = read_insilico(pala.write_insilico(tmp_path, 1, iq, truth))
        assert block.bubbles.to_numpy().tolist() == [[0, 5, 5, 0]]

    @pytest.mark.parametrize("version", pala.VERSIONS)
    def test_no_bubble_at_all(self, version: str, iq: np.ndarray, tmp_path: Path) -> None:
        path = pala.write_insilico(tmp_path, 1, iq, np.full((3, 4, N_T), np.nan), version=version)
        assert read_insilico(path).bubbles.columns.tolist() == ["frame", "z", "x", "score"]
        assert read_insilico(path).bubbles.empty

    def test_blocks_carry_their_share_of_the_truth(self, iq: np.ndarray, tmp_path: Path) -> None:
        file = open_frames(pala.write_insilico(tmp_path, 1, iq, pala.list_pos(POINTS, N_T)))
        assert file.has_truth
        blocks = list(file.blocks(3))
        assert [b.bubbles["frame"].tolist() for b in blocks] == [[0, 2, 2], [], [0]]
        assert all(b.bubbles.index.tolist() == list(range(len(b.bubbles))) for b in blocks)

    @pytest.mark.parametrize("shape", [(3, 4, N_T - 1), (3, 5, N_T)])
    def test_truth_of_another_size(
        self, shape: tuple[int, ...], iq: np.ndarray, tmp_path: Path
    ) -> None:
        path = pala.write_insilico(tmp_path, 1, iq, np.ones(shape))
        with pytest.raises(ValueError, match=rf"ListPos has the shape .*, not \(n, 4, {N_T}\)"):
            read_insilico(path)

    def test_truth_moves_with_pixels_that_are_made_square(
        self, iq: np.ndarray, tmp_path: Path
    ) -> None:
        settings = pala.insilico_settings()
        settings["PData"] = {
            "Origin": np.array([[-72.0, 0, 16]]),
            "PDelta": np.array([[1.0, 0, 0.5]]),
        }
        truth = np.full((1, 4, N_T), [[-70.0], [0.0], [18.0], [1.0]])
        pala.write_insilico(tmp_path, 1, iq, truth, settings=settings)
        block = read_insilico(tmp_path, 1)
        assert block.frames.shape == (N_T, N_Z, 2 * N_X - 1)
        assert block.px_mm == pytest.approx(0.5 * WAVELENGTH_MM)
        np.testing.assert_allclose(block.bubbles[["z", "x"]], np.tile([4.0, 4.0], (N_T, 1)))
        np.testing.assert_allclose(block.frames[:, :, ::2], as_frames(iq), rtol=1e-5, atol=1e-5)

    def test_which_sequence(self, iq: np.ndarray, tmp_path: Path) -> None:
        pala.write_insilico(tmp_path, 2, iq, pala.list_pos(POINTS, N_T))
        with pytest.raises(
            ValueError, match="is a folder, so sequence must be a number above 0, not None"
        ):
            read_insilico(tmp_path)
        with pytest.raises(
            FileNotFoundError, match=r"no sequence 4 below .*PALA_InSilicoFlow_IQ004\.mat"
        ):
            read_insilico(tmp_path, 4)
        savemat(tmp_path / "untrue.mat", {"IQ": iq})
        with pytest.raises(ValueError, match=r"untrue\.mat has no true positions \(ListPos\)"):
            read_insilico(tmp_path / "untrue.mat")


class TestRatBrain:
    """Both Zenodo records of the rat brain."""

    @pytest.mark.parametrize("version", pala.VERSIONS)
    def test_record_with_mat_files(self, version: str, iq: np.ndarray, tmp_path: Path) -> None:
        pala.write_ratbrain(tmp_path, 12, iq, version=version)
        block = read_ratbrain(tmp_path, 12)
        np.testing.assert_array_equal(block.frames, as_frames(iq))
        assert block.px_mm == pytest.approx(1540 / 15e3)
        assert block.frame_rate_hz == 1000.0
        assert block.bubbles is None
        assert block.source == "PALA rat brain (PALA_InVivoRatBrain_012)"

    def test_record_with_hdf5_files(self, iq: np.ndarray, tmp_path: Path) -> None:
        path = pala.write_record(tmp_path, 25, iq)
        for block in (read_ratbrain(tmp_path, 25), read_ratbrain(path)):
            np.testing.assert_array_equal(block.frames, as_frames(iq))
            assert block.px_mm == pytest.approx(WAVELENGTH_MM)
            assert block.frame_rate_hz == 1000.0
            assert block.source == "PALA rat brain (IQ_025)"

    def test_unknown_scale_stays_unknown(self, iq: np.ndarray, tmp_path: Path) -> None:
        block = read_ratbrain(pala.write_record(tmp_path, 1, iq, settings=False))
        assert (block.px_mm, block.frame_rate_hz) == (None, None)

    def test_parameters_in_a_list_of_structs(self, iq: np.ndarray, tmp_path: Path) -> None:
        pixels = np.array(
            [(np.array([1.0, 0, 1]),), (np.array([9.0, 9, 9]),)], dtype=[("PDelta", object)]
        )
        savemat(
            tmp_path / "IQ_001.mat",
            {"IQ": iq, "PData": pixels, "UF": {"TwFreq": 15.4, "FrameRateUF": []}},
        )
        block = read_ratbrain(tmp_path, 1)
        assert block.px_mm == pytest.approx(0.1)
        assert block.frame_rate_hz is None

    def test_other_data(self, iq: np.ndarray, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="not a block of the rat brain"):
            read_ratbrain(pala.write_insilico(tmp_path, 1, iq, pala.list_pos(POINTS, N_T)))
        with pytest.raises(
            FileNotFoundError, match=r"looked for PALA_InVivoRatBrain_001\.mat or IQ_001\.hdf5"
        ):
            read_ratbrain(tmp_path, 1)


def test_rat_kidney(data_mirror: Path) -> None:
    block = read_ratkidney(data_mirror / "normal_rat_kidney_frame50.mat")
    assert block.frames.shape == (50, 343, 230)
    assert block.frames.dtype == np.float32
    np.testing.assert_array_equal(block.frames.max(axis=(1, 2)), 1)
    assert (block.frames == 0).mean() == pytest.approx(0.94, abs=0.01)
    assert (block.bubbles, block.px_mm, block.frame_rate_hz) == (None, None, None)


def write_npy(path: Path, frames: np.ndarray) -> None:
    np.save(path, frames)


def write_hdf5(path: Path, frames: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        file["group/frames"] = frames
        file["picture"] = frames[0]


def write_store(path: Path, frames: np.ndarray) -> None:
    with BlockStore(path, "w") as store:
        store.append(Block(frames[:4]))
        store.append(Block(frames[4:]))


def mat_writer(version: str) -> Callable[[Path, np.ndarray], None]:
    return lambda path, frames: pala.write_mat(
        path, {"stack": frames.transpose(1, 2, 0), "note": "no frames"}, version
    )


FORMATS = {
    "a.npy": write_npy,
    "a.h5": write_hdf5,
    "a.HDF5": write_hdf5,
    "store.h5": write_store,
    **{f"{version}.mat": mat_writer(version) for version in pala.VERSIONS},
    "matlab.h5": mat_writer("v7.3"),
}


class TestOpenFrames:
    """Any stack of frames."""

    @pytest.mark.parametrize("name", FORMATS)
    @pytest.mark.parametrize("dtype", ["float32", "float64", "uint8", "complex64", "complex128"])
    def test_any_format(
        self, name: str, dtype: str, rng: np.random.Generator, tmp_path: Path
    ) -> None:
        frames = (100 * rng.uniform(size=(N_T, N_Z, N_X))).astype(dtype)
        if dtype.startswith("complex"):
            frames = frames * np.exp(1j * rng.uniform(size=frames.shape)).astype(dtype)
        FORMATS[name](tmp_path / name, frames)
        file = open_frames(tmp_path / name)
        wanted = np.complex64 if dtype.startswith("complex") else np.float32
        assert (file.n_frames, file.shape_px, file.dtype) == (N_T, (N_Z, N_X), wanted)
        assert (file.px_mm, file.frame_rate_hz, file.has_truth) == (None, None, False)
        whole = file.read().frames
        np.testing.assert_array_equal(whole, frames.astype(wanted))
        assert whole.dtype == wanted
        assert whole.flags["C_CONTIGUOUS"]
        parts = list(file.blocks(3))
        assert [len(block.frames) for block in parts] == [3, 3, 1]
        np.testing.assert_array_equal(np.concatenate([block.frames for block in parts]), whole)
        (some,) = file.blocks(10, start=2, stop=5)
        np.testing.assert_array_equal(some.frames, whole[2:5])

    @pytest.mark.parametrize(
        ("start", "stop"), [(-1, 2), (3, 3), (4, 2), (0, N_T + 1), (N_T, None)]
    )
    def test_frames_that_are_not_there(self, start: int, stop: int | None, tmp_path: Path) -> None:
        write_npy(tmp_path / "a.npy", np.zeros((N_T, 3, 3)))
        with pytest.raises(ValueError, match=rf"are not in .*a\.npy, which holds {N_T}"):
            open_frames(tmp_path / "a.npy").blocks(2, start=start, stop=stop)
        with pytest.raises(ValueError, match="n_frames must be a number above 0, not 0"):
            open_frames(tmp_path / "a.npy").blocks(0)

    def test_kind_and_source(self, iq: np.ndarray, tmp_path: Path) -> None:
        for name, write in FORMATS.items():
            write(tmp_path / name, np.ones((N_T, N_Z, N_X)))
        kinds = {name: open_frames(tmp_path / name).kind for name in FORMATS}
        assert kinds == {
            "a.npy": "NumPy",
            "a.h5": "HDF5",
            "a.HDF5": "HDF5",
            "store.h5": "BlockStore",
            "v5.mat": "MAT v5",
            "v7.mat": "MAT v5",
            "v7.3.mat": "MAT v7.3",
            "matlab.h5": "MAT v7.3",
        }
        assert open_frames(tmp_path / "a.npy").source == "a.npy"
        assert (
            open_frames(pala.write_ratbrain(tmp_path, 1, iq)).source
            == "IQ (PALA_InVivoRatBrain_001)"
        )

    def test_store_brings_its_scale_and_truth(self, flow: Block, tmp_path: Path) -> None:
        with BlockStore(tmp_path / "flow.h5", "w") as store:
            store.append(flow)
        file = open_frames(tmp_path / "flow.h5")
        assert (file.px_mm, file.frame_rate_hz, file.source) == (
            flow.px_mm,
            flow.frame_rate_hz,
            flow.source,
        )
        assert file.has_truth
        pd.testing.assert_frame_equal(file.read().bubbles, flow.bubbles)

    def test_variable_chooses(self, rng: np.random.Generator, tmp_path: Path) -> None:
        one, two = rng.uniform(size=(2, N_Z, N_X, N_T))
        savemat(tmp_path / "two.mat", {"one": one, "two": two, "flat": one[0]})
        np.testing.assert_array_equal(
            open_frames(tmp_path / "two.mat", "two").read().frames,
            two.transpose(2, 0, 1).astype(np.float32),
        )
        listing = r"it holds one \(12, 9, 7\), two \(12, 9, 7\), flat \(9, 7\)"
        with pytest.raises(
            ValueError, match=f"several stacks of frames, choose one with --variable .*; {listing}"
        ):
            open_frames(tmp_path / "two.mat")
        with pytest.raises(ValueError, match=f"no stack of frames 'three'; {listing}"):
            open_frames(tmp_path / "two.mat", "three")
        with pytest.raises(ValueError, match=f"no stack of frames 'flat'; {listing}"):
            open_frames(tmp_path / "two.mat", "flat")

    def test_hidden_groups_of_matlab_are_not_candidates(self, tmp_path: Path) -> None:
        pala.write_mat(tmp_path / "a.mat", {"stack": np.ones((4, 5, 6))}, "v7.3")
        with h5py.File(tmp_path / "a.mat", "r+") as file:
            file["#refs#/a"] = np.ones((2, 2, 2))
        assert open_frames(tmp_path / "a.mat").variable == "stack"

    @pytest.mark.parametrize("name", ["a.npy", "a.h5", "store.h5", "v7.3.mat"])
    def test_one_block_at_a_time_in_memory(self, name: str, tmp_path: Path) -> None:
        FORMATS[name](tmp_path / name, np.ones((400, 50, 50), np.float32))
        block_bytes = 10 * 50 * 50 * 4
        file = open_frames(tmp_path / name)
        tracemalloc.start()
        try:
            n_frames = sum(len(block.frames) for block in file.blocks(10))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert n_frames == 400
        assert peak < 6 * block_bytes


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def make_bad(folder: Path, what: str) -> Path:
    """A file that is not a stack of frames."""
    stack = np.ones((6, 5, 4))
    path = folder / {
        "truncated npy": "a.npy",
        "pickled npy": "a.npy",
        "flat npy": "a.npy",
        "words npy": "a.npy",
    }.get(what, f"a.{what.split()[-1]}")
    match what:
        case "truncated npy":
            np.save(path, stack)
            truncate(path)
        case "pickled npy":
            np.save(path, np.array([[[{}]]], dtype=object), allow_pickle=True)
        case "flat npy":
            np.save(path, stack[0])
        case "words npy":
            np.save(path, np.array([[["word"]]]))
        case "empty npy":
            np.save(path, stack[:0])
        case "truncated mat":
            savemat(path, {"IQ": stack}, do_compression=True)
            truncate(path)
        case "flat mat" | "empty mat" | "words mat":
            savemat(
                path,
                {
                    "a": {"flat": stack[0], "empty": stack[:, :, :0], "words": "word"}[
                        what.split()[0]
                    ]
                },
            )
        case "truncated h5":
            with h5py.File(path, "w") as file:
                file["x"] = stack
            truncate(path)
        case "no frames in h5":
            BlockStore(path, "w").close()
        case "flat h5" | "words h5":
            with h5py.File(path, "w") as file:
                file["x"] = stack[0] if what == "flat h5" else "word"
        case _:
            path.write_bytes(
                b"" if "empty" in what else b"no such format, but long enough to be looked at " * 8
            )
    return path


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("truncated npy", "cannot read .* damaged"),
        ("pickled npy", "cannot read .* damaged"),
        (
            "flat npy",
            r"no array of three axes; it holds array \(5, 4\)\. Save .* as frame\[None\]",
        ),
        ("words npy", "no array of three axes; it holds no arrays of numbers"),
        ("empty npy", r"holds no frames: array has the shape \(0, 5, 4\)"),
        ("nonsense npy", "cannot read .* damaged or not what its name says"),
        ("nothing at all npy", "cannot read"),
        ("truncated mat", "cannot read .* damaged"),
        ("flat mat", r"no array of three axes; it holds a \(5, 4\)"),
        ("empty mat", r"holds no frames: a has the shape \(6, 5, 0\)"),
        ("words mat", "no array of three axes"),
        ("nonsense mat", "cannot read .* damaged or not what its name says"),
        ("empty file mat", "cannot read"),
        ("truncated h5", "cannot read .* damaged"),
        ("no frames in h5", r"holds no frames: frames has the shape \(0, 0, 0\)"),
        ("flat h5", r"no array of three axes; it holds x \(5, 4\)"),
        ("words h5", "no array of three axes"),
        ("nonsense hdf5", "cannot read .* damaged or not what its name says"),
        (
            "nonsense txt",
            r"unknown kind of file \(a.txt\) '.txt': .*Allowed: .mat, .h5, .hdf5, .npy",
        ),
    ],
)
def test_bad_files(what: str, message: str, tmp_path: Path) -> None:
    path = make_bad(tmp_path, what)
    with pytest.raises(ValueError, match=message):
        open_frames(path).read()


def test_no_file_or_a_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no file .*a\.mat"):
        open_frames(tmp_path / "a.mat")
    with pytest.raises(FileNotFoundError, match="is a folder, give a file"):
        open_frames(tmp_path)


def test_damage_inside_is_named_when_it_is_reached(tmp_path: Path) -> None:
    with BlockStore(tmp_path / "a.h5", "w") as store:
        store.append(Block(np.random.default_rng(0).uniform(size=(4, 40, 40))))
    with h5py.File(tmp_path / "a.h5") as file:
        place = file["frames"].id.get_chunk_info(2)
    with (tmp_path / "a.h5").open("r+b") as raw:
        raw.seek(place.byte_offset)
        raw.write(b"\0" * place.size)
    blocks = open_frames(tmp_path / "a.h5").blocks(1)
    next(blocks)
    next(blocks)
    with pytest.raises(ValueError, match=r"cannot read .*a\.h5, it is damaged"):
        next(blocks)


@st.composite
def block_lists(draw: st.DrawFn) -> list[Block]:
    """One to four blocks of one size, type and scale, with truth in any order or without."""
    size = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    dtype = draw(st.sampled_from([np.float32, np.complex64]))
    with_truth, px_mm, rate = (
        draw(st.booleans()),
        draw(st.sampled_from([None, 0.1])),
        draw(st.sampled_from([None, 1e3])),
    )
    values = (
        st.floats(-1e6, 1e6, width=32)
        if dtype == np.float32
        else st.complex_numbers(max_magnitude=1e6, allow_nan=False, allow_infinity=False, width=64)
    )
    blocks = []
    for n_frames in draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)):
        row = st.tuples(st.integers(0, n_frames - 1), *(st.floats(-10, 10) for _ in range(3)))
        rows = np.array(draw(st.lists(row, max_size=6))).reshape(-1, 4)
        bubbles = (
            bubble_table(*rows.T).assign(vessel=np.arange(len(rows), dtype=np.int32))
            if with_truth
            else None
        )
        frames = draw(npst.arrays(dtype, (n_frames, *size), elements=values))
        blocks.append(Block(frames, bubbles, px_mm, rate, "made by hypothesis"))
    return blocks


class TestBlockStore:
    """Blocks in one file."""

    @given(blocks=block_lists(), data=st.data())
    @settings(
        max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    def test_round_trip(self, blocks: list[Block], data: st.DataObject, tmp_path: Path) -> None:
        with BlockStore(tmp_path / "a.h5", "w") as store:
            for block in blocks:
                store.append(block)
        frames = np.concatenate([block.frames for block in blocks])
        firsts = np.cumsum([0] + [len(block.frames) for block in blocks])
        with BlockStore(tmp_path / "a.h5") as store:
            assert len(store) == len(frames)
            assert (store.px_mm, store.frame_rate_hz) == (blocks[0].px_mm, blocks[0].frame_rate_hz)
            start = data.draw(st.integers(0, len(frames) - 1))
            n_frames = data.draw(st.integers(1, len(frames) - start))
            window = store.window(start, n_frames)
        np.testing.assert_array_equal(window.frames, frames[start : start + n_frames])
        assert window.frames.dtype == frames.dtype
        assert window.source == "made by hypothesis"
        if blocks[0].bubbles is None:
            assert window.bubbles is None
            return
        moved = [
            b.bubbles.assign(frame=b.bubbles["frame"] + at)
            for b, at in zip(blocks, firsts, strict=False)
        ]
        truth = pd.concat(moved).sort_values("frame", kind="stable")
        truth = truth[truth["frame"].between(start, start + n_frames - 1)]
        expected = truth.assign(frame=truth["frame"] - start).reset_index(drop=True)
        pd.testing.assert_frame_equal(window.bubbles, expected)

    def test_same_blocks_same_bytes(self, flow: Block, tmp_path: Path) -> None:
        for name in ("a.h5", "b.h5"):
            with BlockStore(tmp_path / name, "w") as store:
                store.append(flow)
                store.append(flow)
            time.sleep(1.1)  # HDF5 would note the time to the second
        assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()

    def test_a_frame_is_a_chunk(self, flow: Block, tmp_path: Path) -> None:
        with BlockStore(tmp_path / "a.h5", "w") as store:
            store.append(flow)
        with h5py.File(tmp_path / "a.h5") as file:
            assert file["frames"].chunks == (1, *flow.frames.shape[1:])
            assert file["frames"].id.get_storage_size() < 0.95 * flow.frames.nbytes

    def test_new_file_gets_its_name_at_the_end(self, flow: Block, tmp_path: Path) -> None:
        path = tmp_path / "a.h5"
        path.write_text("older")
        with BlockStore(path, "w") as store:
            store.append(flow)
            assert path.read_text() == "older"
        assert len(list(tmp_path.iterdir())) == 1
        with BlockStore(path) as store:
            assert len(store) == len(flow.frames)

    def test_an_error_leaves_the_older_file(self, tmp_path: Path) -> None:
        (tmp_path / "a.h5").write_text("older")
        with (
            pytest.raises(ValueError, match="are not in"),
            BlockStore(tmp_path / "a.h5", "w") as store,
        ):
            store.window(0, 1)
        assert [path.read_text() for path in tmp_path.iterdir()] == ["older"]

    def test_close_without_with(self, flow: Block, tmp_path: Path) -> None:
        store = BlockStore(tmp_path / "a.h5", "w")
        store.append(flow)
        store.close()
        store.close()
        assert open_frames(tmp_path / "a.h5").n_frames == len(flow.frames)

    def test_going_on(self, flow: Block, tmp_path: Path) -> None:
        for n_before in range(3):
            with BlockStore(tmp_path / "a.h5", "a") as store:
                assert len(store) == n_before * len(flow.frames)
                store.append(flow)
        with BlockStore(tmp_path / "a.h5") as store:
            last = store.window(2 * len(flow.frames), len(flow.frames))
        np.testing.assert_array_equal(last.frames, flow.frames)
        pd.testing.assert_frame_equal(last.bubbles, flow.bubbles)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"frames": np.ones((2, 9, 9))}, r"with frames of size \(8, 8\), not \(9, 9\)"),
            (
                {"frames": np.ones((2, 8, 8), complex)},
                "with numbers of type float32, not complex64",
            ),
            ({"px_mm": 0.2}, r"with pixel pitch \[mm\] 0.1, not 0.2"),
            ({"frame_rate_hz": None}, r"with frame rate \[Hz\] 1000.0, not None"),
            ({"bubbles": None}, "with truth columns .*score.*, not None"),
            ({"bubbles": bubble_table([0], [1], [1], [1]).assign(bubble=1)}, "with truth columns"),
            (
                {"bubbles": bubble_table([2], [1], [1], [1])},
                "true bubbles lie in frames 2 to 2 of a block of 2 frames",
            ),
            (
                {"bubbles": bubble_table([0], [1], [1], [1]).drop(columns="z")},
                r"lacks the column\(s\) z",
            ),
            (
                {"bubbles": bubble_table([0], [1], [1], [1]).assign(note="word")},
                r"columns \['note'\] of the truth",
            ),
            ({"frames": np.full((2, 8, 8), np.nan)}, "NaN or infinite"),
        ],
    )
    def test_blocks_that_do_not_fit(self, change: dict, message: str, tmp_path: Path) -> None:
        good = {"bubbles": bubble_table([1], [1], [1], [1]), "px_mm": 0.1, "frame_rate_hz": 1e3}
        with BlockStore(tmp_path / "a.h5", "w") as store:
            store.append(Block(np.ones((2, 8, 8)), **good))
            with pytest.raises(ValueError, match=message):
                store.append(Block(**{"frames": np.ones((2, 8, 8)), **good, **change}))
            assert len(store) == 2
            store.append(Block(np.ones((2, 8, 8)), **good))
        with BlockStore(tmp_path / "a.h5") as store:
            assert store.window(0, 4).bubbles["frame"].tolist() == [1, 3]

    @pytest.mark.parametrize(("start", "n_frames"), [(-1, 1), (0, 0), (0, 6), (5, 1), (2, -1)])
    def test_windows_that_are_not_there(self, start: int, n_frames: int, tmp_path: Path) -> None:
        with BlockStore(tmp_path / "a.h5", "w") as store:
            store.append(Block(np.ones((5, 8, 8))))
            message = r"are not in .*a\.h5, which holds 5|must be a whole number"
            with pytest.raises(ValueError, match=message):
                store.window(start, n_frames)

    def test_files_that_are_no_store(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="unknown mode 'x'"):
            BlockStore(tmp_path / "a.h5", "x")
        with pytest.raises(FileNotFoundError, match=r"there is no file .*a\.h5"):
            BlockStore(tmp_path / "a.h5")
        with pytest.raises(FileNotFoundError, match="there is no folder"):
            BlockStore(tmp_path / "new" / "a.h5", "w")
        write_hdf5(tmp_path / "b.h5", np.ones((2, 3, 4)))
        (tmp_path / "c.h5").write_text("text")
        for mode in ("r", "a"):
            with pytest.raises(ValueError, match=r"b\.h5 is not a block store"):
                BlockStore(tmp_path / "b.h5", mode)
            with pytest.raises(ValueError, match=r"cannot read .*c\.h5"):
                BlockStore(tmp_path / "c.h5", mode)

    def test_empty_store(self, tmp_path: Path) -> None:
        BlockStore(tmp_path / "a.h5", "a").close()
        with BlockStore(tmp_path / "a.h5") as store:
            assert (len(store), store.px_mm, store.has_truth) == (0, None, False)
            assert store.source == "empty block store"
