"""Several methods on the same recording: one table, one figure, and scores where truth is known."""

from __future__ import annotations

import dataclasses
import json
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from ulmpaper.config import METHODS, NETWORKS, Config, Settings, as_config, method_name
from ulmpaper.core.arguments import explained
from ulmpaper.core.records import BUBBLE_COLUMNS, Block, UlmWarning, warn_user
from ulmpaper.core.render import Maps, map_sums
from ulmpaper.core.track import track_summary
from ulmpaper.io.files import (
    check_apart,
    fingerprint,
    made_folder,
    only_writer,
    writable,
    write_atomic,
)
from ulmpaper.io.readers import FrameFile, open_frames
from ulmpaper.io.truth import Truth, read_truth, with_truth
from ulmpaper.metrics.bubbles import score_bubbles
from ulmpaper.metrics.coverage import score_lines
from ulmpaper.metrics.maps import score_image
from ulmpaper.pipeline.blocks import draw_lines, link_tracks, min_frames_per_block, pitch_and_rate
from ulmpaper.pipeline.recording import UlmResult, ulm

_Recording = ArrayLike | Block | FrameFile | str | os.PathLike

TRUTH = "truth"
_NO_TRUTH = (
    "Without truth none of these numbers says which method is right: they say how they differ."
)
_FILES = ("compare.csv", "compare.png", "compare.json")
_DEFAULT = ("radial", "parabola", "ml3d")
# Columns of the table, how they are printed, and what they are.
_ROWS = {
    "weights": ("", "weights"),
    "n_bubbles": ("", "bubbles a frame, at most"),
    "threshold": ("", "threshold"),
    "bubbles": ("d", "bubbles"),
    "tracks": ("d", "tracks"),
    "points": (".0f", "median points of a track"),
    "speed_mm_s": (".3g", "median speed [mm/s]"),
    "in_tracks": (".3f", "share of bubbles in tracks"),
    "jaccard_near": (".3f", "Jaccard index, 0.25 px"),
    "precision_near": (".3f", "precision, 0.25 px"),
    "recall_near": (".3f", "recall, 0.25 px"),
    "jaccard_far": (".3f", "Jaccard index, 0.5 px"),
    "precision_far": (".3f", "precision, 0.5 px"),
    "recall_far": (".3f", "recall, 0.5 px"),
    "rms_px": (".3f", "rms error, below 0.5 px [px]"),
    "ssim": (".3f", "SSIM of the density map"),
    "rmse": (".3g", "RMSE of the density map"),
    "covered": (".3f", "share of the true lines drawn"),
    "false": (".3f", "share of false lines"),
}
_SHOWN = ("jaccard_near", "jaccard_far", "precision_far", "recall_far", "ssim", "covered")


