"""A training on disk, and what its weights record of it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import safetensors
import torch
from safetensors.torch import save
from torch import Tensor, nn

from ulmpaper import __version__
from ulmpaper.config import Config
from ulmpaper.io.files import write_atomic
from ulmpaper.networks.recipes import Recipe
from ulmpaper.networks.weights import load_tensors
from ulmpaper.simulator.psf_from_frames import psf_width
from ulmpaper.simulator.simulate import psf_bank

FORMAT = "ulmpaper training 1"
LAST, BEST, METRICS, SETTINGS = "last.safetensors", "best.safetensors", "metrics.csv", "config.json"


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
        row = {
            "epoch": self.step // n_steps,
            "step": self.step,
            "learning_rate": learning_rate,
            **losses,
            **scores,
        }
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
        raise OSError(
            f"cannot make the folder {folder} ({error.strerror}): choose another one"
        ) from error
    return folder


def write_state(
    folder: Path,
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: TrainingState,
    settings: Mapping[str, Any],
) -> None:
    """Write ``last.safetensors``, ``metrics.csv`` and ``config.json``, each at once or not at all.

    Parameters
    ----------
    folder : Path
        The run's folder, which is there.
    net, optimizer, progress
        The state of the training. The optimizer is an Adam over the parameters of `net`, in their order.
    settings : mapping
        What the outcome depends on, see `ulmpaper.networks.recipes.training_settings`.

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
    about = {
        "format": FORMAT,
        "progress": json.dumps(dataclasses.asdict(progress)),
        "settings": json.dumps(settings),
    }
    write_atomic(folder / SETTINGS, (json.dumps(settings, indent=1) + "\n").encode())
    write_atomic(folder / METRICS, pd.DataFrame(progress.rows).to_csv(index=False).encode())
    write_atomic(folder / LAST, save(plain, about))  # the last, for it is the one that counts


def read_state(
    folder: Path, net: nn.Module, optimizer: torch.optim.Optimizer, settings: Mapping[str, Any]
) -> TrainingState:
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
        return TrainingState()
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            # Copies: views of the file lie in memory in a way that rounds anew.
            tensors: dict[str, Tensor] = {
                name: file.get_tensor(name).clone() for name in file.keys()
            }  # noqa: SIM118
        if about.get("format") != FORMAT:
            raise ValueError("it is no training of ulmpaper")
    except Exception as error:  # safetensors raises a type of its own on damaged files
        raise ValueError(
            f"cannot go on from {path} ({error}): delete the folder to start anew"
        ) from error
    old, new = json.loads(about["settings"]), json.loads(json.dumps(settings))
    other = [
        f"{key} = {old.get(key)}, not {new.get(key)}"
        for key in {**new, **old}
        if old.get(key) != new.get(key)
    ]
    if other:
        raise ValueError(
            f"{folder} was begun with {'; '.join(other)}: choose another folder, or delete it to start anew"
        )
    device = next(net.parameters()).device
    load_tensors(
        net, {n[4:]: t for n, t in tensors.items() if n.startswith("net.")}, what=str(path)
    )
    net.to(device)
    numbers = {name: k for k, (name, _) in enumerate(net.named_parameters())}
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("adam."):
            _, key, parameter = name.split(".", 2)
            state.setdefault(numbers[parameter], {})[key] = value
    optimizer.param_groups[0]["params"] = list(net.parameters())
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )
    return TrainingState(**json.loads(about["progress"]))


def revision() -> str:
    """Commit of the source, with ``-dirty`` where files were changed; ``unknown`` where it is no checkout."""
    try:
        command = [
            "git",
            "-C",
            str(Path(__file__).parent),
            "describe",
            "--always",
            "--dirty",
            "--exclude=*",
        ]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def describe(
    recipe: Recipe,
    cfg: Config,
    settings: Mapping[str, Any],
    progress: TrainingState,
    device: torch.device,
) -> dict[str, Any]:
    """What the weights of a training should tell: how they were made and what they are good for."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:10]
    on_gpu = device.type == "cuda"
    return {
        "digest": digest,
        "revision": revision(),
        "ulmpaper": __version__,
        "data": settings["data"],
        "settings": settings,
        "steps": progress.step,
        "seconds": round(progress.seconds),
        "hardware": torch.cuda.get_device_name(device)
        if on_gpu
        else f"{torch.get_num_threads()} threads of a CPU",
        "scores": progress.best,
        **({} if settings["data"] != "simulated" else {"domain": _domain(cfg)}),
        **{
            name: getattr(recipe.settings, name)
            for name in ("window", "tile_px")
            if hasattr(recipe.settings, name)
        },
        **({"threshold": progress.best["threshold"]} if "threshold" in progress.best else {}),
    }


def _domain(cfg: Config) -> dict[str, Any]:
    """Widths of the PSFs (their middle nine tenths) and densities that simulated training data cover."""
    banks = [
        psf_bank(cfg, kind)
        for kind in (("bmode", "iq") if cfg.train.psf == "both" else (cfg.train.psf,))
    ]
    widths = np.concatenate([psf_width(bank.table, bank.oversample) for bank in banks])
    low, high = np.quantile(widths, (0.05, 0.95), axis=0)
    low, high = low * cfg.train.stretch[0], high * cfg.train.stretch[1]
    area = math.prod(cfg.cam.shape_px)
    return {
        "fwhm_z_px": [round(float(low[0]), 3), round(float(high[0]), 3)],
        "fwhm_x_px": [round(float(low[1]), 3), round(float(high[1]), 3)],
        "bubbles_per_px": [n / area for n in cfg.cam.n_bubbles],
        "px_wavelengths": banks[0].px_wavelengths,
    }
