"""Beamformed frames in the HDF5 layouts of zea and of USTB (UFF).

Both layouts are public: https://zea.readthedocs.io (*zea data format*) and https://www.ustb.no.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ulmpaper.io.axes import ArrayInfo, name_axes, name_dtype
from ulmpaper.io.files import NotTaken, readable
from ulmpaper.io.scale import Scale
from ulmpaper.io.stacks import rate, stated

_ZEA_STACKS = ("beamformed_data", "envelope_data", "image", "image_sc")  # all that hold echoes
_ZEA_RAW = ("raw_data", "aligned_data")
_UNEVEN = 0.01  # of the pitch, by which even positions may differ after rounding to float32


def writer_of(path: Path) -> str | None:
    """``zea`` or ``UFF``, by the marks that they leave in an HDF5 file; None for all others."""
    if path.suffix.lower() not in {".h5", ".hdf5", ".uff"} or not h5py.is_hdf5(path):
        return None
    with readable(path), h5py.File(path) as file:
        if _root_classes(file):
            return "UFF"
        return "zea" if _zea_tracks(file) else None


# zea


def zea_arrays(path: Path) -> dict[str, ArrayInfo]:
    """Stacks of beamformed frames, envelopes and images in a file of zea.

    Raises
    ------
    NotTaken
        The file holds channel data only.
    """
    infos = {}
    with readable(path), h5py.File(path) as file:
        for track in _zea_tracks(file):
            for kind in _ZEA_STACKS:
                item = file.get(f"{track}data/{kind}")
                name = f"{track}data/{kind}"
                if isinstance(item, h5py.Group):
                    values = next((v for v in ("values", "pixels") if v in item), None)
                    if values:
                        infos[f"{name}/{values}"] = _zea_axes(item, item[values])
                elif isinstance(item, h5py.Dataset):
                    infos[name] = _zea_flat_axes(item)
    if not infos:
        raise NotTaken(
            f"{path} is a file of zea without beamformed frames ({', '.join(_ZEA_STACKS)}): run "
            "zea's pipeline on its channel data and save what comes out"
        )
    return infos


@contextlib.contextmanager
def open_zea(path: Path, name: str) -> Iterator[Any]:
    """An array in a file of zea, read as it is sliced."""
    with contextlib.ExitStack() as stack:
        with readable(path):
            array = stack.enter_context(h5py.File(path))[name]
        yield array


def zea_scale(path: Path, name: str) -> Scale:
    """Pitch of the pixels' coordinates, and frame rate of the times between transmits.

    Raises
    ------
    NotTaken
        The pixels do not lie on an even grid of rows and columns.
    """
    with readable(path), h5py.File(path) as file:
        track = name[: name.index("data/")]
        parent = file[name].parent
        z_mm = x_mm = None
        if "coordinates" in parent:
            z_mm, x_mm = (_step_mm(path, places) for places in _zea_grid(parent))
        times = file.get(f"{track}scan/time_to_next_transmit")
        # Transmits of several tracks alternate, so that the times of one are not those of frames.
        rate_hz = _zea_rate(times) if times is not None and not track else None
    return stated(f"zea's coordinates and times in {path.name}", z_mm, x_mm, rate_hz)


def _zea_tracks(file: h5py.File) -> list[str]:
    """Where the tracks of a file of zea begin; none where another program wrote it."""
    tracks = [f"tracks/{name}/" for name in file.get("tracks", ())]
    known = (*_ZEA_STACKS, *_ZEA_RAW)
    is_marked = "zea_version" in file.attrs or any(f"{t}scan" in file for t in ("", *tracks))
    starts = [t for t in ("", *tracks) if any(f"{t}data/{kind}" in file for kind in known)]
    return starts if is_marked else []


def _zea_axes(group: h5py.Group, values: h5py.Dataset) -> ArrayInfo:
    """Axes of a map: frames, then z and x as its coordinates say, then channels."""
    shape = values.shape
    if "coordinates" not in group:
        if values.name.endswith("pixels"):  # zea's page gives both orders for these
            why = f"its writer's documents say both orders of depth and x: {name_axes('tzx')}"
            return ArrayInfo(shape, "", why, name_dtype(values.dtype))
        return _zea_flat_axes(values)
    is_zx = _zea_is_zx(group)
    axes = ("tzx" if is_zx else "txz") + _zea_channels(shape)
    return _zea_info(values, axes, "by zea's coordinates of its pixels")


def _zea_flat_axes(values: h5py.Dataset) -> ArrayInfo:
    """Axes of an array without coordinates: (frames, z, x), and channels."""
    axes = "tzx" + _zea_channels(values.shape)
    return _zea_info(values, axes, "zea keeps (frames, z, x, channels)")


def _zea_info(values: h5py.Dataset, axes: str, why: str) -> ArrayInfo:
    if len(axes) != values.ndim:
        axes, why = "", "is a volume or has more channels than I and Q: take one plane or channel"
    elif "image" in values.name:
        why += "; images of zea are log-compressed"
    return ArrayInfo(values.shape, axes, why, name_dtype(values.dtype))


def _zea_channels(shape: tuple[int, ...]) -> str:
    """Letter of the channels: none, one (RF), or two (I and Q)."""
    return {1: "1", 2: "c"}.get(shape[3], "") if len(shape) == 4 else ""


def _zea_is_zx(group: h5py.Group) -> bool:
    """Whether depth changes along the first axis of a frame more than along the second."""
    depth = _first_grid(group["coordinates"])[..., 2]
    return bool(np.ptp(depth, axis=0).mean() >= np.ptp(depth, axis=1).mean())


def _zea_grid(group: h5py.Group) -> tuple[NDArray, NDArray]:
    """Depth along the rows and lateral place along the columns [m], of every pixel (z, x)."""
    grid = _first_grid(group["coordinates"])
    if not _zea_is_zx(group):
        grid = grid.swapaxes(0, 1)
    return grid[..., 2], grid[..., 0].T


def _first_grid(coordinates: h5py.Dataset) -> NDArray:
    """Coordinates (rows, columns, xyz) of the first frame."""
    return np.asarray(coordinates[0] if coordinates.ndim == 4 else coordinates[()], dtype=float)


def _step_mm(path: Path, places: NDArray) -> float:
    """Step [mm] of places [m] that are even along the first axis and equal along the second."""
    places = places.reshape(len(places), -1)
    line = places[:, 0]
    step = (line[-1] - line[0]) / max(len(line) - 1, 1)
    even = line[0] + step * np.arange(len(line))
    if abs(step) == 0 or np.abs(places - even[:, None]).max() > _UNEVEN * abs(step):
        raise NotTaken(
            f"{path}: the pixels do not lie on an even grid of rows and columns (a sector?): "
            "convert them to one, as with zea's or USTB's scan conversion"
        )
    return 1e3 * abs(float(step))


def _zea_rate(times: h5py.Dataset) -> float | None:
    """Frame rate [Hz] of the times between transmits (frames, transmits)."""
    spans = np.asarray(times[()], dtype=float)
    spans = spans.reshape(len(spans), -1).sum(axis=1) if spans.ndim else spans[None]
    # The last frame may have no transmit after it.
    return rate(float(np.median(spans[:-1] if len(spans) > 1 else spans)))


# UFF


def uff_arrays(path: Path) -> dict[str, ArrayInfo]:
    """Objects ``uff.beamformed_data`` on a linear scan: (t, x, z), as MATLAB writes in reverse.

    Raises
    ------
    NotTaken
        There are no such objects.
    """
    with readable(path), h5py.File(path) as file:
        groups = _uff_groups(file)
        infos = {name: _uff_axes(group) for name, group in groups.items()}
        others = ", ".join(sorted(_root_classes(file)))
    if not infos:
        raise NotTaken(
            f"{path} holds {others or 'nothing'} but no uff.beamformed_data: beamform it with USTB "
            "and write what comes out"
        )
    return infos


@contextlib.contextmanager
def open_uff(path: Path, name: str) -> Iterator[Any]:
    """Beamformed data of a UFF file as an array (t, x, z), read frame by frame."""
    with contextlib.ExitStack() as stack:
        with readable(path):
            file = stack.enter_context(h5py.File(path))
            array = _UffFrames(file[name])
            if array.doubt:
                raise NotTaken(f"{path}: {name} {array.doubt}")
        yield array


def uff_scale(path: Path, name: str) -> Scale:
    """Pitch of the scan's axes; its frame rate is that of a video to be made of it.

    Raises
    ------
    NotTaken
        The scan is not even.
    """
    with readable(path), h5py.File(path) as file:
        scan = file[name]["scan"]
        z_mm, x_mm = (
            _step_mm(path, np.ravel(scan[f"{side}_axis"][()]).astype(float)) for side in "zx"
        )
    return stated(f"USTB's scan in {path.name}", z_mm, x_mm, None)


def _class_of(item: Any) -> str | None:
    """Class of a UFF object."""
    value = item.attrs.get("class") if isinstance(item, h5py.Group) else None
    text = np.ravel(value)[0] if value is not None else ""
    text = text.decode(errors="replace") if isinstance(text, bytes) else str(text)
    return text.strip("\0 ") if text.startswith("uff.") else None


def _root_classes(file: h5py.File) -> set[str]:
    """Classes of the UFF objects in a file, but for those behind links that lead nowhere."""
    found = set()
    for name in file:
        with contextlib.suppress(KeyError, OSError):
            found.add(_class_of(file[name]) or "")
    return found - {""}


def _uff_groups(file: h5py.File) -> dict[str, h5py.Group]:
    """Objects of beamformed data by their paths."""
    found: dict[str, h5py.Group] = {}

    def visit(name: str, item: Any) -> None:
        if _class_of(item) == "uff.beamformed_data" and "data" in item:
            found[name] = item

    file.visititems(visit)
    return found


def _uff_axes(group: h5py.Group) -> ArrayInfo:
    """Shape (frames, x, z), where there is one wave and one channel."""
    frames = _UffFrames(group)
    if frames.doubt:
        return ArrayInfo(frames.stored, "", frames.doubt, frames.dtype)
    why = "USTB keeps the pixels of a frame column by column"
    return ArrayInfo(frames.shape, "txz", why, frames.dtype)


class _UffFrames:
    """Beamformed data of UFF as an array (t, x, z)."""

    def __init__(self, group: h5py.Group) -> None:
        data = group["data"]
        self._parts = [data["real"], data["imag"]] if isinstance(data, h5py.Group) else [data]
        self.stored = self._parts[0].shape
        # MATLAB's (pixel, channel, wave, frame) is in reverse here, without ones at its end.
        n_frames, *between = (*itertools.repeat(1, 4 - len(self.stored)), *self.stored)[:-1]
        self.dtype = name_dtype(self._parts[0].dtype) + " (real, imag)" * (len(self._parts) > 1)
        axes = [group.get(f"scan/{side}_axis") for side in "xz"]
        n_x, n_z = (0 if axis is None else axis.size for axis in axes)
        self.shape = (n_frames, n_x, n_z)
        n_stacks = int(np.prod(between))
        self.doubt = ""
        if n_stacks > 1:
            self.doubt = f"has {n_stacks} waves and channels: compound them in USTB first"
        elif n_x * n_z != self.stored[-1]:
            scan = _class_of(group.get("scan")) or "no scan"
            self.doubt = f"lies on {scan}, not on rows and columns: beamform on uff.linear_scan"

    def __getitem__(self, key: Any) -> NDArray:
        frames, *rest = key
        first, last, _ = frames.indices(self.shape[0])
        if len(self.stored) == 4:
            parts = [part[first:last] for part in self._parts]
        else:  # a single frame
            parts = [part[()][None] for part in self._parts]
        values = parts[0] if len(parts) == 1 else parts[0] + 1j * parts[1]
        return values.reshape(-1, *self.shape[1:])[(slice(None), *rest)]