@explained
@dataclass(frozen=True, repr=False)
class SideBySide:
    """What several methods made of the same recording.

    Parameters
    ----------
    table : DataFrame
        A row for each method. ``weights`` of a network, ``n_bubbles`` and ``threshold`` in words;
        ``bubbles, tracks``; the medians over tracks ``points`` and ``speed_mm_s``; ``in_tracks``,
        the share of the bubbles in tracks. With truth also ``jaccard, precision, recall``, each
        ``_near`` and ``_far``, and ``rms_px``, see `ulmpaper.score_bubbles`; ``ssim`` (its
        ``ssim_max``), ``rmse, covered, false`` of the density maps, see `ulmpaper.score_maps`.
    densities : dict of str to ndarray (Z, X)
        Density map of each method, after that of the ``truth`` where it is known.
    config : Config
        Settings that all methods share, with the scale that was used.
    about : dict
        What was compared, for ``compare.json``.
    """

    table: pd.DataFrame
    densities: dict[str, NDArray]
    config: Config
    about: dict[str, Any]

    def __repr__(self) -> str:
        return f"SideBySide: {', '.join(self.table.index)}\n{self.text()}"

    @property
    def has_truth(self) -> bool:
        """Whether there was a truth to score by."""
        return TRUTH in self.densities

    def text(self) -> str:
        """The table to be read: a column for each method."""
        rows = {
            what: [format(value, how) for value in self.table[name]]
            for name, (how, what) in _ROWS.items()
            if name in self.table and self.table[name].astype(str).any()
        }
        printed = pd.DataFrame(rows, index=self.table.index).T.to_string()
        return printed if self.has_truth else f"{printed}\n{_NO_TRUTH}"

    def save(self, folder: str | os.PathLike, *, overwrite: bool = False) -> None:
        """Write ``compare.csv``, ``compare.png`` and the settings, ``compare.json``.

        Raises
        ------
        ValueError
            The folder holds another comparison, and `overwrite` is false.
        """
        from ulmpaper.plots import plot_side_by_side, save_figure

        folder = Path(folder)
        note = self._note()
        if not overwrite:
            _check_same(folder, note)
        shown = self.table[list(_SHOWN)] if self.has_truth else None
        names = {name: _ROWS[name][1] for name in _SHOWN}
        figure = plot_side_by_side(
            self.densities,
            None if shown is None else shown.rename(columns=names),
            px_mm=self.config.acquisition.px_mm,
            upsample=self.config.render.upsample,
        )
        folder.mkdir(parents=True, exist_ok=True)
        csv = self.table.to_csv(index_label="method", float_format="%.6g")
        write_atomic(folder / "compare.csv", csv.encode())
        save_figure(figure, folder / "compare.png")
        write_atomic(folder / "compare.json", (json.dumps(note, indent=2) + "\n").encode())

    def _note(self) -> dict[str, Any]:
        """What ``compare.json`` holds."""
        return json.loads(json.dumps({**self.about, "config": dataclasses.asdict(self.config)}))


def compare_methods(
    frames: _Recording | Sequence[_Recording],
    methods: str | Sequence[str] = _DEFAULT,
    cfg: Settings = None,
    *,
    truth: Truth | Sequence[Truth] | None = None,
    n_jobs: int | None = None,
) -> SideBySide:
    """Run several methods on the same recording, and score them where the truth is known.

    Parameters
    ----------
    frames : array_like (T, Z, X), Block, FrameFile, path, or sequence of these
        The recording. The true bubbles count that its blocks or files bring, unless `truth` is
        given.
    methods : str or sequence of str
        Methods, see `ulmpaper.locate`, also as one text parted by commas. ``parabola:60`` is one
        with at most 60 bubbles a frame, ``ml3d:run/best.safetensors`` or ``ml3d:paper`` a network
        with these weights.
    cfg : Config, mapping or str, optional
        Settings, as in `ulmpaper.ulm`. Nothing is chosen by the truth: each method runs with the
        number and the threshold that the settings, or its weights, give it.
    truth : DataFrame, path, or sequence of these, optional
        True bubbles of files, see `ulmpaper.io.read_truth`.
    n_jobs : int, optional
        See `ulmpaper.pipeline.ulm_blocks`.

    Returns
    -------
    SideBySide
        ``table``, ``densities``; ``text()`` to read, ``save(folder)`` to keep.

    Raises
    ------
    TypeError, ValueError, OSError
        See `ulmpaper.ulm` and `ulmpaper.io.read_truth`; an unknown method, or one twice.

    Warns
    -----
    UlmWarning
        What `ulmpaper.ulm` warns of, with the methods that it is true of.

    Notes
    -----
    The true map is made of the true bubbles by the same tracker and drawing as the others.

    Examples
    --------
    >>> import ulmpaper
    >>> block = ulmpaper.simulate("testcard", "smoke", n_frames=60)
    >>> made = compare_methods(block, "radial:12, parabola:12", "smoke")
    >>> list(made.densities), bool((made.table["recall_far"] > 0.7).all())
    (['truth', 'radial:12', 'parabola:12'], True)
    """
    cfg = as_config(cfg)
    settings = _settings_of(methods, cfg)
    sources = _open(frames)
    files = [source for source in sources if isinstance(source, FrameFile)]
    tables: list[pd.DataFrame | None] = [None] * len(sources)
    if truth is not None:
        if len(files) < len(sources):
            raise ValueError("blocks bring their truth with them: Block(frames, bubbles=table)")
        tables = list(read_truth(truth, files))
    elif not all(_has_truth(source) for source in sources):
        sources = [_without_truth(source) for source in sources]
    n_least = max(min_frames_per_block(own) for own in settings.values())
    results: dict[str, UlmResult] = {}
    said: dict[str, list[str]] = {}
    true: _TrueBubbles | None = None
    for label, own in settings.items():
        true = _TrueBubbles(own)
        blocks = _read(sources, tables, own.blocks.n_frames, n_least)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UlmWarning)
            results[label] = ulm(true.watch(blocks), own, n_jobs=n_jobs)
        for text in dict.fromkeys(str(w.message) for w in caught):
            said.setdefault(text, []).append(label)
    for text, labels in said.items():
        warn_user(text if len(labels) == len(settings) else f"{', '.join(labels)}: {text}")
    assert true is not None  # there is at least one method
    truth_map = true.density()
    rows = {
        label: {
            **_describe_method(settings[label]),
            **_counts(result),
            **({} if truth_map is None else _scores(result, true.bubbles(), truth_map)),
        }
        for label, result in results.items()
    }
    maps = {label: result.maps["density"] for label, result in results.items()}
    scale = next(iter(results.values())).config.acquisition
    return SideBySide(
        table=pd.DataFrame.from_dict(rows, orient="index"),
        densities=maps if truth_map is None else {TRUTH: truth_map, **maps},
        config=dataclasses.replace(cfg, acquisition=scale),
        about=_describe(sources, list(settings), truth),
    )


