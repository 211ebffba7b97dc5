"""Tasks in parallel, on local processes or a Dask cluster, with results in order."""

from __future__ import annotations

import contextlib
import functools
import itertools
import warnings
from collections.abc import Iterator
from typing import Any

import joblib

from ulmpaper.core.doors import optional
from ulmpaper.io.processes import count_processes, worker_errors, worker_options

_CONNECT_TIMEOUT_S = 10


def ordered_map(
    tasks: Iterator[Any], *, n_jobs: int, scheduler: str | None = None
) -> Iterator[Any]:
    """Run tasks in parallel and yield their results in order, four tasks ahead per process.

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
    joblib's own generator begins a task whenever one is done, asked for or not, so results would
    pile up.

    Examples
    --------
    >>> list(ordered_map((joblib.delayed(abs)(k) for k in (-1, 2, -3)), n_jobs=1))
    [1, 2, 3]
    """
    n_jobs = n_jobs if scheduler else count_processes(n_jobs)
    # More processes than tasks would be started for nothing.
    begun = list(itertools.islice(tasks, max(1, n_jobs)))
    n_jobs = min(n_jobs, len(begun)) if not scheduler else n_jobs
    tasks = itertools.chain(begun, tasks)
    if not begun:
        return
    with _parallel(scheduler, n_jobs) as run:
        ahead = 4 * max(1, n_jobs)
        for task in tasks:
            results = run(itertools.chain([task], itertools.islice(tasks, ahead - 1)))
            try:
                for result in results:  # noqa: UP028, since `yield from` would close it itself
                    yield result
            finally:
                # A caller that stops early knows it: joblib need not warn of unused results.
                with warnings.catch_warnings(action="ignore"):
                    results.close()


@contextlib.contextmanager
def _parallel(scheduler: str | None, n_jobs: int) -> Iterator[joblib.Parallel]:
    """Local processes, or those of a Dask scheduler."""
    parallel = functools.partial(
        joblib.Parallel, n_jobs=n_jobs, return_as="generator", max_nbytes=None, batch_size=1
    )
    if scheduler is None:
        if n_jobs == 1:
            yield parallel()
            return
        # Tasks keep every core busy; threads of the linear algebra on top would only get in their
        # way.
        with worker_errors():
            yield parallel(backend="loky", inner_max_num_threads=1, **worker_options())
        return
    with optional("cluster"):
        from distributed import Client
    try:
        client = Client(scheduler, timeout=_CONNECT_TIMEOUT_S)
    except (OSError, ValueError) as error:
        raise OSError(
            f"no Dask scheduler answers at {scheduler!r}: start one with `dask scheduler`, and "
            "give the address that it names (tcp://host:8786)"
        ) from error
    with client:
        with joblib.parallel_config("dask"):  # in force here only, not where results are used
            run = parallel()
        yield run
