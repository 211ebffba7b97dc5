"""What networks are trained on: parts cut out of short sequences, each step's drawn from its own random numbers.

So a step sees the same windows whatever came before it, in whichever process they are made: a training that goes on
where it stopped does not differ from one that never did.
"""

from __future__ import annotations

import functools
import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from ulmpaper.config import Config
from ulmpaper.core.records import Block
from ulmpaper.io.store import BlockStore
from ulmpaper.simulator.imaging import speckle
from ulmpaper.simulator.psf import PsfBank, linear_array_psf, resample
from ulmpaper.simulator.simulate import cam_pictures, cam_scene, psf_bank, simulate_block

STRETCH_STEPS = 8  # per unit: few enough that all widened PSFs are kept
Source = Callable[[np.random.Generator, int], Block]
Sides = int | Sequence[int] | NDArray | None
Encode = Callable[[pd.DataFrame, int, tuple[int, int]], Tensor]


@dataclass(frozen=True)
class SimulatedSource:
    """Short sequences made by the paper's simulator.

    Parameters
    ----------
    cfg : Config
        Settings: section ``cam``, and of ``train`` what widens their range.
    split : {"train", "validation", "test"}
        Whose pictures.

    Notes
    -----
    Paper, section II-D, if section ``train`` is as in the profile ``paper``; otherwise PSFs, background and speed vary.

    Examples
    --------
    >>> from ulmpaper.config import load_config
    >>> block = SimulatedSource(load_config("smoke"), "train")(np.random.default_rng(0), 3)
    >>> block.frames.shape
    (3, 64, 72)
    """

    cfg: Config
    split: str = "train"

    def __call__(self, rng: np.random.Generator, n_frames: int) -> Block:
        """Simulate `n_frames` frames with their bubbles."""
        cam, train = self.cfg.cam, self.cfg.train
        number = int(rng.choice(cam_pictures(self.cfg, self.split)))
        scene = cam_scene(self.cfg, number)
        kind = str(rng.choice(["bmode", "iq"])) if train.psf == "both" else train.psf
        stretch = round(rng.uniform(*train.stretch) * STRETCH_STEPS) / STRETCH_STEPS
        memory = cam.memory if rng.random() < train.still else float(rng.random())
        faster = np.float32(math.exp(rng.uniform(*np.log(train.speed))))
        ratio_db = rng.uniform(*cam.ratio_db)
        ratio_db += np.interp(rng.random(), (1 - train.quieter_share, 1), train.quieter_db)
        return simulate_block(
            scene.mask,
            faster * scene.maps,
            _stretched(self.cfg, kind, stretch),
            n_frames=n_frames,
            n_bubbles=cam.n_bubbles,
            ratio_db=ratio_db,
            mean_life=cam.mean_life,
            cross_speed=cam.cross_speed,
            memory=memory,
            speckle=_speckle(self.cfg, number),
            px_mm=self.cfg.acquisition.px_mm,
            frame_rate_hz=self.cfg.acquisition.frame_rate_hz,
            rng=rng,
        )


@dataclass(frozen=True)
class StoredSource:
    """Short sequences cut out of a file of blocks.

    Parameters
    ----------
    path : str
        Block store with true bubbles, see `ulmpaper.io.store.BlockStore`; of IQ the amplitude is taken.
    part : (float, float)
        Share of the file to cut from, e.g. (0, 0.9) for training and (0.9, 1) for validation, as the paper splits
        PALA's sequences 16 to 20.

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
            return store.window(int(rng.integers(first, last - n_frames, endpoint=True)), n_frames)


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
        What the recipe makes of the true bubbles.
    """

    frames: Tensor
    gain: Tensor
    targets: Tensor


