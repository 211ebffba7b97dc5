"""Tasks in several processes, or on a cluster, their results in order and never many ahead."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

import joblib

_CONNECT_TIMEOUT_S = 10


def in_turn(tasks: Iterator[Any], *, n_jobs: int, scheduler: str | None = None) -> Iterator[Any]:
    """Results of tasks in their order; four for each process are begun before the first of them is asked for.

    Parameters
    ----------
    tasks : iterator
        Made by `joblib.delayed`; read as they are begun.
    n_jobs : int
        Processes; on a cluster, tasks sent ahead.
    scheduler : str, optional
        Address of a Dask scheduler that takes the work instead of local processes.

    Raises
    ------
    ImportError, OSError
        Dask is not installed; no scheduler answers at the address.

    Notes
    -----
    joblib's own generator begins a task whenever one is done, asked for or not, so results would pile up.

    Examples
    --------
    >>> list(in_turn((joblib.delayed(abs)(k) for k in (-1, 2, -3)), n_jobs=1))
    [1, 2, 3]
    """
    with _runner(scheduler, n_jobs) as run:
        ahead = 4 * max(1, n_jobs if scheduler else joblib.effective_n_jobs(n_jobs))
        for task in tasks:
            yield from run(itertools.chain([task], itertools.islice(tasks, ahead - 1)))


@contextlib.contextmanager
def _runner(scheduler: str | None, n_jobs: int) -> Iterator[joblib.Parallel]:
    how: dict[str, Any] = {"n_jobs": n_jobs, "return_as": "generator", "max_nbytes": None, "batch_size": 1}
    if scheduler is None:
        # Tasks keep every core busy; threads of the linear algebra on top would only get in their way.
        alone = {"backend": "loky", "inner_max_num_threads": 1} if n_jobs != 1 else {}
        yield joblib.Parallel(**how, **alone)
        return
    try:
        from distributed import Client
    except ImportError:
        raise ImportError("a Dask scheduler needs the extra: pip install 'ulmpaper[cluster]'") from None
    try:
        client = Client(scheduler, timeout=_CONNECT_TIMEOUT_S)
    except OSError as error:
        raise OSError(f"no Dask scheduler answers at {scheduler!r}: start one with `dask scheduler`") from error
    with client:
        with joblib.parallel_config("dask"):  # in force here only, not where results are used
            run = joblib.Parallel(**how)
        yield run
