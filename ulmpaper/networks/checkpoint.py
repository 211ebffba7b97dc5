"""A training on disk: its state to go on from, and the record that its weights carry."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import safetensors
import torch
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import save
from torch import Tensor, nn

from ulmpaper import __version__
from ulmpaper.config import Config
from ulmpaper.io.checkout import revision
from ulmpaper.io.files import (
    check_apart,
    clear_rests,
    made_folder,
    only_writer,
    writable,
    write_atomic,
)
from ulmpaper.networks.recipes import Recipe
from ulmpaper.networks.weights import checksum, load_tensors
from ulmpaper.networks.windows import psf_kinds
from ulmpaper.simulator.psf_from_frames import psf_width
from ulmpaper.simulator.simulate import psf_bank

BEST = "best.safetensors"  # the network with the best score
METRICS = "metrics.csv"  # a row for each epoch

_LAST = "last.safetensors"  # network and optimizer
_SETTINGS = "config.json"
_FORMAT = "ulmpaper training 1"
_NET = "net."  # before the names of the network's tensors
_STRETCHES = 9  # evenly spaced in the range of a training, to tell how wide its spots are
_ADAM = "adam."  # before those of the optimizer: adam.<what>.<parameter>

# --- state -------------------------------------------------------------------------------------


@dataclass
class TrainingState:
    """How far a training has come.

    Parameters
    ----------
    step : int
        Steps done.
    seconds : float
        Time spent on them and on validation [s].
    sums : dict of str to float
        Loss and its parts, summed over the steps of the unfinished epoch.
    rows : list of dict
        Losses and scores of each epoch.
    best : dict of str to float
        The best of the scores.
    """

    step: int = 0
    seconds: float = 0.0
    sums: dict[str, float] = field(default_factory=dict)
    rows: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, float] = field(default_factory=dict)

    def add(self, parts: Mapping[str, float]) -> None:
        """Count a step with its loss and the loss's parts."""
        self.step += 1
        self.sums = {key: self.sums.get(key, 0.0) + value for key, value in parts.items()}

    def close_epoch(self, n_steps: int, scores: Mapping[str, float], learning_rate: float) -> bool:
        """Note the means of an epoch of `n_steps`; return whether its score is the best so far."""
        losses = {key: value / n_steps for key, value in self.sums.items()}
        self.rows.append(
            {
                "epoch": self.step // n_steps,
                "step": self.step,
                "learning_rate": learning_rate,
                **losses,
                **scores,
                "seconds": round(self.seconds, 1),
            }
        )
        self.sums = {}
        is_best = scores["score"] > self.best.get("score", -math.inf)
        if is_best:
            self.best = dict(scores)
        return is_best


@contextlib.contextmanager
def run_folder(folder: Path, inputs: Iterable[str | Path]) -> Iterator[None]:
    """Keep the folder of a run for this training; it is made, and removed again if left empty.

    Parameters
    ----------
    folder : Path
        Where the run writes.
    inputs : iterable of path
        What the training reads: none of it may be written over.

    Raises
    ------
    ValueError
        A file that is read would be written.
    OSError
        The folder cannot be made, or is a file; or another training writes there.
    """
    files = [folder / name for name in (BEST, METRICS, _LAST, _SETTINGS)]
    check_apart(inputs, files)
    with contextlib.ExitStack() as held:
        with writable(folder):
            held.enter_context(made_folder(folder))
        if int(os.environ.get("RANK", "0")) == 0:  # of processes that share a training
            held.enter_context(only_writer(folder / "training"))
            clear_rests(files)
        yield


def learning(net: nn.Module) -> list[nn.Parameter]:
    """The parameters that a training changes."""
    return [parameter for parameter in net.parameters() if parameter.requires_grad]


def write_state(
    folder: Path,
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: TrainingState,
    settings: Mapping[str, Any],
) -> None:
    """Write ``last.safetensors``, ``metrics.csv`` and ``config.json``, each at once or not at all.

    Parameters
    ----------
    folder : Path
        The run's folder, which exists.
    net, optimizer, state
        The training. The optimizer is an Adam over the parameters of `net`, in their order.
    settings : mapping
        All that the outcome depends on.

    Raises
    ------
    OSError
        The folder cannot be written to.
    """
    tensors = {_NET + name: value for name, value in net.state_dict().items()}
    for name, parameter in net.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{_ADAM}{key}.{name}"] = value
    # Compact copies: files hold no memory layouts that are quick to compute with.
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    about = {
        "format": _FORMAT,
        "progress": json.dumps(dataclasses.asdict(state)),
        "settings": json.dumps(settings),
    }
    write_atomic(folder / _SETTINGS, (json.dumps(settings, indent=1) + "\n").encode())
    write_atomic(folder / METRICS, pd.DataFrame(state.rows).to_csv(index=False).encode())
    # Last, since a training goes on from this file: after a crash before it, from the one before.
    write_atomic(folder / _LAST, save(tensors, {**about, "sha256": checksum(tensors, about)}))


