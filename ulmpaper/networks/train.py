"""The training loop: data parallel, mixed precision, resumable, stopped by signals.

A run is a folder: ``last.safetensors`` (network and optimizer, to go on from), ``best.safetensors``
(the network that scored best on validation data), ``metrics.csv`` (a row for each epoch) and
``config.json``. First comes the loop, then its parts: data, a step, and the processes that share a
training.
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
from ulmpaper.io.processes import STOP_SIGNALS, handle_stops
from ulmpaper.io.store import BlockStore, is_block_store
from ulmpaper.networks.checkpoint import (
    BEST,
    TrainingState,
    describe,
    learning,
    read_state,
    run_folder,
    write_state,
)
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
    over_peak,
    seeded_sequence,
)

_NEW = {"spread.weight", "spread.bias"}  # layers that a network to start with may lack
_STORED_PARTS = {"train": (0.0, 0.9), "validation": (0.9, 1.0)}  # shares of a block store
_VALIDATION_BATCH = 16  # frames or windows that go through the network together

# --- the loop ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class RunSummary:
    """Outcome of a training.

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
    stopped_by : int or None
        Number of the signal that stopped it.
    """

    folder: Path
    step: int
    n_steps: int
    scores: dict[str, float]
    seconds: float
    stopped_by: int | None = None


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
        Recipe, see `ulmpaper.networks.RECIPES`.
    folder : path
        Folder of the run, new or begun.
    cfg : Config, mapping or str, optional
        Settings, as in `ulmpaper.ulm`: the section of that name, ``train``, ``compute``, and for
        simulated data ``cam``.
    data : path, optional
        Block store with true bubbles to train on, its last tenth to validate on; by default
        sequences are simulated, new ones for every step.
    start : path, optional
        Weights to begin with, of a network of the same size, e.g. to adapt it to `data`; a file, or
        ``shipped``, ``phantom`` or ``paper``, see `ulmpaper.networks.find_weights`. By default
        random ones.
    stop_after : int, optional
        Stop when this step is done, as SIGINT and SIGTERM do after the step under way.
    progress : bool
        Show a bar with the time left.

    Returns
    -------
    RunSummary
        Steps done, best scores, time.

    Raises
    ------
    ValueError
        Unknown recipe; a run that was begun with other settings; settings that cannot be met;
        `data` is no block store with true bubbles; `start` is of another size or none of ours.
    FloatingPointError
        Loss or gradient are no numbers any more. The last files written stay.
    OSError
        The folder cannot be written to.

    Notes
    -----
    Paper, section II-E: Adam, and frames divided by the maximum of their batch. Started by
    ``torchrun``, all processes share a step, and the gradient is the mean of theirs: two of them
    with a batch of 5 do what one does with 10.

    Examples
    --------
    >>> import tempfile
    >>> summary = train("count", tempfile.mkdtemp(), "smoke")
    >>> summary.step, sorted(path.name for path in summary.folder.iterdir())
    (6, ['best.safetensors', 'config.json', 'last.safetensors', 'metrics.csv'])
    """
    cfg = as_config(cfg)
    recipe = RECIPES[check_choice(name, RECIPES, "recipe")](cfg)
    options = recipe.settings
    n_steps = options.epochs * options.steps
    last = n_steps if stop_after is None else min(stop_after, n_steps)
    # These raise before any work, and before there is a folder, if data or weights are none.
    if data is not None:
        _check_store(Path(data))
    if start is not None:
        start = find_weights(name, start)
        _begin(recipe, cfg.seed, start)
    settings = _all_settings(cfg, name, data, start)
    folder = Path(folder)
    inputs = [path for path in (data, start) if path is not None]
    # Let cuDNN try out which kernels are the quickest for the size of the batches.
    kernels = torch.backends.cudnn.flags(enabled=True, benchmark=True)
    with (
        run_folder(folder, inputs),
        _processes(cfg.compute.device) as (rank, world, device),
        _stop_signals() as stop,
        kernels,
    ):
        is_first = rank == 0  # only the first process validates and writes
        net = _begin(recipe, cfg.seed, start).to(device)
        optimizer = torch.optim.Adam(learning(net), lr=options.learning_rate)
        state: TrainingState = read_state(folder, net, optimizer, settings, n_steps)
        net.to(memory_format=recipe.layout)  # type: ignore[call-overload]
        run = compile_parts(net) if cfg.compute.compile else net
        dtype = resolve_precision(cfg.train.precision, device)
        blocks = validation_blocks(recipe, cfg, data) if is_first else []
        windows = training_windows(recipe, cfg, data, rank=rank, world=world)
        began = time.perf_counter() - state.seconds  # as if all earlier runs had been in one go
        bar = tqdm(
            total=n_steps, initial=state.step, unit="step", disable=not (progress and is_first)
        )
        for batch in _prefetch(windows, range(state.step, last), cfg.compute.workers):
            rate = _learning_rate(options, state.step)
            optimizer.param_groups[0]["lr"] = rate
            state.add(_step(recipe, run, optimizer, batch, dtype, world))
            stopping = _any_process(stop.is_set(), world, device)
            epoch_ends = state.step % options.steps == 0
            if is_first and epoch_ends:
                scores = recipe.score(_frozen(recipe, net, device, dtype), blocks)
                state.seconds = time.perf_counter() - began
                is_best = state.close_epoch(options.steps, scores, rate)
                if is_best:
                    write_network(
                        folder / BEST,
                        net,
                        recipe=name,
                        network=recipe.arguments,
                        about=describe(recipe, cfg, settings, state, device),
                    )
            if is_first and (epoch_ends or stopping or state.step == last):
                state.seconds = time.perf_counter() - began
                write_state(folder, net, optimizer, state, settings)
            bar.set_postfix(best=f"{state.best.get('score', math.nan):.3f}", refresh=False)
            bar.update()
            if stopping:
                break
        bar.close()
    return RunSummary(folder, state.step, n_steps, state.best, state.seconds, stop.number)


