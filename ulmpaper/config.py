"""Every setting with unit, source and meaning, and the profiles.

A profile is a small dict of dotted overrides on the paper's values: ``smoke`` takes seconds
(tests), ``quick`` minutes on two CPU cores (the default), ``paper`` is the paper's own setting.
pydantic checks each value when a section is made, so a wrong one is an error before work starts.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import functools
import hashlib
import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import InitVar
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeVar, dataclass_transform, get_args

import numpy as np
import pandas as pd
from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic.dataclasses import dataclass
from pydantic.fields import FieldInfo

from ulmpaper.core.arguments import explained
from ulmpaper.core.records import check_choice
from ulmpaper.core.subpixel import METHODS as _SUBPIXEL

METHODS = tuple(_SUBPIXEL)
NETWORKS = ("ml3d", "mspcn")
_ALIASES = {  # names in the paper and in PALA, without capitals, blanks and signs
    "3dmlresnet": "ml3d",
    "ml3dresnet": "ml3d",
    "3dml": "ml3d",
    "radialsymmetry": "radial",
    "rs": "radial",
    "wa": "weighted",
    "weightedaverage": "weighted",
    "gaussianfit": "gaussian",
    "gaussfit": "gaussian",
    "gauss": "gaussian",
    "logparabola": "parabola",
    "noshift": "none",
}

_T = TypeVar("_T")
_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
_PLAIN = {  # pydantic's types of error in the words of this project
    "bool_type": "takes true or false",
    "float_type": "takes a number",
    "int_type": "takes a whole number",
    "string_type": "takes text",
    "finite_number": "must be finite",
    "greater_than": "must be above {gt:g}",
    "greater_than_equal": "must be {ge:g} or more",
    "less_than_equal": "must be {le:g} or less",
}

_KEY = r"[\"']?(?P<key>[A-Za-z_]\w*(?:\.\w+)?)[\"']?\s*[=:]"
_PAIR_TEXT = re.compile(rf"{_KEY}(?P<value>[^{{}}]+)")
_WRAP = textwrap.TextWrapper(
    width=100,
    initial_indent=" " * 4,
    subsequent_indent=" " * 8,
    break_long_words=False,
    break_on_hyphens=False,
)
_BETWEEN_PAIRS = re.compile(rf"[,;\s](?=\s*(?:{_KEY.replace('?P<key>', '?:')}|$))")


@explained
def method_name(value: str) -> str:
    """Return the method that is meant: its name here, or the paper's or PALA's name of it.

    Raises
    ------
    ValueError
        There is no such method; the message names the nearest one.

    Examples
    --------
    >>> method_name("3DML-ResNet"), method_name("mSPCN"), method_name("RS")
    ('ml3d', 'mspcn', 'radial')
    """
    plain = re.sub(r"[^a-z0-9]", "", str(value).lower())
    meant = _ALIASES.get(plain, plain)
    return (
        meant if meant in METHODS + NETWORKS else check_choice(value, METHODS + NETWORKS, "method")
    )


def _setting(default: Any, meaning: str, *, unit: str = "-", source: str, **limits: Any) -> Any:
    """Field of a section; `limits` are pydantic's: ``gt``, ``ge`` and ``le``."""
    return Field(
        default,
        description=meaning,
        json_schema_extra={"unit": unit, "source": source},
        **limits,
    )


@dataclass_transform(frozen_default=True, field_specifiers=(Field,))
def _section(cls: type[_T]) -> type[_T]:
    """Make a frozen dataclass whose first wrong value is one plain ValueError."""
    made = dataclass(frozen=True, config=_STRICT)(cls)
    check = made.__init__

    @functools.wraps(check)
    def init(self: _T, *args: Any, **values: Any) -> None:
        try:
            check(self, *args, **values)
        except ValidationError as error:
            raise ValueError(_in_plain_words(made, error)) from None

    made.__init__ = init  # type: ignore[method-assign, assignment]
    return made  # type: ignore[return-value]


