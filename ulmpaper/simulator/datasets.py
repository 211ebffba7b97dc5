"""Data sets on disk, simulated block by block and resumable.

The settings of a data set are written into it, and a run with other settings does not add to it.
The number of blocks or sequences is not among them: with a larger number, the set goes on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ulmpaper import __version__
from ulmpaper.config import Config
from ulmpaper.core.records import Block, check_choice
from ulmpaper.io.files import clear_rests, only_writer, remove, writable, write_atomic
from ulmpaper.io.processes import Stopped, count_processes
from ulmpaper.io.store import BlockStore
from ulmpaper.simulator import simulate
from ulmpaper.simulator.phantom import SEQUENCES, write_pala

_KINDS = ("cam", "phantom", "invivo")
_NUMBERS = ("phantom.n_sequences", "invivo.n_blocks")  # with larger ones, the set goes on


def simulate_dataset(
    kind: str,
    out: str | Path,
    cfg: Config,
    *,
    split: str | None = None,
    data_dir: str | Path | None = None,
    n_jobs: int = 1,
    progress: bool = False,
) -> int:
    """Write the missing part of a simulated data set.

    Parameters
    ----------
    kind : {"cam", "phantom", "invivo"}
        See `ulmpaper.simulate`.
    out : path
        A block store (``.h5`` or ``.hdf5``); for the phantom a folder, which gets PALA's files.
    cfg : Config
        Settings.
    split : {"test", "train", "validation"}, optional
        Part of ``cam``, by default the test set. Of the phantom all sequences of the split,
        ``test`` or ``validation``, instead of the first ``phantom.n_sequences``.
    data_dir : path, optional
        Where ``invivo`` looks for PALA's map of a brain, see `ulmpaper.simulator.invivo_scene`.
    n_jobs : int
        Processes, on which the data do not depend. ``cam`` uses one, since writing its frames takes
        longer than making them.
    progress : bool
        Show a bar if it takes more than 2 s.

    Returns
    -------
    int
        Frames that the data set now has.

    Raises
    ------
    ValueError
        Unknown kind or split; `out` is of another kind or was made with other settings; settings
        that cannot be met.
    OSError
        `out` cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from ulmpaper.config import load_config
    >>> cfg = load_config("smoke", {"cam.n_frames": 4, "cam.sequence_frames": 4})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     simulate_dataset("cam", f"{folder}/cam.h5", cfg)
    4
    """
    check_choice(kind, _KINDS, "kind of data")
    n_jobs = count_processes(n_jobs)
    if split is not None and kind == "invivo":
        raise ValueError(f"{kind} has no split {split!r}: only cam and phantom have")
    if not str(out).strip():
        raise ValueError(f"{kind} needs a place to be written to, not an empty name")
    path = Path(out)
    if kind == "phantom":
        numbers = range(1, cfg.phantom.n_sequences + 1)
        if split is not None:
            numbers = SEQUENCES[check_choice(split, SEQUENCES, "split of the phantom")]
        return _fill_folder(path, cfg, numbers, n_jobs, progress)
    if path.suffix.lower() not in (".h5", ".hdf5"):
        raise ValueError(
            f"{kind} is written to one file whose name ends in .h5, not to {str(out)!r}"
        )
    if kind == "cam":
        split = check_choice(split or "test", simulate.SPLITS, "split")
        about = _made_with(kind, cfg, split=split)
        block_frames = cfg.cam.sequence_frames
        n_frames = cfg.cam.n_frames
        blocks = functools.partial(simulate.cam_blocks, cfg, split)
    else:
        scene = simulate.invivo_scene(cfg, data_dir)
        about = _made_with(kind, cfg, vessels=scene.source)
        block_frames = cfg.invivo.n_frames
        n_frames = block_frames * cfg.invivo.n_blocks
        blocks = functools.partial(simulate.invivo_blocks, cfg, scene, n_jobs=n_jobs)
    return _fill_store(path, about, blocks, block_frames, n_frames, progress)


def _fill_store(
    path: Path,
    about: dict[str, Any],
    blocks: functools.partial[Iterator[Block]],
    block_frames: int,
    n_frames: int,
    progress: bool,
) -> int:
    """Append the blocks of ``blocks(first=...)`` that the store lacks."""
    is_new = False
    n_done = 0
    try:
        with writable(path.parent), BlockStore(path, "a", about) as store:
            n_done = len(store)
            is_new = n_done == 0 and store.about == about
            _check_settings(path, store.about, about)
            with tqdm(
                total=n_frames, initial=n_done, unit="frame", delay=2, disable=not progress
            ) as bar:
                for block in blocks(first=-(-n_done // block_frames)):
                    store.append(block)
                    n_done = len(store)
                    bar.update(len(block.frames))
                    del block  # from memory, before the next one is made
    except Stopped as stop:
        if n_done:
            stop.add_note(f"{n_done} of {n_frames} frames are kept: the same command goes on")
        raise
    finally:
        if is_new and not n_done:
            path.unlink(missing_ok=True)
    return n_done


def _fill_folder(folder: Path, cfg: Config, numbers: range, n_jobs: int, progress: bool) -> int:
    """Write the sequences of the phantom that the folder does not hold."""
    about = _made_with("phantom", cfg)
    note = folder / "simulate.json"
    cache = folder / ".cache"
    files = [folder / "IQ" / f"PALA_InSilicoFlow_IQ{number:03d}.mat" for number in numbers]
    with writable(folder), contextlib.ExitStack() as held:
        folder.mkdir(parents=True, exist_ok=True)
        held.enter_context(only_writer(folder / "IQ"))
        clear_rests([note, folder / "PALA_InSilicoFlow_sequence.mat", *files])
        if note.exists() or (folder / "IQ").exists():
            _check_settings(folder, _read_note(note), about)
        else:
            write_atomic(note, (json.dumps(about, indent=1) + "\n").encode())
        n_there = sum(1 for _ in itertools.takewhile(Path.is_file, files))
        missing = numbers[n_there:]
        blocks = simulate.phantom_blocks(
            cfg, missing, cache_dir=cache, n_jobs=n_jobs, progress=progress
        )
        for number, block in zip(missing, blocks, strict=True):
            write_pala(block, folder, number)
            remove(cache)
        remove(cache)  # a kill may have come between the last two steps
    return len(files) * cfg.phantom.n_frames


def _read_note(note: Path) -> dict[str, Any]:
    """Settings of a data set in a folder; nothing where there are none."""
    if not note.exists():
        return {}
    try:
        settings = json.loads(note.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        settings = None
    if not isinstance(settings, dict):
        raise ValueError(f"{note} is damaged: choose another folder, or delete it to start anew")
    return settings


def _made_with(kind: str, cfg: Config, **more: str) -> dict[str, Any]:
    """Settings that a data set depends on, without the number of its parts."""
    # The phantom has a scale of its own.
    sections = [kind] if kind == "phantom" else [kind, "acquisition"]
    about = {"simulate": kind, "ulmpaper": __version__, **more, "seed": cfg.seed}
    for section in sections:
        for key, value in dataclasses.asdict(getattr(cfg, section)).items():
            if f"{section}.{key}" not in _NUMBERS:
                about[f"{section}.{key}"] = value
    # Tuples become lists, as when read back from a file.
    return json.loads(json.dumps(about))


def _check_settings(path: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    """Refuse to add to a data set that was made with other settings."""
    if not old:
        raise ValueError(f"{path} holds something else than simulated data: choose another name")
    for key in {**new, **old}:
        if old.get(key) != new.get(key):
            raise ValueError(
                f"{path} was begun with {key} = {old.get(key)}, not {new.get(key)}: "
                "choose another name, or delete it to start anew"
            )
