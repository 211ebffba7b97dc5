"""Runs that are stopped: signals that end them in order, worker processes that end with them."""

from __future__ import annotations

import contextlib
import functools
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


_WAITING = _Waiting()


@contextlib.contextmanager
def handle_stops(handler: Callable[[int], None]) -> Iterator[None]:
    """Call `handler` with the signals that ask to stop, but for those that this process ignores."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals
        return
    # Ignored are, for example, the end of the terminal under nohup.
    numbers = [n for n in STOP_SIGNALS if signal.getsignal(n) is not signal.SIG_IGN]
    before = {n: signal.signal(n, lambda number, _: handler(number)) for n in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def raise_stop(number: int) -> None:
    """Raise `Stopped`, at once or at the end of `as_a_whole`."""
    if _WAITING.depth:
        _WAITING.numbers.append(number)
    else:
        raise Stopped(number)


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


class EndsWithParent:
    """A function for worker processes, which end when the process that began them is gone.

    Parameters
    ----------
    function : callable
        What the workers are to do.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._parent = os.getpid()

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Do it."""
        _watch(self._parent)
        return self._function(*arguments, **options)


@functools.cache
def _watch(parent: int) -> None:
    """Begin, once in a process, to watch its parent."""
    # Not in the parent itself, and not in workers of a cluster.
    if os.getppid() == parent:
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(parent: int) -> None:
    """End this process when it is left alone."""
    while os.getppid() == parent:
        time.sleep(_WATCH_S)
    os._exit(1)
