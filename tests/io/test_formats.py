"""Recordings of other programs: axes, values, scale; damage and colour are refused by name."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import _format_files as write
import h5py
import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.uid import RLELossless

from ulmpaper.io.formats import FORMATS, format_of
from ulmpaper.io.readers import open_frames, read_frames

N_T, N_Z, N_X = 7, 18, 24
TIFF_AXES = "TYX", "ZYX", "IYX", "QYX"


@pytest.fixture
def grey(rng: np.random.Generator) -> np.ndarray:
    """Frames (t, z, x), every row and column different."""
    return rng.integers(0, 256, (N_T, N_Z, N_X), dtype=np.uint8)


@pytest.fixture
def iq(rng: np.random.Generator) -> np.ndarray:
    parts = rng.standard_normal((2, N_T, N_Z, N_X)).astype(np.float32)
    return parts[0] + 1j * parts[1]


def check(path: Path, expected: np.ndarray, px_mm: float | None, hz: float | None) -> None:
    """Whole, in blocks and from the middle, with its scale."""
    file = open_frames(path)
    assert file.shape_px == expected.shape[1:]
    assert file.n_frames == len(expected)
    assert file.px_mm == (None if px_mm is None else pytest.approx(px_mm, rel=1e-6))
    assert file.frame_rate_hz == (None if hz is None else pytest.approx(hz, rel=1e-6))
    whole = read_frames(path).frames
    assert whole.dtype == (np.complex64 if np.iscomplexobj(expected) else np.float32)
    assert file.dtype == whole.dtype
    np.testing.assert_array_equal(whole, expected)
    blocks = [block.frames for block in file.blocks(3)]
    np.testing.assert_array_equal(np.concatenate(blocks), expected)
    late = next(file.blocks(2, start=4, stop=6))
    np.testing.assert_array_equal(late.frames, expected[4:6])


def cut(path: Path, share: float = 0.6) -> Path:
    """The first part of a file, under another name."""
    content = path.read_bytes()
    short = path.with_name("cut" + "".join(path.suffixes))
    short.write_bytes(content[: int(len(content) * share)])
    return short


class TestTiff:
    def test_imagej(self, grey: np.ndarray, tmp_path: Path) -> None:
        write.write_imagej(tmp_path / "a.tif", grey, (50.0, 50.0))
        check(tmp_path / "a.tif", grey, 0.05, 500.0)

    def test_imagej_of_pixels_that_are_not_square(self, grey: np.ndarray, tmp_path: Path) -> None:
        write.write_imagej(tmp_path / "a.tif", grey, (100.0, 50.0))
        file = open_frames(tmp_path / "a.tif")
        assert file.px_mm == pytest.approx(0.05)
        assert file.stretch == pytest.approx((2.0, 1.0))

    @pytest.mark.parametrize("unit", ["pixel", "", "furlong"])
    def test_a_unit_that_is_none_gives_no_pitch(
        self, unit: str, grey: np.ndarray, tmp_path: Path
    ) -> None:
        about = {"axes": "TYX", "unit": unit, "fps": 30.0}
        tifffile.imwrite(tmp_path / "a.tif", grey, imagej=True, resolution=(3, 3), metadata=about)
        check(tmp_path / "a.tif", grey, None, None)
        assert any("playing" in note for note in open_frames(tmp_path / "a.tif").notes)

    def test_ome(self, grey: np.ndarray, tmp_path: Path) -> None:
        write.write_ome(tmp_path / "a.ome.tiff", grey)
        check(tmp_path / "a.ome.tiff", grey, 0.1, 500.0)

    @pytest.mark.parametrize(
        "how",
        [
            {},
            {"metadata": None},
            {"metadata": {"axes": "TYX"}, "compression": "zlib"},
            {"rowsperstrip": 1},
            {"tile": (16, 16)},
            {"bigtiff": True, "byteorder": ">"},
            {"resolution": (300, 300), "resolutionunit": 2},
        ],
    )
    @pytest.mark.parametrize("dtype", [np.uint16, np.float32, np.complex64])
    def test_plain(self, how: dict, dtype: type, grey: np.ndarray, tmp_path: Path) -> None:
        frames = (grey * 1.0).astype(dtype)
        tifffile.imwrite(tmp_path / "a.tif", frames, **how)
        check(tmp_path / "a.tif", frames, None, None)

    def test_pages_that_stand_alone(self, grey: np.ndarray, tmp_path: Path) -> None:
        with tifffile.TiffWriter(tmp_path / "a.tif") as file:
            for frame in grey:
                file.write(frame, contiguous=False)
        check(tmp_path / "a.tif", grey, None, None)

    def test_a_stack_with_one_directory_as_imagej_writes_large_ones(
        self, grey: np.ndarray, tmp_path: Path
    ) -> None:
        path = tmp_path / "a.tif"
        write.write_imagej(path, grey, (50.0, 50.0))
        with tifffile.TiffFile(path) as file:
            place = file.pages[0].offset + 2 + 12 * len(file.pages[0].tags)
        content = bytearray(path.read_bytes())
        content[place : place + 4] = bytes(4)
        path.write_bytes(content)
        check(path, grey, 0.05, 500.0)

    def test_colour_volumes_and_channels(self, grey: np.ndarray, tmp_path: Path) -> None:
        colour = np.repeat(grey[..., None], 3, axis=-1)
        tifffile.imwrite(tmp_path / "rgb.tif", colour, photometric="rgb")
        with pytest.raises(ValueError, match=r"rgb\.tif.*colours: take one"):
            open_frames(tmp_path / "rgb.tif")
        volume = np.stack([grey, grey], axis=1)
        tifffile.imwrite(tmp_path / "v.tif", volume, metadata={"axes": "TZYX"})
        with pytest.raises(ValueError, match=r"v\.tif.*TZYX.*one plane"):
            open_frames(tmp_path / "v.tif")
        tifffile.imwrite(tmp_path / "c.tif", grey, imagej=True, metadata={"axes": "CYX"})
        with pytest.raises(ValueError, match=r"c\.tif.*CYX.*axes"):
            open_frames(tmp_path / "c.tif")
        named = read_frames(tmp_path / "c.tif", axes="tzx")
        np.testing.assert_array_equal(named.frames, grey)
        parts = np.stack([grey, grey[::-1]], axis=1)
        tifffile.imwrite(tmp_path / "iq.tif", parts, imagej=True, metadata={"axes": "TCYX"})
        with pytest.raises(ValueError, match=r"iq\.tif.*parts of IQ.*tczx"):
            open_frames(tmp_path / "iq.tif")
        joined = read_frames(tmp_path / "iq.tif", axes="tczx").frames
        np.testing.assert_array_equal(joined, grey + 1j * grey[::-1])

    @pytest.mark.parametrize(
        "how", [{}, {"metadata": None}, {"imagej": True, "metadata": {"axes": "TYX"}}]
    )
    @given(share=st.floats(0.01, 0.99))
    @settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_a_cut_file_is_refused_or_whole(self, how: dict, share: float, tmp_path: Path) -> None:
        frames = np.arange(N_T * N_Z * N_X, dtype=np.uint16).reshape(N_T, N_Z, N_X)
        tifffile.imwrite(tmp_path / "a.tif", frames, **how)
        short = cut(tmp_path / "a.tif", share)
        problem = ""
        try:
            np.testing.assert_array_equal(read_frames(short).frames, frames)
        except ValueError as error:
            problem = str(error)
        assert not problem or "cut.tif" in problem


class TestNpz:
    @pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
    @pytest.mark.parametrize("order", ["C", "F"])
    def test_values_and_scale(
        self, save: Callable, order: str, iq: np.ndarray, tmp_path: Path
    ) -> None:
        save(tmp_path / "a.npz", IQ=np.asarray(iq, order=order), px_mm=0.05, frame_rate_hz=500)
        check(tmp_path / "a.npz", iq, 0.05, 500.0)

    def test_two_arrays_of_integers_are_one_of_iq(
        self, rng: np.random.Generator, tmp_path: Path
    ) -> None:
        parts = rng.integers(-9, 9, (2, N_T, N_Z, N_X)).astype(np.int16)
        np.savez(tmp_path / "a.npz", I=parts[0], Q=parts[1])
        check(tmp_path / "a.npz", (parts[0] + 1j * parts[1]).astype(np.complex64), None, None)

    def test_other_order_and_choice(self, grey: np.ndarray, tmp_path: Path) -> None:
        np.savez(tmp_path / "a.npz", b=grey.transpose(1, 2, 0), c=grey)
        with pytest.raises(ValueError, match=r"several stacks.*b .*c "):
            open_frames(tmp_path / "a.npz")
        read = read_frames(tmp_path / "a.npz", "b", axes="zxt").frames
        np.testing.assert_array_equal(read, grey)

    def test_pickles_never_run(self, tmp_path: Path) -> None:
        class Bomb:
            def __reduce__(self) -> tuple:
                return (Path.touch, (tmp_path / "ran",))

        np.savez(tmp_path / "a.npz", frames=np.array([[[Bomb()]]], object), fps=Bomb())
        with pytest.raises(ValueError, match=r"a\.npz.*no"):
            open_frames(tmp_path / "a.npz")
        assert not (tmp_path / "ran").exists()

    def test_a_cut_file(self, grey: np.ndarray, tmp_path: Path) -> None:
        np.savez(tmp_path / "a.npz", grey)
        with pytest.raises(ValueError, match=r"cut\.npz"):
            open_frames(cut(tmp_path / "a.npz"))


class TestZarr:
    @pytest.mark.parametrize("version", [2, 3])
    @pytest.mark.parametrize("name", ["a.zarr", "a.zarr.zip", "a.zip", "folder"])
    def test_values_and_attributes(
        self, version: int, name: str, iq: np.ndarray, tmp_path: Path
    ) -> None:
        about = {"px_mm": 0.05, "frame_rate_hz": 500}
        write.write_zarr(tmp_path / name, iq, version=version, name="run/iq", about=about)
        check(tmp_path / name, iq, 0.05, 500.0)

    def test_an_array_without_a_group(self, grey: np.ndarray, tmp_path: Path) -> None:
        array = zarr.create_array(tmp_path / "a.zarr", shape=grey.shape, dtype=grey.dtype)
        array[:] = grey
        check(tmp_path / "a.zarr", grey, None, None)

    def test_several_arrays_are_listed(self, grey: np.ndarray, tmp_path: Path) -> None:
        for name in ("one", "two"):
            write.write_zarr(tmp_path / "a.zarr", grey, name=name)
        with pytest.raises(ValueError, match=r"one \(7, 18, 24\).*two"):
            open_frames(tmp_path / "a.zarr")
        np.testing.assert_array_equal(read_frames(tmp_path / "a.zarr", "two").frames, grey)

    @pytest.mark.parametrize("edition", ["0.4", "0.5"])
    def test_ome_ngff(self, edition: str, grey: np.ndarray, tmp_path: Path) -> None:
        version = 2 if edition == "0.4" else 3
        write.write_zarr(tmp_path / "a.zarr", grey[:, None, None], version=version, name="0")
        axes = [{"name": "t", "type": "time", "unit": "millisecond"}]
        axes += [{"name": "c", "type": "channel"}]
        axes += [{"name": n, "type": "space", "unit": "micrometer"} for n in "zyx"]
        scale = {"type": "scale", "scale": [2.0, 1.0, 9.0, 50.0, 50.0]}
        image = {"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": [scale]}]}
        about = {"multiscales": [image]}
        group = zarr.open_group(tmp_path / "a.zarr")
        group.attrs.update(about if edition == "0.4" else {"ome": {"version": "0.5", **about}})
        check(tmp_path / "a.zarr", grey, 0.05, 500.0)

    @pytest.mark.parametrize("order", ["tzx", "xzt", "ztx"])
    def test_names_of_axes(self, order: str, grey: np.ndarray, tmp_path: Path) -> None:
        words = {"t": "time", "z": "depth", "x": "lateral"}
        turned = grey.transpose(["tzx".index(letter) for letter in order])
        array = zarr.create_array(
            tmp_path / "a.zarr",
            shape=turned.shape,
            dtype=turned.dtype,
            dimension_names=[words[letter] for letter in order],
        )
        array[:] = turned
        check(tmp_path / "a.zarr", grey, None, None)

    def test_volumes(self, grey: np.ndarray, tmp_path: Path) -> None:
        volume = np.stack([grey, grey], axis=1)
        array = zarr.create_array(
            tmp_path / "a.zarr", shape=volume.shape, dtype="u1", dimension_names=list("tzyx")
        )
        array[:] = volume
        with pytest.raises(ValueError, match=r"a\.zarr.*t, z, y, x.*one plane"):
            open_frames(tmp_path / "a.zarr")

    def test_damage(self, grey: np.ndarray, tmp_path: Path) -> None:
        write.write_zarr(tmp_path / "a.zarr.zip", grey)
        with pytest.raises(ValueError, match=r"cut\.zarr\.zip"):
            open_frames(cut(tmp_path / "a.zarr.zip"))
        write.write_zarr(tmp_path / "a.zarr", grey + 1)
        chunks = sorted(path for path in (tmp_path / "a.zarr").rglob("c/*/*/*") if path.is_file())
        chunks[1].unlink()
        assert any("1 of 4 chunks are absent" in n for n in open_frames(tmp_path / "a.zarr").notes)
        chunks[0].write_bytes(chunks[0].read_bytes()[:9])
        with pytest.raises(ValueError, match=r"a\.zarr"):
            read_frames(tmp_path / "a.zarr")
        (tmp_path / "empty").mkdir()
        with pytest.raises(OSError, match="folder"):
            open_frames(tmp_path / "empty")


class TestDicom:
    @pytest.mark.parametrize("name", ["a.dcm", "IM_0001"])
    @pytest.mark.parametrize("compress", [None, RLELossless])
    def test_values_and_scale(
        self, name: str, compress: str, grey: np.ndarray, tmp_path: Path
    ) -> None:
        regions = [write.region(0.005, 0.005)]
        elements = {"SequenceOfUltrasoundRegions": regions, "FrameTime": 2.0}
        write.write_dicom(tmp_path / name, grey, compress, **elements)
        check(tmp_path / name, grey, 0.05, 500.0)

    def test_other_elements(self, grey: np.ndarray, tmp_path: Path) -> None:
        wide = grey.astype(np.uint16) * 200
        write.write_dicom(tmp_path / "a.dcm", wide, PixelSpacing=[0.05, 0.05], CineRate=500)
        check(tmp_path / "a.dcm", wide, 0.05, 500.0)
        write.write_dicom(tmp_path / "b.dcm", grey, FrameTimeVector=[0.0, *[2.0] * (N_T - 1)])
        check(tmp_path / "b.dcm", grey, None, 500.0)
        elements = {"RescaleSlope": 2, "RescaleIntercept": 5}
        write.write_dicom(tmp_path / "c.dcm", grey, **elements)
        check(tmp_path / "c.dcm", 2.0 * grey + 5, None, None)

    def test_regions_that_differ_give_no_pitch(self, grey: np.ndarray, tmp_path: Path) -> None:
        regions = [write.region(0.005, 0.005), write.region(0.01, 0.01)]
        write.write_dicom(tmp_path / "a.dcm", grey, SequenceOfUltrasoundRegions=regions)
        file = open_frames(tmp_path / "a.dcm")
        assert file.px_mm is None
        assert any("different pixel pitch" in note for note in file.notes)

    def test_pixels_that_are_not_square(self, grey: np.ndarray, tmp_path: Path) -> None:
        regions = [write.region(0.01, 0.005)]
        write.write_dicom(tmp_path / "a.dcm", grey, SequenceOfUltrasoundRegions=regions)
        assert open_frames(tmp_path / "a.dcm").stretch == pytest.approx((2.0, 1.0))

    def test_grey_in_three_channels(self, grey: np.ndarray, tmp_path: Path) -> None:
        colour = np.repeat(grey[..., None], 3, axis=-1)
        write.write_dicom(tmp_path / "a.dcm", colour)
        check(tmp_path / "a.dcm", grey, None, None)
        colour[2, 4, 5] = (250, 10, 10)
        write.write_dicom(tmp_path / "b.dcm", colour)
        with pytest.raises(ValueError, match=r"b\.dcm: frame 2 is in colour"):
            read_frames(tmp_path / "b.dcm")

    def test_values_that_fall_with_brightness(self, grey: np.ndarray, tmp_path: Path) -> None:
        write.write_dicom(tmp_path / "a.dcm", grey, PhotometricInterpretation="MONOCHROME1")
        with pytest.raises(ValueError, match=r"a\.dcm.*MONOCHROME1"):
            open_frames(tmp_path / "a.dcm")

    def test_a_decoder_that_is_missing(
        self, grey: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write.write_dicom(tmp_path / "a.dcm", grey, RLELossless)
        monkeypatch.setattr("ulmpaper.io.scanners._has_decoder", lambda *_: False)
        with pytest.raises(ValueError, match=r"a\.dcm is compressed \(RLE.*pylibjpeg") as error:
            open_frames(tmp_path / "a.dcm")
        assert "damaged" not in str(error.value)

    @pytest.mark.parametrize("share", [0.02, 0.2, 0.6, 0.999])
    def test_a_cut_file(self, share: float, grey: np.ndarray, tmp_path: Path) -> None:
        write.write_dicom(tmp_path / "a.dcm", grey)
        with pytest.raises(ValueError, match=r"cut\.dcm"):
            open_frames(cut(tmp_path / "a.dcm", share))


class TestNifti:
    @pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
    @pytest.mark.parametrize("plane", [2, 1, 0])
    def test_values_and_scale(
        self, name: str, plane: int, grey: np.ndarray, tmp_path: Path
    ) -> None:
        array = np.expand_dims(grey.transpose(2, 1, 0), plane)
        zooms = (50.0, 50.0, 50.0, 2.0)
        write.write_nifti(tmp_path / name, array, zooms, ("micron", "msec"))
        check(tmp_path / name, grey, 0.05, 500.0)

    def test_complex_and_no_units(self, iq: np.ndarray, tmp_path: Path) -> None:
        array = iq.transpose(2, 1, 0)[:, :, None]
        write.write_nifti(tmp_path / "a.nii", array, (1, 1, 1, 1), None)
        check(tmp_path / "a.nii", iq, None, None)
        assert any("unit of length" in note for note in open_frames(tmp_path / "a.nii").notes)

    def test_three_axes_are_named_by_the_user(self, grey: np.ndarray, tmp_path: Path) -> None:
        write.write_nifti(tmp_path / "a.nii", grey.transpose(1, 2, 0), (0.1, 0.1, 1.0), None)
        with pytest.raises(ValueError, match=r"a\.nii.*not of time.*axes"):
            open_frames(tmp_path / "a.nii")
        read = read_frames(tmp_path / "a.nii", axes="zxt").frames
        np.testing.assert_array_equal(read, grey)

    def test_volumes_and_cut_files(self, grey: np.ndarray, tmp_path: Path) -> None:
        volume = np.stack([grey, grey]).transpose(3, 2, 0, 1)
        write.write_nifti(tmp_path / "v.nii", volume, (1, 1, 1, 1), None)
        with pytest.raises(ValueError, match=r"v\.nii.*one plane"):
            open_frames(tmp_path / "v.nii")
        for name in ("a.nii", "a.nii.gz"):
            write.write_nifti(tmp_path / name, volume[:, :, :1], (1, 1, 1, 1), None)
            with pytest.raises(ValueError, match=r"cut\.nii"):
                open_frames(cut(tmp_path / name))


class TestVideo:
    @pytest.mark.parametrize(
        ("name", "codec"),
        [("a.avi", "ffv1"), ("a.avi", "rawvideo"), ("a.mkv", "ffv1"), ("a.mov", "png")],
    )
    def test_grey(self, name: str, codec: str, grey: np.ndarray, tmp_path: Path) -> None:
        write.write_video(tmp_path / name, grey, codec, "gray")
        check(tmp_path / name, grey, None, None)
        note = " ".join(open_frames(tmp_path / name).notes)
        assert "the rate at which it plays is not" in note

    def test_gif(self, grey: np.ndarray, tmp_path: Path) -> None:
        write.write_video(tmp_path / "a.gif", grey, "gif", "gray")
        check(tmp_path / "a.gif", grey, None, None)

    def test_lossy(self, tmp_path: Path) -> None:
        z, x = np.mgrid[:32, :48]
        smooth = np.stack([(2 * z + x + 5 * t).astype(np.uint8) for t in range(N_T)])
        write.write_video(tmp_path / "a.mp4", smooth, "libx264", "yuv420p")
        read = read_frames(tmp_path / "a.mp4").frames
        assert read.shape == smooth.shape
        assert np.abs(read - smooth).mean() < 12

    def test_colour(self, grey: np.ndarray, tmp_path: Path) -> None:
        colour = np.repeat(grey[..., None], 3, axis=-1)
        colour[3, 2, 2] = (200, 0, 0)
        write.write_video(tmp_path / "a.mkv", colour, "ffv1", "bgr0")
        with pytest.raises(ValueError, match=r"a\.mkv: frame 3 is in colour"):
            read_frames(tmp_path / "a.mkv")

    @pytest.mark.parametrize(
        ("name", "codec", "pix_fmt"),
        [
            ("a.avi", "ffv1", "gray"),
            ("a.mp4", "libx264", "yuv420p"),
            ("a.mkv", "ffv1", "gray"),
            ("a.gif", "gif", "gray"),
        ],
    )
    def test_a_cut_file(
        self, name: str, codec: str, pix_fmt: str, grey: np.ndarray, tmp_path: Path
    ) -> None:
        write.write_video(tmp_path / name, grey, codec, pix_fmt)
        with pytest.raises(ValueError, match="cut"):
            open_frames(cut(tmp_path / name))

    def test_a_playlist_leads_nowhere(self, grey: np.ndarray, tmp_path: Path) -> None:
        write.write_video(tmp_path / "real.mkv", grey, "ffv1", "gray")
        entry = "#EXTINF:1,\nhttp://127.0.0.1:9/real.mkv\n"
        (tmp_path / "a.mp4").write_text(f"#EXTM3U\n{entry}#EXT-X-ENDLIST\n")
        with pytest.raises(ValueError, match=r"a\.mp4"):
            open_frames(tmp_path / "a.mp4")
        odd = tmp_path / "http:a%03d.mkv"
        (tmp_path / "real.mkv").rename(odd)
        check(odd, grey, None, None)


class TestZea:
    def test_flat_iq(self, iq: np.ndarray, tmp_path: Path) -> None:
        parts = np.stack([iq.real, iq.imag], axis=-1)
        write.write_zea(tmp_path / "a.hdf5", {"beamformed_data": parts}, period_s=0.002)
        check(tmp_path / "a.hdf5", iq, None, 500.0)

    @pytest.mark.parametrize("is_turned", [False, True])
    def test_map_with_coordinates(self, is_turned: bool, grey: np.ndarray, tmp_path: Path) -> None:
        grid = write.cartesian(N_Z, N_X, 5e-5, 5e-5)
        values = grey.astype(np.float32)
        if is_turned:
            grid, values = grid.swapaxes(0, 1), values.swapaxes(1, 2)
        grids = np.broadcast_to(grid, (N_T, *grid.shape))
        kinds = {"envelope_data": values}
        write.write_zea(tmp_path / "a.h5", kinds, grid=grids, period_s=0.002)
        check(tmp_path / "a.h5", grey, 0.05, 500.0)

    def test_a_sector_is_refused(self, grey: np.ndarray, tmp_path: Path) -> None:
        r, angle = np.meshgrid(np.linspace(0.01, 0.05, N_Z), np.linspace(-0.6, 0.6, N_X))
        grid = np.stack([r * np.sin(angle), 0 * r, r * np.cos(angle)], axis=-1).swapaxes(0, 1)
        kinds = {"envelope_data": grey.astype(np.float32)}
        grids = np.broadcast_to(grid, (N_T, *grid.shape))
        write.write_zea(tmp_path / "a.h5", kinds, grid=grids, period_s=None)
        with pytest.raises(ValueError, match=r"a\.h5.*sector"):
            open_frames(tmp_path / "a.h5")

    def test_channel_data_only(self, tmp_path: Path) -> None:
        kinds = {"raw_data": np.zeros((2, 4, 30, 8, 1), np.float32)}
        write.write_zea(tmp_path / "a.h5", kinds, period_s=0.002)
        with pytest.raises(ValueError, match=r"a\.h5.*without beamformed frames"):
            open_frames(tmp_path / "a.h5")

    def test_several_kinds(self, grey: np.ndarray, tmp_path: Path) -> None:
        kinds = {"envelope_data": grey * 1.0, "image": grey}
        write.write_zea(tmp_path / "a.h5", kinds, period_s=None)
        with pytest.raises(ValueError, match=r"choose one.*data/envelope_data.*data/image"):
            open_frames(tmp_path / "a.h5")
        file = open_frames(tmp_path / "a.h5", "data/image")
        assert any("log-compressed" in note for note in file.notes)


class TestUff:
    @pytest.mark.parametrize("name", ["a.uff", "a.h5"])
    def test_values_and_scale(self, name: str, iq: np.ndarray, tmp_path: Path) -> None:
        write.write_uff(tmp_path / name, iq)
        check(tmp_path / name, iq, 0.1, None)

    def test_pixels_that_are_not_square(self, iq: np.ndarray, tmp_path: Path) -> None:
        write.write_uff(tmp_path / "a.uff", iq, step_m=(1e-4, 2e-4))
        assert open_frames(tmp_path / "a.uff").stretch == pytest.approx((1.0, 2.0))

    def test_sectors_waves_and_channel_data(self, iq: np.ndarray, tmp_path: Path) -> None:
        write.write_uff(tmp_path / "s.uff", iq, scan="uff.sector_scan")
        with pytest.raises(ValueError, match=r"s\.uff.*uff\.sector_scan"):
            open_frames(tmp_path / "s.uff")
        write.write_uff(tmp_path / "w.uff", iq, n_waves=3)
        with pytest.raises(ValueError, match=r"w\.uff.*3 waves"):
            open_frames(tmp_path / "w.uff")
        with h5py.File(tmp_path / "c.uff", "w") as file:
            file.create_group("channel_data").attrs["class"] = "uff.channel_data"
        with pytest.raises(ValueError, match=r"c\.uff.*uff\.channel_data.*beamform"):
            open_frames(tmp_path / "c.uff")

    def test_a_cut_file(self, iq: np.ndarray, tmp_path: Path) -> None:
        write.write_uff(tmp_path / "a.uff", iq)
        with pytest.raises(ValueError, match=r"cut\.uff"):
            open_frames(cut(tmp_path / "a.uff"))


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_folder_is_no_file(suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"a{suffix}").mkdir()
    with pytest.raises((ValueError, OSError), match=r"a\."):
        open_frames(tmp_path / f"a{suffix}")


@pytest.mark.parametrize("suffix", FORMATS)
def test_what_is_no_such_file_is_refused_by_name(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"not what its name says" * 20)
    with pytest.raises(ValueError, match=r"a\."):
        open_frames(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"a\."):
        open_frames(path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"no file .*a\."):
        open_frames(path)


@pytest.mark.parametrize(
    ("suffix", "package"),
    [
        (".tif", "tifffile"),
        (".zarr", "zarr"),
        (".dcm", "pydicom"),
        (".nii.gz", "nibabel"),
        (".mp4", "imageio_ffmpeg"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(
    suffix: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"anything")
    with pytest.raises(ImportError, match=rf"{package}.*pip install 'ulmpaper\[formats\]'"):
        open_frames(path)


def test_a_suffix_in_capitals_and_the_longest_one() -> None:
    names = {"A.TIF": "TIFF", "a.nii.gz": "NIfTI", "a.zarr.zip": "zarr", "a.ome.tiff": "TIFF"}
    assert {name: format_of(Path(name)).name for name in names} == names
    assert format_of(Path("a.npy")) is None


@pytest.mark.parametrize("kind", ["tif", "npz", "zarr"])
def test_memory_is_flat_in_the_number_of_frames(kind: str, tmp_path: Path) -> None:
    frames = np.zeros((400, 64, 64), np.float32)
    path = tmp_path / f"a.{kind}"
    if kind == "tif":
        tifffile.imwrite(path, frames)
    elif kind == "npz":
        np.savez_compressed(path, frames)
    else:
        write.write_zarr(path, frames)
    file = open_frames(path)
    tracemalloc.start()
    for block in file.blocks(20):
        assert block.frames.shape == (20, 64, 64)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 0.6 * frames.nbytes
