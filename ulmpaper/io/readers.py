"""Any stack of frames as a stream, PALA's files among them.

MATLAB's arrays are (z, x, t) and count from 1. Blocks are (t, z, x), count from 0, and hold float32
or complex64 (IQ). Which array, which axes and which scale were taken, and why, stand in the notes
of a `FrameFile`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from ulmpaper.core.arguments import explained
from ulmpaper.core.records import Block, bubble_table, check_block, check_choice, check_positive
from ulmpaper.core.scale import doubt_scale, same_scale
from ulmpaper.io.arrays import (
    RECORD,
    check_array,
    choose_array,
    is_complex,
    list_arrays,
    open_array,
    parameters_near,
    take_axes,
)
from ulmpaper.io.axes import take_frames
from ulmpaper.io.files import check_apart, fingerprint, readable, writable
from ulmpaper.io.formats import format_of
from ulmpaper.io.hdf5 import numbers_hdf5
from ulmpaper.io.matlab import numbers_mat5
from ulmpaper.io.pixels import square_frames, square_size
from ulmpaper.io.scale import Scale, check_pitch, find_fields, find_scale, say_mm, stated_first
from ulmpaper.io.store import BlockStore
from ulmpaper.io.truth import SAMPLED_ANEW, Truth, read_truth, with_truth

_CONSTANTS = {  # of PALA's in silico flow, in wavelengths
    "Trans.frequency": np.array([15.625]),
    "PData.Origin": np.array([-72.0, 0.0, 16.0]),
    "PData.PDelta": np.ones(3),
}
_STORED_TOGETHER = 200  # frames in memory while files are put into a store


@explained
@dataclass(frozen=True)
class FrameFile:
    """A stack of frames in a file, made by `open_frames`; frames stay in the file until read.

    Parameters
    ----------
    path, variable, kind : Path, str, str
        The file; its array, or the two of real and imaginary part, "I,Q"; and ``MAT v5``, ``MAT
        v7.3``, ``Octave``, ``Julia``, ``HDF5``, ``BlockStore``, ``NumPy``, or the name of one of
        `ulmpaper.io.formats.FORMATS`.
    axes : str
        Meaning of the array's axes as its writer sees them, see `ulmpaper.io.axes.ArrayInfo`.
    n_frames, shape_px : int, (int, int)
        Number of frames and their size (z, x) [px], of square pixels.
    px_mm, frame_rate_hz : float or None
        Pixel pitch [mm] and frame rate [Hz] where the source states them.
    source : str
        What the frames are, in words fit for a title.
    has_truth : bool
        Whether true bubbles come with the frames.
    stored_dtype : str
        Type of the numbers in the file.
    px_mm_from, rate_from : str or None
        Who states them: a number in a file, or ``stated by you``.
    stored_px, stretch : (int, int), (float, float)
        Size of the stored frames (z, x) [px], and stored pitch over that of the frames along z and
        x: not 1 where pixels are not square in the file.
    notes : tuple of str
        Which array and axes were taken and why, where the scale was found, what was sampled anew.
    """

    path: Path
    variable: str
    kind: str
    axes: str
    n_frames: int
    shape_px: tuple[int, int]
    px_mm: float | None
    frame_rate_hz: float | None
    source: str
    has_truth: bool
    stored_dtype: str
    px_mm_from: str | None = None
    rate_from: str | None = None
    stored_px: tuple[int, int] = (0, 0)
    stretch: tuple[float, float] = (1.0, 1.0)
    notes: tuple[str, ...] = ()

    @property
    def dtype(self) -> np.dtype:
        """float32 or complex64."""
        is_iq = is_complex(self.stored_dtype) or "c" in self.axes
        return np.dtype(np.complex64 if is_iq else np.float32)

    def read(self) -> Block:
        """Read all frames as one block."""
        return next(self.blocks(self.n_frames))

    def blocks(
        self, n_frames: int = 800, *, start: int = 0, stop: int | None = None, min_frames: int = 1
    ) -> Iterator[Block]:
        """Read frames `start` to `stop` in blocks of `n_frames`.

        Fewer than `min_frames` at the end join the block before. One block is in memory at a time;
        a MAT v5 file, compressed as a whole, is read whole once per call. The truth of each block
        counts its frames from 0.

        Raises
        ------
        ValueError
            Frames that are not in the file, or a damaged file.
        """
        check_positive(n_frames=n_frames)
        stop = self.n_frames if stop is None else stop
        if not 0 <= start < stop <= self.n_frames:
            raise ValueError(
                f"frames {start} to {stop} are not in {self.path}, which holds {self.n_frames}"
            )
        firsts = [f for f in range(start, stop, n_frames) if f == start or stop - f >= min_frames]
        # A generator of its own, so that wrong arguments raise here and not at the first block.
        return self._blocks(list(zip(firsts, [*firsts[1:], stop], strict=True)))

    def _blocks(self, spans: list[tuple[int, int]]) -> Iterator[Block]:
        """Blocks of the frames from first to last, last excluded."""
        for (first, last), (frames, bubbles) in zip(spans, self._stored(spans), strict=True):
            if frames.shape[0] != last - first:
                raise ValueError(
                    f"{self.path} gave {len(frames)} frames for {first} to {last - 1}: "
                    "it changed while it was read"
                )
            if self.stretch != (1.0, 1.0):
                frames = square_frames(frames, self.stretch)
                if bubbles is not None:
                    along_z, along_x = self.stretch
                    bubbles = bubbles.assign(z=bubbles["z"] * along_z, x=bubbles["x"] * along_x)
            yield Block(
                frames,
                bubbles,
                self.px_mm,
                self.frame_rate_hz,
                self.source,
                file=self.path.name,
                first_frame=first,
            )

    def _stored(
        self, spans: list[tuple[int, int]]
    ) -> Iterator[tuple[NDArray, pd.DataFrame | None]]:
        """Frames, and their true bubbles, with the pixels of the file."""
        if self.kind == "BlockStore":
            with BlockStore(self.path) as store:
                for first, last in spans:
                    block = store.window(first, last - first)
                    yield block.frames, block.bubbles
            return
        truth = _true_bubbles(self) if self.has_truth else None
        with open_array(self.path, self.variable) as array:
            for first, last in spans:
                try:
                    with readable(self.path):
                        frames = take_frames(array, self.axes, first, last)
                except ValueError as error:
                    raise ValueError(f"{error} [frames {first} to {last - 1}]") from error
                bubbles = None
                if truth is not None:
                    bubbles = truth[truth["frame"].between(first, last - 1)]
                    bubbles = bubbles.assign(frame=bubbles["frame"] - first).reset_index(drop=True)
                yield frames, bubbles


def read_frames(
    path: str | os.PathLike,
    variable: str | None = None,
    *,
    axes: str | None = None,
    px_mm: float | tuple[float, float] | None = None,
    frame_rate_hz: float | None = None,
) -> Block:
    """Read all frames of a file into memory.

    Parameters and errors are those of `open_frames`, which streams them.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/a.npy", np.ones((8, 9, 5)))
    ...     read_frames(f"{folder}/a.npy", axes="zxt", px_mm=0.1).frames.shape
    (5, 8, 9)
    """
    return open_frames(path, variable, axes=axes, px_mm=px_mm, frame_rate_hz=frame_rate_hz).read()


def open_frames(
    path: str | os.PathLike,
    variable: str | None = None,
    *,
    axes: str | None = None,
    px_mm: float | tuple[float, float] | None = None,
    frame_rate_hz: float | None = None,
) -> FrameFile:
    """Open any stack of frames: .mat (v5 to v7.3), .h5, .hdf5 (also a `BlockStore`), .npy.

    Those of other programs are read too: .npz, .tif, .zarr, .dcm, .nii, videos, zea, .uff.

    Parameters
    ----------
    path : path
        Arrays are (z, x, t) where MATLAB, Octave or Julia left their marks, else (t, z, x).
    variable : str, optional
        Name of the array, as ``Data.IQ`` in structs, ``IQData{1}`` in cells, ``group/frames`` in
        HDF5; or of the two that hold real and imaginary part, "I,Q". Else PALA's ``IQ``,
        ``normal_rat_kidney``, or the only array of three axes, or the only such pair.
    axes : str, optional
        A letter for each axis, in the order in which the file's writer sees them: t time, z depth,
        x across, c real and imaginary part, 1 an axis of one entry. Needed where the file does not
        say; it counts before what the file says.
    px_mm : float or (float, float), optional
        Pixel pitch [mm], or that along (z, x), instead of what the file states. Pixels that are not
        square are sampled anew at the finer pitch, by cubic splines; one number says that they are
        square.
    frame_rate_hz : float, optional
        Frame rate [Hz], instead of what the file states. Where nobody states them, both are None.
        What is looked for in files is listed in `ulmpaper.io.scale`.

    Raises
    ------
    TypeError
        `path` is no path.
    ValueError
        Not a file of frames, a damaged one, no or several arrays to choose from (the message lists
        them), axes that are not known, no frames, or numbers that are not there: parts of virtual
        arrays, HDF5 filters.
    OSError
        No such file.

    Warns
    -----
    UlmWarning
        A scale that ultrasound does not have, with the unit that was probably meant.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(
            f"open_frames takes the path of a file, not {type(path).__name__}: an array needs "
            "no reading, give it to ulm or locate, or make a "
            "Block(array, px_mm=..., frame_rate_hz=...)"
        )
    path = Path(path)
    stated_mm = check_pitch(px_mm)
    if frame_rate_hz is not None:
        check_positive(frame_rate_hz=frame_rate_hz)
    kind, arrays = list_arrays(path)
    variable, notes = choose_array(path, arrays, variable, axes)
    info = take_axes(path, variable, arrays[variable], axes)
    if 0 in info.shape:
        raise ValueError(f"{path} holds no frames: {variable} has the shape {info.shape}")
    size = dict(zip(info.axes, info.shape, strict=True))
    has_truth = "ListPos" in arrays and variable == "IQ" and kind.startswith("MAT")
    source = _title(path, variable, info.axes, has_truth=has_truth)
    if kind == "BlockStore":
        with BlockStore(path) as store:
            has_truth = store.has_truth
            is_named = store.source != Block.source  # a block that nobody named
            source = store.source if is_named else path.name
    stored = check_array(path, variable, info)
    notes.append(
        f"{variable}, {' x '.join(map(str, info.shape))} {stored}: axes {info.axes}, {info.why}"
    )
    found = _stated_scale(path, kind, variable, in_silico=has_truth)
    notes += _doubt_time(info.axes, size)
    scale = stated_first(found, stated_mm, frame_rate_hz)
    pitch_mm, stretch, resampled = _square(scale, (size["z"], size["x"]))
    doubt_scale(pitch_mm, scale.frame_rate_hz, str(path))
    return FrameFile(
        path=path,
        variable=variable,
        kind=kind,
        axes=info.axes,
        n_frames=size["t"],
        shape_px=(square_size(size["z"], stretch[0]), square_size(size["x"], stretch[1])),
        px_mm=pitch_mm,
        frame_rate_hz=scale.frame_rate_hz,
        source=source,
        has_truth=has_truth,
        stored_dtype=stored,
        px_mm_from=scale.px_from,
        rate_from=scale.rate_from,
        stored_px=(size["z"], size["x"]),
        stretch=stretch,
        notes=(*notes, *_scale_notes(scale, pitch_mm), *resampled),
    )


