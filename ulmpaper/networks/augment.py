"""What recordings from elsewhere have and the paper's simulator lacks, put into training frames."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from numpy.typing import NDArray

from ulmpaper.config import Train
from ulmpaper.core.records import Block
from ulmpaper.networks.sampling import at_own_scale
from ulmpaper.simulator.flow import MEAN_AMPLITUDE

_FAINT = 0.05  # bubbles darker than this are seen by nobody, and are no truth
_SATURATED = (0.3, 1.0)  # share of the brightest pixel at which saturated frames are cut off


def n_simulated(n_frames: int, train: Train) -> int:
    """Frames to simulate for `n_frames`: one more where a frame may be dropped."""
    return n_frames + (train.flawed > 0)


def augment(
    block: Block, n_frames: int, factor: float, train: Train, rng: np.random.Generator
) -> Block:
    """Put noise and flaws into a simulated sequence, as ``train`` says, and sample it anew.

    Parameters
    ----------
    block : Block
        Amplitude and true bubbles, of `n_simulated` frames.
    n_frames : int
        Frames wanted.
    factor : float
        Times as many pixels along either axis, as for a network's own scale.
    train : Train
        Settings.
    rng : numpy.random.Generator
        Source of noise and flaws.
    """
    if train.crossing:
        visible = block.truth["score"] > _FAINT
        block = dataclasses.replace(block, bubbles=block.truth[visible].reset_index(drop=True))
    if train.noise_db is not None:
        noisy = _add_noise(block.frames, rng.uniform(*train.noise_db), rng)
        block = dataclasses.replace(block, frames=noisy)
    if train.flawed:
        is_flawed = rng.random(2) < train.flawed
        block = _drop_frame(block, int(rng.integers(1, n_frames)) if is_flawed[0] else n_frames)
        if is_flawed[1]:
            limit = rng.uniform(*_SATURATED) * block.frames.max()
            block = dataclasses.replace(block, frames=np.minimum(block.frames, limit))
    return _sample_anew(block, factor)


def _add_noise(frames: NDArray, ratio_db: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Add the white noise of amplifiers, `ratio_db` below a mean bubble, to amplitudes."""
    level = MEAN_AMPLITUDE * 10 ** (-ratio_db / 20) / math.sqrt(2)
    real, imaginary = level * rng.standard_normal((2, *frames.shape), dtype=np.float32)
    return np.hypot(frames + real, imaginary)


def _drop_frame(block: Block, number: int) -> Block:
    """Leave out a frame: all bubbles make two steps at once."""
    frame = block.truth["frame"]
    bubbles = block.truth[frame != number].reset_index(drop=True)
    later = bubbles["frame"] > number
    return dataclasses.replace(
        block,
        frames=np.delete(block.frames, number, axis=0),
        bubbles=bubbles.assign(frame=bubbles["frame"] - later),
    )


def _sample_anew(block: Block, factor: float) -> Block:
    """Sample frames with `factor` times as many pixels along either axis, with their bubbles."""
    new = at_own_scale(block.frames, (factor, factor), {})
    return dataclasses.replace(block, frames=new[:], bubbles=new.carry(block.truth))