def _in_plain_words(section: Any, error: ValidationError) -> str:
    """The first of pydantic's complaints as "NAME takes WHAT, not VALUE"."""
    first = error.errors()[0]
    name = str(first["loc"][0])
    fields = section.__pydantic_fields__
    if name not in fields:
        check_choice(name, fields, f"setting of {section.__name__}")
    message = _PLAIN.get(first["type"], first["msg"].removeprefix("Value error, "))
    if message.startswith("unknown "):  # `check_choice` states the value itself
        return message
    message = message.format(**first.get("ctx", {}))
    if message.startswith("takes ") and type(None) in get_args(fields[name].annotation):
        message += " or none"
    return f"{name} {message}, not {first['input']!r}"


@dataclass(frozen=True, config=_STRICT)
class _Section:
    """What all sections share: how values from the command line and of NumPy are read."""

    __pydantic_fields__: ClassVar[dict[str, FieldInfo]]

    @field_validator("*", mode="before")
    @classmethod
    def _read(cls, value: Any, info: ValidationInfo) -> Any:
        """`value` without NumPy's types; text as a Python literal where the field takes no text."""
        annotation = cls.__pydantic_fields__[str(info.field_name)].annotation
        types = {annotation, *get_args(annotation)}
        is_none = type(None) in types and str(value).lower() == "none"
        if isinstance(value, str) and (str not in types or is_none):
            value = _literal(value)
        if isinstance(value, list | tuple):
            return tuple(v.item() if isinstance(v, np.generic) else v for v in value)
        return value.item() if isinstance(value, np.generic) else value


def _literal(text: str) -> Any:
    """`text` as a Python literal, or as it is where it is none."""
    try:
        return ast.literal_eval(
            text.capitalize() if text.lower() in ("true", "false", "none") else text
        )
    # The last two: signs or brackets nested too deeply.
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def _check_pair(value: Any) -> Any:
    """Refuse what is not two values."""
    if not isinstance(value, tuple) or len(value) != 2:
        raise ValueError("takes two numbers")
    return value


def _check_ascending(pair: tuple[float, float]) -> tuple[float, float]:
    """Refuse two numbers of which the first is the higher one."""
    if pair[0] > pair[1]:
        raise ValueError("must be two numbers, the lower one first")
    return pair


def _check_odd(number: int) -> int:
    """Refuse an even number."""
    if number % 2 == 0:
        raise ValueError("must be odd")
    return number


def _one_of(*allowed: str) -> AfterValidator:
    """Check of a text field that takes one of a few words."""

    def check(value: str, info: ValidationInfo) -> str:
        return check_choice(value, allowed, str(info.field_name))

    return AfterValidator(check)


def _check_own_scale(value: Any) -> str | tuple[float, float]:
    """The word auto, or factors along z and x; one number stands for both."""
    pair = value if isinstance(value, tuple) else (value, value)
    is_factor = [
        isinstance(f, int | float) and not isinstance(f, bool) and 0.1 <= f <= 10 for f in pair
    ]
    if len(pair) == 2 and all(is_factor):
        return float(pair[0]), float(pair[1])
    if value != "auto":
        raise ValueError("takes auto, a factor, or two for z and x, each from 0.1 to 10")
    return "auto"


_PAIR = BeforeValidator(_check_pair)
_ASCENDING = AfterValidator(_check_ascending)
_Positive = Annotated[float, Field(gt=0)]
_Range = Annotated[tuple[float, float], _PAIR, _ASCENDING]
_PositiveRange = Annotated[tuple[_Positive, _Positive], _PAIR, _ASCENDING]
_Counts = Annotated[
    tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]], _PAIR, _ASCENDING
]
_Size = Annotated[tuple[Annotated[int, Field(ge=8)], Annotated[int, Field(ge=8)]], _PAIR]
_LargeSize = Annotated[tuple[Annotated[int, Field(ge=64)], Annotated[int, Field(ge=64)]], _PAIR]
_Odd = Annotated[int, AfterValidator(_check_odd)]
_OwnScale = Annotated[Any, BeforeValidator(_check_own_scale)]
_OWN_SCALE_MEANS = (
    "factor on the number of pixels along z and x before the network looks; auto: so that spots "
    "are as wide as in its training"
)
_Method = Annotated[str, AfterValidator(method_name)]
_Decay = Annotated[str, _one_of("none", "cosine", "halfway")]
_Precision = Annotated[str, _one_of("auto", "float32", "bfloat16")]


