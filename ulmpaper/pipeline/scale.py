"""Pixel pitch and frame rate of a run, and who stated each.

One rule for Python and the command line: what the user says counts first (``acquisition.px_mm``,
``acquisition.frame_rate_hz``, or ``open_frames(px_mm=...)``), then the block or file, then the
profile, with a warning.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ulmpaper.config import Config
from ulmpaper.core.records import Block, check_block, warn_user
from ulmpaper.core.scale import doubt_scale, same_scale
from ulmpaper.io.readers import FrameFile
from ulmpaper.io.truth import SAMPLED_ANEW

_YOU = "stated by you"
_ASSUMED = "assumed"
_QUANTITIES = {"px_mm": ("pixel pitch", "mm"), "frame_rate_hz": ("frame rate", "Hz")}


class _UsedScale(NamedTuple):
    """Pixel pitch [mm] and frame rate [Hz] of a run, and who stated each.

    ``px_mm_from`` and ``frame_rate_from`` are ``stated by you``, a place in a file, the name of a
    block, or ``assumed``.
    """

    px_mm: float
    frame_rate_hz: float
    px_mm_from: str
    frame_rate_from: str

    def put_into(self, cfg: Config) -> Config:
        """Settings with this scale."""
        scale = dataclasses.replace(
            cfg.acquisition, px_mm=self.px_mm, frame_rate_hz=self.frame_rate_hz
        )
        return dataclasses.replace(cfg, acquisition=scale)

    def describe(self, upsample: int) -> dict[str, Any]:
        """What ``run.json``, maps and tables say of the scale."""
        return {
            **self._asdict(),
            "upsample": upsample,
            "map_px_mm": self.px_mm / upsample,
            "units": "z, x: px of a frame; vz, vx and maps of velocity: mm/s; density: tracks",
        }


def settle_block(frames: ArrayLike | Block, cfg: Config, *, quiet: bool = False) -> _UsedScale:
    """Scale of a block or array by the rule of this file, with its warnings unless `quiet`."""
    if not isinstance(frames, Block):
        return _settle(cfg, None, None, "the array", quiet=quiet)
    name = frames.file or (f"block of {frames.source}" if frames.source else "the block")
    stated = (frames.px_mm, frames.frame_rate_hz)
    return _settle(cfg, *stated, name, quiet=quiet, doubt=not frames.file)


def settle_files(files: Sequence[FrameFile], cfg: Config) -> _UsedScale:
    """Scale of files that are one recording, by the rule of this file, with its warnings.

    Raises
    ------
    ValueError
        The files differ in the size of their frames, or in a scale that the user does not state.
    """
    sizes = {file.shape_px: file.path.name for file in files}
    if len(sizes) > 1:
        raise ValueError(f"the files differ in the size of their frames, {sizes}: run them apart")
    first = files[0]
    for name, (what, _) in _QUANTITIES.items():
        others = [f for f in files if not same_scale(getattr(f, name), getattr(first, name))]
        if others and f"acquisition.{name}" not in cfg.stated:
            stated = {getattr(f, name): f.path.name for f in (first, others[0])}
            raise ValueError(
                f"the files differ in their {what}, {stated}: "
                f"run them apart, or set one (--set acquisition.{name}=...)"
            )
    for note in first.notes:
        # Another number than the file; pixels that are not those of the file.
        if note.startswith("you state") or SAMPLED_ANEW in note:
            warn_user(note)
    return _settle(
        cfg,
        first.px_mm,
        first.frame_rate_hz,
        first.path.name,
        sources=(first.px_mm_from, first.rate_from),
    )


class SettledBlocks:
    """Blocks with their scale by the rule of this file.

    Parameters
    ----------
    blocks : iterable of array_like or Block
        Frames.
    cfg : Config
        Settings.
    used : _UsedScale, optional
        Scale of all blocks, where it is settled already.

    Raises
    ------
    ValueError
        A block differs in scale from the first.
    """

    def __init__(
        self, blocks: Iterable[ArrayLike | Block], cfg: Config, used: _UsedScale | None = None
    ) -> None:
        self._blocks = blocks
        self._cfg = cfg
        self._used = used

    @property
    def settled(self) -> _UsedScale:
        """Scale of the first block, once it has passed, or of the settings."""
        return self._used or _settle(self._cfg, None, None, "", quiet=True)

    def __iter__(self) -> Iterator[Block]:
        is_settled = self._used is not None
        first_frame = 0
        for number, one in enumerate(self._blocks):
            block = one if isinstance(one, Block) else Block(np.asarray(one), source="array")
            if not is_settled:
                if number == 0:  # what is no recording is refused before its scale is doubted
                    check_block(block)
                here = settle_block(one, self._cfg, quiet=number > 0)
                self._used = self._used or here
                self._check_same(number, here)
            yield dataclasses.replace(
                block,
                px_mm=self.settled.px_mm,
                frame_rate_hz=self.settled.frame_rate_hz,
                # Frames of no file are counted through all blocks.
                first_frame=block.first_frame if block.file else first_frame,
            )
            first_frame += len(block.frames)

    def _check_same(self, number: int, here: _UsedScale) -> None:
        for name, (what, unit) in _QUANTITIES.items():
            first = getattr(self.settled, name)
            if not same_scale(first, getattr(here, name)):
                raise ValueError(
                    f"block {number} has a {what} of {getattr(here, name):g} {unit}, the first "
                    f"{first:g} {unit}: run them apart, or set one, acquisition.{name}=..."
                )


def _settle(
    cfg: Config,
    px_mm: float | None,
    frame_rate_hz: float | None,
    name: str,
    *,
    sources: tuple[str | None, str | None] = (None, None),
    quiet: bool = False,
    doubt: bool = False,
) -> _UsedScale:
    """Scale of what is called `name` and states pitch and rate, or None."""
    values = []
    origins = []
    assumed = []
    for (key, (what, unit)), stated, source in zip(
        _QUANTITIES.items(), (px_mm, frame_rate_hz), sources, strict=True
    ):
        own = getattr(cfg.acquisition, key)
        if f"acquisition.{key}" in cfg.stated:
            values.append(own)
            origins.append(_YOU)
            if stated is not None and not same_scale(own, stated) and not quiet:
                warn_user(
                    f"{name} states a {what} of {stated:g} {unit}, you {own:g} {unit}: yours counts"
                )
        elif stated is not None:
            values.append(float(stated))
            origins.append(source or name)
        else:
            values.append(own)
            origins.append(_ASSUMED)
            assumed.append(key)
    if assumed and not quiet:
        whats = " and ".join(_QUANTITIES[key][0] for key in assumed)
        numbers = " and ".join(
            f"{getattr(cfg.acquisition, key):g} {_QUANTITIES[key][1]}" for key in assumed
        )
        keys = ", ".join(f"acquisition.{key}=..." for key in assumed)
        warn_user(
            f"{name} does not state its {whats}: {numbers} assumed (--set or settings: {keys})"
        )
    if not quiet:
        # Files, and what the user said when they were opened, have been doubted there.
        known = (px_mm, frame_rate_hz)
        is_new = [
            (origin == _YOU and (doubt or not same_scale(value, stated)))
            or (doubt and origin == name)
            for value, origin, stated in zip(values, origins, known, strict=True)
        ]
        new_px_mm, new_rate_hz = (v if new else None for v, new in zip(values, is_new, strict=True))
        doubt_scale(new_px_mm, new_rate_hz, _YOU if _YOU in origins else name)
    return _UsedScale(values[0], values[1], origins[0], origins[1])
