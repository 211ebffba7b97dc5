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

BUBBLE_COLUMNS = ("frame", "z", "x", "score")


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
    """

    frames: NDArray
    bubbles: pd.DataFrame | None = None
    px_mm: float | None = None
    frame_rate_hz: float | None = None
    source: str = "unknown source"

    def __repr__(self) -> str:
        size = " x ".join(map(str, np.shape(self.frames)[1:]))
        truth = "no truth" if self.bubbles is None else f"{len(self.bubbles)} true bubbles"
        return (
            f"Block: {len(self.frames)} frames of {size} px, px_mm {self.px_mm}, "
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
        bubbles = self.bubbles
        if bubbles is not None:
            bubbles = bubbles[bubbles["frame"] < n_frames].reset_index(drop=True)
        return dataclasses.replace(self, frames=self.frames[:n_frames], bubbles=bubbles)

    @property
    def truth(self) -> pd.DataFrame:
        """The true bubbles.

        Raises
        ------
        ValueError
            They are not known.
        """
        if self.bubbles is None:
            raise ValueError(
                f"{self.source} comes without true bubbles: train and score on data that have them"
            )
        return self.bubbles


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
    if value in allowed:
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
    frames: ArrayLike, *, what: str = "frames", allow_complex: bool = False
) -> NDArray:
    """Return `frames` as an array (T, Z, X) of finite floats, or complex numbers if allowed.

    float32, float64, complex64 and complex128 come back as they are; other number types as float32.

    Raises
    ------
    TypeError
        Not numbers, or complex where amplitude is needed.
    ValueError
        Not three axes, an empty axis, NaN or infinity (the first such frame is named).
    """
    array = np.asarray(frames)
    if array.dtype.kind not in "biufc":
        raise TypeError(f"{what} must hold numbers, not {array.dtype}")
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
                "take np.abs(frames), or filters.envelope for radio-frequency data"
            )
    elif array.dtype not in (np.float32, np.float64):
        array = array.astype(np.float32)
    # A sum is NaN or infinite if any term is: one pass and no mask of the whole stack.
    per_frame = np.isfinite(array.sum(axis=(1, 2), dtype=np.result_type(array.dtype, np.float64)))
    if not per_frame.all():
        first = int(np.argmin(per_frame))
        raise ValueError(
            f"{what} hold NaN or infinite values, first in frame {first} "
            f"({int((~per_frame).sum())} of {len(array)} frames): "
            "replace or drop them, e.g. np.nan_to_num"
        )
    return array


def check_bubbles(
    bubbles: pd.DataFrame, *, columns: Iterable[str] = BUBBLE_COLUMNS
) -> pd.DataFrame:
    """Return `bubbles` if it has the columns of a bubble table and finite numbers in them.

    Raises
    ------
    TypeError
        Not a DataFrame.
    ValueError
        A column is missing, or holds NaN or infinity.
    """
    if not isinstance(bubbles, pd.DataFrame):
        raise TypeError(f"a bubble table is a pandas DataFrame, not {type(bubbles).__name__}")
    missing = [name for name in columns if name not in bubbles.columns]
    if missing:
        raise ValueError(
            f"the table lacks the column(s) {', '.join(missing)}; "
            f"it has {', '.join(map(str, bubbles.columns))}"
        )
    for name in columns:
        if not np.isfinite(bubbles[name].to_numpy(dtype=float)).all():
            raise ValueError(
                f"column {name!r} of the bubble table holds NaN or infinite values: drop those rows"
            )
    return bubbles


def bubble_table(frame: ArrayLike, z: ArrayLike, x: ArrayLike, score: ArrayLike) -> pd.DataFrame:
    """Bubble table from its four columns.

    Examples
    --------
    >>> bubble_table([0], [1.5], [2.0], [1.0])
       frame    z    x  score
    0      0  1.5  2.0    1.0
    """
    return pd.DataFrame(
        {
            "frame": np.asarray(frame, dtype=np.int64),
            "z": np.asarray(z, dtype=np.float64),
            "x": np.asarray(x, dtype=np.float64),
            "score": np.asarray(score, dtype=np.float64),
        }
    )


def check_amplitude(frames: ArrayLike, *, what: str = "frames") -> NDArray[np.floating]:
    """Return frames (T, Z, X) as an array, or refuse what is no amplitude.

    Raises
    ------
    ValueError
        See `ulmpaper.core.records.check_frames`; negative values.
    """
    array = check_frames(frames, what=what)
    if array.min() < 0:
        raise ValueError(
            f"{what} hold negative values (down to {array.min():g}) but amplitude is needed: "
            "take filters.envelope of radio-frequency data, or undo the decibel scale"
        )
    return array
