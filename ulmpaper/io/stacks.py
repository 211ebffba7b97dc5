"""Stacks that scientific Python and ImageJ write: TIFF, NumPy's .npz, zarr."""

from __future__ import annotations

import contextlib
import logging
import math
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from ulmpaper.core.doors import optional
from ulmpaper.io.axes import ROW_MAJOR, ArrayInfo, infer_axes, is_numeric, name_axes, name_dtype
from ulmpaper.io.files import readable
from ulmpaper.io.scale import Scale, find_scale

_MM = {  # of the units that TIFF, OME and zarr write
    "nm": 1e-6, "nanometer": 1e-6, "um": 1e-3, "µm": 1e-3, "μm": 1e-3, "\\u00b5m": 1e-3,
    "micron": 1e-3, "microns": 1e-3, "micrometer": 1e-3, "micrometre": 1e-3, "mm": 1.0,
    "millimeter": 1.0, "millimetre": 1.0, "cm": 10.0, "centimeter": 10.0, "centimetre": 10.0,
    "m": 1e3, "meter": 1e3, "metre": 1e3, "inch": 25.4, "in": 25.4,
}  # fmt: skip
_SECONDS = {
    "ns": 1e-9, "nanosecond": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "microsecond": 1e-6,
    "ms": 1e-3, "msec": 1e-3, "millisecond": 1e-3, "s": 1.0, "sec": 1.0, "second": 1.0,
    "seconds": 1.0, "min": 60.0, "minute": 60.0,
}  # fmt: skip
_FEW = 16  # numbers, at most, that an array holds which may state a scale


def stated(
    where: str, z_mm: float | None, x_mm: float | None, rate_hz: float | None, *notes: str
) -> Scale:
    """Scale of numbers that count where they are above 0 and finite, and who states them."""
    sides = [float(side) for side in (z_mm, x_mm) if side and 0 < abs(side) < math.inf]
    px_mm = (abs(sides[0]), abs(sides[1])) if len(sides) == 2 else None
    ratio = px_mm[0] / px_mm[1] if px_mm else 1.0
    rate_hz = float(rate_hz) if rate_hz and 0 < rate_hz < math.inf else None
    return Scale(px_mm, ratio, rate_hz, where if px_mm else None, where if rate_hz else None, notes)


def rate(interval_s: float | None) -> float | None:
    """Frames per second [Hz] of an interval [s], where there is one."""
    return 1 / interval_s if interval_s else None


def times(number: Any, unit: float | None) -> float | None:
    """A number in its unit; None where either is missing or no number."""
    try:
        return None if unit is None or number is None else float(number) * unit
    except (TypeError, ValueError):
        return None


# TIFF


def tiff_arrays(path: Path) -> dict[str, ArrayInfo]:
    """Series of a TIFF file; pages that stand alone, of one size and type, are one series."""
    with _tiff(path) as file:
        if _are_lone_pages(file.series):
            shape = (len(file.series), *file.series[0].shape)
            dtype = name_dtype(file.series[0].dtype)
            return {"pages": ArrayInfo(shape, "tzx", "each page of the file is a frame", dtype)}
        return {name: _tiff_axes(series) for name, series in _tiff_series(file).items()}


@contextlib.contextmanager
def open_tiff(path: Path, name: str) -> Iterator[Any]:
    """A series of a TIFF file, read page by page."""
    with _tiff(path) as file:
        alone = [series.pages[0] for series in file.series] if name == "pages" else None
        series = file.series[-1] if alone else _tiff_series(file)[name]
        n_bytes = path.stat().st_size
        with readable(path):
            if series.dataoffset is not None and series.dataoffset + series.nbytes > n_bytes:
                raise ValueError("the file ends before its last image")
            pages = _Pages(alone or series.pages, n_bytes)
            last = pages.page(-1)
        if alone or (len(series.pages), *last.shape) == series.shape:
            yield pages
            return
        # One directory for all frames, as ImageJ writes large stacks, or tiles of more axes.
        with optional("formats"):
            import zarr
        with series.aszarr(chunkmode="page") as store:
            yield zarr.open_array(store, mode="r")


def tiff_scale(path: Path, name: str) -> Scale:
    """Pitch and frame rate of ImageJ's or OME's metadata; a resolution for print is no pitch."""
    with _tiff(path) as file:
        if file.ome_metadata:
            return _ome_scale(f"OME metadata of {path.name}", file.ome_metadata)
        tags = file.pages[0].tags
        about = file.imagej_metadata
        if not about:
            is_print = "XResolution" in tags and tags["XResolution"].value not in {(1, 1), (0, 1)}
            text = f"{path.name} has a resolution for print, which is not taken for the pixel pitch"
            return Scale(notes=(text,) if is_print else ())
        unit_mm = _MM.get(str(about.get("unit", "")).strip().lower())
        z_mm, x_mm = (_per_pixel(tags.get(f"{side}Resolution"), unit_mm) for side in "YX")
    unit_s = _SECONDS.get(str(about.get("tunit", "s")).strip().lower())
    rate_hz = rate(times(about.get("finterval"), unit_s))
    note = f"ImageJ's fps, {about['fps']}, is the rate of playing" if about.get("fps") else ""
    notes = [note] if note and not rate_hz else []
    return stated(f"ImageJ metadata of {path.name}", z_mm, x_mm, rate_hz, *notes)


