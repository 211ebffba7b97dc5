"""Processes that train together, those that make their batches, and the signals that stop them."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import distributed
from torch.utils.data import DataLoader, Dataset

from ulmpaper.weights import resolve_device


@contextlib.contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """Event that SIGINT and SIGTERM set instead of ending the process; never set outside the main thread.

    Examples
    --------
    >>> with stop_signals() as stop:
    ...     signal.raise_signal(signal.SIGTERM)
    ...     stop.is_set()
    True
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    names = (signal.SIGINT, signal.SIGTERM)
    before = {name: signal.signal(name, lambda *_: stop.set()) for name in names}
    try:
        yield stop
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


@contextlib.contextmanager
def processes(device: str) -> Iterator[tuple[int, int, torch.device]]:
    """Rank of this process, number of processes that ``torchrun`` started, and the device for this one.

    Parameters
    ----------
    device : str
        See `ulmpaper.weights.resolve_device`; of several GPUs each process takes its own.

    Raises
    ------
    ValueError
        There is no such device here.

    Examples
    --------
    >>> with processes("cpu") as (rank, world, device):
    ...     rank, world
    (0, 1)
    """
    world = int(os.environ.get("WORLD_SIZE", 1))
    where = resolve_device(device)
    if world == 1:
        yield 0, 1, where
        return
    if where.type == "cuda":
        where = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(where)
    distributed.init_process_group("nccl" if where.type == "cuda" else "gloo")
    try:
        yield distributed.get_rank(), world, where
    finally:
        distributed.destroy_process_group()


def in_any(here: bool, world: int, device: torch.device) -> bool:
    """Whether `here` holds in any of `world` processes.

    Examples
    --------
    >>> in_any(True, 1, torch.device("cpu"))
    True
    """
    if world == 1:
        return here
    flag = torch.tensor(float(here), device=device)
    distributed.all_reduce(flag, distributed.ReduceOp.MAX)
    return bool(flag)


def made_ahead(batches: Dataset, steps: range, n_workers: int) -> Iterable[Any]:
    """Batches of `steps`, made ahead by `n_workers` processes, or one by one where that is 0.

    Examples
    --------
    >>> list(made_ahead(["a", "b", "c"], range(1, 3), 0))
    ['b', 'c']
    """
    if n_workers == 0:
        return (batches[step] for step in steps)
    return DataLoader(
        batches,
        batch_size=None,
        sampler=steps,
        num_workers=n_workers,
        collate_fn=_as_it_is,
        worker_init_fn=_start_worker,
        multiprocessing_context="spawn",  # a fork would copy threads and CUDA's state
    )


def _as_it_is(batch: Any) -> Any:
    return batch


def _start_worker(_: int) -> None:
    for name in (signal.SIGINT, signal.SIGTERM):  # sent to all processes of a job; it is the training that stops
        signal.signal(name, signal.SIG_IGN)
