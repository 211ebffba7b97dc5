"""Settings of a run: a profile is a small dict of dotted overrides on the paper's values.

``smoke`` takes seconds (tests), ``quick`` minutes on two CPU cores (the default), ``paper`` is the paper's own setting.
The settings themselves, with unit, source and meaning, are the fields of `ulmpaper.settings`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from ulmpaper.checked import Checked, setting
from ulmpaper.records import check_choice
from ulmpaper.settings import (
    Acquisition,
    Blocks,
    Cam,
    Compute,
    Count,
    Example,
    Filter,
    Invivo,
    Locate,
    Ml3d,
    Mspcn,
    Phantom,
    Render,
    Track,
    Train,
)


@dataclass(frozen=True)
class Config(Checked):
    """All settings of one run; make it with `load_config`."""

    acquisition: Acquisition = field(default_factory=Acquisition)
    filter: Filter = field(default_factory=Filter)
    locate: Locate = field(default_factory=Locate)
    track: Track = field(default_factory=Track)
    render: Render = field(default_factory=Render)
    blocks: Blocks = field(default_factory=Blocks)
    example: Example = field(default_factory=Example)
    cam: Cam = field(default_factory=Cam)
    phantom: Phantom = field(default_factory=Phantom)
    invivo: Invivo = field(default_factory=Invivo)
    ml3d: Ml3d = field(default_factory=Ml3d)
    count: Count = field(default_factory=Count)
    mspcn: Mspcn = field(default_factory=Mspcn)
    train: Train = field(default_factory=Train)
    compute: Compute = field(default_factory=Compute)
    seed: int = setting(2024, "root of every random number", source="ours", low=0)
    pala: bool = setting(
        False, "repeat PALA's own rules, defects included, instead of the corrected ones", source="ours"
    )

    def digest(self) -> str:
        """Ten hexadecimal digits that change with any value, to name output folders.

        Examples
        --------
        >>> load_config("quick").digest() == load_config("quick", {"seed": 1}).digest()
        False
        """
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:10]


PROFILES: dict[str, dict[str, Any]] = {
    "smoke": {
        "example.n_frames": 60,
        "example.n_bubbles": 12,
        "example.shape_px": (40, 48),
        "blocks.n_frames": 60,
        "cam.shape_px": (64, 72),
        "cam.picture_px": 128,
        "cam.n_frames": 60,
        "cam.sequence_frames": 30,
        "cam.n_pictures": 2,
        "cam.n_bubbles": (8, 12),
        "phantom.n_sequences": 1,
        "phantom.n_frames": 12,
        "invivo.n_blocks": 1,
        "invivo.n_frames": 60,
        "invivo.upsample": 2,
        "ml3d.features": 8,
        "ml3d.blocks": 1,
        "ml3d.epochs": 2,
        "ml3d.steps": 3,
        "ml3d.batch": 2,
        "ml3d.crop_px": 32,
        "ml3d.window": 5,
        "ml3d.stride": 5,
        "count.features": 4,
        "count.epochs": 2,
        "count.steps": 3,
        "count.batch": 4,
        "count.tile_px": 32,
        "mspcn.epochs": 2,
        "mspcn.steps": 3,
        "mspcn.batch": 2,
        "mspcn.crop_px": 24,
        "train.validation_frames": 10,
        "compute.workers": 0,
    },
    "quick": {
        "example.n_frames": 800,
        "cam.n_frames": 2000,
        "phantom.n_sequences": 3,
        "phantom.n_frames": 400,
        "invivo.n_blocks": 2,
        "train.psf": "both",
        "train.stretch": (0.75, 1.25),
        "train.still": 0.7,
        "train.speed": (1.0, 6.0),
        "train.quieter_db": (0.0, 15.0),
        "train.gain": (0.5, 1.0),
        "train.crops": 4,
        "train.validation_frames": 60,
        "ml3d.features": 32,
        "ml3d.blocks": 4,
        "ml3d.epochs": 40,
        "ml3d.steps": 300,
        "ml3d.batch": 8,
        "ml3d.crop_px": 32,
        "ml3d.learning_rate": 2e-3,
        "ml3d.warmup": 0.03,
        "ml3d.decay": "cosine",
        "ml3d.stride": 5,
        "ml3d.threshold": None,
        "count.features": 24,
        "count.n_max": None,
        "count.epochs": 40,
        "count.steps": 200,
        "count.batch": 16,
        "count.learning_rate": 2e-3,
        "count.warmup": 0.03,
        "count.decay": "cosine",
        "count.margin": 1.2,
        "mspcn.epochs": 16,
        "mspcn.steps": 250,
        "mspcn.batch": 16,
        "mspcn.crop_px": 32,
        "mspcn.warmup": 0.03,
        "mspcn.decay": "cosine",
        "mspcn.centre_side": 5,
        "compute.precision": "auto",
    },
    "paper": {"ml3d.weights": "paper"},
}


def load_config(profile: str = "quick", overrides: Mapping[str, Any] | None = None) -> Config:
    """Configuration of a profile with dotted overrides.

    Parameters
    ----------
    profile : {"smoke", "quick", "paper"}
        Starting point.
    overrides : mapping, optional
        ``{"track.max_gap": 1}``; a string is read as a Python literal where the field is not text.

    Raises
    ------
    ValueError
        Unknown profile or key (with the nearest one), or a value outside its limits.

    Examples
    --------
    >>> load_config("quick", {"track.max_gap": "1"}).track.max_gap
    1
    >>> load_config("quick", {"track.max_gpa": 1})
    Traceback (most recent call last):
    ...
    ValueError: unknown setting 'track.max_gpa': did you mean 'track.max_gap'? Allowed: ...
    """
    check_choice(profile, PROFILES, "profile")
    cfg = Config()
    keys = [key for key, *_ in _flatten(cfg)]
    for key, value in {**PROFILES[profile], **(overrides or {})}.items():
        check_choice(key, keys, "setting")
        section, _, name = key.rpartition(".")
        try:
            if section:
                changed = dataclasses.replace(getattr(cfg, section), **{name: value})
                cfg = dataclasses.replace(cfg, **{section: changed})
            else:
                cfg = dataclasses.replace(cfg, **{name: value})
        except ValueError as error:
            raise ValueError(f"setting {key!r}: {error}") from None
    return cfg


def config_table(cfg: Config) -> pd.DataFrame:
    """Every setting with its value, unit, source and meaning, one row each.

    Examples
    --------
    >>> config_table(load_config()).columns.tolist()
    ['setting', 'value', 'unit', 'source', 'meaning']
    """
    rows = [
        (key, "none" if value is None else str(value), meta["unit"], meta["source"], meta["meaning"])
        for key, value, meta in _flatten(cfg)
    ]
    return pd.DataFrame(rows, columns=["setting", "value", "unit", "source", "meaning"])


def _flatten(cfg: Config) -> list[tuple[str, Any, Mapping[str, Any]]]:
    rows: list[tuple[str, Any, Mapping[str, Any]]] = []
    for f in dataclasses.fields(cfg):
        value = getattr(cfg, f.name)
        if f.metadata:
            rows.append((f.name, value, f.metadata))
        else:
            rows += [(f"{f.name}.{g.name}", getattr(value, g.name), g.metadata) for g in dataclasses.fields(value)]
    return rows