def _all_settings(
    cfg: Config, name: str, data: str | Path | None, start: str | Path | None
) -> dict[str, Any]:
    """Everything that the outcome depends on: a run goes on only where all of it is the same."""
    settings = training_settings(cfg, name)
    settings["data"] = "simulated" if data is None else Path(data).name
    if data is not None:
        settings["content"] = fingerprint([Path(data)])
    if start is not None:
        settings["start"] = fingerprint([Path(start)])
    return settings


def _begin(recipe: Recipe, seed: int, start: str | Path | None = None) -> nn.Module:
    """Network with the weights of a file, or with random ones that the seed decides."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = CLASSES[recipe.name](**recipe.arguments)
    if start is None and recipe.part is not None:
        raise ValueError(
            f"the layer {recipe.part!r} is trained on top of a trained network: name one as start "
            "(--start shipped)"
        )
    if start is not None:
        begun = dict(read_network(start, recipe=recipe.name).state_dict())
        own = net.state_dict()
        if own.keys() - begun.keys() <= _NEW:  # a layer that only some losses train
            begun |= {key: own[key] for key in own.keys() - begun.keys()}
        load_tensors(net, begun, what=str(start))
    if recipe.part is not None:
        for name, parameter in net.named_parameters():
            parameter.requires_grad = name.startswith(recipe.part)
    return net


def _learning_rate(options: Fitted, step: int) -> float:
    """Step size of Adam at a step, counted from 0: a linear warm-up, then the decay."""
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


# --- data --------------------------------------------------------------------------------------


def training_windows(
    recipe: Recipe, cfg: Config, data: str | Path | None = None, *, rank: int = 0, world: int = 1
) -> Batches:
    """Make the batches of a training.

    Parameters
    ----------
    recipe : Recipe
        As from `ulmpaper.networks.RECIPES`.
    cfg, data
        As in `ulmpaper.train`.
    rank, world : int
        See `ulmpaper.networks.Batches`.

    Raises
    ------
    ValueError
        The batch is no multiple of the parts cut out of each sequence.
    """
    options = recipe.settings
    crops = min(cfg.train.crops, options.batch)
    if options.batch % crops:
        raise ValueError(
            f"{recipe.name}.batch = {options.batch} must be a multiple of train.crops = {crops}, "
            "the parts cut out of each sequence"
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
    """Make the sequences that a training is validated on, ``train.validation_frames`` in all.

    Parameters
    ----------
    recipe, cfg, data
        As in `training_windows`.
    """
    source = _source(cfg, data, "validation")
    n_blocks = math.ceil(cfg.train.validation_frames / recipe.n_frames)
    return [
        seeded_sequence(source, recipe.n_frames, cfg.seed, "validation", number)
        for number in range(n_blocks)
    ]


def _source(cfg: Config, data: str | Path | None, split: str) -> Source:
    """Sequences of a split: simulated, or from a block store."""
    if data is None:
        return SimulatedSource(cfg, split)
    return StoredSource(str(data), _STORED_PARTS[split])


def _check_store(path: Path) -> None:
    """Refuse data that are no block store with true bubbles, and say how to make one."""
    if path.is_file() and not is_block_store(path):
        raise ValueError(
            f"{path} is no block store, which is what trainings read: make one of it by "
            f"`ulmpaper store {path} --truth truth.csv -o STORE.h5`"
        )
    with BlockStore(path) as store:
        if not store.has_truth:
            raise ValueError(
                f"{path} comes without true bubbles, which trainings need: make it anew by "
                "`ulmpaper store FRAMES --truth truth.csv -o STORE.h5`"
            )


def _prefetch(batches: Dataset, steps: range, n_workers: int) -> Iterable[Any]:
    """Batches of `steps`, made ahead by `n_workers` processes, or one by one where that is 0."""
    if n_workers == 0:
        return (batches[step] for step in steps)
    return DataLoader(
        batches,
        batch_size=None,
        sampler=steps,
        num_workers=n_workers,
        collate_fn=_unchanged,
        worker_init_fn=_ignore_signals,
        multiprocessing_context="spawn",  # a fork would copy threads and CUDA's state
    )


def _unchanged(batch: Any) -> Any:
    """The batch itself; a function of the module, so that a worker can import it."""
    return batch


def _ignore_signals(_: int) -> None:
    """Let workers live on: signals reach all processes of a job, but the training stops workers."""
    for name in STOP_SIGNALS:
        signal.signal(name, signal.SIG_IGN)


# --- a step ------------------------------------------------------------------------------------


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
    frames = batch.frames.to(device)
    peak = frames.amax()
    if world > 1:  # the maximum of the batch, of which this process holds a part
        distributed.all_reduce(peak, distributed.ReduceOp.MAX)
    frames = over_peak(frames, peak) * batch.gain.to(device)
    targets = batch.targets.to(device)
    # Gradients of the parts of a batch add up, so it may be larger than memory allows.
    n_parts = min(recipe.settings.accumulate, len(frames))
    total: dict[str, Tensor] = {}
    optimizer.zero_grad(set_to_none=True)
    for part, target in zip(frames.chunk(n_parts), targets.chunk(n_parts), strict=True):
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            outputs = run(recipe.inputs(part))
        loss, parts = recipe.loss(outputs, target)
        share = len(part) / len(frames)
        (share * loss).backward()
        for key, value in {"loss": loss.detach(), **parts}.items():
            total[key] = total.get(key, torch.zeros_like(value)) + share * value
    if world > 1:
        for value in [*(p.grad for p in parameters), *total.values()]:
            distributed.all_reduce(value)
            value /= world
    norm = nn.utils.clip_grad_norm_(parameters, recipe.settings.clip)
    losses = {key: float(value) for key, value in total.items()}
    if not (math.isfinite(losses["loss"]) and math.isfinite(norm)):
        raise FloatingPointError(
            f"the training has diverged: loss {losses['loss']}, gradient {float(norm)}. The state "
            f"after the last epoch is kept; lower {recipe.name}.learning_rate or "
            f"{recipe.name}.clip"
        )
    optimizer.step()
    return losses


def _frozen(
    recipe: Recipe, net: nn.Module, device: torch.device, dtype: torch.dtype
) -> Callable[[Tensor], Tensor]:
    """The network as a function of frames (B, N, Z, X) on the CPU, without gradients."""

    @torch.no_grad()
    def run(frames: Tensor) -> Tensor:
        outputs = []
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            for part in frames.to(device).split(_VALIDATION_BATCH):
                outputs.append(net(recipe.inputs(part)).float().cpu())
        return torch.cat(outputs)

    return run


# --- processes and signals ---------------------------------------------------------------------


@contextlib.contextmanager
def _processes(device: str) -> Iterator[tuple[int, int, torch.device]]:
    """Rank of this process, number of processes started by ``torchrun``, and this one's device."""
    world = int(os.environ.get("WORLD_SIZE", 1))
    place = resolve_device(device)
    if world == 1:
        yield 0, 1, place
        return
    if place.type == "cuda":  # each process takes a GPU of its own
        place = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(place)
    distributed.init_process_group("nccl" if place.type == "cuda" else "gloo")
    try:
        yield distributed.get_rank(), world, place
    finally:
        distributed.destroy_process_group()


def _any_process(here: bool, world: int, device: torch.device) -> bool:
    """Whether `here` holds in any of `world` processes."""
    if world == 1:
        return here
    flag = torch.tensor(float(here), device=device)
    distributed.all_reduce(flag, distributed.ReduceOp.MAX)
    return bool(flag)


class _Stop(threading.Event):
    """Set by a signal, whose number it keeps."""

    number: int | None = None

    def handle(self, number: int) -> None:
        """Take a signal."""
        self.number = number
        self.set()


@contextlib.contextmanager
def _stop_signals() -> Iterator[_Stop]:
    """Event that signals set instead of ending the process."""
    stop = _Stop()
    with handle_stops(stop.handle):
        yield stop