def _doubt_time(axes: str, size: dict[str, int]) -> list[str]:
    """A note where time may be another axis than the one taken for it."""
    if size["t"] >= min(size["z"], size["x"]):
        return []
    return [
        f"there are fewer frames ({size['t']}) than rows or columns ({size['z']} x {size['x']}): "
        f"if time is another axis, name them (--axes, axes=...); now {axes}"
    ]


def _square(
    scale: Scale, stored_px: tuple[int, int]
) -> tuple[float | None, tuple[float, float], list[str]]:
    """Pitch of square pixels, how much denser they are than the stored ones, and a note of it."""
    ratio = scale.ratio  # of z over x
    pitch_mm = None if scale.px_mm is None else min(scale.px_mm)
    if same_scale(ratio, 1.0):
        return (None if scale.px_mm is None else scale.px_mm[1]), (1.0, 1.0), []
    stretch = (ratio, 1.0) if ratio > 1 else (1.0, 1 / ratio)
    sizes = tuple(square_size(n, s) for n, s in zip(stored_px, stretch, strict=True))
    what = f"pixels of {say_mm(scale.px_mm)}" if scale.px_mm else f"pixels of {ratio:g} : 1 (z : x)"
    return (
        pitch_mm,
        stretch,
        [
            f"{what} are not square: {SAMPLED_ANEW} by cubic splines from "
            f"{' x '.join(map(str, stored_px))} to {' x '.join(map(str, sizes))} px, in which all "
            "places are given"
        ],
    )