@contextlib.contextmanager
def _tiff(path: Path) -> Iterator[Any]:
    """TIFF file whose library stops at damage; left alone, it logs it and drops pages."""
    with optional("formats"):
        import tifffile
    complaints: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            complaints.append(record.getMessage())

    listener = Listener(logging.ERROR)
    logger = logging.getLogger("tifffile")
    propagate = logger.propagate
    logger.addHandler(listener)
    logger.propagate = False
    try:
        with contextlib.ExitStack() as stack:
            with readable(path):
                file = stack.enter_context(tifffile.TiffFile(path))
                len(file.pages)
                _ = file.series
                if complaints:
                    raise ValueError(complaints[0])
            yield file
    finally:
        logger.removeHandler(listener)
        logger.propagate = propagate


def _tiff_series(file: Any) -> dict[str, Any]:
    """Series of images by name, or by number where names are missing or equal."""
    names = [series.name for series in file.series]
    plain = [n if n and "," not in n and names.count(n) == 1 else "" for n in names]
    return {n or f"series {k}": s for k, (n, s) in enumerate(zip(plain, file.series, strict=True))}


def _tiff_axes(series: Any) -> ArrayInfo:
    """Meaning of the axes of a series, by the letters that the file gives them."""
    letters = series.axes
    dtype = name_dtype(series.dtype)
    why = f"the file calls its axes {letters}"
    meaning = {"T": "time", "Z": "slices", "I": "images", "Q": "images"}.get(letters[0])
    if meaning and letters[1:] == "YX":
        return ArrayInfo(series.shape, "tzx", f"{why}: {meaning}, y, x", dtype)
    if "S" in letters:
        why += "; S holds colours: take one of them, or save the stack in grey"
    elif len(letters) == 3:
        why += f", which says nothing of time: {name_axes('tzx')}"
    elif letters == "TCYX" and series.shape[1] == 2:
        why += f"; if C holds the parts of IQ, {name_axes('tczx')}"
    else:
        why += ": take one plane or channel, so that time, y and x are left"
    return ArrayInfo(series.shape, "", why, dtype)


def _are_lone_pages(several: Any) -> bool:
    """Whether a file holds single images of one size and type, each by itself."""
    kinds = {(series.axes, series.shape, series.dtype) for series in several}
    return len(several) > 1 and len(kinds) == 1 and several[0].axes == "YX"


class _Pages:
    """Pages of a TIFF file as an array (t, z, x), each looked up when it is read."""

    def __init__(self, pages: Any, n_bytes: int) -> None:
        self._pages = pages
        self._n_bytes = n_bytes

    def page(self, number: int) -> Any:
        """A page whose numbers lie within the file; past its end zeros would be read."""
        page = self._pages[number]
        if page is None:
            raise ValueError(f"image {number} is not in the file")
        pairs = zip(page.dataoffsets, page.databytecounts, strict=True)
        if any(offset + count > self._n_bytes for offset, count in pairs):
            raise ValueError(f"image {number} lies past the end of the file")
        return page

    def __getitem__(self, key: Any) -> NDArray:
        frames, *rest = key
        numbers = range(*frames.indices(len(self._pages)))
        return np.stack([self.page(k).asarray() for k in numbers])[(slice(None), *rest)]


def _per_pixel(tag: Any, unit_mm: float | None) -> float | None:
    """Pitch [mm] of a resolution, a pair of pixels and units."""
    if tag is None or unit_mm is None or not tag.value[0]:
        return None
    pixels, units = tag.value
    return unit_mm * units / pixels


def _ome_scale(where: str, text: str) -> Scale:
    """Pitch and frame rate of the first image in OME's XML."""
    elements = ElementTree.fromstring(text).iter()
    pixels: Any = next((e for e in elements if e.tag.endswith("Pixels")), {})
    z_mm, x_mm = (
        times(
            pixels.get(f"PhysicalSize{side}"),
            _MM.get(pixels.get(f"PhysicalSize{side}Unit", "µm").lower()),
        )
        for side in "YX"
    )
    unit_s = _SECONDS.get(pixels.get("TimeIncrementUnit", "s").lower())
    return stated(where, z_mm, x_mm, rate(times(pixels.get("TimeIncrement"), unit_s)))


