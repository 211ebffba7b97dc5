"""Every setting with unit, source and meaning, and the profiles.

The sections of the configuration: frozen dataclasses whose every field knows its unit and its source.

`config.load_config` puts them together; values are checked when a section is made.

Settings of a run: a profile is a small dict of dotted overrides on the paper's values.

``smoke`` takes seconds (tests), ``quick`` minutes on two CPU cores (the default), ``paper`` is the paper's own setting.
The settings themselves, with unit, source and meaning, are the fields of `ulmpaper.config`.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import hashlib
import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from ulmpaper.core.records import check_choice
from ulmpaper.core.subpixel import METHODS as _SUBPIXEL


def setting(default: Any, meaning: str, *, unit: str = "-", source: str, **check: Any) -> Any:
    """Field of a section; `check` may hold ``low``, ``high``, ``above``, ``odd``, ``ascending`` and ``choices``."""
    return field(
        default=default, metadata={"meaning": meaning, "unit": unit, "source": source, **check}
    )


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
            value = ast.literal_eval(
                value.capitalize() if value.lower() in ("true", "false", "none") else value
            )
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


METHODS = tuple(_SUBPIXEL)
NETWORKS = ("ml3d", "mspcn")
DECAYS = ("none", "cosine", "halfway")
PRECISIONS = ("auto", "float32", "bfloat16")


@dataclass(frozen=True)
class Scale(Checked):
    """Scale of the frames, for sources that do not state their own."""

    px_mm: float = setting(
        0.09856, "pixel pitch, one wavelength", unit="mm", source="PALA", above=0
    )
    frame_rate_hz: float = setting(1000.0, "frames per second", unit="Hz", source="PALA", above=0)


@dataclass(frozen=True)
class Filter(Checked):
    """Clutter filter. Off by default: only the paper's in vivo data is filtered."""

    svd_low: int = setting(
        1, "first singular component kept; 1 keeps all", source="paper §III", low=1
    )
    svd_high: int | None = setting(
        None, "last singular component kept; None keeps the rest", source="PALA", low=1
    )
    band_hz: tuple[float, float] | None = setting(
        None, "band kept along time; None is no band-pass", unit="Hz", source="PALA", above=0
    )
    order: int = setting(2, "order of the Butterworth design", source="PALA", low=1)
    zero_phase: bool = setting(
        True, "filter forwards and backwards, so that bubbles do not lag", source="ours"
    )


@dataclass(frozen=True)
class Locate(Checked):
    """Detection and sub-pixel localization."""

    method: str = setting(
        "radial", "sub-pixel method, or network", source="paper §III", choices=METHODS + NETWORKS
    )
    n_bubbles: int = setting(40, "strongest peaks kept in a frame", source="PALA", low=1)
    min_score: float = setting(
        0.0, "peaks must be above this value of the frame", source="ours", low=0
    )
    roi_px: int = setting(
        5, "side of the square window, odd", unit="px", source="PALA", low=3, odd=True
    )
    max_peaks_in_roi: int = setting(3, "windows with more maxima are skipped", source="PALA", low=1)


@dataclass(frozen=True)
class Track(Checked):
    """Linking, smoothing and interpolation."""

    max_distance_px: float = setting(
        2.0, "longest step from frame to frame", unit="px", source="PALA", above=0
    )
    max_gap: int = setting(
        0, "missing frames that a track may bridge", unit="frames", source="PALA", low=0
    )
    min_length: int = setting(
        15, "tracks need more points than this", unit="frames", source="PALA", low=1
    )
    smooth_points: int = setting(
        20, "span of the moving average", unit="points", source="PALA", low=1
    )


@dataclass(frozen=True)
class Render(Checked):
    """Super-resolved maps."""

    upsample: int = setting(10, "map pixels per frame pixel", source="paper §III-A", low=1)


@dataclass(frozen=True)
class Blocks(Checked):
    """How long sequences are cut and spread over processes."""

    n_frames: int = setting(
        800, "frames filtered and tracked together", unit="frames", source="PALA", low=1
    )
    n_jobs: int = setting(1, "processes working on blocks at the same time", source="ours", low=1)


@dataclass(frozen=True)
class Example(Checked):
    """The generated flow that examples and tests use where no simulator is needed."""

    n_frames: int = setting(2000, "length of the sequence", unit="frames", source="ours", low=1)
    n_bubbles: int = setting(30, "bubbles alive in a frame", source="ours", low=0)
    shape_px: tuple[int, int] = setting(
        (84, 143), "size of a frame (z, x)", unit="px", source="PALA", low=8
    )
    noise: float = setting(
        0.02, "standard deviation of the noise, brightest bubble = 1", source="ours", low=0
    )