def _scale_notes(scale: Scale, pitch_mm: float | None) -> list[str]:
    """Where pitch and rate come from, or that they are not known."""
    pitch = (
        "nobody states the pixel pitch"
        if pitch_mm is None
        else f"pixel pitch {pitch_mm:g} mm: {scale.px_from}"
    )
    rate = (
        "nobody states the frame rate"
        if scale.frame_rate_hz is None
        else f"frame rate {scale.frame_rate_hz:g} Hz: {scale.rate_from}"
    )
    return [pitch, rate, *scale.notes]


def _title(path: Path, variable: str, axes: str, *, has_truth: bool) -> str:
    """What the frames are, in words fit for a title."""
    if variable == "normal_rat_kidney":
        return "rat kidney in vivo"
    if variable == "IQ" or (variable, axes) == ("iq", RECORD):
        return f"{'PALA in silico flow' if has_truth else 'IQ'} ({path.stem})"
    return path.name


def read_insilico(path: str | Path, sequence: int | None = None) -> Block:
    """Read a sequence of PALA's in silico flow with its true bubbles.

    Parameters
    ----------
    path : path
        The data set's folder, or one file ``PALA_InSilicoFlow_IQ001.mat``.
    sequence : int, optional
        Number from 1 to 20, as in PALA; not needed where `path` is a file.

    Returns
    -------
    Block
        IQ (T, 84, 143) complex64; the bubbles' ``score`` is their reflectivity. The scale comes
        from the file and from ``PALA_InSilicoFlow_sequence.mat`` near it. What both lack is PALA's:
        origin (-72, 0, 16), pitch 1 wavelength of 1540 m/s / 15.625 MHz = 0.09856 mm; but an
        unknown frame rate stays None.

    Raises
    ------
    ValueError, OSError
        As in `open_frames`; no such sequence; no true positions.

    Notes
    -----
    NaN marks an absent bubble. Inside are the bubbles that ``PALA_PairingAlgorithm.m`` keeps:
    0 <= x <= n_x + 1 and 0 <= z <= n_z + 1 in our pixels, so up to two pixels past the last centre
    but nothing before the first.
    """
    file = open_frames(
        _find_file(path, sequence, "sequence", "PALA_InSilicoFlow_IQ{:03d}.mat"), "IQ"
    )
    if not file.has_truth:
        raise ValueError(f"{file.path} has no true positions (ListPos): read it with open_frames")
    return file.read()


