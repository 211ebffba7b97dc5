"""Signs of life of long work: a bar on a terminal, a line a minute in a log."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from typing import Any, TypeVar

from tqdm import tqdm

_T = TypeVar("_T")
_FRAMES_SHOWN: ContextVar[bool] = ContextVar("frames_shown", default=False)
_MINUTE_S = 60.0
_LINE = "{n_fmt} of {total_fmt} {unit}s, {elapsed} gone, {remaining} left\n"


@contextlib.contextmanager
def frames_shown(is_shown: bool) -> Iterator[None]:
    """Inside, networks show how many frames of a block they are through with."""
    token = _FRAMES_SHOWN.set(is_shown)
    try:
        yield
    finally:
        _FRAMES_SHOWN.reset(token)


def progress_bar(total: int, unit: str, *, is_shown: bool) -> Any:
    """Bar of tqdm after two seconds on a terminal; elsewhere a line a minute.

    Examples
    --------
    >>> with progress_bar(3, "block", is_shown=False) as bar:
    ...     bar.update(3)
    """
    if sys.stderr.isatty():
        return tqdm(total=total, unit=unit, delay=2, disable=not is_shown)
    return tqdm(
        total=total,
        unit=unit,
        delay=_MINUTE_S,
        mininterval=_MINUTE_S,
        maxinterval=_MINUTE_S,
        bar_format=_LINE,
        disable=not is_shown,
    )


def count_frames(parts: Iterable[tuple[int, _T]], n_frames: int) -> Iterator[tuple[int, _T]]:
    """Parts of a block, each with the number of its first frame, as they pass a network."""
    with progress_bar(n_frames, "frame", is_shown=_FRAMES_SHOWN.get()) as bar:
        for first, part in parts:
            bar.update(first - bar.n)
            yield first, part
        bar.update(n_frames - bar.n)
