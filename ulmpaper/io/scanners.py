"""Files of scanners and viewers: DICOM, NIfTI, video."""

from __future__ import annotations

import contextlib
import math
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ulmpaper.core.doors import optional
from ulmpaper.io.axes import ArrayInfo, name_axes
from ulmpaper.io.files import NotTaken, readable
from ulmpaper.io.scale import Scale
from ulmpaper.io.stacks import rate, stated, times

_CM = 3  # DICOM PS3.3 C.8.5.5.1.15: unit of a region's deltas
_FLAT = 1  # DICOM PS3.3 C.8.5.5.1.1: a region that is a picture in two dimensions
_NIFTI_MM = {"meter": 1e3, "mm": 1.0, "micron": 1e-3}
_NIFTI_S = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6}
_MOST_GZIP = 1032  # times, at most, that gzip makes a file smaller
_SAME_GREY = 4  # levels of 255 by which lossy codecs part the channels of a grey picture


def _grey(frame: NDArray, path: Path, number: int) -> NDArray:
    """One channel of a frame (z, x, 3) whose channels are equal."""
    if frame.ndim == 2:
        return frame
    spread = int(np.ptp(frame.astype(np.int64), axis=-1).max())
    if spread > _SAME_GREY * 256 ** (frame.dtype.itemsize - 1):
        raise NotTaken(
            f"{path}: frame {number} is in colour (channels differ by up to {spread} levels), and "
            "brightness of colour is no echo: export grey frames without overlay, or read it with "
            "its library, cut the colour off and save the rest as .npy, (t, z, x)"
        )
    return frame[..., 0]


# DICOM


def dicom_arrays(path: Path) -> dict[str, ArrayInfo]:
    """The frames of a DICOM file."""
    with readable(path):
        about = _dicom(path)
        if not {"Rows", "Columns"} <= set(about.dir()):
            raise NotTaken(f"{path} holds no pictures but {about.get('Modality', 'other data')}")
        kind = str(about.get("PhotometricInterpretation", "unknown"))
        if kind == "MONOCHROME1" or kind.startswith("PALETTE"):
            raise NotTaken(
                f"{path} holds frames of the kind {kind}, in which values do not rise with "
                "brightness: export MONOCHROME2"
            )
        shape = (int(about.get("NumberOfFrames", 1) or 1), int(about.Rows), int(about.Columns))
        # The last frame is missing from a cut file, and no frame opens without its decoder.
        _grey(next(_dicom_frames(path, [shape[0] - 1])), path, shape[0] - 1)
        signed = "int" if about.get("PixelRepresentation") else "uint"
        dtype = f"{signed}{about.get('BitsAllocated', 8)}"
        return {
            "PixelData": ArrayInfo(shape, "tzx", "DICOM keeps frames of rows and columns", dtype)
        }


@contextlib.contextmanager
def open_dicom(path: Path, name: str) -> Iterator[Any]:
    """The frames of a DICOM file, decoded one by one."""
    with readable(path):
        about = _dicom(path)
        n_frames = int(about.get("NumberOfFrames", 1) or 1)
        slope = float(about.get("RescaleSlope", 1) or 1)
        intercept = float(about.get("RescaleIntercept", 0) or 0)

    def read(first: int, last: int) -> Iterator[NDArray]:
        for number, frame in enumerate(_dicom_frames(path, range(first, last)), first):
            grey = _grey(frame, path, number)
            yield grey if (slope, intercept) == (1, 0) else grey * slope + intercept

    yield _Stream(read, n_frames)


def dicom_scale(path: Path, name: str) -> Scale:
    """Pitch of the ultrasound regions or PixelSpacing, rate of FrameTime or CineRate."""
    with readable(path):
        return _dicom_numbers(_dicom(path), path.name)