def read_ratbrain(path: str | Path, block: int | None = None) -> Block:
    """Read a block of PALA's rat brain: Zenodo record 4343435 (.mat) or 7883227 (.hdf5).

    Parameters
    ----------
    path : path
        Folder of the unpacked archives, or one file ``PALA_InVivoRatBrain_001.mat`` or
        ``IQ_001.hdf5``.
    block : int, optional
        Number from 1; not needed where `path` is a file.

    Returns
    -------
    Block
        IQ (T, Z, X) complex64, without truth; scale from the file or ``param.mat`` near it, at
        1540 m/s unless stated, or None.

    Raises
    ------
    ValueError, OSError
        As in `open_frames`; no such block; other data.
    """
    names = ("PALA_InVivoRatBrain_{:03d}.mat", "IQ_{:03d}.hdf5", "IQ_{:03d}.mat")
    path = _find_file(path, block, "block", *names)
    iq = list_arrays(path)[1].get("iq")
    is_record = iq is not None and len(iq.shape) == 4 and iq.shape[0] == 2
    file = open_frames(path, "iq" if is_record else None, axes=RECORD if is_record else None)
    if file.has_truth or not (is_record or file.variable == "IQ"):
        raise ValueError(f"{file.path} is not a block of the rat brain: read it with open_frames")
    return dataclasses.replace(file.read(), source=f"PALA rat brain ({file.path.stem})")