# NumPy's .npz


def npz_arrays(path: Path) -> dict[str, ArrayInfo]:
    """Arrays of numbers in an .npz file."""
    infos = {}
    with readable(path), zipfile.ZipFile(path) as archive:
        for member in _npy_names(archive):
            with archive.open(member) as file:
                array = _Member(file)
            if is_numeric(array.dtype) and array.shape:
                why = "NumPy's order is (t, z, x)"
                info = infer_axes(array.shape, ROW_MAJOR, why, name_dtype(array.dtype))
                infos[member.removesuffix(".npy")] = info
    return infos


@contextlib.contextmanager
def open_npz(path: Path, name: str) -> Iterator[Any]:
    """An array of an .npz file, read as it is sliced."""
    with contextlib.ExitStack() as stack:
        with readable(path):
            archive = stack.enter_context(zipfile.ZipFile(path))
            member = stack.enter_context(archive.open(f"{name}.npy"))
            array = _Member(member)
        yield array


def npz_scale(path: Path, name: str) -> Scale:
    """Numbers beside the frames whose names say that they are the scale."""
    numbers = {}
    with readable(path), zipfile.ZipFile(path) as archive:
        for member in _npy_names(archive):
            with archive.open(member) as file:
                array = _Member(file)
                if math.prod(array.shape) <= _FEW and is_numeric(array.dtype):
                    numbers[member.removesuffix(".npy")] = np.frombuffer(file.read(), array.dtype)
    return find_scale({path.name: numbers}, name)


def _npy_names(archive: zipfile.ZipFile) -> list[str]:
    return [name for name in archive.namelist() if name.endswith(".npy")]


class _Member:
    """Array in an .npz file: part by part along the first axis, else read at once."""

    def __init__(self, file: Any) -> None:
        version = np.lib.format.read_magic(file)
        if version not in {(1, 0), (2, 0)}:
            raise ValueError(f"arrays of version {version} of .npy are not known")
        one = version == (1, 0)
        form = np.lib.format
        header = (form.read_array_header_1_0 if one else form.read_array_header_2_0)(file)
        self.shape, self._is_fortran, self.dtype = header
        self._file = file
        self._start = file.tell()

    def __getitem__(self, key: Any) -> NDArray:
        if self.dtype.hasobject:
            raise ValueError("it holds Python objects")
        frames, *rest = key if isinstance(key, tuple) else (key,)
        if self._is_fortran:
            return self._rows(0, self.shape[-1], self.shape[::-1]).T[key]
        first, last, _ = frames.indices(self.shape[0])
        return self._rows(first, last, self.shape)[(slice(None), *rest)]

    def _rows(self, first: int, last: int, shape: tuple[int, ...]) -> NDArray:
        n_bytes = math.prod(shape[1:]) * self.dtype.itemsize
        self._file.seek(self._start + first * n_bytes)
        content = self._file.read((last - first) * n_bytes)
        return np.frombuffer(content, self.dtype).reshape(last - first, *shape[1:])


# zarr


def zarr_arrays(path: Path) -> dict[str, ArrayInfo]:
    """Arrays of numbers in a zarr folder or zip, of version 2 or 3."""
    with _zarr(path) as root, readable(path):
        return {name: _zarr_axes(root, name, a) for name, a in _members(root).items()}


@contextlib.contextmanager
def open_zarr(path: Path, name: str) -> Iterator[Any]:
    """An array in a zarr folder or zip, read chunk by chunk."""
    with _zarr(path) as root:
        yield _members(root)[name]


def zarr_scale(path: Path, name: str) -> Scale:
    """Attributes of the array or of groups above it, or OME-NGFF's steps, which count first."""
    with _zarr(path) as root, readable(path):
        array = _members(root)[name]
        numbers = _numbers(array.attrs, name)
        steps: dict[str, float | None] = {}
        for group, below in _above(root, name):
            numbers |= _numbers(group.attrs, name.removesuffix(below).strip("/"))
            steps |= _ngff_steps(_ngff(group), below, _zarr_axes(root, name, array).axes)
    where = f"OME-NGFF in {path.name}"
    ome = stated(where, steps.get("z"), steps.get("x"), rate(steps.get("t")))
    own = find_scale({path.name: numbers}, name)
    if ome.px_mm:
        own = own._replace(px_mm=ome.px_mm, ratio=ome.ratio, px_from=where)
    if ome.frame_rate_hz:
        own = own._replace(frame_rate_hz=ome.frame_rate_hz, rate_from=where)
    return own


def _numbers(attributes: Mapping[str, Any], place: str) -> dict[str, NDArray]:
    """Attributes of few numbers, by their paths."""
    arrays = {f"{place}/{key}".strip("/"): value for key, value in attributes.items()}
    is_number = {
        name: isinstance(value, int | float)
        or (isinstance(value, list) and all(isinstance(v, int | float) for v in value))
        for name, value in arrays.items()
    }
    return {name: np.ravel(value) for name, value in arrays.items() if is_number[name]}


