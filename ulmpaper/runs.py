"""A training on disk: what it needs to go on where it stopped, and what it tells of itself."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import safetensors
import torch
from safetensors.torch import save
from torch import Tensor, nn

from ulmpaper.diskfile import write_whole
from ulmpaper.weights import load_tensors

FORMAT = "ulmpaper training 1"
LAST, BEST, METRICS, SETTINGS = "last.safetensors", "best.safetensors", "metrics.csv", "config.json"


@dataclass
class Progress:
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
        What was measured after each epoch.
    best : dict of str to float
        The best of the scores.
    """

    step: int = 0
    seconds: float = 0.0
    sums: dict[str, float] = field(default_factory=dict)
    rows: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, float] = field(default_factory=dict)

    def add(self, parts: Mapping[str, float]) -> None:
        """Count a step with its loss and the parts of that."""
        self.step += 1
        self.sums = {key: self.sums.get(key, 0.0) + value for key, value in parts.items()}

    def close_epoch(self, n_steps: int, scores: Mapping[str, float], learning_rate: float) -> bool:
        """Note what an epoch of `n_steps` came to; returns whether its score is the best so far."""
        losses = {key: value / n_steps for key, value in self.sums.items()}
        row = {"epoch": self.step // n_steps, "step": self.step, "learning_rate": learning_rate, **losses, **scores}
        self.rows.append({**row, "seconds": round(self.seconds, 1)})
        self.sums = {}
        is_best = scores["score"] > self.best.get("score", -math.inf)
        if is_best:
            self.best = dict(scores)
        return is_best


def make_folder(folder: str | Path) -> Path:
    """Make the folder of a run if it is not there.

    Raises
    ------
    OSError
        It cannot be made, or is a file.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"cannot make the folder {folder} ({error.strerror}): choose another one") from error
    return folder


def write_state(
    folder: Path, net: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress, settings: Mapping[str, Any]
) -> None:
    """Write ``last.safetensors``, ``metrics.csv`` and ``config.json``, each at once or not at all.

    Parameters
    ----------
    folder : Path
        The run's folder, which is there.
    net, optimizer, progress
        The state of the training. The optimizer is an Adam over the parameters of `net`, in their order.
    settings : mapping
        What the outcome depends on, see `ulmpaper.recipes.training_settings`.

    Raises
    ------
    OSError
        The folder cannot be written to.
    """
    tensors = {f"net.{name}": value for name, value in net.state_dict().items()}
    for name, parameter in net.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"adam.{key}.{name}"] = value
    # Compact copies: layouts that are quick to compute with are not what files hold.
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    about = {"format": FORMAT, "progress": json.dumps(dataclasses.asdict(progress)), "settings": json.dumps(settings)}
    write_whole(folder / SETTINGS, (json.dumps(settings, indent=1) + "\n").encode())
    write_whole(folder / METRICS, pd.DataFrame(progress.rows).to_csv(index=False).encode())
    write_whole(folder / LAST, save(plain, about))  # the last, for it is the one that counts


def read_state(folder: Path, net: nn.Module, optimizer: torch.optim.Optimizer, settings: Mapping[str, Any]) -> Progress:
    """Put `net` and `optimizer` into the state that ``last.safetensors`` holds; without the file, into none.

    Parameters
    ----------
    folder, net, optimizer, settings
        See `write_state`; the settings must be those of the file.

    Raises
    ------
    ValueError
        The file is damaged or none of ours, or was begun with other settings, which are named.
    """
    path = folder / LAST
    if not path.exists():
        return Progress()
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            # Copies: views of the file lie in memory in a way that rounds anew.
            tensors: dict[str, Tensor] = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        if about.get("format") != FORMAT:
            raise ValueError("it is no training of ulmpaper")
    except Exception as error:  # safetensors raises a type of its own on damaged files
        raise ValueError(f"cannot go on from {path} ({error}): delete the folder to start anew") from error
    old, new = json.loads(about["settings"]), json.loads(json.dumps(settings))
    other = [f"{key} = {old.get(key)}, not {new.get(key)}" for key in {**new, **old} if old.get(key) != new.get(key)]
    if other:
        raise ValueError(
            f"{folder} was begun with {'; '.join(other)}: choose another folder, or delete it to start anew"
        )
    device = next(net.parameters()).device
    load_tensors(net, {n[4:]: t for n, t in tensors.items() if n.startswith("net.")}, what=str(path))
    net.to(device)
    numbers = {name: k for k, (name, _) in enumerate(net.named_parameters())}
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("adam."):
            _, key, parameter = name.split(".", 2)
            state.setdefault(numbers[parameter], {})[key] = value
    optimizer.param_groups[0]["params"] = list(net.parameters())
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return Progress(**json.loads(about["progress"]))
