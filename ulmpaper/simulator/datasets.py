"""Data sets on disk, simulated block by block and resumable.

What a data set is made with is written into it, and a run with other settings does not add to it. How many blocks or
sequences there are does not count: with a larger number, the set goes on.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
from tqdm import tqdm

from ulmpaper import __version__
from ulmpaper.config import Config
from ulmpaper.core.records import Block, check_choice
from ulmpaper.io.files import writable
from ulmpaper.io.store import BlockStore
from ulmpaper.simulator import simulate
from ulmpaper.simulator.phantom import SPLITS, write_pala

KINDS = ("cam", "phantom", "invivo")
_NUMBERS = ("phantom.n_sequences", "invivo.n_blocks")


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
    """Write what is missing of a simulated data set.

    Parameters
    ----------
    kind : {"cam", "phantom", "invivo"}
        See `ulmpaper.simulator.simulate`.
    out : path
        A block store (``.h5`` or ``.hdf5``); for the phantom a folder, which gets PALA's files.
    cfg : Config
        Settings.
    split : {"test", "train", "validation"}, optional
        Which part of ``cam``, by default the test set; or of the phantom, all sequences of `phantom.SPLITS`, instead of
        the first ``phantom.n_sequences``.
    data_dir : path, optional
        Where ``invivo`` looks for PALA's map of a brain, see `simulate.invivo_scene`.
    n_jobs : int
        Processes, on which the data do not depend; ``cam`` needs one, for its frames take longer to write than to make.
    progress : bool
        Show a bar if it takes more than 2 s.

    Returns
    -------
    int
        Frames that the data set now has.

    Raises
    ------
    ValueError
        Unknown kind or split; `out` is of another kind or was made with other settings; settings that cannot be met.
    OSError
        `out` cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from ulmpaper.config import load_config
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     simulate_dataset("cam", f"{folder}/cam.h5", load_config("smoke", {"cam.n_frames": 4, "cam.sequence_frames": 4}))
    4
    """
    check_choice(kind, KINDS, "kind of data")
    n_jobs = joblib.effective_n_jobs(n_jobs)
    if split is not None and kind == "invivo":
        raise ValueError(f"{kind} has no split {split!r}: only cam and phantom have")
    if not str(out).strip():
        raise ValueError(f"{kind} needs a place to be written to, not an empty name")
    if kind == "phantom":
        numbers = range(1, cfg.phantom.n_sequences + 1)
        if split is not None:
            numbers = SPLITS[check_choice(split, SPLITS, "split of the phantom")]
        return _fill_folder(Path(out), cfg, numbers, n_jobs, progress)
    if Path(out).suffix.lower() not in (".h5", ".hdf5"):
        raise ValueError(
            f"{kind} is written to one file whose name ends in .h5, not to {str(out)!r}"
        )
    if kind == "cam":
        split = check_choice(split or "test", simulate.SPLITS, "split")
        about, size, n_frames = (
            _about(kind, cfg, split=split),
            cfg.cam.sequence_frames,
            cfg.cam.n_frames,
        )
        blocks = functools.partial(simulate.cam_blocks, cfg, split)
    else:
        scene = simulate.invivo_scene(cfg, data_dir)
        about, size = _about(kind, cfg, vessels=scene.source), cfg.invivo.n_frames
        n_frames = size * cfg.invivo.n_blocks
        blocks = functools.partial(simulate.invivo_blocks, cfg, scene, n_jobs=n_jobs)
    return _fill_store(Path(out), about, blocks, size, n_frames, progress)


def _about(kind: str, cfg: Config, **more: str) -> dict[str, Any]:
    """What a data set is made with, but for the number of its parts."""
    sections = (
        [kind] if kind == "phantom" else [kind, "acquisition"]
    )  # the phantom has a scale of its own
    settings = {
        f"{name}.{key}": v
        for name in sections
        for key, v in dataclasses.asdict(getattr(cfg, name)).items()
    }
    about = {"simulate": kind, "ulmpaper": __version__, **more, "seed": cfg.seed, **settings}
    # Read back from a file, tuples are lists.
    return json.loads(
        json.dumps({key: value for key, value in about.items() if key not in _NUMBERS})
    )


def _check_settings(path: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    if not old:
        raise ValueError(f"{path} holds something else than simulated data: choose another name")
    for key in {**new, **old}:
        if old.get(key) != new.get(key):
            raise ValueError(
                f"{path} was begun with {key} = {old.get(key)}, not {new.get(key)}: "
                "choose another name, or delete it to start anew"
            )


def _fill_store(
    path: Path,
    about: dict[str, Any],
    blocks: functools.partial[Iterator[Block]],
    block_frames: int,
    n_frames: int,
    progress: bool,
) -> int:
    """Append what ``blocks(first=...)`` yields beyond what the store holds."""
    is_new, n_done = not path.exists(), 0
    try:
        with writable(path.parent), BlockStore(path, "a", about) as store:
            _check_settings(path, store.about, about)
            n_done = len(store)
            with tqdm(
                total=n_frames, initial=n_done, unit="frame", delay=2, disable=not progress
            ) as bar:
                for block in blocks(first=-(-n_done // block_frames)):
                    store.append(block)
                    n_done = len(store)
                    bar.update(len(block.frames))
                    del block  # before the next one is made
    finally:
        if is_new and not n_done and path.exists():
            path.unlink()
    return n_done


def _fill_folder(folder: Path, cfg: Config, numbers: range, n_jobs: int, progress: bool) -> int:
    """Write the sequences of the phantom that the folder does not hold."""
    about, note, cache = _about("phantom", cfg), folder / "simulate.json", folder / ".cache"
    files = [folder / "IQ" / f"PALA_InSilicoFlow_IQ{number:03d}.mat" for number in numbers]
    with writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if note.exists() or (folder / "IQ").exists():
            _check_settings(
                folder, json.loads(note.read_text(encoding="utf-8")) if note.exists() else {}, about
            )
        else:
            part = note.with_suffix(".part")
            part.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
            part.replace(note)
        first = sum(1 for _ in itertools.takewhile(Path.is_file, files))
        missing = numbers[first:]
        blocks = simulate.phantom_blocks(
            cfg, missing, cache_dir=cache, n_jobs=n_jobs, progress=progress
        )
        for number, block in zip(missing, blocks, strict=True):
            write_pala(block, folder, number)
            shutil.rmtree(cache)
    return len(files) * cfg.phantom.n_frames