def read_ratkidney(path: str | Path) -> Block:
    """Read the 50 frames of a rat kidney, amplitude in 0..1; neither scale nor truth is known."""
    return open_frames(path, "normal_rat_kidney").read()


def store_frames(
    paths: Sequence[str | Path],
    out: str | Path,
    *,
    variable: str | None = None,
    axes: str | None = None,
    truth: Truth | Sequence[Truth] | None = None,
    progress: bool = False,
) -> int:
    """Put the frames of several files, and their true bubbles, into one block store.

    Parameters
    ----------
    paths : sequence of path
        Files that `open_frames` reads, with frames of one size, all with truth or all without.
    out : path
        The block store, ``.h5`` or ``.hdf5``, written anew; it appears when it is complete.
    variable, axes : str, optional
        Name of the array in the files, where they hold several, and its axes; see `open_frames`.
    truth : DataFrame, path, or sequence of these, optional
        The true bubbles, in place of those that the files bring: a table, or a CSV file, that
        counts its frames over all files, or one for each file; see `ulmpaper.io.read_truth`.
    progress : bool
        Show a bar if it takes more than 2 s.

    Returns
    -------
    int
        Frames in the store: amplitude (T, Z, X) float32.

    Raises
    ------
    ValueError, OSError
        See `open_frames`, `ulmpaper.io.read_truth` and `ulmpaper.io.BlockStore`; `out` exists and
        was not made of these files; negative frames. Nothing is written then.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/a.npy", np.ones((5, 8, 9), np.complex64))
    ...     store_frames([f"{folder}/a.npy", f"{folder}/a.npy"], f"{folder}/both.h5")
    10
    """
    files = [open_frames(path, variable, axes=axes) for path in paths]
    out = Path(out)
    check_choice(out.suffix, (".h5", ".hdf5"), "kind of file to write")
    truths = [None] * len(files) if truth is None else read_truth(truth, files)
    names = [file.path.name for file in files]
    is_one = truth is None or isinstance(truth, Truth)
    given = [truth] if is_one else list(truth)  # type: ignore[arg-type]
    truth_files = [Path(table) for table in given if isinstance(table, str | os.PathLike)]
    tables = [table.to_csv() for table in given if isinstance(table, pd.DataFrame)]
    inputs = [file.path for file in files] + truth_files
    check_apart(inputs, [out])
    about = {"files": names, "content": fingerprint(inputs)}
    options = {
        "variable": variable,
        "axes": axes,
        "truth": hashlib.sha256("".join(tables).encode()).hexdigest()[:10] if tables else None,
    }
    about |= {name: value for name, value in options.items() if value is not None}
    if out.exists() and (not h5py.is_hdf5(out) or _made_of(out) != about):
        raise ValueError(
            f"{out} is there and was not made of {', '.join(names)} as they are now: "
            "choose another name, or delete it"
        )
    with writable(out.parent), BlockStore(out, "w", about) as store:
        pairs = zip(files, truths, strict=True)
        for file, bubbles in tqdm(
            pairs, total=len(files), unit="file", delay=2, disable=not progress
        ):
            blocks = file.blocks(_STORED_TOGETHER)
            for block in blocks if bubbles is None else with_truth(blocks, bubbles):
                store.append(dataclasses.replace(block, frames=np.abs(check_block(block))))
        return len(store)


