"""The sections of the configuration: frozen dataclasses whose every field knows its unit and its source.

`config.load_config` puts them together; values are checked when a section is made.
"""

from __future__ import annotations

import ast
import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

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


@dataclass(frozen=True)
class Acquisition(Checked):
    """Scale of the frames, for sources that do not state their own."""

    px_mm: float = setting(0.09856, "pixel pitch, one wavelength", unit="mm", source="PALA", above=0)
    frame_rate_hz: float = setting(1000.0, "frames per second", unit="Hz", source="PALA", above=0)


@dataclass(frozen=True)
class Filter(Checked):
    """Clutter filter. Off by default: only the paper's in vivo data is filtered."""

    svd_low: int = setting(1, "first singular component kept; 1 keeps all", source="paper §III", low=1)
    svd_high: int | None = setting(None, "last singular component kept; None keeps the rest", source="PALA", low=1)
    band_hz: tuple[float, float] | None = setting(
        None, "band kept along time; None is no band-pass", unit="Hz", source="PALA", above=0
    )
    order: int = setting(2, "order of the Butterworth design", source="PALA", low=1)
    zero_phase: bool = setting(True, "filter forwards and backwards, so that bubbles do not lag", source="ours")


@dataclass(frozen=True)
class Locate(Checked):
    """Detection and sub-pixel localization."""

    method: str = setting("radial", "sub-pixel method", source="paper §III", choices=METHODS)
    n_bubbles: int = setting(40, "strongest peaks kept in a frame", source="PALA", low=1)
    min_score: float = setting(0.0, "peaks must be above this value of the frame", source="ours", low=0)
    roi_px: int = setting(5, "side of the square window, odd", unit="px", source="PALA", low=3, odd=True)
    max_peaks_in_roi: int = setting(3, "windows with more maxima are skipped", source="PALA", low=1)


@dataclass(frozen=True)
class Track(Checked):
    """Linking, smoothing and interpolation."""

    max_distance_px: float = setting(2.0, "longest step from frame to frame", unit="px", source="PALA", above=0)
    max_gap: int = setting(0, "missing frames that a track may bridge", unit="frames", source="PALA", low=0)
    min_length: int = setting(15, "tracks need more points than this", unit="frames", source="PALA", low=1)
    smooth_points: int = setting(20, "span of the moving average", unit="points", source="PALA", low=1)


@dataclass(frozen=True)
class Render(Checked):
    """Super-resolved maps."""

    upsample: int = setting(10, "map pixels per frame pixel", source="paper §III-A", low=1)


@dataclass(frozen=True)
class Blocks(Checked):
    """How long sequences are cut and spread over processes."""

    n_frames: int = setting(800, "frames filtered and tracked together", unit="frames", source="PALA", low=1)
    n_jobs: int = setting(1, "processes working on blocks at the same time", source="ours", low=1)


@dataclass(frozen=True)
class Example(Checked):
    """The generated flow that examples and tests use where no simulator is needed."""

    n_frames: int = setting(2000, "length of the sequence", unit="frames", source="ours", low=1)
    n_bubbles: int = setting(30, "bubbles alive in a frame", source="ours", low=0)
    shape_px: tuple[int, int] = setting((84, 143), "size of a frame (z, x)", unit="px", source="PALA", low=8)
    noise: float = setting(0.02, "standard deviation of the noise, brightest bubble = 1", source="ours", low=0)


@dataclass(frozen=True)
class Cam(Checked):
    """The paper's simulator: bubbles in the vessels of CAM-like pictures, drawn with extracted PSFs."""

    shape_px: tuple[int, int] = setting((250, 250), "size of a frame (z, x)", unit="px", source="paper §II-E", low=64)
    n_frames: int = setting(
        20_000, "frames of the training set, and of the test set", unit="frames", source="paper §II-E", low=1
    )
    sequence_frames: int = setting(
        800, "frames simulated in one go, as many as ULM takes for a block", unit="frames", source="ours", low=1
    )
    picture_px: int = setting(512, "side of a picture, of which frames show a part", unit="px", source="ours", low=64)
    n_pictures: int = setting(
        4, "pictures that training sequences take in turn", source="paper §II-E", low=1, high=1000
    )
    n_test_pictures: int = setting(
        1, "other pictures for the test set, and others again for validation", source="ours", low=1, high=1000
    )
    max_speed_mm_s: float = setting(
        5.0, "speed in the middle of the widest vessel", unit="mm/s", source="paper §II-D", above=0
    )
    n_bubbles: tuple[int, int] = setting(
        (20, 100), "bubbles alive in a frame, drawn for each sequence", source="ours", low=0, ascending=True
    )
    ratio_db: tuple[float, float] = setting(
        (20.0, 30.0), "bubbles over background, drawn likewise", unit="dB", source="ours", ascending=True
    )
    mean_life: float = setting(400.0, "frames until a bubble is replaced", unit="frames", source="ours", above=0)
    psf: str = setting(
        "bmode", "PSFs from B-mode, or from IQ with their phase", source="paper §II-D", choices=("bmode", "iq")
    )
    cross_speed: float = setting(
        0.0, "motion across the image plane; 0 is none", unit="1/frame", source="paper §II-D", low=0
    )
    memory: float = setting(
        1.0, "correlation of the background over a frame; 1 is constant", source="paper §II-D", low=0, high=1
    )


@dataclass(frozen=True)
class Phantom(Checked):
    """The in-silico flow phantom, simulated by PyMUST in the likeness of PALA's."""

    n_sequences: int = setting(20, "sequences", source="PALA", low=1)
    n_frames: int = setting(1000, "frames of a sequence", unit="frames", source="PALA", low=1)
    n_bubbles: int = setting(45, "bubbles alive in a frame", source="ours", low=1)


@dataclass(frozen=True)
class Invivo(Checked):
    """The in vivo stand-in: bubbles in a brain-like vasculature under moving tissue."""

    n_blocks: int = setting(250, "blocks", source="paper §III-B", low=1)
    n_frames: int = setting(800, "frames of a block", unit="frames", source="PALA", low=16)
    shape_px: tuple[int, int] = setting((78, 118), "size of a frame (z, x)", unit="px", source="PALA", low=64)
    upsample: int = setting(5, "pixels of the vessels' mask per frame pixel and side", source="ours", low=1)
    n_bubbles: int = setting(60, "bubbles alive in a frame", source="ours", low=0)
    max_speed_mm_s: float = setting(
        30.0, "speed in the middle of the widest vessel", unit="mm/s", source="ours", above=0
    )
    tissue_db: float = setting(30.0, "tissue over bubbles", unit="dB", source="ours")
    noise_db: float = setting(25.0, "bubbles over noise, new in each frame", unit="dB", source="ours")
    motion_px: float = setting(0.3, "breathing of the tissue, up and down", unit="px", source="ours", above=0)