def _dicom_numbers(about: Any, name: str) -> Scale:
    """Scale of DICOM's elements."""
    regions = {
        (float(r.PhysicalDeltaY) * 10, float(r.PhysicalDeltaX) * 10)
        for r in about.get("SequenceOfUltrasoundRegions", ())
        if {r.get("PhysicalUnitsXDirection"), r.get("PhysicalUnitsYDirection")} == {_CM}
        and r.get("RegionSpatialFormat", _FLAT) == _FLAT
    }
    shared = (about.get("SharedFunctionalGroupsSequence") or [{}])[0]
    measures = (shared.get("PixelMeasuresSequence") or [{}])[0]
    spacing = about.get("PixelSpacing") or measures.get("PixelSpacing")
    notes = []
    sides: tuple[float | None, float | None] = (None, None)
    if len(regions) == 1:
        sides = regions.pop()
    elif regions:
        notes.append(f"{name} has regions of different pixel pitch, so none is taken")
    elif spacing:
        sides = (float(spacing[0]), float(spacing[1]))
    steps = [float(step) for step in _several(about.get("FrameTimeVector"))[1:]]
    mean_ms = sum(steps) / len(steps) if steps else None
    interval_ms = times(about.get("FrameTime"), 1.0) or mean_ms
    rate_hz = rate(times(interval_ms, 1e-3)) or times(about.get("CineRate"), 1.0)
    return stated(f"DICOM elements of {name}", *sides, rate_hz, *notes)


def _several(value: Any) -> list[Any]:
    """Values of a DICOM element that may have none, one or many."""
    return [] if value is None else list(value) if np.iterable(value) else [value]


def _dicom(path: Path) -> Any:
    """Everything in a DICOM file but its frames."""
    with optional("formats"):
        import pydicom
    with readable(path):
        return pydicom.dcmread(path, stop_before_pixels=True)


def _dicom_frames(path: Path, numbers: Any) -> Iterator[NDArray]:
    with optional("formats"):
        from pydicom.pixels import get_decoder, iter_pixels
    syntax = _dicom(path).file_meta.get("TransferSyntaxUID")
    with readable(path):
        if syntax is None:
            raise ValueError("its transfer syntax is not stated")
        if syntax.is_encapsulated and not _has_decoder(get_decoder, syntax):
            raise NotTaken(
                f"{path} is compressed ({syntax.name}) and no decoder for that is here: "
                "pip install 'pylibjpeg[all]', or unpack it, as with gdcmconv --raw"
            )
        yield from iter_pixels(path, indices=numbers)


def _has_decoder(get_decoder: Any, syntax: Any) -> bool:
    try:
        return bool(get_decoder(syntax).is_available)
    except NotImplementedError:
        return False


class _Stream:
    """Frames that are read in order, as an array (t, z, x)."""

    def __init__(self, read: Any, n_frames: int) -> None:
        self._read = read
        self._n_frames = n_frames

    def __getitem__(self, key: Any) -> NDArray:
        frames, *rest = key if isinstance(key, tuple) else (key,)
        first, last, _ = frames.indices(self._n_frames)
        return np.stack(list(self._read(first, last)))[(slice(None), *rest)]


# NIfTI


def nifti_arrays(path: Path) -> dict[str, ArrayInfo]:
    """The frames of a NIfTI file: x, y, z, t, where one axis of space has a single entry."""
    image = _nifti(path)
    shape = tuple(image.shape)
    with readable(path):
        n_bytes = math.prod(shape) * image.get_data_dtype().itemsize
        if n_bytes > path.stat().st_size * (_MOST_GZIP if path.suffix.lower() == ".gz" else 1):
            raise ValueError(f"{shape} values need more than the file holds")
        np.asarray(image.dataobj[..., -1:])  # a cut file lacks its end
    dtype = image.get_data_dtype().name
    space = [k for k, size in enumerate(shape[:3]) if size > 1]
    if len(shape) == 3:
        why = f"NIfTI's first three axes are of space and not of time: {name_axes('xzt')}"
        return {"data": ArrayInfo(shape, "", why, dtype)}
    if len(shape) < 4 or len(space) != 2 or any(size > 1 for size in shape[4:]):
        why = "NIfTI's axes are x, y, z, t: take one plane, so that two of space and time are left"
        return {"data": ArrayInfo(shape, "", why, dtype)}
    letters = ["1"] * len(shape)
    letters[3] = "t"
    letters[space[0]], letters[space[1]] = "xz"
    across, down = ("xyz"[k] for k in space)
    why = f"NIfTI's axes are x, y, z, t; here {across} runs across and {down} down"
    return {"data": ArrayInfo(shape, "".join(letters), why, dtype)}


@contextlib.contextmanager
def open_nifti(path: Path, name: str) -> Iterator[Any]:
    """The array of a NIfTI file, read as it is sliced."""
    yield _nifti(path).dataobj


