"""Block, bubble table, and the checks at every public door.

*Bubble table*: a DataFrame with the columns ``frame, z, x, score``; tracks add ``track``. ``frame``
counts from 0; ``z`` (depth, rows) and ``x`` (lateral, columns) are in low-resolution pixels with
the origin at the centre of pixel (0, 0); ``score`` is a probability or the value of the peak.

*Block*: a stretch of frames ``(t, z, x)`` with its scale and, where known, its truth.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from ulmpaper.core.arguments import explained

BUBBLE_COLUMNS = ("frame", "z", "x", "score")
# Floats tell whole numbers apart up to here.
_LAST_FRAME = 2**53
# Beyond, floats do not tell places apart to 1e-6 px, and no frame is so large.
_FARTHEST_PX = 1e9


class UlmWarning(UserWarning):
    """Results may be worse than they look, as on frames unlike those of a network's training."""


def warn_user(text: str) -> None:
    """Give a `UlmWarning` that names the line of the user that led to it."""
    frame = inspect.currentframe()
    level = 1
    while frame is not None and frame.f_globals.get("__name__", "").startswith("ulmpaper."):
        frame = frame.f_back
        level += 1
    warnings.warn(text, UlmWarning, stacklevel=level)


@explained
@dataclass(frozen=True, repr=False)
class Block:
    """Frames with their scale and, where known, their truth.

    Parameters
    ----------
    frames : ndarray (T, Z, X)
        B-mode amplitude (float32) or beamformed IQ (complex64).
    bubbles : DataFrame or None
        True bubbles, columns ``frame, z, x, score``; None where the truth is not known.
    px_mm : float or None
        Pixel pitch in both directions [mm]; None where the source does not say.
    frame_rate_hz : float or None
        Frames per second [Hz]; None where the source does not say.
    source : str
        What the frames are, in words fit for a figure's title.
    file, first_frame : str, int
        Name of the file that the frames stand in, and the number of the first of them there: errors
        and warnings name them.

    Raises
    ------
    ValueError
        `px_mm` or `frame_rate_hz` is not above 0.
    """

    frames: NDArray
    bubbles: pd.DataFrame | None = None
    px_mm: float | None = None
    frame_rate_hz: float | None = None
    source: str = "unknown source"
    file: str = ""
    first_frame: int = 0

    def __post_init__(self) -> None:
        for name in ("px_mm", "frame_rate_hz"):
            value = getattr(self, name)
            if value is not None:
                check_positive(**{f"{name} of a block (None where it is not known)": value})

    def __repr__(self) -> str:
        shape = getattr(self.frames, "shape", None) or ("?", "?", "?")  # a list is no frames yet
        size = " x ".join(map(str, shape[1:]))
        truth = "no truth" if self.bubbles is None else f"{len(self.bubbles)} true bubbles"
        return (
            f"Block: {shape[0]} frames of {size} px, px_mm {self.px_mm}, "
            f"frame_rate_hz {self.frame_rate_hz}, {truth}, {self.source!r}"
        )

    def __new__(cls, *args: object, **kwargs: object) -> Block:
        """Answer a guess: the true bubbles are called `bubbles`."""
        if "truth" in kwargs:
            raise TypeError(
                "the true bubbles of a block are called bubbles: Block(frames, bubbles=table)"
            )
        return super().__new__(cls)

    def first(self, n_frames: int) -> Block:
        """The first `n_frames` frames, with their truth.

        Examples
        --------
        >>> bubbles = bubble_table([0, 4], [1, 1], [1, 1], [1, 1])
        >>> Block(np.ones((5, 8, 8)), bubbles).first(2).bubbles.frame.tolist()
        [0]
        """
        n_frames = check_whole(n_frames=n_frames)
        bubbles = self.bubbles
        if bubbles is not None:
            bubbles = check_bubbles(bubbles)
            bubbles = bubbles[bubbles["frame"] < n_frames].reset_index(drop=True)
        return dataclasses.replace(self, frames=self.frames[:n_frames], bubbles=bubbles)

    @property
    def truth(self) -> pd.DataFrame:
        """The true bubbles.

        Raises
        ------
        ValueError
            They are not known, or no bubble table.
        """
        if self.bubbles is None:
            raise ValueError(
                f"{self.source} comes without true bubbles: train and score on data that have them"
            )
        return check_bubbles(self.bubbles, columns=("frame", "z", "x"))


