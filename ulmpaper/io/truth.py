"""True bubbles from tables, for frames in files.

A table has the columns ``frame, z, x`` and, if known, ``score``: frames count from 0, positions are
in pixels of the file, from the centre of its first pixel. Where pixels of the file are not square,
frames are sampled anew; a table that `ulmpaper.ulm` wrote of such frames is in the new pixels.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ulmpaper.core.records import BUBBLE_COLUMNS, Block, check_bubbles, warn_user

if TYPE_CHECKING:
    from ulmpaper.io.readers import FrameFile

Truth = pd.DataFrame | str | os.PathLike

SAMPLED_ANEW = "sampled anew"  # in a note on frames whose pixels were not square
_PLACE = ("frame", "z", "x")
_SEPARATORS = (";", "\t", ",")
_LABELLED = 0.9  # share of the frames up to which bubbles are expected


def read_truth(truth: Truth | Sequence[Truth], files: Sequence[FrameFile]) -> list[pd.DataFrame]:
    """Read the true bubbles of files of frames from one table, or from one for each file.

    Parameters
    ----------
    truth : DataFrame, path of a CSV file, or sequence of these
        One table counts its frames over all files, one file after another; several are one for each
        file, whose frames they count.
    files : sequence of FrameFile
        The files, as from `ulmpaper.open_frames`.

    Returns
    -------
    list of DataFrame
        A bubble table for each file, whose frames count from 0, with positions in the pixels that
        its blocks have. A score that is not known is 1.

    Raises
    ------
    TypeError, ValueError
        A column is missing or holds no numbers; frames that are not whole or not in the recording;
        positions outside of the frames; as many tables as fit neither. The message names the row.
    OSError
        No such table.

    Warns
    -----
    UlmWarning
        The last tenth of a recording or more has no bubble.
    """
    if (
        not isinstance(files, Sequence)
        or not files
        or not all(hasattr(file, "stretch") for file in files)
    ):
        raise TypeError(f"files are one or more from open_frames, not {files!r}")
    tables = [truth] if isinstance(truth, pd.DataFrame | str | os.PathLike) else list(truth)
    if len(tables) not in (1, len(files)):
        raise ValueError(
            f"{len(tables)} tables of true bubbles for {len(files)} files: give one for all of "
            "them, which counts its frames through, or one for each file"
        )
    if len(tables) == len(files):
        return [_checked(t, [file]) for t, file in zip(tables, files, strict=True)]
    whole = _checked(tables[0], files)
    parts = []
    first = 0
    for file in files:
        inside = whole["frame"].between(first, first + file.n_frames - 1)
        part = whole[inside]
        parts.append(part.assign(frame=part["frame"] - first).reset_index(drop=True))
        first += file.n_frames
    return parts


def with_truth(blocks: Iterable[Block], truth: pd.DataFrame) -> Iterator[Block]:
    """Blocks of a file, one after another, with the bubbles of a table that counts them through."""
    first = 0
    for block in blocks:
        last = first + len(block.frames) - 1
        bubbles = truth[truth["frame"].between(first, last)]
        bubbles = bubbles.assign(frame=bubbles["frame"] - first).reset_index(drop=True)
        yield dataclasses.replace(block, bubbles=bubbles)
        first = last + 1


def _checked(truth: Truth, files: Sequence[FrameFile]) -> pd.DataFrame:
    """Bubble table in the pixels of the blocks, sound and inside of the frames of the files."""
    if isinstance(truth, pd.DataFrame):
        name = "the table of true bubbles"
        first_row = 0
        table = truth
    else:
        name = str(truth)
        first_row = 2  # as editors count lines, below the header
        table = _read_csv(Path(truth))
    names = {str(column).strip().lower(): column for column in table.columns}
    if missing := [column for column in _PLACE if column not in names]:
        raise ValueError(
            f"{name} lacks the column(s) {', '.join(missing)}; it has "
            f"{', '.join(map(str, table.columns)) or 'none'}. Needed are frame (from 0), z and x "
            "[px], and score if known"
        )
    columns = [column for column in BUBBLE_COLUMNS if column in names]
    table = table[[names[column] for column in columns]].set_axis(columns, axis=1)
    try:
        table = check_bubbles(table.reset_index(drop=True), columns=columns)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from None
    if table.empty:
        raise ValueError(f"{name} holds no bubbles: give the frames, z and x of at least one")
    first = files[0]
    n_frames = sum(file.n_frames for file in files)
    where = "line" if first_row else "row"
    is_of_results = first.stretch != (1.0, 1.0) and _is_of_results(name)
    shape_px = first.shape_px if is_of_results else first.stored_px
    _check_inside(table, n_frames, shape_px, name, where, first_row)
    table = table.assign(score=table.get("score", 1.0))
    if first.stretch == (1.0, 1.0):
        return table
    if is_of_results:
        warn_user(f"{name} is of results, so its places are taken to be in the square pixels")
        return table
    stretch_z, stretch_x = first.stretch
    warn_user(
        f"pixels of {first.path.name} are not square, and the places in {name} are taken to be in "
        f"its pixels: z times {stretch_z:g} and x times {stretch_x:g} are the square ones"
    )
    return table.assign(z=table["z"] * stretch_z, x=table["x"] * stretch_x)


def _is_of_results(name: str) -> bool:
    """Whether a table lies in a folder of results whose frames were sampled anew."""
    try:
        run = json.loads((Path(name).parent / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    notes = run.get("notes") if isinstance(run, dict) else None
    return isinstance(notes, list) and any(SAMPLED_ANEW in str(note) for note in notes)


def _read_csv(path: Path) -> pd.DataFrame:
    """Table of a text file, with the separator of its first line."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no table of true bubbles at {path}")
    try:
        with path.open(encoding="utf-8-sig") as file:
            header = file.readline()
            example = file.readline()
        separator = max(_SEPARATORS, key=header.count)
        # Where commas part whole numbers from decimals, semicolons part the columns.
        decimal = "," if separator == ";" and "," in example else "."
        return pd.read_csv(path, sep=separator, decimal=decimal, encoding="utf-8-sig")
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise ValueError(
            f"cannot read {path} as a table ({str(error).strip()}): true bubbles are CSV text with "
            "the header frame,z,x or frame,z,x,score"
        ) from None


