"""Settings: frozen dataclasses whose every field knows its unit and where its value comes from.

A profile is a small dict of dotted overrides on the paper's values. ``smoke`` takes seconds (tests), ``quick``
minutes on two CPU cores (the default), ``paper`` is the paper's own setting.
"""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from ulmpaper.records import check_choice

METHODS = ("none", "weighted", "radial", "gaussian", "parabola", "cubic", "lanczos", "spline")


def _coerce(value: Any, hint: Any, name: str) -> Any:
    """`value` as the type `hint` asks for; strings from the command line are read as Python literals."""
    error = ValueError(f"{name} takes {_type_name(hint)}, not {value!r}")
    if isinstance(value, str) and hint is not str:
        try:
            value = ast.literal_eval(value.capitalize() if value.lower() in ("true", "false", "none") else value)
        except (ValueError, SyntaxError):
            raise error from None
    if isinstance(hint, types.UnionType):
        if value is None:
            return None
        hint = next(a for a in typing.get_args(hint) if a is not type(None))
    if typing.get_origin(hint) is tuple:
        args = typing.get_args(hint)
        if isinstance(value, tuple | list) and len(value) == len(args):
            return tuple(_coerce(v, a, name) for v, a in zip(value, args, strict=True))
    elif hint is float and type(value) is int:
        return float(value)
    elif type(value) is hint:
        return value
    raise error


def _type_name(hint: Any) -> str:
    if isinstance(hint, types.UnionType):
        return " or ".join(_type_name(a) for a in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        return f"{len(typing.get_args(hint))} values ({', '.join(_type_name(a) for a in typing.get_args(hint))})"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return names.get(hint, "none")


def _check_limits(value: Any, name: str, limits: Mapping[str, Any]) -> None:
    for v in value if isinstance(value, tuple) else (value,):
        if v is None:
            continue
        if isinstance(v, float) and not math.isfinite(v):
            raise ValueError(f"{name} must be finite, not {v}")
        if "choices" in limits:
            check_choice(v, limits["choices"], name)
        if "above" in limits and not v > limits["above"]:
            raise ValueError(f"{name} must be above {limits['above']}, not {v}")
        if "low" in limits and not v >= limits["low"]:
            raise ValueError(f"{name} must be {limits['low']} or more, not {v}")
        if limits.get("odd") and v % 2 == 0:
            raise ValueError(f"{name} must be odd, not {v}")


def _value(default: Any, meaning: str, *, unit: str = "-", source: str, **check: Any) -> Any:
    return field(default=default, metadata={"meaning": meaning, "unit": unit, "source": source, **check})


class _Checked:
    """Checks each field against its type and the limits in its metadata."""

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for f in dataclasses.fields(self):  # type: ignore[arg-type]
            if not f.metadata:  # a section, checked by itself
                continue
            value = _coerce(getattr(self, f.name), hints[f.name], f.name)
            object.__setattr__(self, f.name, value)
            _check_limits(value, f.name, f.metadata)


@dataclass(frozen=True)
class Acquisition(_Checked):
    """Scale of the frames, for sources that do not state their own."""

    px_mm: float = _value(0.09856, "pixel pitch, one wavelength", unit="mm", source="PALA", above=0)
    frame_rate_hz: float = _value(1000.0, "frames per second", unit="Hz", source="PALA", above=0)


@dataclass(frozen=True)
class Filter(_Checked):
    """Clutter filter. Off by default: only the paper's in vivo data is filtered."""

    svd_low: int = _value(1, "first singular component kept; 1 keeps all", source="paper §III", low=1)
    svd_high: int | None = _value(None, "last singular component kept; None keeps the rest", source="PALA", low=1)
    band_hz: tuple[float, float] | None = _value(
        None, "band kept along time; None is no band-pass", unit="Hz", source="PALA", above=0
    )
    order: int = _value(2, "order of the Butterworth design", source="PALA", low=1)
    zero_phase: bool = _value(True, "filter forwards and backwards, so that bubbles do not lag", source="ours")


@dataclass(frozen=True)
class Locate(_Checked):
    """Detection and sub-pixel localization."""

    method: str = _value("radial", "sub-pixel method", source="paper §III", choices=METHODS)
    n_bubbles: int = _value(40, "strongest peaks kept in a frame", source="PALA", low=1)
    min_score: float = _value(0.0, "peaks must be above this value of the frame", source="ours", low=0)
    roi_px: int = _value(5, "side of the square window, odd", unit="px", source="PALA", low=3, odd=True)
    max_peaks_in_roi: int = _value(3, "windows with more maxima are skipped", source="PALA", low=1)


@dataclass(frozen=True)
class Track(_Checked):
    """Linking, smoothing and interpolation."""

    max_distance_px: float = _value(2.0, "longest step from frame to frame", unit="px", source="PALA", above=0)
    max_gap: int = _value(0, "missing frames that a track may bridge", unit="frames", source="PALA", low=0)
    min_length: int = _value(15, "tracks need more points than this", unit="frames", source="PALA", low=1)
    smooth_points: int = _value(20, "span of the moving average", unit="points", source="PALA", low=1)


@dataclass(frozen=True)
class Render(_Checked):
    """Super-resolved maps."""

    upsample: int = _value(10, "map pixels per frame pixel", source="paper §III-A", low=1)


@dataclass(frozen=True)
class Blocks(_Checked):
    """How long sequences are cut and spread over processes."""

    n_frames: int = _value(800, "frames filtered and tracked together", unit="frames", source="PALA", low=1)
    n_jobs: int = _value(1, "processes working on blocks at the same time", source="ours", low=1)


@dataclass(frozen=True)
class Example(_Checked):
    """The generated flow that examples and tests use where no simulator is needed."""

    n_frames: int = _value(2000, "length of the sequence", unit="frames", source="ours", low=1)
    n_bubbles: int = _value(30, "bubbles alive in a frame", source="ours", low=0)
    shape_px: tuple[int, int] = _value((84, 143), "size of a frame (z, x)", unit="px", source="PALA", low=8)
    noise: float = _value(0.02, "standard deviation of the noise, brightest bubble = 1", source="ours", low=0)


@dataclass(frozen=True)
class Config(_Checked):
    """All settings of one run; make it with `load_config`."""

    acquisition: Acquisition = Acquisition()
    filter: Filter = Filter()
    locate: Locate = Locate()
    track: Track = Track()
    render: Render = Render()
    blocks: Blocks = Blocks()
    example: Example = Example()
    seed: int = _value(2024, "root of every random number", source="ours", low=0)
    pala: bool = _value(
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
    "smoke": {"example.n_frames": 60, "example.n_bubbles": 12, "example.shape_px": (40, 48), "blocks.n_frames": 60},
    "quick": {"example.n_frames": 800},
    "paper": {},
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