@_section
class Scale(_Section):
    """Scale of the frames, for sources that do not state their own."""

    px_mm: float = _setting(0.09856, "pixel pitch, one wavelength", unit="mm", source="PALA", gt=0)
    frame_rate_hz: float = _setting(1000.0, "frame rate", unit="Hz", source="PALA", gt=0)


@_section
class Filter(_Section):
    """Clutter filter. Off by default: only the paper's in vivo data is filtered."""

    svd_low: int = _setting(
        1, "first singular component kept; 1 keeps all", source="paper §III", ge=1
    )
    svd_high: int | None = _setting(
        None, "last singular component kept; None keeps the rest", source="PALA", ge=1
    )
    band_hz: Annotated[tuple[_Positive, _Positive], _PAIR] | None = _setting(
        None, "pass band along time; None: no band-pass filter", unit="Hz", source="PALA"
    )
    order: int = _setting(2, "order of the Butterworth filter", source="PALA", ge=1)
    zero_phase: bool = _setting(
        True, "filter forwards and backwards, so that bubbles do not lag", source="ours"
    )


@_section
class Locate(_Section):
    """Detection and sub-pixel localization."""

    method: _Method = _setting("radial", "sub-pixel method or network", source="paper §III")
    n_bubbles: int = _setting(40, "highest peaks kept in each frame", source="PALA", ge=1)
    min_score: float = _setting(0.0, "a peak must exceed this pixel value", source="ours", ge=0)
    roi_px: _Odd = _setting(
        5, "side of the square window around a peak, odd", unit="px", source="PALA", ge=3
    )
    max_peaks_in_roi: int = _setting(
        3, "a window with more local maxima is discarded", source="PALA", ge=1
    )


@_section
class Track(_Section):
    """Linking, smoothing and interpolation."""

    max_distance_px: float = _setting(
        2.0, "largest distance between linked bubbles", unit="px", source="PALA", gt=0
    )
    max_gap: int = _setting(
        0, "missing frames that a track may bridge", unit="frames", source="PALA", ge=0
    )
    min_length: int = _setting(
        15, "tracks with more points than this are kept", unit="frames", source="PALA", ge=1
    )
    smooth_points: int = _setting(
        20, "span of the moving average over a track", unit="points", source="PALA", ge=1
    )
    acceleration_px: float | None = _setting(
        None,
        "draw each track's most likely path, whose step changes from frame to frame by this much, "
        "instead of the average",
        unit="px",
        source="ours",
        ge=1e-4,
        le=1e3,
    )


@_section
class Render(_Section):
    """Super-resolved maps."""

    upsample: int = _setting(
        10, "map pixels per frame pixel along each axis", source="paper §III-A", ge=1
    )


@_section
class Blocks(_Section):
    """How long sequences are cut and spread over processes."""

    n_frames: int = _setting(
        800, "frames that are filtered and tracked together", unit="frames", source="PALA", ge=1
    )
    n_jobs: int = _setting(1, "processes that work on blocks in parallel", source="ours", ge=1)


@_section
class Example(_Section):
    """The generated flow that examples and tests use where no simulator is needed."""

    n_frames: int = _setting(2000, "length of the sequence", unit="frames", source="ours", ge=1)
    n_bubbles: int = _setting(30, "bubbles alive in a frame", source="ours", ge=0)
    shape_px: _Size = _setting((84, 143), "size of a frame (z, x)", unit="px", source="PALA")
    noise: float = _setting(
        0.02, "standard deviation of the noise, brightest bubble = 1", source="ours", ge=0
    )


