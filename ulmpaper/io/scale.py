"""Pixel pitch and frame rate that files state, wherever in them they stand.

Taken are Verasonics' and PALA's fields (`_FIELDS`), and numbers whose name says the unit: pitch as
``px_mm``, ``pixel_size_um``, ``dx_mm`` with ``dz_mm`` and the like, in m, mm or um; rate as
``frame_rate``, ``FrameRate``, ``frame_rate_hz``, ``fps``, which are in Hz unless they say kHz. In
HDF5 they may be attributes, or have the attribute ``units``. Where several fit, the one nearest to
the frames counts. Nothing is filled in by a default but the speed of sound, and that is said.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, MutableMapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ulmpaper.core.records import check_positive, warn_user
from ulmpaper.core.scale import same_scale

STATED = "stated by you"
_SPEED_M_S = 1540.0  # of sound, where a file does not state it
_FIELDS = {  # where a scale may stand; the first that is there counts
    "MHz": ("Trans.frequency", "UF.TwFreq"),
    "m/s": ("Resource.Parameters.speedOfSound", "param.SpeedOfSound"),
    "Hz": ("P.FrameRate", "UF.FrameRateUF", "param.FrameRate"),
    "origin": ("PData.Origin",),  # x, y, z of the centre of pixel (0, 0) [wavelengths]
    "pitch": ("PData.PDelta", "PixelData.PDelta"),  # along x, y, z [wavelengths]
    "pitch x": ("PData.pdeltaX",),  # of older scripts of Verasonics
    "pitch z": ("PData.pdeltaZ",),
}
_LENGTH = r"(mm|millimet(?:er|re)s?|um|micromet(?:er|re)s?|microns?|m|met(?:er|re)s?)"
_PIXEL = r"(?:px|pixel|pixelsize|pixelpitch|pixelspacing)"
_SQUARE = re.compile(rf"{_PIXEL}{_LENGTH}")
_ALONG = re.compile(rf"(?:d|delta|{_PIXEL})([zx]){_LENGTH}")
_RATE = re.compile(r"(?:framerate|framerateuf|fps|framespersecond)(hz|khz|)")
_UNCLEAR = re.compile(rf"(?:d|delta)[zx]|{_PIXEL}|pitch|prf")
_MHZ = (0.1, 200.0)  # of ultrasound


class Scale(NamedTuple):
    """What a file and those near it say of the scale of frames.

    Parameters
    ----------
    px_mm : (float, float) or None
        Pixel pitch (z, x) [mm].
    ratio : float
        Pitch along z over that along x.
    frame_rate_hz : float or None
        Frames per second [Hz].
    px_from, rate_from : str or None
        Where they were found.
    notes : tuple of str
        What was seen and not taken.
    """

    px_mm: tuple[float, float] | None = None
    ratio: float = 1.0
    frame_rate_hz: float | None = None
    px_from: str | None = None
    rate_from: str | None = None
    notes: tuple[str, ...] = ()


def check_pitch(px_mm: float | tuple[float, float] | None) -> tuple[float, float] | None:
    """Pitch along z and x as the user states it: a number for both, or two."""
    if px_mm is None:
        return None
    pair = tuple(px_mm) if isinstance(px_mm, tuple | list | np.ndarray) else (px_mm, px_mm)
    if len(pair) != 2:
        raise ValueError(f"px_mm takes a number or two, (z, x), not {px_mm!r}")
    for value in pair:
        check_positive(px_mm=value)
    return float(pair[0]), float(pair[1])


def pitch_pair(settings: MutableMapping[str, object]) -> tuple[float, float] | None:
    """Pitch along (z, x) where settings state two; they keep the finer one, that of the frames.

    Examples
    --------
    >>> settings = {"acquisition.px_mm": "0.1,0.05"}
    >>> pitch_pair(settings), settings
    ((0.1, 0.05), {'acquisition.px_mm': 0.05})
    """
    value = settings.get("acquisition.px_mm")
    if isinstance(value, str) and "," in value:
        try:
            value = tuple(float(part) for part in value.strip("()[] ").split(","))
        except ValueError:
            raise ValueError(f"px_mm takes a number or two, (z, x), not {value!r}") from None
    if not isinstance(value, tuple | list):
        return None
    pair = check_pitch(tuple(value))
    settings["acquisition.px_mm"] = min(pair or ())
    return pair


def stated_first(
    found: Scale, stated_mm: tuple[float, float] | None, frame_rate_hz: float | None
) -> Scale:
    """What the user states before what the files do; a note where they differ."""
    notes = list(found.notes)
    if stated_mm:
        if found.px_mm and not all(map(same_scale, stated_mm, found.px_mm)):
            notes.append(
                f"you state a pixel pitch of {say_mm(stated_mm)}, which counts; "
                f"{found.px_from} says {say_mm(found.px_mm)}"
            )
        found = found._replace(px_mm=stated_mm, ratio=stated_mm[0] / stated_mm[1], px_from=STATED)
    if frame_rate_hz is not None:
        if found.frame_rate_hz and not same_scale(frame_rate_hz, found.frame_rate_hz):
            notes.append(
                f"you state a frame rate of {frame_rate_hz:g} Hz, which counts; "
                f"{found.rate_from} says {found.frame_rate_hz:g} Hz"
            )
        found = found._replace(frame_rate_hz=float(frame_rate_hz), rate_from=STATED)
    return found._replace(notes=tuple(notes))


class _Number(NamedTuple):
    """Numbers of a file by their name."""

    name: str
    file: str
    values: NDArray

    def __str__(self) -> str:
        return f"{self.name} of {self.file}"


Tables = Mapping[str, Mapping[str, NDArray]]  # name of a file: names and numbers; the last counts


def find_fields(tables: Tables, near: str) -> dict[str, _Number]:
    """Fields of Verasonics and PALA, by the keys of `_FIELDS`."""
    found = {}
    for key, names in _FIELDS.items():
        for file in tables:
            numbers = list(_sound_numbers(tables, file, near))
            matches = [
                number
                for name in names
                for number in numbers
                if f".{_plain(number.name)}".endswith(f".{name}")
            ]
            if matches:
                found[key] = matches[0]
    return found


def find_scale(tables: Tables, near: str) -> Scale:
    """Scale of the frames in array `near`."""
    fields = find_fields(tables, near)
    named = _named(tables, near)
    found = _pitch(named, fields)
    rates = [named.get("rate with unit"), fields.get("Hz"), named.get("rate")]
    stated = [(number, _hz(number)) for number in rates if number and number.values[0] > 0]
    notes = list(found.notes)
    if stated:
        number, hz = stated[0]
        found = found._replace(frame_rate_hz=hz, rate_from=str(number))
        notes += [
            f"{other} says {other_hz:g} Hz, but {number} counts, {hz:g} Hz"
            for other, other_hz in stated[1:]
            if not same_scale(hz, other_hz)
        ]
    if found.px_mm is None or found.frame_rate_hz is None:
        notes += _unclear(tables, near)
    return found._replace(notes=tuple(notes))


def _pitch(named: Mapping[str, _Number], fields: Mapping[str, _Number]) -> Scale:
    """Pitch by names that say the unit, else by the grid in wavelengths."""
    px_mm, ratio, where, notes = _wavelengths(fields)
    along = [named[axis] for axis in "zx" if axis in named]
    if "square" in named:
        number = named["square"]
        z, x = (_mm(number, number.values[k]) for k in (0, -1))
        stated = str(number)
    elif len(along) == 2:
        z, x = (_mm(number, number.values[0]) for number in along)
        stated = f"{along[0]} and {along[1]}"
    else:
        notes += [f"{number} is the pitch along one axis only" for number in along]
        return Scale(px_mm, ratio, px_from=where, notes=tuple(notes))
    if px_mm and not (same_scale(z, px_mm[0]) and same_scale(x, px_mm[1])):
        notes.append(f"{where} say {say_mm(px_mm)}, but {stated} counts")
    return Scale((z, x), z / x, px_from=stated, notes=tuple(notes))


def say_mm(px_mm: tuple[float, float]) -> str:
    """Pitch in words, both where they differ."""
    z, x = px_mm
    return f"{x:g} mm" if same_scale(z, x) else f"{z:g} x {x:g} mm (z, x)"


def _plain(name: str) -> str:
    """Name with the first of several structs or cells taken for the only one."""
    return re.sub(r"[({]1[)}]", "", name).replace("/", ".")


def _sound_numbers(tables: Tables, file: str, near: str) -> Iterator[_Number]:
    """Finite real numbers of a file, those nearest to the frames first."""

    def distance(name: str) -> tuple[int, int]:
        parts = _plain(name).split(".")
        home = _plain(near).split(".")
        shared = itertools.takewhile(
            lambda pair: pair[0] == pair[1], zip(parts, home, strict=False)
        )
        return -len(list(shared)), len(parts)

    for name in sorted(tables[file], key=distance):
        values = np.ravel(tables[file][name])
        if values.size and values.dtype.kind in "iuf" and np.isfinite(values).all():
            yield _Number(name, file, values)


def _last_word(name: str) -> str:
    """Last part of a name, in small letters and without signs."""
    word = _plain(name).split(".")[-1].lower().replace("\N{MICRO SIGN}", "u")
    return re.sub(r"[^a-z]", "", word.replace("\N{GREEK SMALL LETTER MU}", "u"))


def _named(tables: Tables, near: str) -> dict[str, _Number]:
    """Numbers whose name says what they are: pitch of both axes or of one, and rate."""
    found = {}
    for file in tables:
        for number in reversed(list(_sound_numbers(tables, file, near))):
            word = _last_word(number.name)
            n = number.values.size
            if number.values.min() <= 0 or n > 2:
                continue
            if _SQUARE.fullmatch(word):
                found["square"] = number
            elif n == 1 and (along := _ALONG.fullmatch(word)):
                found[along[1]] = number
            elif n == 1 and (rate := _RATE.fullmatch(word)):
                found["rate with unit" if rate[1] else "rate"] = number
    return found


def _mm(number: _Number, value: float) -> float:
    """A length [mm], by the unit that the number's name ends in."""
    word = _last_word(number.name)
    match = _SQUARE.fullmatch(word) or _ALONG.fullmatch(word)
    unit = match.groups()[-1] if match else "mm"
    if unit == "mm" or unit.startswith("milli"):
        return float(value)
    return float(value) * (1e3 if unit == "m" or unit.startswith("met") else 1e-3)


