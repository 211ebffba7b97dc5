"""Test and validation sequences, simulated or PALA's.

The paper tests on the first 15 of PALA's 20 sequences and trains and validates on the last five.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ulmpaper.config import Config
from ulmpaper.core.records import Block, check_choice, check_positive
from ulmpaper.io.readers import read_insilico
from ulmpaper.paper.palafiles import SOURCES, insilico_folder
from ulmpaper.simulator.phantom import SEQUENCES, phantom_block


def sequence_numbers(cfg: Config, split: str) -> range:
    """Number the sequences of a split: ``phantom.n_sequences`` of the test set, else all.

    Examples
    --------
    >>> from ulmpaper.config import load_config
    >>> [sequence_numbers(load_config(profile), "test") for profile in ("quick", "paper")]
    [range(1, 4), range(1, 16)]
    """
    numbers = SEQUENCES[check_choice(split, SEQUENCES, "split")]
    return numbers[: cfg.phantom.n_sequences] if split == "test" else numbers


def insilico_blocks(
    cfg: Config,
    split: str,
    *,
    source: str = "simulated",
    data_dir: str | Path = "data",
    n_sequences: int | None = None,
    n_frames: int | None = None,
    n_jobs: int = 1,
) -> Iterator[Block]:
    """Give the sequences of a split, one at a time.

    Parameters
    ----------
    cfg : Config
        Settings, section ``phantom``.
    split : {"test", "validation"}
        See `sequence_numbers`.
    source : {"simulated", "pala"}
        The phantom, or PALA's files in `data_dir`.
    data_dir : path
        Folder of PALA's files; in its folder ``cache`` frames of the phantom are kept.
    n_sequences, n_frames : int, optional
        At most so many, and the first frames of each; by default all of the split, and
        ``cfg.phantom.n_frames``.
    n_jobs : int
        Processes that simulate.

    Raises
    ------
    FileNotFoundError
        PALA's files are not there; says how to get them.
    """
    check_choice(source, SOURCES, "source")
    numbers = sequence_numbers(cfg, split)[:n_sequences]
    n_frames = cfg.phantom.n_frames if n_frames is None else n_frames
    check_positive(n_frames=n_frames)
    if source == "simulated":

        def block(number: int) -> Block:
            return phantom_block(
                number,
                n_frames=n_frames,
                n_bubbles=cfg.phantom.n_bubbles,
                seed=cfg.seed,
                cache_dir=Path(data_dir) / "cache",
                n_jobs=n_jobs,
            )

        # All go into the cache first: else processes that use a sequence and processes that
        # simulate the next one would get in each other's way.
        for number in numbers:
            block(number)
        return map(block, numbers)
    folder = insilico_folder(data_dir)
    return (read_insilico(folder, number).first(n_frames) for number in numbers)