@_section
class Cam(_Section):
    """The paper's simulator: bubbles in vessels of CAM-like pictures, with extracted PSFs."""

    shape_px: _LargeSize = _setting(
        (250, 250), "size of a frame (z, x)", unit="px", source="paper §II-E"
    )
    n_frames: int = _setting(
        20_000,
        "frames of the training set, and of the test set",
        unit="frames",
        source="paper §II-E",
        ge=1,
    )
    sequence_frames: int = _setting(
        800,
        "frames of one simulated sequence, as many as a block of ULM",
        unit="frames",
        source="ours",
        ge=1,
    )
    picture_px: int = _setting(
        512, "side of a picture; a frame shows a part of it", unit="px", source="ours", ge=64
    )
    n_pictures: int = _setting(
        4, "pictures that the training sequences use in turn", source="paper §II-E", ge=1, le=1000
    )
    n_test_pictures: int = _setting(
        1,
        "further pictures for the test set, and others for validation",
        source="ours",
        ge=1,
        le=1000,
    )
    max_speed_mm_s: float = _setting(
        5.0, "speed in the middle of the widest vessel", unit="mm/s", source="paper §II-D", gt=0
    )
    n_bubbles: _Counts = _setting(
        (20, 200), "bubbles alive in a frame, drawn per sequence", source="ours"
    )
    ratio_db: _Range = _setting(
        (20.0, 30.0),
        "bubble amplitude over background, drawn per sequence",
        unit="dB",
        source="ours",
    )
    mean_life: float = _setting(
        400.0, "mean lifetime of a bubble", unit="frames", source="ours", gt=0
    )
    psf: Annotated[str, _one_of("bmode", "iq")] = _setting(
        "bmode", "PSFs from B-mode, or from IQ with their phase", source="paper §II-D"
    )
    cross_speed: float = _setting(
        0.0, "motion across the image plane; 0: none", unit="1/frame", source="paper §II-D", ge=0
    )
    memory: float = _setting(
        1.0,
        "correlation of the background from frame to frame; 1: constant",
        source="paper §II-D",
        ge=0,
        le=1,
    )


@_section
class Phantom(_Section):
    """The in-silico flow phantom, simulated by PyMUST in the likeness of PALA's."""

    n_sequences: int = _setting(20, "number of sequences", source="PALA", ge=1)
    n_frames: int = _setting(1000, "length of a sequence", unit="frames", source="PALA", ge=1)
    n_bubbles: int = _setting(45, "bubbles alive in a frame", source="ours", ge=1)


@_section
class Invivo(_Section):
    """The in vivo stand-in: bubbles in a brain-like vasculature under moving tissue."""

    n_blocks: int = _setting(250, "number of blocks", source="paper §III-B", ge=1)
    n_frames: int = _setting(800, "length of a block", unit="frames", source="PALA", ge=16)
    shape_px: _LargeSize = _setting((78, 118), "size of a frame (z, x)", unit="px", source="PALA")
    upsample: int = _setting(
        5, "pixels of the vessel mask per frame pixel along each axis", source="ours", ge=1
    )
    n_bubbles: int = _setting(60, "bubbles alive in a frame", source="ours", ge=0)
    max_speed_mm_s: float = _setting(
        30.0, "speed in the middle of the widest vessel", unit="mm/s", source="ours", gt=0
    )
    tissue_db: float = _setting(
        30.0, "tissue amplitude over bubble amplitude", unit="dB", source="ours"
    )
    noise_db: float = _setting(
        25.0, "bubble amplitude over noise, which is new in each frame", unit="dB", source="ours"
    )
    motion_px: float = _setting(
        0.3, "amplitude of the tissue's axial breathing motion", unit="px", source="ours", gt=0
    )


@_section
class Fitted(_Section):
    """What the training of each network has, with the paper's values."""

    epochs: int = _setting(200, "number of epochs", source="paper §II-E", ge=1)
    steps: int = _setting(
        200, "steps per epoch; here all 20,000 frames once", source="paper §II-E", ge=1
    )
    batch: int = _setting(10, "windows or single frames per step", source="paper §II-E", ge=1)
    accumulate: int = _setting(
        1, "parts of a batch that pass the network one after another", source="ours", ge=1
    )
    crop_px: int | None = _setting(
        None,
        "side of the square crop of a frame; None: the whole frame",
        unit="px",
        source="paper §II-E",
        ge=16,
    )
    learning_rate: float = _setting(1e-3, "learning rate of Adam", source="paper §II-E", gt=0)
    warmup: float = _setting(
        0.0, "share of the steps in which the learning rate grows", source="ours", ge=0, le=1
    )
    decay: _Decay = _setting(
        "none", "decay of the learning rate: none, cosine to 0, or times 0.1 halfway", source="ours"
    )
    clip: float = _setting(1.0, "largest norm of the gradient", source="ours", gt=0)
    weights: str | None = _setting(
        None,
        "file of weights, or the name of shipped ones: paper or (not for count) phantom; "
        "None: the default ones",
        source="ours",
    )