def nifti_scale(path: Path, name: str) -> Scale:
    """Sizes of voxels and the time step, where the file states their units."""
    image = _nifti(path)
    unit, unit_of_time = image.header.get_xyzt_units()
    zooms = image.header.get_zooms()
    where = f"NIfTI header of {path.name}"
    unit_mm = _NIFTI_MM.get(unit)
    notes = [f"{where} does not state the unit of length"] if unit_mm is None else []
    if len(zooms) < 4:  # which axis is time is the user's to say
        return Scale(notes=(f"{where} has sizes {', '.join(f'{z:g}' for z in zooms)}, not taken",))
    sides = [times(zooms[k], unit_mm) for k, size in enumerate(image.shape[:3]) if size > 1]
    interval_s = times(zooms[3], _NIFTI_S.get(unit_of_time))
    x_mm, z_mm = sides if len(sides) == 2 else (None, None)
    return stated(where, z_mm, x_mm, rate(interval_s), *notes)


def _nifti(path: Path) -> Any:
    with optional("formats"):
        import nibabel
    with readable(path):
        return nibabel.load(path)


# Video


def video_arrays(path: Path) -> dict[str, ArrayInfo]:
    """The frames of a video, decoded once to count them and to find damage."""
    command = [*_ffmpeg(path), "-progress", "-", "-f", "null", "-"]
    with readable(path):
        _check_end(path)
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        if done.returncode or done.stderr.strip():
            raise ValueError((done.stderr.strip() or "ffmpeg stopped").splitlines()[0])
        counts = [line for line in done.stdout.splitlines() if line.startswith("frame=")]
        n_frames = int(counts[-1].removeprefix("frame="))
        with _Film(path) as film:
            first = film.next_frame()
    why = "a video; the rate at which it plays is not that of acquiring, so it is not taken"
    return {"video": ArrayInfo((n_frames, *first.shape[:2]), "tzx", why, first.dtype.name)}


@contextlib.contextmanager
def open_video(path: Path, name: str) -> Iterator[Any]:
    """The frames of a video, decoded in order."""
    with _Film(path) as film:
        yield film


def video_scale(path: Path, name: str) -> Scale:
    """Nothing: a video does not state its pitch, and plays at another rate than was acquired."""
    return Scale()


def _check_end(path: Path) -> None:
    """Raise where a file is shorter than it says; ffmpeg passes over a cut between two frames."""
    with path.open("rb") as file:
        head = file.read(12)
        n_bytes = file.seek(0, os.SEEK_END)
        file.seek(max(0, n_bytes - 1))
        last = file.read()
    if head.startswith(b"GIF8") and last != b";":
        raise ValueError("its end is missing")
    if head.startswith(b"RIFF") and n_bytes < int.from_bytes(head[4:8], "little") + 8:
        raise ValueError("it is shorter than it says")


def _ffmpeg(path: Path) -> list[str]:
    """Command that decodes all frames, none of them left out or doubled."""
    with optional("formats"):
        import imageio_ffmpeg  # type: ignore[import-untyped]
    # Only this file: neither a name nor a playlist inside may lead to another, or to the network.
    options = ["-v", "error", "-nostdin", "-protocol_whitelist", "file", "-i", f"file:{path}"]
    return [imageio_ffmpeg.get_ffmpeg_exe(), *options, "-map", "0:v:0", "-fps_mode", "passthrough"]


class _Film:
    """Frames of a video as an array (t, z, x), decoded anew only to go back."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> _Film:
        # PPM states the size, and keeps 16 bits where the video has more than 8.
        command = [*_ffmpeg(self._path), "-f", "image2pipe", "-c:v", "ppm", "-"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self._next = 0
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def next_frame(self) -> NDArray:
        """Decode the next frame (z, x, 3)."""
        pipe = self._process.stdout
        if pipe is None or pipe.readline() != b"P6\n":
            raise ValueError(f"frame {self._next} is missing")
        width, height = map(int, pipe.readline().split())
        dtype = np.dtype(">u2" if int(pipe.readline()) > 255 else "u1")
        content = pipe.read(width * height * 3 * dtype.itemsize)
        self._next += 1
        return np.frombuffer(content, dtype).reshape(height, width, 3)

    def __getitem__(self, key: Any) -> NDArray:
        frames, *rest = key
        if frames.start is not None and frames.start < self._next:
            self.__exit__()
            self.__enter__()
        found = []
        while frames.stop is None or self._next < frames.stop:
            number = self._next
            frame = self.next_frame()
            if number >= (frames.start or 0):
                found.append(_grey(frame, self._path, number))
        return np.stack(found)[(slice(None), *rest)]