def _made_of(path: Path) -> object:
    """What a store was made of: names and fingerprint of files, and how they were read."""
    with readable(path), h5py.File(path) as file:
        return json.loads(file.attrs.get("about", "{}"))


def _find_file(path: str | Path, number: int | None, what: str, *patterns: str) -> Path:
    """`path`, or the file of that number below the folder `path`."""
    path = Path(path)
    if not path.is_dir():
        return path
    check_positive(**{f"{path} is a folder, so {what}": number})
    names = [pattern.format(number) for pattern in patterns]
    found = [file for name in names for file in sorted(path.rglob(name))]
    if not found:
        raise FileNotFoundError(f"no {what} {number} below {path}: looked for {' or '.join(names)}")
    return found[0]


def _scale_tables(path: Path, *, in_silico: bool) -> dict[str, dict[str, NDArray]]:
    """Numbers that may state a scale, by file: PALA's, a file near it, the file itself."""
    tables = {"PALA's constants": dict(_CONSTANTS)} if in_silico else {}
    for file in (*parameters_near(path, in_silico=in_silico), path):
        if file.suffix.lower() != ".npy":
            with readable(file):
                read = numbers_hdf5 if h5py.is_hdf5(file) else numbers_mat5
                tables[file.name] = read(file)
    return tables


def _stated_scale(path: Path, kind: str, variable: str, *, in_silico: bool) -> Scale:
    """Scale of the frames that files state."""
    other = format_of(path)
    if kind == "BlockStore":
        with BlockStore(path) as store:
            px_mm, rate_hz = store.px_mm, store.frame_rate_hz
    elif other is not None:
        return other.scale(path, variable.split(",")[0])
    else:
        return find_scale(_scale_tables(path, in_silico=in_silico), variable.split(",")[0])
    pair = check_pitch(px_mm)
    return Scale(
        pair,
        pair[0] / pair[1] if pair else 1.0,
        rate_hz,
        path.name if pair else None,
        path.name if rate_hz else None,
    )


def _true_bubbles(file: FrameFile) -> pd.DataFrame:
    """Bubble table of PALA's ``ListPos`` (n, [x y z reflectivity], t)."""
    fields = find_fields(_scale_tables(file.path, in_silico=True), "ListPos")
    origin, pitch = (np.resize(fields[key].values, 3) for key in ("origin", "pitch"))
    with open_array(file.path, "ListPos") as array:
        points = np.atleast_3d(array[(slice(None),) * len(array.shape)])
    if points.shape[1] != 4 or points.shape[2] != file.n_frames:
        raise ValueError(
            f"{file.path}: ListPos has the shape {points.shape}, not (n, 4, {file.n_frames})"
        )
    x, z = ((points[:, k] - origin[k]) / pitch[k] for k in (0, 2))
    n_z, n_x = file.stored_px
    # NaN fails every comparison, so absent bubbles drop out too.
    frame, row = np.nonzero(((x >= 0) & (x <= n_x + 1) & (z >= 0) & (z <= n_z + 1)).T)
    return bubble_table(frame, z[row, frame], x[row, frame], np.nan_to_num(points[row, 3, frame]))