@_section
class Ml3d(Fitted):
    """3DML-ResNet: its size, training and use."""

    features: int = _setting(96, "channels of the hidden layers", source="paper §II-A", ge=1)
    blocks: int = _setting(10, "residual blocks", source="paper §II-A", ge=1)
    temporal_kernel: _Odd = _setting(
        3, "frames that a convolution spans, odd", source="paper §II-A", ge=1
    )
    output: Annotated[str, _one_of("sigmoid", "linear", "beyond")] = _setting(
        "sigmoid",
        "activation of the last layer; beyond: offsets may reach half a pixel beyond their pixel",
        source="ours",
    )
    loss: Annotated[str, _one_of("paper", "mixture")] = _setting(
        "paper",
        "detection and offset loss, or the likelihood of a mixture of Gaussians, which learns how "
        "far off each place may be as well",
        source="paper §II-C",
    )
    window: int = _setting(
        10,
        "frames of a training window; trained weights bring their own",
        source="paper §II-E",
        ge=1,
    )
    stride: int | None = _setting(
        1,
        "frames from one window to the next; None: one pass over time, each frame once",
        unit="frames",
        source="paper §II-A",
        ge=1,
    )
    scale: _OwnScale = _setting(
        (1.0, 1.0),
        _OWN_SCALE_MEANS,
        source="ours",
    )
    each_window: bool = _setting(
        False,
        "divide each window by its own highest value; otherwise by that of the recording",
        source="paper §II-E",
    )
    mirrored: bool = _setting(
        False,
        "average the predictions of a frame and of its left-right mirror image",
        source="ours",
    )
    sigma_px: float = _setting(
        1.0, "standard deviation of the detection loss's blur", unit="px", source="ours", ge=0
    )
    sigma: bool = _setting(
        False,
        "train a layer that tells how far off each place may be, on a network that is trained",
        source="ours",
    )
    masked: bool = _setting(True, "offset loss at true bubbles only", source="ours")
    threshold: float | None = _setting(
        0.0,
        "smallest probability of a bubble; None: the best on validation data",
        source="paper §II-B",
        ge=0,
        le=1,
    )
    min_distance_px: float = _setting(
        0.7,
        "merge candidates of neighbouring pixels whose predicted positions are closer than this",
        unit="px",
        source="ours",
        ge=0,
    )


@_section
class Count(Fitted):
    """The network that counts bubbles: its size, training and use."""

    features: int = _setting(16, "channels of the first layer", source="ours", ge=1)
    n_max: int | None = _setting(
        100,
        "largest count that the network can predict for a tile; "
        "None: regression instead of classes",
        source="ours",
        ge=1,
    )
    tile_px: int = _setting(
        64,
        "largest side of a counted tile; trained weights bring their own",
        unit="px",
        source="ours",
        ge=16,
    )
    margin: float = _setting(
        1.0,
        "at most this multiple of the predicted count is kept, if above the threshold",
        source="ours",
        ge=1,
    )


@_section
class Mspcn(Fitted):
    """mSPCN, to which the paper compares: its size, training and use."""

    epochs: int = _setting(60, "number of epochs", source="mSPCN", ge=1)
    batch: int = _setting(4, "single frames per step", source="mSPCN", ge=1)
    decay: _Decay = _setting(
        "halfway",
        "decay of the learning rate: none, cosine to 0, or times 0.1 halfway",
        source="mSPCN",
    )
    scale: _OwnScale = _setting(
        (1.0, 1.0),
        _OWN_SCALE_MEANS,
        source="ours",
    )
    upsample: int = _setting(4, "fine pixels per frame pixel along each axis", source="mSPCN", ge=1)
    sparsity: float = _setting(1.0, "weight of the sparsity loss", source="mSPCN", ge=0)
    threshold: float | None = _setting(
        None,
        "smallest peak that counts as a bubble; None: the best on validation data",
        source="ours",
        gt=0,
    )
    centre_side: _Odd = _setting(
        1,
        "side of the square whose centre of mass is the bubble, odd; 1: the peak itself",
        unit="fine px",
        source="ours",
        ge=1,
    )