# Without this, help would show the parameters of `__new__`, which only answers a guess.
_PARAMETERS = list(inspect.signature(Block.__init__).parameters.values())[1:]
Block.__signature__ = inspect.Signature(_PARAMETERS)  # type: ignore[attr-defined]


def check_choice(value: str, allowed: Iterable[str], what: str) -> str:
    """Return `value` if it is one of `allowed`.

    Raises
    ------
    ValueError
        Says what came, what is allowed and, for a slip of the pen, what was probably meant.

    Examples
    --------
    >>> check_choice("radail", ["radial", "none"], "method")
    Traceback (most recent call last):
    ...
    ValueError: unknown method 'radail': did you mean 'radial'? Allowed: radial, none
    """
    allowed = list(allowed)
    if isinstance(value, str) and value in allowed:
        return value
    close = difflib.get_close_matches(str(value), allowed, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise ValueError(f"unknown {what} {value!r}: {hint}Allowed: {', '.join(allowed)}")


def check_positive(**values: object) -> None:
    """Raise a ValueError that names the first value that is not a finite number above zero."""
    for name, value in values.items():
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float | np.number)
            or not 0 < value < math.inf
        ):
            raise ValueError(f"{name} must be a number above 0, not {value!r}")


def check_frames(
    frames: ArrayLike, *, what: str = "frames", allow_complex: bool = False, first_frame: int = 0
) -> NDArray:
    """Return `frames` as an array (T, Z, X) of finite floats, or complex numbers if allowed.

    float32, float64, complex64 and complex128 come back as they are; other number types as float32.

    Parameters
    ----------
    frames : array_like
        What was given.
    what : str
        What it is, as errors name it.
    allow_complex : bool
        Take IQ too.
    first_frame : int
        Number of the first frame in its file, from which errors count.

    Raises
    ------
    TypeError
        Not numbers, or complex where amplitude is needed.
    ValueError
        Not three axes, an empty axis, NaN or infinity (the first such frame is named).
    """
    array = np.asarray(frames)
    if array.dtype.kind not in "biufc":
        hint = ": of a file, take ulmpaper.read_frames(path)" if array.dtype.kind == "U" else ""
        raise TypeError(f"{what} must hold numbers, not {array.dtype}{hint}")
    if array.ndim != 3:
        raise ValueError(
            f"{what} must have three axes (t, z, x), not {array.ndim} (shape {array.shape}); "
            "write a single frame as frame[None]"
        )
    if 0 in array.shape:
        raise ValueError(f"{what} has an empty axis: shape (t, z, x) = {array.shape}")
    if array.dtype.kind == "c":
        if not allow_complex:
            raise TypeError(
                f"{what} are complex (IQ) but amplitude is needed: "
                "take np.abs(frames), or ulmpaper.core.envelope for radio-frequency data"
            )
    elif array.dtype not in (np.float32, np.float64):
        array = array.astype(np.float32)
    finite = finite_frames(array)
    if not finite.all():
        first = int(np.argmin(finite))
        raise ValueError(
            f"{what} hold NaN or infinite values, first in frame {first + first_frame} "
            f"({int((~finite).sum())} of {len(array)} frames): "
            "replace or drop them, e.g. np.nan_to_num"
        )
    return array


def finite_frames(frames: NDArray) -> NDArray[np.bool_]:
    """Say of each of frames (T, Z, X) whether it holds neither NaN nor infinity."""
    # A sum is NaN or infinite if any term is: one pass and no mask of the whole stack.
    with np.errstate(over="ignore", invalid="ignore"):
        sums = frames.sum(axis=(1, 2), dtype=np.result_type(frames.dtype, np.float64))
    finite = np.isfinite(sums)
    # The sum of large finite numbers overflows too: look at each value of those frames alone.
    for t in np.flatnonzero(~finite):
        finite[t] = np.isfinite(frames[t]).all()
    return finite


def check_whole(low: int = 1, **values: object) -> int:
    """Return the one value given by its name as an int, if it is a whole number from `low` on.

    Examples
    --------
    >>> check_whole(n_bins=20.0)
    20
    """
    ((name, value),) = values.items()
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not number or np.iscomplexobj(value) or value % 1 != 0 or value < low:  # type: ignore
        raise ValueError(f"{name} must be a whole number, {low} or more, not {value!r}")
    return int(value)  # type: ignore[call-overload]