def _check_inside(
    table: pd.DataFrame,
    n_frames: int,
    shape_px: tuple[int, int],
    name: str,
    where: str,
    first_row: int,
) -> None:
    """Refuse bubbles that lie outside of the recording, and warn where its end has none."""
    frame = table["frame"].to_numpy()
    outside = (frame < 0) | (frame >= n_frames)
    if outside.any():
        row = int(np.argmax(outside))
        from_one = frame.min() == 1 and frame.max() == n_frames
        hint = " It seems to count from 1: subtract 1." if from_one else ""
        raise ValueError(
            f"{name}: {where} {row + first_row} is of frame {frame[row]}, but the recording has "
            f"frames 0 to {n_frames - 1}.{hint}"
        )
    places = table[["z", "x"]].to_numpy(dtype=float)
    outside = _beyond(places, shape_px)
    if outside.any():
        row = int(np.argmax(outside))
        swapped = not _beyond(places[:, ::-1], shape_px).any()
        hint = "z and x seem to be swapped" if swapped else "positions are in pixels, not in mm"
        n_z, n_x = shape_px
        raise ValueError(
            f"{name}: {where} {row + first_row} lies at z = {places[row, 0]:g}, "
            f"x = {places[row, 1]:g}, outside of frames of {n_z} x {n_x} px (z, x), which reach "
            f"from -0.5 to {n_z - 0.5:g} and {n_x - 0.5:g} ({int(outside.sum())} such rows): "
            f"{hint}; drop bubbles that no frame shows"
        )
    labelled = int(frame.max()) + 1
    if labelled < _LABELLED * n_frames:
        warn_user(
            f"{name} ends at frame {labelled - 1} of {n_frames}: the frames after it count as "
            "frames without bubbles"
        )


def _beyond(places: NDArray, shape_px: tuple[int, int]) -> NDArray[np.bool_]:
    """Which places (n, 2) lie on no pixel."""
    outside = (places < -0.5) | (places > np.array(shape_px) - 0.5)
    return np.asarray(outside.any(axis=1))