@_section
class Train(_Section):
    """What the trainings of all networks share. The paper's simulator is in section ``cam``."""

    psf: Annotated[str, _one_of("bmode", "iq", "gaussian", "both", "varied")] = _setting(
        "bmode",
        "PSFs from B-mode, from IQ or Gaussian; both: from B-mode or IQ, varied: from IQ or "
        "Gaussian, per sequence",
        source="paper §II-D",
    )
    stretch: _PositiveRange = _setting(
        (1.0, 1.0), "factor on the width of the PSFs, drawn per sequence", source="ours"
    )
    gain: _PositiveRange = _setting(
        (1.0, 1.0), "factor on a normalized window, drawn per window", source="ours"
    )
    still: float = _setting(
        1.0,
        "share of sequences with a constant background; in the others it changes",
        source="paper §II-D",
        ge=0,
        le=1,
    )
    speed: _PositiveRange = _setting(
        (1.0, 1.0), "factor on the speed of the flow, drawn per sequence", source="ours"
    )
    quieter_db: _Range = _setting(
        (0.0, 0.0), "background attenuation, drawn per sequence", unit="dB", source="ours"
    )
    quieter_share: float = _setting(
        1.0, "share of sequences with an attenuated background", source="ours", gt=0, le=1
    )
    denser: _PositiveRange = _setting(
        (1.0, 1.0), "factor on the number of bubbles, drawn per sequence", source="ours"
    )
    crossing: float = _setting(
        0.0,
        "share of sequences whose bubbles cross the image plane and fade",
        source="ours",
        ge=0,
        le=1,
    )
    noise_db: _Range | None = _setting(
        None,
        "bubble amplitude over white noise, new in each frame, drawn per sequence; None: no noise",
        unit="dB",
        source="ours",
    )
    flawed: float = _setting(
        0.0,
        "share of sequences that lack a frame, and of those that are saturated",
        source="ours",
        ge=0,
        le=1,
    )
    resampled: _PositiveRange = _setting(
        (1.0, 1.0),
        "frames are sampled anew with this many times as many pixels, drawn per sequence",
        source="ours",
    )
    crops: int = _setting(1, "crops from each simulated sequence", source="ours", ge=1)
    precision: _Precision = _setting(
        "auto",
        "number type of the network; auto: bfloat16 where the processor has it",
        source="ours",
    )
    validation_frames: int = _setting(
        200, "frames scored after each epoch", unit="frames", source="ours", ge=1
    )


@_section
class Compute(_Section):
    """Where and how networks run."""

    device: str = _setting("auto", "processor; auto: CUDA where there is one", source="ours")
    precision: _Precision = _setting(
        "float32", "number type of a trained network in use", source="ours"
    )
    compile: bool = _setting(
        False, "compile networks with torch, in training and in use", source="ours"
    )
    batch: int = _setting(4, "windows or frames that pass a network together", source="ours", ge=1)
    tile_px: int | None = _setting(
        None,
        "side of the tiles into which large frames are cut; None: no tiles",
        unit="px",
        source="ours",
        ge=32,
    )
    workers: int = _setting(1, "processes that simulate ahead of a training", source="ours", ge=0)


