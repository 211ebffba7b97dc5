"""Pixel pitch and frame rate as numbers to be compared and doubted."""

from __future__ import annotations

import math

from ulmpaper.core.records import warn_user

_ROUNDING = 1e-6  # relative; single precision keeps seven digits
_PITCH_MM = (1e-3, 1.0)  # of ultrasound from 1 MHz to above 100 MHz
_RATE_HZ = (1.0, 1e5)
_UNITS = {  # what one unit of the number is in the unit that is wanted, tried in this order
    "px_mm": {"um": 1e-3, "m": 1e3, "nm": 1e-6},
    "frame_rate_hz": {"kHz": 1e3, "MHz": 1e6, "mHz": 1e-3},
}


def same_scale(first: float | None, second: float | None) -> bool:
    """Whether two pitches or frame rates are equal up to rounding, or both unknown.

    Examples
    --------
    >>> same_scale(0.1 + 0.2, 0.3), same_scale(0.1, 0.1001), same_scale(None, 0.1)
    (True, False, False)
    """
    if first is None or second is None:
        return first is second
    return math.isclose(first, second, rel_tol=_ROUNDING)


def doubt_scale(px_mm: float | None, frame_rate_hz: float | None, where: str) -> None:
    """Warn where a pixel pitch or a frame rate is outside what ultrasound has.

    Parameters
    ----------
    px_mm, frame_rate_hz : float or None
        Pixel pitch [mm], plausible from 1 um to 1 mm, and frame rate [Hz], from 1 to 1e5.
    where : str
        Who stated them.

    Warns
    -----
    UlmWarning
        Names the number, the range, and the unit that was probably meant.
    """
    ranges = {
        "px_mm": ("pixel pitch", px_mm, "mm", _PITCH_MM),
        "frame_rate_hz": ("frame rate", frame_rate_hz, "Hz", _RATE_HZ),
    }
    for name, (what, value, unit, (low, high)) in ranges.items():
        if value is None or low * (1 - _ROUNDING) <= value <= high * (1 + _ROUNDING):
            continue
        likely = [u for u, size in _UNITS[name].items() if low <= value * size <= high]
        meant = f"; is it in {likely[0]}?" if likely else ""
        warn_user(
            f"{where}: a {what} of {value:g} {unit} is outside {low:g} to {high:g} {unit}{meant}"
        )