def check_rng(rng: np.random.Generator) -> None:
    """Raise a TypeError for anything but a generator of random numbers."""
    if not isinstance(rng, np.random.Generator):
        raise TypeError(
            f"rng must be a numpy.random.Generator, not {rng!r}: write np.random.default_rng(seed)"
        )


def check_bubbles(
    bubbles: pd.DataFrame, *, columns: Iterable[str] = BUBBLE_COLUMNS, path: bool = False
) -> pd.DataFrame:
    """Return `bubbles`, with frames as int64, if it is a sound bubble table.

    Parameters
    ----------
    bubbles : DataFrame
        Any table with at least `columns`; a column ``track`` among them makes it a track table.
    columns : iterable of str
        Columns that it must have.
    path : bool
        Points lie between frames too, as in a table from `ulmpaper.interpolate`.

    Returns
    -------
    DataFrame
        The table itself, or a copy where a column had to change its type: whole numbers that are
        stored as floats are frames too.

    Raises
    ------
    TypeError
        Not a DataFrame; a column that holds text, complex numbers or other objects.
    ValueError
        A column is missing or there twice; NaN or infinity; a place beyond 1e9 px; a frame that is
        no whole number, or beyond 2**53; two points of a track in a frame.

    Examples
    --------
    >>> check_bubbles(pd.DataFrame({"frame": [0.0, 0.5], "z": 1.0, "x": 1.0, "score": 1.0}))
    Traceback (most recent call last):
    ...
    ValueError: frames are whole numbers, but row 1 holds 0.5: of times [s], take ...
    """
    if not isinstance(bubbles, pd.DataFrame):
        raise TypeError(f"a bubble table is a pandas DataFrame, not {type(bubbles).__name__}")
    columns = list(columns)
    missing = [name for name in columns if name not in bubbles.columns]
    if missing:
        raise ValueError(
            f"the table lacks the column(s) {', '.join(missing)}; "
            f"it has {', '.join(map(str, bubbles.columns))}"
        )
    if not bubbles.columns.is_unique:
        twice = bubbles.columns[bubbles.columns.duplicated()][0]
        raise ValueError(f"the table has more than one column {twice!r}: keep one of them")
    changed = {}
    for name in columns:
        values = _numbers(bubbles[name], f"column {name!r} of the bubble table")
        if name == "frame" and not path:
            values = _whole_frames(values)
        if name in ("z", "x") and (far := (values > _FARTHEST_PX) | (values < -_FARTHEST_PX)).any():
            row = int(np.argmax(far))
            raise ValueError(
                f"column {name!r} holds {values[row]:g} px in row {row}: places lie within "
                f"{_FARTHEST_PX:g} px"
            )
        if values.dtype != bubbles[name].dtype:
            changed[name] = values
    if changed:
        bubbles = bubbles.assign(**changed)
    if "track" in columns and "frame" in columns:
        _check_one_point_a_frame(bubbles["track"].to_numpy(), bubbles["frame"].to_numpy())
    return bubbles


def _numbers(values: pd.Series, what: str) -> NDArray:
    """A column as an array of finite real numbers."""
    kind = values.dtype
    if not len(values):
        return (
            values.to_numpy(dtype=float)
            if pd.api.types.is_object_dtype(kind)
            else values.to_numpy()
        )
    if not pd.api.types.is_numeric_dtype(kind) or pd.api.types.is_complex_dtype(kind):
        raise TypeError(
            f"{what} holds {kind} (row 0: {values.iloc[0]!r}), but numbers are needed: "
            "convert it, e.g. with pandas.to_numeric"
        )
    # Columns of pandas' own types, which know missing values, become those of numpy.
    array = (
        values.to_numpy()
        if isinstance(kind, np.dtype)
        else values.to_numpy(dtype=float, na_value=np.nan)
    )
    finite = np.isfinite(array)
    if not finite.all():
        row = int(np.argmin(finite))
        raise ValueError(
            f"{what} holds NaN or infinite values, first in row {row} "
            f"({int((~finite).sum())} of {len(array)}): drop those rows"
        )
    return array


