"""Files by the marks of their writers: trees of MAT files, cells, structs, links, damage."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import _pala_files as pala
import h5py
import numpy as np
import pytest
from h5py import h5d, h5p, h5s, h5t, h5z
from scipy.io import savemat

from ulmpaper.io.readers import open_frames, read_frames

N_T, N_Z, N_X = 6, 5, 7


@pytest.fixture
def iq(rng: np.random.Generator) -> np.ndarray:
    """IQ (t, z, x)."""
    parts = rng.standard_normal((2, N_T, N_Z, N_X))
    return (parts[0] + 1j * parts[1]).astype(np.complex64)


def matlab(iq: np.ndarray) -> np.ndarray:
    return iq.transpose(1, 2, 0)


def cell(*values: Any) -> np.ndarray:
    made = np.empty((1, len(values)), dtype=object)
    made[0, :] = [None] * len(values)
    for k, value in enumerate(values):
        made[0, k] = value
    return made


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("make", "variable"),
    [
        (lambda iq: {"IQData": cell(iq)}, "IQData{1}"),
        (lambda iq: {"IQData": cell("text", iq)}, "IQData{2}"),
        (lambda iq: {"IQData": cell(iq[:, :, None])}, "IQData{1}"),
        (lambda iq: {"Data": {"IQ": iq, "date": "today", "n": 3.0}}, "Data.IQ"),
        (lambda iq: {"a": {"b": {"c": iq}}}, "a.b.c"),
        (lambda iq: {"a": {"b": cell(iq)}}, "a.b{1}"),
        (lambda iq: {"a": cell({"b": iq})}, "a{1}.b"),
    ],
)
def test_cells_and_structs_of_v5(
    make: Any, variable: str, packed: bool, iq: np.ndarray, tmp_path: Path
) -> None:
    savemat(tmp_path / "a.mat", make(matlab(iq)), do_compression=packed)
    outer = variable.split(".")[0].split("{")[0]
    for name in (None, variable, outer):
        file = open_frames(tmp_path / "a.mat", name)
        assert (file.variable, file.stored_dtype) == (variable, "complex64")
        np.testing.assert_array_equal(file.read().frames, iq)


def test_several_in_a_cell_or_struct_array(iq: np.ndarray, tmp_path: Path) -> None:
    structs = np.empty((1, 2), dtype=[("IQ", object)])
    structs[0, 0] = (matlab(iq),)
    structs[0, 1] = (2 * matlab(iq),)
    savemat(tmp_path / "a.mat", {"c": cell(matlab(iq), 2 * matlab(iq)), "s": structs})
    for name in ("c{2}", "s(2).IQ"):
        np.testing.assert_array_equal(read_frames(tmp_path / "a.mat", name).frames, 2 * iq)
    with pytest.raises(ValueError, match=r"c holds several stacks .*: c\{1\}, c\{2\}"):
        open_frames(tmp_path / "a.mat", "c")


def write_v73(path: Path) -> h5py.File:
    file = h5py.File(path, "w", userblock_size=512)
    file.create_group("#refs#")
    return file


def mark(path: Path, text: bytes) -> None:
    with path.open("r+b") as raw:
        raw.write(text)


def put_iq(group: h5py.Group, name: str, iq: np.ndarray) -> h5py.Dataset:
    """IQ (t, z, x) as MATLAB keeps its (z, x, t): axes in reverse, pairs of fields."""
    turned = iq.transpose(0, 2, 1)
    pairs = np.empty(turned.shape, [("real", "f4"), ("imag", "f4")])
    pairs["real"], pairs["imag"] = turned.real, turned.imag
    data = group.create_dataset(name, data=pairs)
    data.attrs["MATLAB_class"] = np.bytes_("single")
    return data


def test_cells_and_structs_of_v73(iq: np.ndarray, tmp_path: Path) -> None:
    with write_v73(tmp_path / "a.mat") as file:
        inner = [put_iq(file["#refs#"], name, k * iq) for k, name in enumerate("ab", 1)]
        data = file.create_dataset("IQData", (2, 1), dtype=h5py.ref_dtype)
        data[:, 0] = [item.ref for item in inner]
        data.attrs["MATLAB_class"] = np.bytes_("cell")
        struct = file.create_group("#refs#/s")
        put_iq(struct, "IQ", 3 * iq)
        deep = file.create_dataset("deep", (1, 1), dtype=h5py.ref_dtype)
        deep[0, 0] = struct.ref
        deep.attrs["MATLAB_class"] = np.bytes_("cell")
        fields = file.create_group("many")
        field = fields.create_dataset("IQ", (2, 1), dtype=h5py.ref_dtype)
        twice = [put_iq(file["#refs#"], name, k * iq) for k, name in ((4, "c"), (5, "d"))]
        field[:, 0] = [item.ref for item in twice]
    mark(tmp_path / "a.mat", b"MATLAB 7.3 MAT-file")
    factors = {"IQData{1}": 1, "IQData{2}": 2, "deep{1}.IQ": 3, "many(1).IQ": 4, "many(2).IQ": 5}
    for name, factor in factors.items():
        file = open_frames(tmp_path / "a.mat", name)
        assert (file.axes, file.kind) == ("zxt", "MAT v7.3")
        np.testing.assert_array_equal(file.read().frames, (factor * iq).astype(np.complex64))


def octave(group: h5py.Group, name: str, kind: str, value: Any) -> h5py.Group:
    made = group.create_group(name)
    made.attrs["OCTAVE_NEW_FORMAT"] = np.uint8(1)
    made["type"] = np.bytes_(kind)
    if value is None:
        made.create_group("value")
    else:
        made["value"] = value
    return made


@pytest.mark.parametrize("suffix", [".h5", ".mat", ".hdf5"])
def test_octave(suffix: str, iq: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    pairs = np.empty((N_T, N_X, N_Z), [("real", "f8"), ("imag", "f8")])
    pairs["real"], pairs["imag"] = (part.transpose(0, 2, 1) for part in (iq.real, iq.imag))
    with h5py.File(path, "w") as file:
        octave(file, "IQ", "complex matrix", pairs)
        octave(file, "u", "uint8 matrix", np.ones((N_T, N_X, N_Z), np.uint8))
        octave(file, "FrameRate", "scalar", 500.0)
        struct = octave(file, "Data", "scalar struct", None)
        octave(struct["value"], "IQ", "complex matrix", pairs)
        octave(struct["value"], "px_mm", "scalar", 0.1)
        cells = octave(file, "c", "cell", None)
        octave(cells["value"], "_0", "complex matrix", pairs)
    for name in ("IQ", "Data.IQ", "c{1}", "c"):
        opened = open_frames(path, name)
        assert (opened.kind, opened.axes, opened.frame_rate_hz) == ("Octave", "zxt", 500)
        assert opened.px_mm == 0.1
        np.testing.assert_array_equal(opened.read().frames, iq)
    assert read_frames(path, "u").frames.shape == (N_T, N_Z, N_X)


def test_octave_in_its_own_formats_is_told_what_to_do(tmp_path: Path) -> None:
    for head in (b"# Created by Octave 9.2.0, Mon Jan 01 00:00:00 2024 UTC <a@b>\n", b"Octave-1-L"):
        (tmp_path / "a.mat").write_bytes(head + b"\n# name: IQ\n" * 20)
        with pytest.raises(ValueError, match=r"Octave's own format.*'-v7'") as caught:
            open_frames(tmp_path / "a.mat")
        assert "damaged" not in str(caught.value)


def test_version_4(tmp_path: Path) -> None:
    savemat(tmp_path / "a.mat", {"IQ": np.ones((4, 5))}, format="4")
    with pytest.raises(ValueError, match="version 4, which holds no arrays of three axes"):
        open_frames(tmp_path / "a.mat")


def test_julia(iq: np.ndarray, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w", userblock_size=512) as file:
        file["IQ"] = iq.transpose(0, 2, 1)
    mark(tmp_path / "a.h5", b"HDF5-based Julia Data Format, version 0.1.1")
    file = open_frames(tmp_path / "a.h5")
    assert (file.kind, file.axes) == ("Julia", "zxt")
    np.testing.assert_array_equal(file.read().frames, iq)


def test_labels_of_axes(iq: np.ndarray, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a"] = np.stack([matlab(iq.real), matlab(iq.imag)])
        for dim, label in zip(file["a"].dims, ("iq", "depth", "lateral", "time"), strict=True):
            dim.label = label
    file = open_frames(tmp_path / "a.h5")
    assert file.axes == "czxt"
    np.testing.assert_array_equal(file.read().frames, iq)


class TestLinks:
    """Frames that stand elsewhere."""

    @pytest.mark.parametrize("make", ["soft", "external", "group", "chain"])
    def test_links_are_followed(self, make: str, iq: np.ndarray, tmp_path: Path) -> None:
        with h5py.File(tmp_path / "raw.h5", "w") as file:
            file["run/frames"] = iq
        with h5py.File(tmp_path / "a.h5", "w") as file:
            if make == "external":
                file["a/b"] = h5py.ExternalLink("raw.h5", "/run/frames")
            elif make == "group":
                file["a"] = h5py.ExternalLink("raw.h5", "/run")
            elif make == "chain":
                file["z"] = h5py.ExternalLink("raw.h5", "/run/frames")
                file["a/b"] = h5py.SoftLink("/z")
                file["loop"] = h5py.SoftLink("/")
            else:
                file["hidden"] = iq
                file["a/b"] = h5py.SoftLink("/hidden")
        name = open_frames(tmp_path / "a.h5").variable
        np.testing.assert_array_equal(read_frames(tmp_path / "a.h5").frames, iq)
        np.testing.assert_array_equal(read_frames(tmp_path / "a.h5", name).frames, iq)

    def test_matlab_behind_a_link_keeps_its_order(self, iq: np.ndarray, tmp_path: Path) -> None:
        pala.write_mat(tmp_path / "raw.mat", {"IQ": matlab(iq)}, "v7.3")
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file["b"] = h5py.ExternalLink("raw.mat", "/IQ")
        np.testing.assert_array_equal(read_frames(tmp_path / "a.h5").frames, iq)

    def test_links_that_lead_nowhere_are_named(self, tmp_path: Path) -> None:
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file["a/b"] = h5py.ExternalLink("lost.h5", "/frames")
            file["c"] = h5py.SoftLink("/nothing")
        with pytest.raises(ValueError, match=r"lead nowhere: .*a/b -> lost\.h5/frames"):
            open_frames(tmp_path / "a.h5")


def virtual(folder: Path, iq: np.ndarray, *, n_parts: int = 2, length: int | None = None) -> Path:
    """IQ in several files and one virtual array of them."""
    size = len(iq) // n_parts
    layout = h5py.VirtualLayout((length or len(iq), *iq.shape[1:]), iq.dtype)
    for k in range(n_parts):
        with h5py.File(folder / f"part{k}.h5", "w") as file:
            file["f"] = iq[k * size : (k + 1) * size]
        source = h5py.VirtualSource(f"part{k}.h5", "f", (size, *iq.shape[1:]))
        layout[k * size : (k + 1) * size] = source
    with h5py.File(folder / "whole.h5", "w", libver="latest") as file:
        file.create_virtual_dataset("frames", layout)
    return folder / "whole.h5"


class TestVirtual:
    """Arrays that are put together from other files."""

    def test_parts(self, iq: np.ndarray, tmp_path: Path) -> None:
        np.testing.assert_array_equal(read_frames(virtual(tmp_path, iq)).frames, iq)

    @pytest.mark.parametrize("number", [0, 1])
    def test_lost_parts(self, number: int, iq: np.ndarray, tmp_path: Path) -> None:
        path = virtual(tmp_path, iq)
        (tmp_path / f"part{number}.h5").unlink()
        with pytest.raises(ValueError, match=rf"whole\.h5: .*part{number}\.h5 is missing"):
            open_frames(path)

    def test_parts_without_the_array_or_too_short(self, iq: np.ndarray, tmp_path: Path) -> None:
        path = virtual(tmp_path, iq)
        with h5py.File(tmp_path / "part1.h5", "w") as file:
            file["other"] = iq
        with pytest.raises(ValueError, match=r"part1\.h5 has no array f"):
            open_frames(path)
        with h5py.File(tmp_path / "part1.h5", "w") as file:
            file["f"] = iq[:1]
        with pytest.raises(ValueError, match=r"f of part1\.h5 has the shape \(1, 5, 7\)"):
            open_frames(path)

    def test_frames_that_no_part_holds(self, iq: np.ndarray, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"its parts hold 210 of its 350 numbers"):
            open_frames(virtual(tmp_path, iq, length=10))


def test_numbers_outside_of_hdf5_are_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_bytes(b"x" * 48)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("f", (3, 4, 4), "u1", external=[(str(secret), 0, 48)])
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["f"] = h5py.ExternalLink("a.h5", "/f")
    layout = h5py.VirtualLayout((3, 4, 4), "u1")
    layout[:] = h5py.VirtualSource("a.h5", "f", (3, 4, 4))
    with h5py.File(tmp_path / "c.h5", "w", libver="latest") as file:
        file.create_virtual_dataset("f", layout)
    for name in ("a.h5", "b.h5", "c.h5"):
        with pytest.raises(ValueError, match=r"lie outside of HDF5, in .*secret\.txt"):
            open_frames(tmp_path / name)


@pytest.mark.parametrize(
    ("number", "word"), [(32015, "zstd, 32015"), (32001, "blosc"), (4242, "4242")]
)
def test_filters_that_are_not_installed(number: int, word: str, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        plan = h5p.create(h5p.DATASET_CREATE)
        plan.set_chunk((1, 8, 8))
        plan.set_filter(number, h5z.FLAG_OPTIONAL, (3,))
        data = h5d.create(file.id, b"f", h5t.IEEE_F32LE, h5s.create_simple((4, 8, 8)), plan)
        data.write_direct_chunk((0, 0, 0), b"packed")
    with pytest.raises(ValueError, match=rf"a\.h5 is sound.*{word}.*hdf5plugin") as caught:
        open_frames(tmp_path / "a.h5")
    assert "damaged" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.h5", "a.mat", "a.hdf5"])
def test_files_that_another_program_writes(name: str, tmp_path: Path) -> None:
    code = (
        "import sys, h5py, numpy as np\n"
        "from ulmpaper.io.readers import open_frames\n"
        "try: open_frames(sys.argv[1])\n"
        "except ValueError as error: print(error)\n"
    )
    with h5py.File(tmp_path / name, "w") as file:
        file["IQ"] = np.ones((4, 5, 6))
        file.flush()
        command = [sys.executable, "-c", code, str(tmp_path / name)]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert f"another program has {tmp_path / name} open" in said
    assert "copy the file" in said


class TestDamagedTrees:
    """MAT v5 files on which scipy alone would crash."""

    @pytest.mark.parametrize("packed", [False, True])
    @pytest.mark.parametrize("part", ["real", "imag"])
    @pytest.mark.parametrize("kind", [0, 8, 14, 15, 99])
    @pytest.mark.parametrize("where", ["plain", "cell", "struct"])
    def test_tags_of_no_type(
        self, packed: bool, part: str, kind: int, where: str, tmp_path: Path
    ) -> None:
        import struct
        import zlib

        path = tmp_path / "iq.mat"
        frames = (np.ones((10, 10, 10)) * (1 + 2j)).astype(np.complex64)
        value = {"plain": frames, "cell": cell(frames), "struct": {"f": frames}}[where]
        savemat(path, {"IQ": value})
        raw = bytearray(path.read_bytes())
        tag = struct.pack("<II", 7, 4000)
        first = raw.index(tag)
        at = first if part == "real" else raw.index(tag, first + 1)
        raw[at : at + 4] = struct.pack("<I", kind)
        if packed:
            body = zlib.compress(bytes(raw[128:]))
            raw = raw[:128] + struct.pack("<II", 15, len(body)) + body
        path.write_bytes(raw)
        with pytest.raises(ValueError, match=r"cannot read .*iq\.mat, it is damaged"):
            open_frames(path).read()

    def test_cells_in_cells_without_end(self, tmp_path: Path) -> None:
        value = np.ones((2, 2))
        for _ in range(80):
            value = cell(value)
        savemat(tmp_path / "a.mat", {"IQ": value})
        with pytest.raises(ValueError, match="cannot read"):
            open_frames(tmp_path / "a.mat")

    def test_any_change_of_bytes_is_read_or_refused(self, iq: np.ndarray, tmp_path: Path) -> None:
        """In a process of its own, since a crash would end this one."""
        code = (
            "import sys, numpy as np, warnings\n"
            "from pathlib import Path\n"
            "from ulmpaper.io.readers import open_frames\n"
            "warnings.simplefilter('ignore')\n"
            "path = Path(sys.argv[1])\n"
            "whole = path.read_bytes()\n"
            "rng = np.random.default_rng(0)\n"
            "for k in range(400):\n"
            "    raw = bytearray(whole)\n"
            "    if k % 2: raw[rng.integers(128, len(raw))] = rng.integers(256)\n"
            "    else:\n"
            "        at = 8 * rng.integers(16, len(raw) // 8)\n"
            "        raw[at : at + 8] = bytes(8)\n"
            "    path.write_bytes(raw)\n"
            "    try: open_frames(path).read()\n"
            "    except (ValueError, TypeError, MemoryError): pass\n"
            "print('done')\n"
        )
        path = tmp_path / "a.mat"
        small = matlab(iq)[:2, :2, :3]
        savemat(path, {"IQ": small, "Data": {"f": small, "t": "x"}, "c": cell(small.real)})
        command = [sys.executable, "-c", code, str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout.strip()) == (0, "done"), done.stderr[-500:]