def compare_to_folder(
    files: Sequence[FrameFile],
    out: str | os.PathLike,
    methods: str,
    cfg: Config,
    *,
    truth: Sequence[Path] | None = None,
    n_jobs: int | None = None,
    overwrite: bool = False,
) -> SideBySide:
    """Compare as `compare_methods` and save, refusing before the work what must not be replaced.

    Raises
    ------
    ValueError, OSError
        See `compare_methods` and `SideBySide.save`; no folder, or one whose files are read.
    """
    if not str(out) or (Path(out).exists() and not Path(out).is_dir()):
        raise ValueError(f"{str(out)!r} is no folder: name one for the table and the figure (-o)")
    written = [Path(out) / name for name in _FILES]
    check_apart([*(file.path for file in files), *(truth or [])], written)
    if not overwrite:
        _check_same(Path(out), _describe(files, list(_settings_of(methods, cfg)), truth))
    with writable(Path(out)), made_folder(Path(out)), only_writer(Path(out) / "compare"):
        made = compare_methods(list(files), methods, cfg, truth=truth, n_jobs=n_jobs)
        made.save(out, overwrite=overwrite)
    return made


# --- methods and their settings ------------------------------------------------------------------


def _settings_of(methods: str | Sequence[str], cfg: Config) -> dict[str, Config]:
    """Settings of each method by its label, such as ``radial``, ``radial:60``, ``ml3d:paper``."""
    words = methods.split(",") if isinstance(methods, str) else list(methods)
    settings: dict[str, Config] = {}
    for word in words:
        head, colon, what = (part.strip() for part in str(word).partition(":"))
        if not head:
            raise ValueError(
                f"methods are names parted by commas, such as radial,parabola:60,ml3d:paper, "
                f"not {methods!r}"
            )
        method = method_name(head)
        own = _with(cfg, "locate", method=method)
        if colon and method in NETWORKS:
            own = _with(own, method, weights=what)
        elif colon:
            own = _with(own, "locate", n_bubbles=_number(what, word))
        label = f"{method}:{what}" if colon else method
        if label in settings:
            raise ValueError(
                f"method {label!r} is named twice: name others, or the same with another number of "
                "bubbles (parabola:60) or other weights (ml3d:paper)"
            )
        settings[label] = own
    if not settings:
        raise ValueError(f"name at least one method: {', '.join(METHODS + NETWORKS)}")
    return settings


