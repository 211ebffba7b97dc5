"""The training loop: data parallel, mixed precision, resumable, stopped by signals.

A run is a folder: ``last.safetensors`` (network and optimizer, to go on from), ``best.safetensors`` (the network that
scored best on validation data), ``metrics.csv`` (a row for each epoch) and ``config.json``.

Processes that train together, those that make their batches, and the signals that stop them.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ulmpaper.config import Config, Fitted, Settings, as_config
from ulmpaper.core.records import Block, check_choice
from ulmpaper.io.files import fingerprint
from ulmpaper.networks.checkpoint import BEST, describe, make_folder, read_state, write_state
from ulmpaper.networks.predict import compile_parts
from ulmpaper.networks.recipes import RECIPES, Recipe, training_settings
from ulmpaper.networks.weights import (
    CLASSES,
    find_weights,
    load_tensors,
    read_network,
    resolve_device,
    resolve_precision,
    write_network,
)
from ulmpaper.networks.windows import (
    Batch,
    Batches,
    SimulatedSource,
    Source,
    StoredSource,
    seeded_sequence,
)

_STORED_PARTS = {"train": (0.0, 0.9), "validation": (0.9, 1.0)}


@dataclass(frozen=True)
class RunSummary:
    """What a training came to.

    Parameters
    ----------
    folder : Path
        The run's folder.
    step, n_steps : int
        Steps done and steps in all; fewer done where the run was stopped.
    scores : dict of str to float
        Best scores on validation data; empty before the first epoch is done.
    seconds : float
        Time spent on steps and validation, in all its runs [s].
    """

    folder: Path
    step: int
    n_steps: int
    scores: dict[str, float]
    seconds: float


def train(
    name: str,
    folder: str | Path,
    cfg: Settings = None,
    *,
    data: str | Path | None = None,
    start: str | Path | None = None,
    stop_after: int | None = None,
    progress: bool = False,
) -> RunSummary:
    """Train a network, or go on with a training that was stopped.

    Parameters
    ----------
    name : {"ml3d", "count", "mspcn"}
        What to train, see `ulmpaper.networks.recipes`.
    folder : path
        Where the run is, or will be.
    cfg : Config, mapping or str, optional
        Settings, as in `ulmpaper.ulm`: the section of that name, ``train``, ``compute``, and for simulated data ``cam``.
    data : path, optional
        Block store with true bubbles to train on, its last tenth to validate on; by default sequences are simulated,
        new ones for every step.
    start : path, optional
        Weights to begin with, of a network of the same size, e.g. to adapt it to `data`; a file, or ``phantom`` or
        ``paper``, see `ulmpaper.networks.weights.find_weights`. By default random ones.
    stop_after : int, optional
        Stop when this step is done, as SIGINT and SIGTERM do after the step under way.
    progress : bool
        Show a bar with the time left.

    Returns
    -------
    RunSummary
        How far it came and how well it did.

    Raises
    ------
    ValueError
        Unknown recipe; a run that was begun with other settings; settings that cannot be met; `start` is of another
        size or none of ours.
    FloatingPointError
        Loss or gradient are no numbers any more. What was last written stays.
    OSError
        The folder cannot be written to.

    Notes
    -----
    Paper, section II-E: Adam, and frames divided by the maximum of their batch. Started by ``torchrun``, all processes
    share a step, and the gradient is the mean of theirs: two of them with a batch of 5 do what one does with 10.

    Examples
    --------
    >>> import tempfile
    >>> summary = train("count", tempfile.mkdtemp(), "smoke")
    >>> summary.step, sorted(path.name for path in summary.folder.iterdir())
    (6, ['best.safetensors', 'config.json', 'last.safetensors', 'metrics.csv'])
    """
    cfg = as_config(cfg)
    recipe = RECIPES[check_choice(name, RECIPES, "recipe")](cfg)
    options, folder = recipe.settings, make_folder(folder)
    settings = {
        **training_settings(cfg, name),
        "data": "simulated" if data is None else Path(data).name,
    }
    if data is not None:
        settings["content"] = fingerprint([Path(data)])
    if start is not None:
        start = find_weights(name, start)
        read_network(start, recipe=name)  # says in plain words what is wrong with it
        settings["start"] = fingerprint([start])
    n_steps = options.epochs * options.steps
    kernels = torch.backends.cudnn.flags(
        enabled=True, benchmark=True
    )  # try out which are the quickest
    with processes(cfg.compute.device) as (rank, world, device), stop_signals() as stop, kernels:
        net = _begin(recipe, cfg.seed, start).to(device)
        optimizer = torch.optim.Adam(net.parameters(), lr=options.learning_rate)
        state = read_state(folder, net, optimizer, settings)
        net.to(memory_format=recipe.layout)  # type: ignore[call-overload]
        run = compile_parts(net) if cfg.compute.compile else net
        dtype = resolve_precision(cfg.train.precision, device)
        blocks = validation_blocks(recipe, cfg, data) if rank == 0 else []
        windows = training_windows(recipe, cfg, data, rank=rank, world=world)
        last = n_steps if stop_after is None else min(stop_after, n_steps)
        began = time.perf_counter() - state.seconds
        bar = tqdm(
            total=n_steps, initial=state.step, unit="step", disable=not (progress and rank == 0)
        )
        for batch in prefetch(windows, range(state.step, last), cfg.compute.workers):
            optimizer.param_groups[0]["lr"] = learning_rate(options, state.step)
            state.add(_step(recipe, run, optimizer, batch, dtype, world))
            stopping = any_process(stop.is_set(), world, device)
            if rank == 0 and state.step % options.steps == 0:
                scores = recipe.score(_frozen(recipe, net, device, dtype), blocks)
                state.seconds = time.perf_counter() - began
                if state.close_epoch(options.steps, scores, learning_rate(options, state.step - 1)):
                    about = describe(recipe, cfg, settings, state, device)
                    write_network(
                        folder / BEST, net, recipe=name, network=recipe.arguments, about=about
                    )
            if rank == 0 and (state.step % options.steps == 0 or stopping or state.step == last):
                state.seconds = time.perf_counter() - began
                write_state(folder, net, optimizer, state, settings)
            bar.set_postfix(best=f"{state.best.get('score', math.nan):.3f}", refresh=False)
            bar.update()
            if stopping:
                break
        bar.close()
    return RunSummary(folder, state.step, n_steps, state.best, state.seconds)


def learning_rate(options: Fitted, step: int) -> float:
    """Step size of Adam at a step, counted from 0.

    Examples
    --------
    >>> options = Fitted(epochs=10, steps=10, learning_rate=0.1, warmup=0.1, decay="cosine")
    >>> [round(learning_rate(options, step), 3) for step in (0, 9, 54, 99)]
    [0.01, 0.1, 0.051, 0.0]
    """
    n_steps = options.epochs * options.steps
    n_warm = round(options.warmup * n_steps)
    if step < n_warm:
        return options.learning_rate * (step + 1) / n_warm
    done = (step - n_warm + 1) / (n_steps - n_warm + 1)
    factor = {
        "none": 1.0,
        "cosine": 0.5 * (1 + math.cos(math.pi * done)),
        "halfway": 1.0 if step < n_steps / 2 else 0.1,
    }
    return options.learning_rate * factor[options.decay]


def training_windows(
    recipe: Recipe, cfg: Config, data: str | Path | None = None, *, rank: int = 0, world: int = 1
) -> Batches:
    """Batches that a training sees; parameters as in `fit` and `ulmpaper.networks.windows.Batches`.

    Raises
    ------
    ValueError
        A batch that is no multiple of the parts cut out of each sequence.
    """
    options, crops = recipe.settings, min(cfg.train.crops, recipe.settings.batch)
    if options.batch % crops:
        raise ValueError(
            f"{recipe.name}.batch = {options.batch} must be a multiple of train.crops = {crops}, the parts cut out of "
            "each sequence"
        )
    return Batches(
        _source(cfg, data, "train"),
        recipe.encode,
        n_steps=options.epochs * options.steps,
        n_sequences=options.batch // crops,
        n_frames=recipe.n_frames,
        crops=crops,
        crop_px=recipe.crop_px,
        as_tiles=recipe.as_tiles,
        gain=cfg.train.gain,
        seed=cfg.seed,
        name=f"{recipe.name} train",
        rank=rank,
        world=world,
    )


def validation_blocks(recipe: Recipe, cfg: Config, data: str | Path | None = None) -> list[Block]:
    """Sequences that a training is judged by, of ``train.validation_frames`` frames in all; parameters as in `fit`."""
    source = _source(cfg, data, "validation")
    n_blocks = -(-cfg.train.validation_frames // recipe.n_frames)
    return [
        seeded_sequence(source, recipe.n_frames, cfg.seed, "validation", number)
        for number in range(n_blocks)
    ]


def _source(cfg: Config, data: str | Path | None, split: str) -> Source:
    return (
        SimulatedSource(cfg, split)
        if data is None
        else StoredSource(str(data), _STORED_PARTS[split])
    )


def _begin(recipe: Recipe, seed: int, start: str | Path | None = None) -> nn.Module:
    """Network with the weights of a file, or with start values that the seed decides."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = CLASSES[recipe.name](**recipe.arguments)
    if start is not None:
        load_tensors(net, read_network(start, recipe=recipe.name).state_dict(), what=str(start))
    return net