@contextlib.contextmanager
def _zarr(path: Path) -> Iterator[Any]:
    with optional("formats"):
        import zarr
        from zarr.storage import LocalStore, ZipStore
    with contextlib.ExitStack() as stack:
        with readable(path):
            store = LocalStore(path, read_only=True) if path.is_dir() else ZipStore(path, mode="r")
            root = zarr.open(store, mode="r")
            stack.callback(store.close)
        yield root


def _members(root: Any) -> dict[str, Any]:
    """Arrays of numbers by their paths."""
    found = [("array", root)] if hasattr(root, "shape") else root.members(max_depth=None)
    return {name: a for name, a in sorted(found) if hasattr(a, "shape") and is_numeric(a.dtype)}


def _above(root: Any, name: str) -> list[tuple[Any, str]]:
    """Groups above an array, from the root, and the array's path as each of them sees it."""
    if hasattr(root, "shape"):
        return []
    parts = name.split("/")
    paths = ["/".join(parts[:k]) for k in range(len(parts))]
    return [(root[p] if p else root, "/".join(parts[k:])) for k, p in enumerate(paths)]


def _zarr_axes(root: Any, name: str, array: Any) -> ArrayInfo:
    """Axes by OME-NGFF, by the names that xarray and zarr 3 keep, else (t, z, x)."""
    # An absent chunk may be one of zeros, which zarr does not write, or may be lost.
    absent = array.nchunks - array.nchunks_initialized
    gaps = f"; {absent} of {array.nchunks} chunks are absent and read as zeros" if absent else ""
    names = getattr(array.metadata, "dimension_names", None)
    names = array.attrs.get("_ARRAY_DIMENSIONS", names)
    for group, below in _above(root, name):
        image = _ngff(group)
        if image and below in [d["path"] for d in image["datasets"]]:
            names = [axis["name"] for axis in image["axes"]]
    dtype = name_dtype(array.dtype)
    if not names or None in names or len(names) != array.ndim:
        return infer_axes(array.shape, ROW_MAJOR, f"zarr's users keep (t, z, x){gaps}", dtype)
    axes = _named_axes(tuple(names), array.shape)
    advice = "" if axes else f": take one plane or channel, or {name_axes('tzx')}"
    why = f"the file calls its axes {', '.join(names)}{advice}{gaps}"
    return ArrayInfo(array.shape, axes, why, dtype)


def _named_axes(names: tuple[str, ...], shape: tuple[int, ...]) -> str:
    """Letters of axes that carry names; empty where the names do not fit frames."""
    words = {
        "t": "t time frame frames",
        "z": "z depth axial",
        "y": "y height row rows",
        "x": "x lateral width column columns",
        "c": "iq part parts",
    }
    meaning = {word: letter for letter, several in words.items() for word in several.split()}
    letters = [meaning.get(name.lower(), "?") for name in names]
    # An axis of one entry is no axis of a frame, unless it is time.
    pairs = zip(letters, shape, strict=True)
    letters = ["1" if n == 1 and letter != "t" else letter for letter, n in pairs]
    # Where an image has y but no depth of its own, y runs along its rows, that is in depth.
    if "z" not in letters:
        letters = ["z" if letter == "y" else letter for letter in letters]
    kept = sorted(letter for letter in letters if letter != "1")
    return "".join(letters) if kept in (["t", "x", "z"], ["c", "t", "x", "z"]) else ""


def _ngff(group: Any) -> dict[str, Any] | None:
    """OME-NGFF's description of an image, of version 0.4 or 0.5, whose axes have names."""
    about = group.attrs.get("ome", group.attrs)
    image = (about.get("multiscales") or [{}])[0]
    axes = image.get("axes", [None])
    return image if all(isinstance(axis, Mapping) for axis in axes) else None


def _ngff_steps(image: dict[str, Any] | None, path: str, letters: str) -> dict[str, float | None]:
    """Pitch [mm] and frame interval [s] of a dataset in OME-NGFF, by the letters of its axes."""
    ours = [d for d in image["datasets"] if d["path"] == path] if image else []
    changes = [c for d in [image, *ours] for c in (d or {}).get("coordinateTransformations", ())]
    scales = [c["scale"] for c in changes if c["type"] == "scale"]
    if not (image and ours and scales and letters):
        return {}
    units = [
        (_SECONDS if a.get("type") == "time" else _MM).get(a.get("unit")) for a in image["axes"]
    ]
    steps = [times(step, u) for step, u in zip(np.prod(scales, axis=0), units, strict=True)]
    return dict(zip(letters, steps, strict=True))