def _number(text: str, word: str) -> int:
    if not text.isdecimal():
        raise ValueError(
            f"{word.strip()!r}: after the colon of a classical method stands the number of bubbles "
            "a frame, such as parabola:60"
        )
    return int(text)


def _with(cfg: Config, section: str, **values: Any) -> Config:
    changed = dataclasses.replace(getattr(cfg, section), **values)
    return dataclasses.replace(cfg, **{section: changed})


def _describe_method(cfg: Config) -> dict[str, str]:
    """Weights, number of bubbles and threshold that a method goes by, in words."""
    method = cfg.locate.method
    least = f" and > {cfg.locate.min_score:g}" if cfg.locate.min_score > 0 else ""
    if method in METHODS:
        return {
            "weights": "",
            "n_bubbles": str(cfg.locate.n_bubbles),
            "threshold": f"amplitude > {cfg.locate.min_score:g}",
        }
    from ulmpaper.networks.localize import load_network  # here, since torch takes seconds to load

    own = cfg.ml3d if method == "ml3d" else cfg.mspcn
    trained = load_network(method, own.weights).about.get("threshold", 0.0)
    threshold = trained if own.threshold is None else own.threshold
    return {
        "weights": own.weights or "shipped",
        "n_bubbles": f"predicted x {cfg.count.margin:g}" if method == "ml3d" else "all",
        "threshold": f"{'probability' if method == 'ml3d' else 'height'} > {threshold:.3g}{least}",
    }


# --- the recording and its truth -----------------------------------------------------------------


def _open(frames: _Recording | Sequence[_Recording]) -> list[Block | FrameFile]:
    """Parts of a recording, open to be read."""
    several = isinstance(frames, list | tuple) and np.ndim(frames[0] if frames else 0) != 2
    parts: Iterable[Any] = frames if several else [frames]  # type: ignore[assignment]
    opened: list[Block | FrameFile] = []
    for part in parts:
        if isinstance(part, str | os.PathLike):
            opened.append(open_frames(part))
        else:
            opened.append(part if isinstance(part, Block | FrameFile) else Block(np.asarray(part)))
    if not opened:
        raise ValueError("there is no recording to compare on: give frames, a block or a file")
    return opened


def _has_truth(source: Block | FrameFile) -> bool:
    return source.bubbles is not None if isinstance(source, Block) else source.has_truth


def _without_truth(source: Block | FrameFile) -> Block | FrameFile:
    """The source without its truth, where others have none."""
    if isinstance(source, Block):
        return dataclasses.replace(source, bubbles=None)
    return dataclasses.replace(source, has_truth=False)


def _describe(
    sources: Sequence[Block | FrameFile],
    labels: list[str],
    truth: Truth | Sequence[Truth] | None,
) -> dict[str, Any]:
    """What is compared: names and fingerprint of the files, truth and methods."""
    files = [source.path for source in sources if isinstance(source, FrameFile)]
    names = [s.source if isinstance(s, Block) else s.path.name for s in sources]
    truth_of: list[str] | str = "of the recording" if all(map(_has_truth, sources)) else "none"
    if truth is not None:
        tables = [truth] if isinstance(truth, pd.DataFrame | str | os.PathLike) else list(truth)
        read = [Path(table) for table in tables if not isinstance(table, pd.DataFrame)]
        truth_of = [path.name for path in read] or "a table"
        files = [*files, *read]
    content = fingerprint(files) if files else None
    return {"input": names, "content": content, "truth": truth_of, "methods": labels}