def _whole_frames(frames: NDArray) -> NDArray[np.int64]:
    """Frames as int64."""
    wrong = (frames % 1 != 0) | (frames > _LAST_FRAME) | (frames < -_LAST_FRAME)
    if wrong.any():
        row = int(np.argmax(wrong))
        if frames[row] % 1 == 0:
            raise ValueError(f"row {row} holds frame {frames[row]}: frames go up to 2**53")
        raise ValueError(
            f"frames are whole numbers, but row {row} holds {frames[row]:.12g}: of times [s], take "
            "(times * frame_rate_hz).round().astype(int)"
        )
    return frames.astype(np.int64, copy=False)


def _check_one_point_a_frame(track: NDArray, frame: NDArray) -> None:
    """Raise a ValueError that names track and frame if a track has two points in a frame."""
    same_track = track[1:] == track[:-1]
    in_order = (track[1:] > track[:-1]) | (same_track & (frame[1:] >= frame[:-1]))
    if in_order.all():
        twice = np.append(False, same_track & (frame[1:] == frame[:-1]))
    else:
        twice = pd.DataFrame({"track": track, "frame": frame}).duplicated().to_numpy()
    if twice.any():
        row = int(np.argmax(twice))
        raise ValueError(
            f"track {track[row]} has more than one point in frame {frame[row]} (row {row} is the "
            f"second; {int(twice.sum())} such rows): a bubble is in one place at a time"
        )


def bubble_table(frame: ArrayLike, z: ArrayLike, x: ArrayLike, score: ArrayLike) -> pd.DataFrame:
    """Bubble table from its four columns.

    Raises
    ------
    TypeError, ValueError
        Text or complex numbers; frames that are no whole numbers; columns of several lengths.

    Examples
    --------
    >>> bubble_table([0], [1.5], [2.0], [1.0])
       frame    z    x  score
    0      0  1.5  2.0    1.0
    """
    given = {"frame": frame, "z": z, "x": x, "score": score}
    columns = {name: np.asarray(values) for name, values in given.items()}
    for name, values in columns.items():
        if values.size and values.dtype.kind not in "biuf":
            raise TypeError(f"{name} holds {values.dtype}, but numbers are needed")
    sizes = {values.shape for values in columns.values()}
    if len(sizes) > 1 or len(next(iter(sizes))) != 1:
        raise ValueError(
            "a bubble table has four columns of one length, not of "
            f"{', '.join(f'{name} {values.shape}' for name, values in columns.items())}"
        )
    table = {name: values.astype(np.float64) for name, values in columns.items()}
    return pd.DataFrame({**table, "frame": _whole_frames(columns["frame"])})


def check_amplitude(
    frames: ArrayLike, *, what: str = "frames", first_frame: int = 0
) -> NDArray[np.floating]:
    """Return frames (T, Z, X) as an array, or refuse what is no amplitude.

    Parameters are those of `check_frames`.

    Raises
    ------
    ValueError
        See `ulmpaper.core.records.check_frames`; negative values (the first such frame is named).
    """
    array = check_frames(frames, what=what, first_frame=first_frame)
    lowest = array.min()
    if lowest < 0:
        first = int(np.argmax(array.min(axis=(1, 2)) < 0)) + first_frame
        decibels = "undo the decibel scale, 10 ** (frames / 20)"
        # Decibels below their highest value are negative throughout.
        others = (
            "take ulmpaper.core.envelope of radio-frequency data, the modulus of filtered "
            "amplitude, cut at 0 where an offset was subtracted, or "
        )
        advice = decibels if array.max() <= 0 else others + decibels
        raise ValueError(
            f"{what} hold negative values (down to {lowest:g}, first in frame {first}) but "
            f"amplitude is needed: {advice}"
        )
    return array


def check_block(block: Block) -> NDArray:
    """Return the frames of a block as an array of IQ or amplitude, as `check_frames` does.

    Raises
    ------
    TypeError, ValueError
        See `check_frames` and `check_amplitude`; the file and the frame in it are named.
    """
    what = f"frames of {block.file}" if block.file else "frames"
    frames = check_frames(
        block.frames, what=what, allow_complex=True, first_frame=block.first_frame
    )
    if frames.dtype.kind == "c":
        return frames
    return check_amplitude(frames, what=what, first_frame=block.first_frame)