@_section
class Config(_Section):
    """All settings of one run; make it with `load_config`.

    ``stated`` holds the keys that the user gave, and is no setting itself: a pixel pitch that was
    stated counts before that of a file.
    """

    acquisition: Scale = Scale()
    filter: Filter = Filter()
    locate: Locate = Locate()
    track: Track = Track()
    render: Render = Render()
    blocks: Blocks = Blocks()
    example: Example = Example()
    cam: Cam = Cam()
    phantom: Phantom = Phantom()
    invivo: Invivo = Invivo()
    ml3d: Ml3d = Ml3d()
    count: Count = Count()
    mspcn: Mspcn = Mspcn()
    train: Train = Train()
    compute: Compute = Compute()
    seed: int = _setting(2024, "root of every random number", source="ours", ge=0)
    pala: bool = _setting(
        False,
        "repeat PALA's own rules, defects included, instead of the corrected ones",
        source="ours",
    )
    if TYPE_CHECKING:
        stated: frozenset[str] = frozenset()
    else:  # no field, so neither compared nor listed nor part of the digest, but kept by replace
        stated: InitVar[frozenset[str]] = frozenset()

    def __post_init__(self, stated: frozenset[str]) -> None:  # type: ignore[override]
        object.__setattr__(self, "stated", stated)

    def __repr__(self) -> str:
        """A line, or some, for each section; as Python reads it."""
        texts = (
            f"{field.name}={getattr(self, field.name)!r}," for field in dataclasses.fields(self)
        )
        wrapped = (_WRAP.fill(text) for text in texts)
        return "\n".join(["Config(", *wrapped, ")"])

    def digest(self) -> str:
        """Return ten hexadecimal digits that change with any value, to name output folders.

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
        "ml3d.stride": None,
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
        "ml3d.stride": None,
        "ml3d.scale": "auto",
        "mspcn.scale": "auto",
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
    profile: str = "quick", overrides: Mapping[str, Any] | str | None = None, **guessed: Any
) -> Config:
    """Make the configuration of a profile, with dotted overrides.

    Parameters
    ----------
    profile : {"smoke", "quick", "paper"}
        Starting point.
    overrides : mapping or str, optional
        ``{"track.max_gap": 1}``, or as text ``"track.max_gap=1, pala=true"`` or ``"{track.max_gap:
        1}"``; a value that is text is read as a Python literal where the field is not text.

    Raises
    ------
    TypeError
        Overrides that are neither mapping nor text, or settings as keywords.
    ValueError
        Text that holds no ``KEY=VALUE``; unknown profile or setting (with the nearest ones), or a
        value outside its limits.

    Examples
    --------
    >>> load_config("quick", {"track.max_gap": "1"}).track.max_gap
    1
    >>> load_config("quick", {"track.max_gpa": 1})
    Traceback (most recent call last):
    ...
    ValueError: unknown setting 'track.max_gpa': did you mean 'track.max_gap'? ...
    """
    if isinstance(profile, Config):
        raise TypeError("settings are made in one call: load_config('quick', {all overrides})")
    check_choice(profile, PROFILES, "profile")
    given = read_overrides(overrides)
    cfg = Config()
    keys = [key for key, *_ in _flatten(cfg)]
    if guessed:
        name, value = next(iter(guessed.items()))
        near = next(iter(near_settings(name)), keys[0])
        raise TypeError(
            f"settings are given as a mapping: load_config({profile!r}, {{{near!r}: {value!r}}})"
        )
    for key, value in {**PROFILES[profile], **given}.items():
        if isinstance(value, Mapping):
            flat = {f"{key}.{name}": inner for name, inner in value.items()}
            raise ValueError(f"settings have dotted names, not nested ones: write {flat}")
        if key not in keys:
            near = " or ".join(map(repr, near_settings(key)))
            hint = f"did you mean {near}? " if near else ""
            raise ValueError(
                f"unknown setting {key!r}: {hint}"
                f"config_table() and `ulmpaper config` list all {len(keys)}"
            )
        section, _, name = key.rpartition(".")
        try:
            if section:
                changed = dataclasses.replace(getattr(cfg, section), **{name: value})
                cfg = dataclasses.replace(cfg, **{section: changed})
            else:
                cfg = dataclasses.replace(cfg, **{name: value})
        except ValueError as error:
            hint = ""
            if key == "acquisition.px_mm" and np.size(value) == 2:
                hint = (
                    ". Pixels that are not square are stated where frames are read, and sampled "
                    "anew: read_frames(path, px_mm=(z, x))"
                )
            raise ValueError(f"setting {key!r}: {error}{hint}") from None
    return dataclasses.replace(cfg, stated=frozenset(given))


def read_overrides(overrides: object) -> dict[str, Any]:
    """Read overrides from a mapping, or from text as papermill or a Makefile gives it.

    Raises
    ------
    TypeError, ValueError
        Neither a mapping nor text that holds ``KEY=VALUE``.

    Examples
    --------
    >>> read_overrides("track.max_gap=1 cam.ratio_db=(10, 20)")
    {'track.max_gap': '1', 'cam.ratio_db': '(10, 20)'}
    """
    if overrides is None:
        return {}
    if isinstance(overrides, Mapping):
        return {str(key): value for key, value in overrides.items()}
    if not isinstance(overrides, str):
        raise TypeError(
            f"overrides are a mapping such as {{'track.max_gap': 1}}, not {overrides!r}"
        )
    text = overrides.strip()
    if text.startswith("{") and text.endswith("}"):
        text = text[1:-1]
    given = {}
    # A comma or blank parts settings where a key follows; others stand inside of values: (50, 249).
    for pair in _BETWEEN_PAIRS.split(text):
        if not pair.strip():
            continue
        match = _PAIR_TEXT.fullmatch(pair.strip())
        if match is None:
            raise ValueError(
                f"overrides are a mapping, e.g. {{'track.max_gap': 1}} (papermill: "
                f"-y 'overrides: {{track.max_gap: 1}}'), or text such as 'track.max_gap=1, "
                f"pala=true', not {overrides!r}"
            )
        value = match["value"].strip()
        if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
            value = value[1:-1]
        given[match["key"]] = "none" if value.lower() in ("null", "~") else value
    return given


Settings = Config | Mapping[str, Any] | str | None


def as_config(settings: Settings) -> Config:
    """Return the configuration that a call was given in one of four forms.

    Parameters
    ----------
    settings : Config, mapping, str or None
        A configuration, overrides of ``quick`` (as mapping or text), the name of a profile, or None
        for ``quick``.

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
        is_text = bool(set("=:{") & set(settings))
        return load_config("quick", settings) if is_text else load_config(settings)
    raise TypeError(
        "settings are a Config, a mapping such as {'track.max_gap': 1}, or a profile, "
        f"not {settings!r}"
    )