def _read(
    sources: Sequence[Block | FrameFile],
    tables: Sequence[pd.DataFrame | None],
    n_frames: int,
    min_frames: int,
) -> Iterator[Block]:
    """Blocks of all sources, one after another, each with its truth."""
    for source, table in zip(sources, tables, strict=True):
        if isinstance(source, Block):
            yield source
            continue
        blocks = source.blocks(n_frames, min_frames=min_frames)
        if table is not None:
            blocks = with_truth(blocks, table)
        for block in blocks:
            yield block if source.has_truth or table is not None else _bare(block)


def _bare(block: Block) -> Block:
    return dataclasses.replace(block, bubbles=None)


class _TrueBubbles:
    """The true bubbles of blocks as they pass, and the map that they make."""

    def __init__(self, cfg: Config) -> None:
        self._cfg = cfg
        self._tables: list[pd.DataFrame] = []
        self._maps: Maps | None = None

    def watch(self, blocks: Iterator[Block]) -> Iterator[Block]:
        """The same blocks."""
        first = 0
        for block in blocks:
            if block.bubbles is not None:
                self._add(block, first)
            first += len(block.frames)
            yield block

    def _add(self, block: Block, first: int) -> None:
        cfg = self._cfg
        truth = block.truth[list(BUBBLE_COLUMNS)]
        self._tables.append(truth.assign(frame=truth["frame"] + first))
        px_mm, rate_hz = pitch_and_rate(block, cfg)
        paths = draw_lines(link_tracks(truth, cfg), cfg, px_mm=px_mm, frame_rate_hz=rate_hz)
        shape_px = (block.frames.shape[1], block.frames.shape[2])
        if self._maps is None:
            self._maps = Maps(shape_px, upsample=cfg.render.upsample, pala=cfg.pala)
        self._maps.add(map_sums(paths, shape_px, upsample=cfg.render.upsample, pala=cfg.pala))

    def bubbles(self) -> pd.DataFrame:
        """All of them, with frames that count through the blocks."""
        return pd.concat(self._tables, ignore_index=True)

    def density(self) -> NDArray[np.float64] | None:
        """Density map of the true tracks; None where no truth is known."""
        return None if self._maps is None else self._maps.density


# --- numbers -------------------------------------------------------------------------------------


def _counts(result: UlmResult) -> dict[str, Any]:
    """What can be counted without truth."""
    summary = track_summary(result.tracks, frame_rate_hz=result.config.acquisition.frame_rate_hz)
    n_bubbles = len(result.bubbles)
    return {
        "bubbles": n_bubbles,
        "tracks": summary["n_tracks"],
        "points": _median(summary["n_points"]),
        "speed_mm_s": _median(summary["speed_mm_s"]),
        "in_tracks": len(result.tracks) / n_bubbles if n_bubbles else np.nan,
    }


def _median(quantiles: Any) -> float:
    return np.nan if quantiles["median"] is None else float(quantiles["median"])


def _scores(result: UlmResult, truth: pd.DataFrame, truth_map: NDArray) -> dict[str, float]:
    """Scores of the bubbles and of the density map."""
    scores: Mapping[str, float] = score_bubbles(result.bubbles, truth)
    upsample = result.config.render.upsample
    density = result.maps["density"]
    image = score_image(density, truth_map, upsample=upsample)
    lines = score_lines(density, truth_map, upsample=upsample)
    kept = {name: scores[name] for name in _ROWS if name in scores}
    return {
        **kept,
        "rms_px": scores["rms"],
        "ssim": image["ssim_max"],
        "rmse": image["rmse"],
        **lines,
    }


def _check_same(folder: Path, note: Mapping[str, Any]) -> None:
    """Refuse a folder that holds files of another comparison."""
    found = [name for name in _FILES if (folder / name).exists()]
    if not found:
        return
    try:
        there = dict(json.loads((folder / "compare.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        there = None
    if there is None or any(there.get(key) != value for key, value in note.items()):
        raise ValueError(
            f"{folder} holds {', '.join(found)} of something else: choose another folder, "
            "or overwrite (--overwrite, overwrite=True)"
        )