@dataclass(frozen=True)
class Cam(Checked):
    """The paper's simulator: bubbles in the vessels of CAM-like pictures, drawn with extracted PSFs."""

    shape_px: tuple[int, int] = setting(
        (250, 250), "size of a frame (z, x)", unit="px", source="paper §II-E", low=64
    )
    n_frames: int = setting(
        20_000,
        "frames of the training set, and of the test set",
        unit="frames",
        source="paper §II-E",
        low=1,
    )
    sequence_frames: int = setting(
        800,
        "frames simulated in one go, as many as ULM takes for a block",
        unit="frames",
        source="ours",
        low=1,
    )
    picture_px: int = setting(
        512, "side of a picture, of which frames show a part", unit="px", source="ours", low=64
    )
    n_pictures: int = setting(
        4, "pictures that training sequences take in turn", source="paper §II-E", low=1, high=1000
    )
    n_test_pictures: int = setting(
        1,
        "other pictures for the test set, and others again for validation",
        source="ours",
        low=1,
        high=1000,
    )
    max_speed_mm_s: float = setting(
        5.0, "speed in the middle of the widest vessel", unit="mm/s", source="paper §II-D", above=0
    )
    n_bubbles: tuple[int, int] = setting(
        (20, 200),
        "bubbles alive in a frame, drawn for each sequence",
        source="ours",
        low=0,
        ascending=True,
    )
    ratio_db: tuple[float, float] = setting(
        (20.0, 30.0),
        "bubbles over background, drawn likewise",
        unit="dB",
        source="ours",
        ascending=True,
    )
    mean_life: float = setting(
        400.0, "frames until a bubble is replaced", unit="frames", source="ours", above=0
    )
    psf: str = setting(
        "bmode",
        "PSFs from B-mode, or from IQ with their phase",
        source="paper §II-D",
        choices=("bmode", "iq"),
    )
    cross_speed: float = setting(
        0.0, "motion across the image plane; 0 is none", unit="1/frame", source="paper §II-D", low=0
    )
    memory: float = setting(
        1.0,
        "correlation of the background over a frame; 1 is constant",
        source="paper §II-D",
        low=0,
        high=1,
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
    shape_px: tuple[int, int] = setting(
        (78, 118), "size of a frame (z, x)", unit="px", source="PALA", low=64
    )
    upsample: int = setting(
        5, "pixels of the vessels' mask per frame pixel and side", source="ours", low=1
    )
    n_bubbles: int = setting(60, "bubbles alive in a frame", source="ours", low=0)
    max_speed_mm_s: float = setting(
        30.0, "speed in the middle of the widest vessel", unit="mm/s", source="ours", above=0
    )
    tissue_db: float = setting(30.0, "tissue over bubbles", unit="dB", source="ours")
    noise_db: float = setting(
        25.0, "bubbles over noise, new in each frame", unit="dB", source="ours"
    )
    motion_px: float = setting(
        0.3, "breathing of the tissue, up and down", unit="px", source="ours", above=0
    )


@dataclass(frozen=True)
class Fitted(Checked):
    """What each network has in its training, with the paper's values."""

    epochs: int = setting(200, "epochs", source="paper §II-E", low=1)
    steps: int = setting(
        200, "steps of an epoch; here all 20,000 frames once", source="paper §II-E", low=1
    )
    batch: int = setting(10, "windows, or single frames, of a step", source="paper §II-E", low=1)
    accumulate: int = setting(
        1, "parts in which a batch goes through the network", source="ours", low=1
    )
    crop_px: int | None = setting(
        None,
        "side of the part cut out of a frame; None takes all of it",
        unit="px",
        source="paper §II-E",
        low=16,
    )
    learning_rate: float = setting(1e-3, "step size of Adam", source="paper §II-E", above=0)
    warmup: float = setting(
        0.0, "share of the steps in which the step size grows", source="ours", low=0, high=1
    )
    decay: str = setting(
        "none",
        "how it falls then: not, as a cosine to 0, or times 0.1 halfway",
        source="ours",
        choices=DECAYS,
    )
    clip: float = setting(1.0, "largest norm of the gradient", source="ours", above=0)
    weights: str | None = setting(
        None,
        "file of weights, or paper or (not for count) phantom: others that are shipped",
        source="ours",
    )


@dataclass(frozen=True)
class Ml3d(Fitted):
    """3DML-ResNet: its size, training and use."""

    features: int = setting(96, "channels of the hidden layers", source="paper §II-A", low=1)
    blocks: int = setting(10, "residual blocks", source="paper §II-A", low=1)
    temporal_kernel: int = setting(
        3, "frames under a convolution, odd", source="paper §II-A", low=1, odd=True
    )
    output: str = setting("sigmoid", "last layer", source="ours", choices=("sigmoid", "linear"))
    window: int = setting(
        10,
        "frames of a training window; trained weights bring their own",
        source="paper §II-E",
        low=1,
    )
    stride: int = setting(
        1, "frames from one window to the next", unit="frames", source="paper §II-A", low=1
    )
    mirrored: bool = setting(
        False, "look at the frames mirrored left to right as well, and average", source="ours"
    )
    sigma_px: float = setting(1.0, "blur of the detection loss", unit="px", source="ours", low=0)
    masked: bool = setting(True, "offset loss at true bubbles only", source="ours")
    threshold: float | None = setting(
        0.0,
        "least probability of a bubble; None takes the best on validation data",
        source="paper §II-B",
        low=0,
        high=1,
    )
    min_distance_px: float = setting(
        0.7,
        "neighbouring pixels that tell places nearer than this mean the same bubble",
        unit="px",
        source="ours",
        low=0,
    )


@dataclass(frozen=True)
class Count(Fitted):
    """The network that counts bubbles: its size, training and use."""

    features: int = setting(16, "channels of the first layer", source="ours", low=1)
    n_max: int | None = setting(
        100, "largest number told of a tile; None is a regression", source="ours", low=1
    )
    tile_px: int = setting(
        64,
        "largest side of a counted tile; weights bring their own",
        unit="px",
        source="ours",
        low=16,
    )
    margin: float = setting(
        1.0,
        "times as many bubbles as were told may be found where they are probable enough",
        source="ours",
        low=1,
    )


@dataclass(frozen=True)
class Mspcn(Fitted):
    """mSPCN, to which the paper compares: its size, training and use."""

    epochs: int = setting(60, "epochs", source="mSPCN", low=1)
    batch: int = setting(4, "single frames of a step", source="mSPCN", low=1)
    decay: str = setting("halfway", "how the step size falls", source="mSPCN", choices=DECAYS)
    upsample: int = setting(4, "fine pixels per pixel and side", source="mSPCN", low=1)
    sparsity: float = setting(1.0, "weight of the sparsity loss", source="mSPCN", low=0)
    threshold: float | None = setting(
        None,
        "smallest peak that is a bubble; None takes the best on validation data",
        source="ours",
        above=0,
    )
    centre_side: int = setting(
        1,
        "side of the square whose centre of mass is the bubble; 1 is the peak itself",
        unit="fine px",
        source="ours",
        low=1,
        odd=True,
    )


@dataclass(frozen=True)
class Train(Checked):
    """What the trainings of all networks share. The paper's simulator is in section ``cam``."""

    psf: str = setting(
        "bmode",
        "PSFs from B-mode, IQ, or a sequence from either",
        source="paper §II-D",
        choices=("bmode", "iq", "both"),
    )
    stretch: tuple[float, float] = setting(
        (1.0, 1.0),
        "factor that widens the PSFs, drawn for each sequence",
        source="ours",
        above=0,
        ascending=True,
    )
    gain: tuple[float, float] = setting(
        (1.0, 1.0),
        "factor on each normalized window, drawn",
        source="ours",
        above=0,
        ascending=True,
    )
    still: float = setting(
        1.0,
        "share of sequences with a constant background; in others it changes",
        source="paper §II-D",
        low=0,
        high=1,
    )
    speed: tuple[float, float] = setting(
        (1.0, 1.0),
        "factor on the speed of the flow, drawn for each sequence",
        source="ours",
        above=0,
        ascending=True,
    )
    quieter_db: tuple[float, float] = setting(
        (0.0, 0.0),
        "by how much the background is weakened, drawn likewise",
        unit="dB",
        source="ours",
        ascending=True,
    )
    quieter_share: float = setting(
        1.0, "share of sequences with a weakened background", source="ours", above=0, high=1
    )
    crops: int = setting(1, "parts cut out of each simulated sequence", source="ours", low=1)
    precision: str = setting(
        "auto",
        "of the network; auto is bfloat16 where the processor has it",
        source="ours",
        choices=PRECISIONS,
    )
    validation_frames: int = setting(
        200, "frames scored after each epoch", unit="frames", source="ours", low=1
    )


@dataclass(frozen=True)
class Compute(Checked):
    """Where and how networks run."""

    device: str = setting("auto", "processor; auto is CUDA where there is one", source="ours")
    precision: str = setting(
        "float32", "of a trained network in use", source="ours", choices=PRECISIONS
    )
    compile: bool = setting(
        False, "let torch compile networks, in training and in use", source="ours"
    )
    batch: int = setting(
        4, "windows or frames that go through a network together", source="ours", low=1
    )
    tile_px: int | None = setting(
        None,
        "side of the parts in which large frames are looked at; None takes all",
        unit="px",
        source="ours",
        low=32,
    )
    workers: int = setting(1, "processes that simulate ahead of a training", source="ours", low=0)


@dataclass(frozen=True)
class Config(Checked):
    """All settings of one run; make it with `load_config`."""

    acquisition: Scale = field(default_factory=Scale)
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
        False,
        "repeat PALA's own rules, defects included, instead of the corrected ones",
        source="ours",
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


def load_config(
    profile: str = "quick", overrides: Mapping[str, Any] | None = None, **guessed: Any
) -> Config:
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
    ValueError: unknown setting 'track.max_gpa': did you mean 'track.max_gap'? ...
    """
    check_choice(profile, PROFILES, "profile")
    if overrides is not None and not isinstance(overrides, Mapping):
        raise TypeError(
            f"overrides are a mapping such as {{'track.max_gap': 1}}, not {overrides!r}"
        )
    cfg = Config()
    keys = [key for key, *_ in _flatten(cfg)]
    if guessed:
        name, value = next(iter(guessed.items()))
        raise TypeError(
            f"settings are given as a mapping: load_config({profile!r}, {{{_near_key(name, keys)!r}: {value!r}}})"
        )
    for key, value in {**PROFILES[profile], **(overrides or {})}.items():
        if key not in keys:
            raise ValueError(f"unknown setting {key!r}: {_near_text(key, keys)}")
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


Settings = Config | Mapping[str, Any] | str | None


def as_config(settings: Settings) -> Config:
    """Configuration from what a call was given: a `Config`, overrides of ``quick``, a profile's name, or None.

    Raises
    ------
    TypeError
        Something else.
    ValueError
        See `load_config`.

    Examples
    --------
    >>> as_config({"track.max_gap": 1}).track.max_gap, as_config(None) == load_config("quick")
    (1, True)
    """
    if isinstance(settings, Config):
        return settings
    if settings is None or isinstance(settings, Mapping):
        return load_config("quick", settings)
    if isinstance(settings, str):
        return load_config(settings)
    raise TypeError(
        f"settings are a Config, a mapping such as {{'track.max_gap': 1}}, or a profile, not {settings!r}"
    )


def config_table(cfg: Config) -> pd.DataFrame:
    """Every setting with its value, unit, source and meaning, one row each.

    Examples
    --------
    >>> config_table(load_config()).columns.tolist()
    ['setting', 'value', 'unit', 'source', 'meaning']
    """
    rows = [
        (
            key,
            "none" if value is None else str(value),
            meta["unit"],
            meta["source"],
            meta["meaning"],
        )
        for key, value, meta in _flatten(cfg)
    ]
    return pd.DataFrame(rows, columns=["setting", "value", "unit", "source", "meaning"])


def _near_keys(key: str, keys: list[str]) -> list[str]:
    """The settings most like `key`, by their last part first: ``px_mm`` is ``acquisition.px_mm``."""
    last = key.rpartition(".")[2]
    same = [k for k in keys if k.rpartition(".")[2] == last]
    close = difflib.get_close_matches(key, keys, n=3)
    ends = difflib.get_close_matches(last, [k.rpartition(".")[2] for k in keys], n=2, cutoff=0.75)
    alike = [k for k in keys if k.rpartition(".")[2] in ends]
    return list(dict.fromkeys([*same, *close, *alike]))[:5]


def _near_key(key: str, keys: list[str]) -> str:
    return next(iter(_near_keys(key, keys)), keys[0])


def _near_text(key: str, keys: list[str]) -> str:
    near = _near_keys(key, keys)
    asked = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    return f"{asked}config_table() and `ulmpaper config` list all {len(keys)}"


def _flatten(cfg: Config) -> list[tuple[str, Any, Mapping[str, Any]]]:
    rows: list[tuple[str, Any, Mapping[str, Any]]] = []
    for f in dataclasses.fields(cfg):
        value = getattr(cfg, f.name)
        if f.metadata:
            rows.append((f.name, value, f.metadata))
        else:
            rows += [
                (f"{f.name}.{g.name}", getattr(value, g.name), g.metadata)
                for g in dataclasses.fields(value)
            ]
    return rows