def _step(
    recipe: Recipe,
    run: Callable[[Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    dtype: torch.dtype,
    world: int,
) -> dict[str, float]:
    """Learn from a batch; returns the loss and its parts."""
    parameters = optimizer.param_groups[0]["params"]
    device = parameters[0].device
    frames = _normalized(batch.frames.to(device), world) * batch.gain.to(device)
    n_parts = min(recipe.settings.accumulate, len(frames))
    total: dict[str, Tensor] = {}
    optimizer.zero_grad(set_to_none=True)
    for inputs, targets in zip(
        frames.chunk(n_parts), batch.targets.to(device).chunk(n_parts), strict=True
    ):
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            outputs = run(recipe.inputs(inputs))
        loss, parts = recipe.loss(outputs, targets)
        share = len(inputs) / len(frames)
        (share * loss).backward()
        for key, value in {"loss": loss.detach(), **parts}.items():
            total[key] = total.get(key, torch.zeros_like(value)) + share * value
    if world > 1:
        for value in [*(p.grad for p in parameters), *total.values()]:
            distributed.all_reduce(value)
            value /= world
    norm = nn.utils.clip_grad_norm_(parameters, recipe.settings.clip)
    found = {key: float(value) for key, value in total.items()}
    if not (math.isfinite(found["loss"]) and math.isfinite(norm)):
        raise FloatingPointError(
            f"the training has diverged: loss {found['loss']}, gradient {float(norm)}. The state after the last epoch "
            f"is kept; lower {recipe.name}.learning_rate or {recipe.name}.clip"
        )
    optimizer.step()
    return found


def _normalized(frames: Tensor, world: int) -> Tensor:
    """Frames over the maximum of the batch in all processes."""
    peak = frames.amax().clamp(min=torch.finfo(frames.dtype).tiny)
    if world > 1:
        distributed.all_reduce(peak, distributed.ReduceOp.MAX)
    return frames / peak


def _frozen(
    recipe: Recipe, net: nn.Module, device: torch.device, dtype: torch.dtype
) -> Callable[[Tensor], Tensor]:
    """The network as a function of frames (B, N, Z, X) on the CPU, without gradients."""

    @torch.no_grad()
    def run(frames: Tensor) -> Tensor:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            return torch.cat(
                [net(recipe.inputs(part)).float().cpu() for part in frames.to(device).split(16)]
            )

    return run


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
        See `ulmpaper.networks.weights.resolve_device`; of several GPUs each process takes its own.

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


def any_process(here: bool, world: int, device: torch.device) -> bool:
    """Whether `here` holds in any of `world` processes.

    Examples
    --------
    >>> any_process(True, 1, torch.device("cpu"))
    True
    """
    if world == 1:
        return here
    flag = torch.tensor(float(here), device=device)
    distributed.all_reduce(flag, distributed.ReduceOp.MAX)
    return bool(flag)


def prefetch(batches: Dataset, steps: range, n_workers: int) -> Iterable[Any]:
    """Batches of `steps`, made ahead by `n_workers` processes, or one by one where that is 0.

    Examples
    --------
    >>> list(prefetch(["a", "b", "c"], range(1, 3), 0))
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
    for name in (
        signal.SIGINT,
        signal.SIGTERM,
    ):  # sent to all processes of a job; it is the training that stops
        signal.signal(name, signal.SIG_IGN)