def _hz(number: _Number) -> float:
    return float(number.values[0]) * (1e3 if _last_word(number.name).endswith("khz") else 1)


def _wavelengths(
    fields: Mapping[str, _Number],
) -> tuple[tuple[float, float] | None, float, str | None, list[str]]:
    """Pitch from the grid in wavelengths and the frequency, and the grid's ratio alone."""
    if "pitch" in fields and len(fields["pitch"].values) == 3:
        x, _, z = (float(v) for v in fields["pitch"].values)
        names = [fields["pitch"]]
    elif {"pitch x", "pitch z"} <= set(fields):
        names = [fields["pitch x"], fields["pitch z"]]
        x, z = (float(number.values[0]) for number in names)
    else:
        notes = (
            [f"{fields['MHz']} is stated, but no pitch in wavelengths"] if "MHz" in fields else []
        )
        if "pitch" in fields:
            notes = [f"{fields['pitch']} has {len(fields['pitch'].values)} numbers, not x, y, z"]
        return None, 1.0, None, notes
    if not (x > 0 and z > 0):
        return None, 1.0, None, [f"{names[0]} is not above 0 along z and x, so it is not taken"]
    mhz = float(fields["MHz"].values[0]) if "MHz" in fields else 0.0
    if mhz <= 0:
        return None, z / x, None, [f"{names[0]} is in wavelengths, but no frequency is stated"]
    _doubt_frequency(fields["MHz"], mhz)
    speed = float(fields["m/s"].values[0]) if "m/s" in fields else 0.0
    where = f"{' and '.join(map(str, names))} with {fields['MHz']}"
    where += f" and {fields['m/s']}" if speed > 0 else f" at {_SPEED_M_S:g} m/s, which is assumed"
    wavelength_mm = (speed if speed > 0 else _SPEED_M_S) / (mhz * 1e3)
    return (wavelength_mm * z, wavelength_mm * x), z / x, where, []


def _doubt_frequency(number: _Number, mhz: float) -> None:
    """Warn of a frequency that is no ultrasound in MHz."""
    low, high = _MHZ
    if low <= mhz <= high:
        return
    likely = [unit for unit, size in {"Hz": 1e-6, "kHz": 1e-3}.items() if low <= mhz * size <= high]
    meant = f"; is it in {likely[0]}?" if likely else ""
    warn_user(
        f"{number}, {mhz:g}, is read in MHz, so the pixel pitch is probably wrong{meant} "
        "State the pitch (--set acquisition.px_mm=..., px_mm=...)"
    )


def _unclear(tables: Tables, near: str) -> list[str]:
    """Numbers that look like a scale, but do not say their unit."""
    return [
        f"{number} is {number.values[0]:g}, but its name does not say the unit, so it is not taken"
        for file in tables
        for number in _sound_numbers(tables, file, near)
        if number.values.size == 1 and _UNCLEAR.fullmatch(_last_word(number.name))
    ]
