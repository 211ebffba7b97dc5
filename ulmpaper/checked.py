"""Sections of settings that check themselves: each field knows its type, unit, source and limits."""

from __future__ import annotations

import ast
import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import field
from typing import Any

import numpy as np

from ulmpaper.records import check_choice


def setting(default: Any, meaning: str, *, unit: str = "-", source: str, **check: Any) -> Any:
    """Field of a section; `check` may hold ``low``, ``high``, ``above``, ``odd``, ``ascending`` and ``choices``."""
    return field(default=default, metadata={"meaning": meaning, "unit": unit, "source": source, **check})


class Checked:
    """Section that checks each of its fields against its type and the limits in its metadata."""

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for f in dataclasses.fields(self):  # type: ignore[arg-type]
            if not f.metadata:  # a section, checked by itself
                continue
            value = _coerce(getattr(self, f.name), hints[f.name], f.name)
            object.__setattr__(self, f.name, value)
            _check_limits(value, f.name, f.metadata)


def _coerce(value: Any, hint: Any, name: str) -> Any:
    """`value` as the type `hint` asks for; strings from the command line are read as Python literals."""
    value = value.item() if isinstance(value, np.generic) else value
    error = ValueError(f"{name} takes {_type_name(hint)}, not {value!r}")
    if isinstance(value, str) and hint == str | None:
        return None if value.lower() == "none" else value
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
    if limits.get("ascending") and value[0] > value[1]:
        raise ValueError(f"{name} must be two numbers, the lower one first, not {value}")
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
        if "high" in limits and not v <= limits["high"]:
            raise ValueError(f"{name} must be {limits['high']} or less, not {v}")
        if limits.get("odd") and v % 2 == 0:
            raise ValueError(f"{name} must be odd, not {v}")