def read_state(
    folder: Path,
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    settings: Mapping[str, Any],
    n_steps: int,
) -> TrainingState:
    """Put `net` and `optimizer` into the state of ``last.safetensors``, if there is one.

    Parameters
    ----------
    folder, net, optimizer, settings
        See `write_state`; the settings must be those of the file.
    n_steps : int
        Steps of the whole training.

    Returns
    -------
    TrainingState
        That of the file, or a new one.

    Raises
    ------
    ValueError
        The file is damaged or none of ours, or was begun with other settings, which are named.
    """
    path = folder / _LAST
    if not path.exists():
        return TrainingState()
    tensors, about = _read_tensors(path)
    with _unusable(path):
        began_with = _MAPPING.validate_json(about["settings"])
        _STATE.validate_json(about["progress"])
        state = TrainingState(**json.loads(about["progress"]))  # whole numbers stay whole
        if not 0 <= state.step <= n_steps:
            raise ValueError(f"it has done {state.step} of {n_steps} steps")
    _check_same(folder, began_with, json.loads(json.dumps(settings)))
    device = next(net.parameters()).device
    own = {name.removeprefix(_NET): t for name, t in tensors.items() if name.startswith(_NET)}
    load_tensors(net, own, what=str(path))
    net.to(device)
    optimizer.param_groups[0]["params"] = learning(net)
    with _unusable(path):
        moments = _moments(net, tensors) if state.step else {}
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": moments, "param_groups": groups})
    return state


def _moments(net: nn.Module, tensors: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    """State of Adam, which knows the parameters of a network by their numbers."""
    moments = {}
    wanted = set()
    learnt = ((name, p) for name, p in net.named_parameters() if p.requires_grad)
    for number, (name, parameter) in enumerate(learnt):
        shapes = {"step": (), "exp_avg": parameter.shape, "exp_avg_sq": parameter.shape}
        names = {key: f"{_ADAM}{key}.{name}" for key in shapes}
        for key, shape in shapes.items():
            tensor = tensors.get(names[key])
            if tensor is None or tensor.shape != shape:
                raise ValueError(f"Adam's {names[key]} is missing or of another shape")
        moments[number] = {key: tensors[full] for key, full in names.items()}
        wanted |= set(names.values())
    if more := {name for name in tensors if name.startswith(_ADAM)} - wanted:
        raise ValueError(f"the network has no {min(more)}")
    return moments


def _read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a ``last.safetensors`` that holds what was written."""
    with _unusable(path), safetensors.safe_open(path, framework="pt") as file:
        about = file.metadata() or {}
        names = list(file.keys())
        # Copies: safetensors returns views of the file, whose layout in memory rounds anew.
        tensors = {name: file.get_tensor(name).clone() for name in names}
        if about.get("format") != _FORMAT:
            raise ValueError("it is no training of ulmpaper")
        written = about.pop("sha256", None)  # files of version 0.1.0 have none
        if written is not None and written != checksum(tensors, about):
            raise ValueError("it is damaged: it does not hold what was written")
    return tensors, about


@contextlib.contextmanager
def _unusable(path: Path) -> Iterator[None]:
    """State in one sentence why a training cannot go on from a file."""
    try:
        yield
    except Exception as error:  # safetensors raises a type of its own on damaged files
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        if isinstance(error, ValidationError):
            reason = f"{error.title}: {error.errors()[0]['msg']}"
        raise ValueError(
            f"cannot go on from {path} ({reason}): delete the folder to start anew"
        ) from error


def _check_same(folder: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Refuse to go on with other settings."""
    changed = [
        f"{key} = {old.get(key)}, not {new.get(key)}"
        for key in {**new, **old}
        if old.get(key) != new.get(key)
    ]
    if changed:
        raise ValueError(
            f"{folder} was begun with {'; '.join(changed)}: choose another folder, or delete it "
            "to start anew"
        )


_MAPPING = TypeAdapter(dict[str, Any])
_STATE = TypeAdapter(TrainingState)

# --- record ------------------------------------------------------------------------------------


def describe(
    recipe: Recipe,
    cfg: Config,
    settings: Mapping[str, Any],
    state: TrainingState,
    device: torch.device,
) -> dict[str, Any]:
    """Record for the weights of a training: how they were made and what they are good for.

    Returns
    -------
    dict
        ``digest`` of the settings, ``revision``, ``ulmpaper``, ``data``, ``settings``, ``steps``,
        ``seconds``, ``hardware``, ``scores``; where they apply ``domain``, ``window``, ``tile_px``
        and ``threshold``. Becomes the network's ``about``.
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    if device.type == "cuda":
        hardware = torch.cuda.get_device_name(device)
    else:
        hardware = f"{torch.get_num_threads()} threads of a CPU"
    about = {
        "digest": digest[:10],
        "revision": revision(),
        "ulmpaper": __version__,
        "data": settings["data"],
        "settings": settings,
        "steps": state.step,
        "seconds": round(state.seconds),
        "hardware": hardware,
        "scores": state.best,
    }
    if settings["data"] == "simulated":
        about["domain"] = _domain(cfg)
    for name in ("window", "tile_px"):
        if hasattr(recipe.settings, name):
            about[name] = getattr(recipe.settings, name)
    if "threshold" in state.best:
        about["threshold"] = state.best["threshold"]
    return about


def _domain(cfg: Config) -> dict[str, Any]:
    """Widths of PSFs (the middle nine tenths) and densities in simulated training data."""
    banks = [psf_bank(cfg, kind) for kind in psf_kinds(cfg)]
    widths = np.concatenate([psf_width(bank.table, bank.oversample) for bank in banks])
    stretched = np.multiply.outer(np.linspace(*cfg.train.stretch, _STRETCHES), widths)
    low, high = np.quantile(stretched, (0.05, 0.95), axis=(0, 1))
    area = math.prod(cfg.cam.shape_px)
    return {
        "fwhm_z_px": [round(float(low[0]), 3), round(float(high[0]), 3)],
        "fwhm_x_px": [round(float(low[1]), 3), round(float(high[1]), 3)],
        "bubbles_per_px": [
            n * denser / area for n, denser in zip(cfg.cam.n_bubbles, cfg.train.denser, strict=True)
        ],
        "px_wavelengths": banks[0].px_wavelengths,
    }