def setting_called(name: str) -> str:
    """Key of the setting that a bare name means, such as ``px_mm``; the name itself if none.

    Examples
    --------
    >>> setting_called("px_mm")
    'acquisition.px_mm'
    """
    return next(iter(near_settings(name)), name)


def trained_speed_px(settings: Mapping[str, Any]) -> float:
    """Fastest flow of a training by its settings, as weights carry them [px/frame]."""
    px_per_s = settings["cam.max_speed_mm_s"] / settings["acquisition.px_mm"]
    return max(settings["train.speed"]) * px_per_s / settings["acquisition.frame_rate_hz"]


@explained
def config_table(cfg: Config) -> pd.DataFrame:
    """List every setting with its value, unit, source and meaning, one row each.

    Examples
    --------
    >>> config_table(load_config()).columns.tolist()
    ['setting', 'value', 'unit', 'source', 'meaning']
    """
    rows = []
    for key, value, field in _flatten(cfg):
        text = "none" if value is None else str(value)
        extra: Any = field.json_schema_extra
        rows.append((key, text, extra["unit"], extra["source"], field.description))
    return pd.DataFrame(rows, columns=["setting", "value", "unit", "source", "meaning"])


def near_settings(key: str) -> list[str]:
    """The settings most like `key`; ``px_mm`` alone is ``acquisition.px_mm``."""
    key, keys = key.lower(), [known for known, *_ in _flatten(Config())]
    last = key.rpartition(".")[2]
    same = [k for k in keys if k.rpartition(".")[2] == last]
    close = difflib.get_close_matches(key, keys, n=1)
    ends = difflib.get_close_matches(last, [k.rpartition(".")[2] for k in keys], n=2, cutoff=0.75)
    alike = [k for k in keys if k.rpartition(".")[2] in ends]
    return list(dict.fromkeys([*same, *close, *alike]))[:5]


def _flatten(section: _Section, prefix: str = "") -> Iterator[tuple[str, Any, FieldInfo]]:
    """Dotted key, value and field of every setting."""
    for name in (field.name for field in dataclasses.fields(section)):
        field = section.__pydantic_fields__[name]
        value = getattr(section, name)
        if isinstance(value, _Section):
            yield from _flatten(value, f"{name}.")
        else:
            yield prefix + name, value, field