class Batches(Dataset):
    """The batches of a training by the number of their step.

    Parameters
    ----------
    source, encode : callable
        Make a sequence from a random generator and a number of frames; a target from bubbles, frames and size.
    n_steps, n_sequences, crops : int
        Length of the training, sequences of a batch, and windows cut out of each.
    n_frames, crop_px, gain : int, int or None, (float, float)
        Frames of a window, its side (None takes whole frames), and the range of the factor on it.
    as_tiles : bool
        Cut rectangles anywhere, their sides from half of `crop_px` to all of it, other ones for each batch: what frames
        are cut into for counting. Otherwise squares, most of them where a bubble is.
    seed, name, rank, world : int, str, int, int
        What the random numbers are drawn from, together with the step; this process and how many share a batch, of
        which each takes `n_sequences`.

    Examples
    --------
    >>> from ulmpaper.config import load_config
    >>> from ulmpaper.networks.targets import encode_offsets
    >>> source = SimulatedSource(load_config("smoke"))
    >>> windows = Batches(source, encode_offsets, n_steps=5, n_sequences=1, crops=2, n_frames=3, crop_px=32)
    >>> batch = windows[4]
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
        self._source, self._encode, self._n_steps, self._n_frames = (
            source,
            encode,
            n_steps,
            n_frames,
        )
        self._n_sequences, self._crops, self._crop_px = n_sequences, crops, crop_px
        self._gain, self._as_tiles = gain, as_tiles
        self._seed, self._name, self._rank, self._world = seed, name, rank, world

    def __len__(self) -> int:
        return self._n_steps

    def __getitem__(self, step: int) -> Batch:
        if not 0 <= step < self._n_steps:
            raise IndexError(
                f"steps are counted from 0 to {self._n_steps - 1}, there is none {step}"
            )
        frames, gains, targets = [], [], []
        side, rng = self._crop_px, _rng(self._seed, f"{self._name} size", step)
        size: Sides = (
            rng.integers(side // 2, side, 2, endpoint=True) if self._as_tiles and side else side
        )
        first = (step * self._world + self._rank) * self._n_sequences
        for number in range(first, first + self._n_sequences):
            rng = _rng(self._seed, self._name, number)
            block = self._source(rng, self._n_frames)
            for k in range(self._crops):
                # Vessels are few: one square in four lies anywhere and is mostly empty, the others hold a bubble.
                part = cut(block, size, rng=rng, at_bubble=not self._as_tiles and k % 4 != 3)
                part = flip(part, rng.random(3) < 0.5)
                frames.append(part.frames)
                gains.append(rng.uniform(*self._gain))
                targets.append(self._encode(part.truth, self._n_frames, part.frames.shape[1:]))
        return Batch(
            torch.from_numpy(np.abs(np.stack(frames)).astype(np.float32)),
            torch.tensor(gains, dtype=torch.float32)[:, None, None, None],
            torch.stack(targets),
        )


def seeded_sequence(source: Source, n_frames: int, seed: int, name: str, number: int) -> Block:
    """Make the sequence that `seed`, `name` and `number` determine."""
    return source(_rng(seed, name, number), n_frames)


def cut(
    block: Block, side_px: Sides, *, rng: np.random.Generator, at_bubble: bool = False
) -> Block:
    """Cut a square or rectangle out of all frames of a block.

    Parameters
    ----------
    block : Block
        With its true bubbles, whose places then count from the part's first pixel.
    side_px : int, (int, int) or None
        Side of the square, or sides along z and x [px]; None leaves the block as it is.
    rng : numpy.random.Generator
        Source of the place.
    at_bubble : bool
        Only places with a bubble in the first frame or a later one; any place where there is none.

    Raises
    ------
    ValueError
        Frames smaller than the part.

    Examples
    --------
    >>> from ulmpaper.core.records import bubble_table
    >>> block = Block(np.zeros((1, 40, 50)), bubble_table([0], [30.0], [45.0], [1.0]))
    >>> part = cut(block, 16, rng=np.random.default_rng(0), at_bubble=True)
    >>> part.frames.shape, len(part.bubbles)
    ((1, 16, 16), 1)
    """
    if side_px is None:
        return block
    size, side = np.array(block.frames.shape[1:]), np.broadcast_to(side_px, 2)
    if (size < side).any():
        raise ValueError(
            f"a part of {side[0]} x {side[1]} px does not fit into frames of {tuple(size)} px"
        )
    low, high = np.zeros(2, dtype=int), size - side
    places = block.truth[["z", "x"]].to_numpy()
    if at_bubble and len(places):
        pixel = np.floor(places[rng.integers(len(places))] + 0.5).astype(int)
        low, high = np.clip(pixel - side + 1, low, high), np.clip(pixel, low, high)
    start = rng.integers(low, high, endpoint=True)
    inside = ((places + 0.5 >= start) & (places + 0.5 < start + side)).all(axis=1)
    (z, x), (n_z, n_x) = start.tolist(), side.tolist()
    bubbles = block.truth[inside].assign(
        z=lambda table: table["z"] - z, x=lambda table: table["x"] - x
    )
    return Block(
        block.frames[:, z : z + n_z, x : x + n_x], bubbles, block.px_mm, block.frame_rate_hz
    )


def flip(block: Block, axes: NDArray[np.bool_]) -> Block:
    """Turn a block round along time, depth and width where `axes` (3,) says so, and its bubbles with it.

    Examples
    --------
    >>> from ulmpaper.core.records import bubble_table
    >>> block = Block(np.zeros((2, 8, 9)), bubble_table([0], [1.25], [2.0], [1.0]))
    >>> flip(block, np.array([True, True, False])).bubbles
       frame     z    x  score
    0      1  5.75  2.0    1.0
    """
    bubbles, frames = block.truth, block.frames
    for axis, name in enumerate(("frame", "z", "x")):
        if axes[axis]:
            frames = np.flip(frames, axis)
            bubbles = bubbles.assign(**{name: frames.shape[axis] - 1 - bubbles[name]})
    return Block(frames, bubbles, block.px_mm, block.frame_rate_hz)


def _rng(seed: int, name: str, number: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence([seed, zlib.crc32(name.encode()), number]))


@functools.lru_cache(maxsize=64)
def _stretched(cfg: Config, kind: str, stretch: float) -> PsfBank:
    bank = psf_bank(cfg, kind)
    return resample(bank, px_wavelengths=bank.px_wavelengths / stretch)


@functools.lru_cache(maxsize=8)
def _speckle(cfg: Config, number: int) -> NDArray[np.complex64]:
    """A field of speckle twice as large as a frame, for all sequences of a picture."""
    n_z, n_x = cfg.cam.shape_px
    probe = resample(linear_array_psf(), px_wavelengths=psf_bank(cfg).px_wavelengths)
    return speckle((2 * n_z, 2 * n_x), rng=_rng(cfg.seed, "window speckle", number), bank=probe)
