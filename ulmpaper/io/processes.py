"""Runs that are stopped: signals that end them in order, worker processes that end with them."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import Any

# Ctrl-C, the end of a job of a batch system, the end of a terminal. Windows lacks the last.
STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
_WATCH_S = 0.5


class Stopped(BaseException):
    """A signal asks this process to stop.

    Not an `Exception`, so that what catches errors lets it pass.

    Parameters
    ----------
    number : int
        The signal. A shell expects the exit code ``128 + number``.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


@dataclass
class _Waiting:
    """Signals that came while something had to be done as a whole."""

    depth: int = 0
    numbers: list[int] = field(default_factory=list)
    last: int | None = None  # raised or waiting


_WAITING = _Waiting()


@contextlib.contextmanager
def handle_stops(handler: Callable[[int], None]) -> Iterator[None]:
    """Call `handler` with the signals that ask to stop, but for those that this process ignores."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals
        return
    # Ignored are, for example, the end of the terminal under nohup.
    numbers = [n for n in STOP_SIGNALS if signal.getsignal(n) is not signal.SIG_IGN]
    _WAITING.last = None
    before = {n: signal.signal(n, lambda number, _: handler(number)) for n in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def raise_stop(number: int) -> None:
    """Raise `Stopped`, at once or at the end of `as_a_whole`."""
    _WAITING.last = number
    if _WAITING.depth:
        _WAITING.numbers.append(number)
    else:
        raise Stopped(number)


def last_stop() -> int | None:
    """Signal that `raise_stop` was given, whatever error a library has turned `Stopped` into.

    Many do so with what is raised while they load.
    """
    return _WAITING.last


@contextlib.contextmanager
def as_a_whole() -> Iterator[None]:
    """Let signals wait for the end: HDF5 cannot go on after an exception in its own writing."""
    _WAITING.depth += 1
    try:
        yield
    finally:
        _WAITING.depth -= 1
        if _WAITING.numbers and not _WAITING.depth:
            raise Stopped(_WAITING.numbers.pop())


def count_processes(n_jobs: int) -> int:
    """Processes that a setting means: -1 are all cores, -2 all but one; no more than the cores.

    Raises
    ------
    ValueError
        0 processes.

    Examples
    --------
    >>> count_processes(1)
    1
    """
    import joblib  # here, since signals are handled before anything slow is loaded

    if n_jobs == 0:
        raise ValueError("n_jobs (-j) must be 1 or more, or -1 for all cores, not 0")
    return min(joblib.effective_n_jobs(n_jobs), max(os.cpu_count() or 1, 2))


@contextlib.contextmanager
def worker_errors() -> Iterator[None]:
    """State in plain words that a worker process was killed."""
    try:
        yield
    except BrokenProcessPool as error:
        raise MemoryError(
            "a worker process was killed, as when memory runs out: take fewer processes (-j), or "
            "smaller blocks (blocks.n_frames)"
        ) from error


def worker_options() -> dict[str, Any]:
    """Options of `joblib.Parallel`, whose processes then end when this one is gone."""
    return {"initializer": _end_with, "initargs": (os.getpid(),)}


def _end_with(parent: int) -> None:
    """End this process when its parent is gone: joblib's would wait for work for minutes."""
    # Signals reach all processes of a job. The parent ends its workers; they do not end before it.
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_WATCH_S)
    os._exit(1)
