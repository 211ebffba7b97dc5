"""Batches of training windows: parts of short sequences, drawn from random numbers of each step.

So a step sees the same windows whatever came before it and in whichever process they are made: a
training that goes on where it stopped does not differ from one that never did.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from ulmpaper.config import Config
from ulmpaper.core.health import find_outliers, without_outliers
from ulmpaper.core.records import Block, UlmWarning, check_whole
from ulmpaper.io.store import BlockStore
from ulmpaper.networks.augment import augment, n_simulated
from ulmpaper.simulator.imaging import speckle
from ulmpaper.simulator.psf import PsfBank, linear_array_psf, resample
from ulmpaper.simulator.simulate import (
    cam_pictures,
    cam_scene,
    psf_bank,
    seeded_stream,
    simulate_block,
)

Source = Callable[[np.random.Generator, int], Block]
_Sides = int | Sequence[int] | NDArray | None
Encode = Callable[[pd.DataFrame, int, tuple[int, int]], Tensor]

_STRETCH_STEPS = 8  # per unit: few enough that all widened PSFs stay in memory
_SHARES = 5  # of the PSFs, one of which is widened: the tables of all would fill the memory
_CROSS_SPEED = 0.05  # of bubbles that cross the image plane: they fade within some 20 frames
# Kinds of PSFs that a training draws from, one for each sequence.
_KINDS_OF = {"both": ("bmode", "iq"), "varied": ("iq", "iq", "gaussian")}

# --- sequences ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class SimulatedSource:
    """Short sequences made by the paper's simulator.

    Parameters
    ----------
    cfg : Config
        Settings: section ``cam``, and those of ``train`` that widen their range.
    split : {"train", "validation", "test"}
        Split that the pictures belong to.

    Notes
    -----
    Paper, section II-D, if section ``train`` is as in the profile ``paper``; otherwise PSFs,
    background, speed and more vary.

    Examples
    --------
    >>> from ulmpaper import load_config
    >>> block = SimulatedSource(load_config("smoke"), "train")(np.random.default_rng(0), 3)
    >>> block.frames.shape
    (3, 64, 72)
    """

    cfg: Config
    split: str = "train"

    def __call__(self, rng: np.random.Generator, n_frames: int) -> Block:
        """Simulate `n_frames` frames with their bubbles."""
        cam = self.cfg.cam
        train = self.cfg.train
        # The order of the draws is part of the training: another one gives other sequences.
        number = int(rng.choice(cam_pictures(self.cfg, self.split)))
        scene = cam_scene(self.cfg, number)
        kind = str(rng.choice(_KINDS_OF[train.psf])) if train.psf in _KINDS_OF else train.psf
        stretch = rng.uniform(*train.stretch)
        memory = cam.memory if rng.random() < train.still else float(rng.random())
        faster = np.float32(math.exp(rng.uniform(*np.log(train.speed))))
        ratio_db = rng.uniform(*cam.ratio_db)
        ratio_db += np.interp(rng.random(), (1 - train.quieter_share, 1), train.quieter_db)
        denser = finer = 1.0
        if train.denser != (1.0, 1.0):
            denser = rng.uniform(*train.denser)
        if train.resampled != (1.0, 1.0):
            finer = math.exp(rng.uniform(*np.log(train.resampled)))
        fewest, most = cam.n_bubbles
        crosses = bool(train.crossing) and rng.random() < train.crossing
        with warnings.catch_warnings(action="ignore", category=UlmWarning):  # of long steps
            block = simulate_block(
                scene.mask,
                faster * scene.maps,
                _stretched(self.cfg, kind, self.split, _rounded(stretch / finer)),
                n_frames=n_simulated(n_frames, train),
                n_bubbles=(round(denser * fewest), round(denser * most)),
                ratio_db=ratio_db,
                mean_life=cam.mean_life,
                cross_speed=_CROSS_SPEED if crosses else cam.cross_speed,
                memory=memory,
                speckle=_speckle(self.cfg, number),
                px_mm=self.cfg.acquisition.px_mm,
                frame_rate_hz=self.cfg.acquisition.frame_rate_hz,
                rng=rng,
            )
        return augment(block, n_frames, finer, train, rng)


@dataclass(frozen=True)
class StoredSource:
    """Short sequences cut out of a file of blocks.

    Parameters
    ----------
    path : str
        Block store with true bubbles, see `ulmpaper.io.BlockStore`; of IQ the amplitude is taken,
        and hot pixels are replaced by those around them.
    part : (float, float)
        Share of the file to cut from, e.g. (0, 0.9) for training and (0.9, 1) for validation, as
        the paper splits PALA's sequences 16 to 20.

    Raises
    ------
    ValueError
        No true bubbles in the file, or fewer frames in the part than a window has.
    """

    path: str
    part: tuple[float, float] = (0.0, 1.0)

    def __call__(self, rng: np.random.Generator, n_frames: int) -> Block:
        """Read `n_frames` frames from a random place."""
        with BlockStore(self.path) as store:
            first, last = (round(share * len(store)) for share in self.part)
            if last - first < n_frames:
                raise ValueError(
                    f"{self.path} has {last - first} frames in this part, a window needs {n_frames}"
                )
            start = int(rng.integers(first, last - n_frames, endpoint=True))
            block = store.window(start, n_frames)
        # A hot pixel would make the whole batch dark.
        frames = np.abs(block.frames)
        frames = without_outliers(frames, find_outliers(frames))
        return dataclasses.replace(block, frames=frames)


def seeded_sequence(source: Source, n_frames: int, seed: int, name: str, number: int) -> Block:
    """Make the sequence that `seed`, `name` and `number` determine."""
    return source(seeded_stream(seed, name, number), n_frames)


def psf_kinds(cfg: Config) -> tuple[str, ...]:
    """Kinds of PSFs in the sequences of a training."""
    return tuple(dict.fromkeys(_KINDS_OF.get(cfg.train.psf, (cfg.train.psf,))))


def _rounded(stretch: float) -> float:
    """The nearest of the widths for which PSFs are made."""
    return max(1, round(stretch * _STRETCH_STEPS)) / _STRETCH_STEPS


@functools.lru_cache(maxsize=128)
def _stretched(cfg: Config, kind: str, split: str, stretch: float) -> PsfBank:
    """PSFs that are `stretch` times as wide; of many widths, each takes a share of the PSFs."""
    bank = psf_bank(cfg, kind, split)
    if cfg.train.stretch != (1.0, 1.0):
        first = round(stretch * _STRETCH_STEPS) % _SHARES
        bank = dataclasses.replace(bank, table=bank.table[first::_SHARES])
    return resample(bank, px_wavelengths=bank.px_wavelengths / stretch)


@functools.lru_cache(maxsize=8)
def _speckle(cfg: Config, number: int) -> NDArray[np.complex64]:
    """A field of speckle twice as large as a frame, for all sequences of a picture."""
    n_z, n_x = cfg.cam.shape_px
    probe = resample(linear_array_psf(), px_wavelengths=psf_bank(cfg).px_wavelengths)
    return speckle(
        (2 * n_z, 2 * n_x), rng=seeded_stream(cfg.seed, "window speckle", number), bank=probe
    )


# --- batches -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    """Windows for one step.

    Parameters
    ----------
    frames : Tensor (B, N, Z, X) float32
        As simulated or read; the step divides them by the maximum of the whole batch.
    gain : Tensor (B, 1, 1, 1) float32
        Factor on each window after that.
    targets : Tensor (B, ...)
        The true bubbles, encoded by the recipe.
    """

    frames: Tensor
    gain: Tensor
    targets: Tensor


class Batches(Dataset):
    """The batches of a training by the number of their step.

    Parameters
    ----------
    source, encode : callable
        Make a sequence from a random generator and a number of frames; a target from bubbles,
        frames and size.
    n_steps, n_sequences, crops : int
        Length of the training, sequences of a batch, and windows cut out of each.
    n_frames, crop_px, gain : int, int or None, (float, float)
        Frames of a window, its side (None takes whole frames), and the range of the factor on it.
    as_tiles : bool
        Cut rectangles anywhere, their sides from half of `crop_px` to all of it, other ones for
        each batch, like the tiles in which bubbles are counted. Otherwise squares, most of them
        where a bubble is.
    seed, name : int, str
        Seed of the random numbers, together with the step.
    rank, world : int
        Number of this process, and of the processes that share a batch; each takes `n_sequences`.

    Examples
    --------
    >>> from ulmpaper import load_config
    >>> from ulmpaper.networks import encode_offsets
    >>> source = SimulatedSource(load_config("smoke"))
    >>> sizes = {"n_steps": 5, "n_sequences": 1, "crops": 2, "n_frames": 3, "crop_px": 32}
    >>> batch = Batches(source, encode_offsets, **sizes)[4]
    >>> batch.frames.shape, batch.targets.shape
    (torch.Size([2, 3, 32, 32]), torch.Size([2, 3, 3, 32, 32]))
    """

    def __init__(
        self,
        source: Source,
        encode: Encode,
        *,
        n_steps: int,
        n_sequences: int,
        n_frames: int,
        crops: int = 1,
        crop_px: int | None = None,
        gain: tuple[float, float] = (1.0, 1.0),
        as_tiles: bool = False,
        seed: int = 0,
        name: str = "train",
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self._source = source
        self._encode = encode
        self._n_steps = n_steps
        self._n_sequences = n_sequences
        self._n_frames = n_frames
        self._crops = crops
        self._crop_px = crop_px
        self._gain = gain
        self._as_tiles = as_tiles
        self._seed = seed
        self._name = name
        self._rank = rank
        self._world = world

    def __len__(self) -> int:
        return self._n_steps

    def __getitem__(self, step: int) -> Batch:
        if not 0 <= step < self._n_steps:
            raise IndexError(
                f"steps are counted from 0 to {self._n_steps - 1}, there is none {step}"
            )
        size = self._size(step)
        frames = []
        gains = []
        targets = []
        # Sequences are numbered through all steps and processes.
        first = (step * self._world + self._rank) * self._n_sequences
        for number in range(first, first + self._n_sequences):
            rng = seeded_stream(self._seed, self._name, number)
            block = self._source(rng, self._n_frames)
            for k in range(self._crops):
                # Vessels are few: one square in four lies anywhere and is mostly empty, the others
                # hold a bubble.
                at_bubble = not self._as_tiles and k % 4 != 3
                part = cut(block, size, rng=rng, at_bubble=at_bubble)
                part = _flip(part, rng.random(3) < 0.5)
                frames.append(part.frames)
                gains.append(rng.uniform(*self._gain))
                targets.append(self._encode(part.truth, self._n_frames, part.frames.shape[1:]))
        return Batch(
            torch.from_numpy(np.abs(np.stack(frames)).astype(np.float32)),
            torch.tensor(gains, dtype=torch.float32)[:, None, None, None],
            torch.stack(targets),
        )

    def _size(self, step: int) -> _Sides:
        """Size of all windows of a step: for tiles, sides drawn anew."""
        side = self._crop_px
        if not (self._as_tiles and side):
            return side
        rng = seeded_stream(self._seed, f"{self._name} size", step)
        return rng.integers(side // 2, side, 2, endpoint=True)


def over_peak(frames: Tensor, peak: Tensor | None = None) -> Tensor:
    """Divide frames by their maximum, or by `peak` where they are part of more frames.

    Notes
    -----
    Paper, section II-E: frames are divided by the maximum of their batch.

    Examples
    --------
    >>> over_peak(torch.tensor([1.0, 4.0])).tolist(), over_peak(torch.zeros(2)).tolist()
    ([0.25, 1.0], [0.0, 0.0])
    """
    peak = frames.amax() if peak is None else peak
    return frames / peak.clamp(min=torch.finfo(frames.dtype).tiny)


def cut(
    block: Block, side_px: _Sides, *, rng: np.random.Generator, at_bubble: bool = False
) -> Block:
    """Cut a square or rectangle out of all frames of a block.

    Parameters
    ----------
    block : Block
        With its true bubbles, whose positions then count from the part's first pixel.
    side_px : int, (int, int) or None
        Side of the square, or sides along z and x [px]; None leaves the block as it is.
    rng : numpy.random.Generator
        Random numbers that the position is drawn from.
    at_bubble : bool
        Only parts that hold a bubble in any frame; any part where there is none.

    Raises
    ------
    ValueError
        Frames smaller than the part.

    Examples
    --------
    >>> from ulmpaper.core import bubble_table
    >>> block = Block(np.zeros((1, 40, 50)), bubble_table([0], [30.0], [45.0], [1.0]))
    >>> part = cut(block, 16, rng=np.random.default_rng(0), at_bubble=True)
    >>> part.frames.shape, len(part.bubbles)
    ((1, 16, 16), 1)
    """
    if side_px is None:
        return block
    size = np.array(block.frames.shape[1:])
    if np.shape(side_px) not in ((), (1,), (2,)):
        raise ValueError(f"side_px is one side or two, (z, x) [px], not {side_px!r}")
    side = np.array([check_whole(side_px=s) for s in np.broadcast_to(side_px, 2)])
    if (size < side).any():
        raise ValueError(
            f"a part of {side[0]} x {side[1]} px does not fit into frames of "
            f"{size[0]} x {size[1]} px"
        )
    low = np.zeros(2, dtype=int)
    high = size - side
    positions = block.truth[["z", "x"]].to_numpy()
    if at_bubble and len(positions):
        # All corners from which the part reaches the pixel of a bubble drawn at random.
        pixel = np.floor(positions[rng.integers(len(positions))] + 0.5).astype(int)
        low, high = np.clip(pixel - side + 1, low, high), np.clip(pixel, low, high)
    start = rng.integers(low, high, endpoint=True)
    inside = ((positions + 0.5 >= start) & (positions + 0.5 < start + side)).all(axis=1)
    (z, x), (n_z, n_x) = start.tolist(), side.tolist()
    bubbles = block.truth[inside]
    return Block(
        block.frames[:, z : z + n_z, x : x + n_x],
        bubbles.assign(z=bubbles["z"] - z, x=bubbles["x"] - x),
        block.px_mm,
        block.frame_rate_hz,
    )


def _flip(block: Block, axes: NDArray[np.bool_]) -> Block:
    """Turn a block and its bubbles round along time, depth and width where `axes` (3,) is true."""
    bubbles = block.truth
    frames = block.frames
    for axis, name in enumerate(("frame", "z", "x")):
        if axes[axis]:
            frames = np.flip(frames, axis)
            bubbles = bubbles.assign(**{name: frames.shape[axis] - 1 - bubbles[name]})
    return Block(frames, bubbles, block.px_mm, block.frame_rate_hz)
