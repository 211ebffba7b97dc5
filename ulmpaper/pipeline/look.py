"""A first look at a recording: what it holds, what is wrong with it, which settings fit it.

Every frame is read once, for range and health; one block in the middle is looked at closely.
"""

from __future__ import annotations

import itertools
import json
import os
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ulmpaper.config import Config, Settings, as_config, trained_speed_px
from ulmpaper.core.arguments import explained
from ulmpaper.core.health import FrameHealth, check_health, without_outliers
from ulmpaper.core.localize import locate_peaks
from ulmpaper.core.records import Block, warn_user
from ulmpaper.core.render import power_doppler
from ulmpaper.core.spots import bubble_width, width_factor
from ulmpaper.core.suggest import (
    Scores,
    Tissue,
    fastest_flow,
    find_tissue,
    largest_step,
    split_scores,
    to_amplitude,
    value_kind,
)
from ulmpaper.io.readers import FrameFile, open_frames

_Recording = ArrayLike | Block | FrameFile | str | os.PathLike | Sequence[str | os.PathLike]

_BLOCK_BYTES = 2**28  # of frames looked at closely, in memory at once
_READ_FRAMES = 100  # in memory while the rest is read
_MEDIAN_OF = 20_000  # values of each stretch that the median is taken from
_SHOWN_FRAMES = 3
_SCORED_FRAMES = 100
_LINKED_FRAMES = 200
_SPECTRUM_PIXELS = 2000
_RUNS = 8  # stretches that `look_briefly` reads
_RUN_FRAMES = 16
_MARGIN = 1.25  # of the suggested step over the largest one measured
_WINDOW = 1.5  # widths of a bubble that the window of a method should hold
_TOLERANCE = 0.15  # as in the check of the networks
_WHAT = {  # kind of values: the sentence for the user, and how frames become amplitude
    "decibels": (
        "The values look like decibels, and methods need amplitude: take 10 ** (frames / 20).",
        "10 ** ({} / 20)",
    ),
    "radio frequency": (
        "The values are negative and oscillate along z, like radio-frequency data: take "
        "their envelope.",
        "ulmpaper.core.envelope({})",
    ),
    "signed": (
        "Half of the values are negative without oscillating along z: one part of IQ (then read "
        "both parts), or amplitude after a filter (then take its modulus).",
        "abs({})",
    ),
    "offset": (
        "Some values are negative, but most lie near the lowest, as those of amplitude do: an "
        "offset was subtracted. Cut at 0, or add it back.",
        "numpy.maximum({}, 0)",
    ),
    "compressed": (
        "No value is negative, but most are high and lean to the low side: are these decibels, or "
        "a picture of them (a B-mode cine loop)? Then undo it: 10 ** (frames / 20), where a "
        "picture of 60 dB in 256 steps has 60 / 255 dB a step.",
        "{}",
    ),
}


@dataclass(frozen=True)
class Values:
    """Range of the values of a recording; of IQ, of its amplitude.

    Parameters
    ----------
    minimum, median, maximum : float
        Of the finite values; the median of a sample.
    n_nan, n_infinite : int
        Values that are no numbers, and those beyond all numbers.
    zero_share, negative_share : float
        Share of the values that are 0, or below it.
    """

    minimum: float
    median: float
    maximum: float
    n_nan: int
    n_infinite: int
    zero_share: float
    negative_share: float


@explained
@dataclass(frozen=True, repr=False)
class Look:
    """What `look` found.

    Parameters
    ----------
    source : str
        Name of the recording.
    files : tuple of FrameFile
        Files it was read from; none for an array.
    n_frames, shape_px : int, (int, int)
        Frames, and their size (z, x) [px].
    px_mm, frame_rate_hz : float or None
        Scale, where somebody stated it [mm, Hz].
    stored_dtype : str
        Type of the numbers in the file.
    values, health, kind : Values, FrameHealth, str
        Range; missing, repeated and hot pixels; and `core.suggest.value_kind`.
    first_frames : ndarray (3, Z, X)
        Amplitude of the first frames that are not empty.
    mean_image, power : ndarray (Z, X)
        Mean amplitude, and the power Doppler image after the suggested cut.
    frequency, spectrum_db : ndarray
        Power over time, per pixel; in Hz, or in cycles per frame where the frame rate is unknown.
    tissue : Tissue
        See `core.suggest.find_tissue`; its frames are left out.
    scores : Scores
        See `core.suggest.split_scores`.
    width_px : (float, float) or None
        Width of a bubble at half its height, along z and x [px].
    largest_step_px : float or None
        See `core.suggest.largest_step` [px/frame].
    fastest_px : float or None
        See `core.suggest.fastest_flow` [px/frame].
    trained : dict
        From the least to the most, of the shipped ml3d: ``fwhm_z_px``, ``fwhm_x_px``,
        ``bubbles_per_px`` and ``step_px``.
    settings : dict
        Suggested settings that differ from those that would hold anyway, and those you stated.
    closely : (int, int)
        First and last frame of the block that was looked at closely, the last excluded.
    """

    source: str
    files: tuple[FrameFile, ...]
    n_frames: int
    shape_px: tuple[int, int]
    px_mm: float | None
    frame_rate_hz: float | None
    stored_dtype: str
    values: Values
    health: FrameHealth
    kind: str
    first_frames: NDArray
    mean_image: NDArray
    power: NDArray
    frequency: NDArray
    spectrum_db: NDArray
    tissue: Tissue
    scores: Scores
    width_px: tuple[float, float] | None
    largest_step_px: float | None
    fastest_px: float | None
    trained: dict[str, tuple[float, float]]
    settings: dict[str, Any]
    closely: tuple[int, int]
    options: dict[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        size = " x ".join(map(str, self.shape_px))
        return (
            f"Look: {self.n_frames} frames of {size} px, {self.kind}, svd_low {self.svd_low}, "
            f"n_bubbles {self.n_bubbles}, min_score {self.min_score:g}, "
            f"max_distance_px {self.max_distance_px}; save('page.html') shows it"
        )

    @property
    def svd_low(self) -> int:
        """Suggested ``filter.svd_low``; 1: no tissue was seen, no filter is needed."""
        return self.tissue.svd_low

    @property
    def n_bubbles(self) -> int:
        """Suggested ``locate.n_bubbles``; 0: no bubbles stand out of the noise."""
        return self.scores.n_bubbles

    @property
    def min_score(self) -> float:
        """Suggested ``locate.min_score``."""
        return self.scores.min_score

    @property
    def max_distance_px(self) -> float | None:
        """Suggested ``track.max_distance_px``; None where no track is clear."""
        return _suggest_distance(self.largest_step_px)

    @property
    def command(self) -> str:
        """What to type to run the chain on this recording; for an array, lines of Python."""
        return "\n".join(_command(self))

    def sentences(self) -> list[str]:
        """What to know before the chain is run, the most serious first."""
        return [*_faults(self), *_findings(self)]

    def suggestions(self) -> list[tuple[str, str, str]]:
        """Settings that fit, also where they are the default: name, value, and why."""
        return _settings_table(self)

    def beside_training(self) -> list[tuple[str, float, tuple[float, float], bool]]:
        """Figures beside the range of the shipped networks' training, and whether inside."""
        return _trained_rows(self)

    def save(self, path: str | os.PathLike) -> Path:
        """Write everything as one HTML page that needs no other file."""
        from ulmpaper.pipeline.page import write_page

        return write_page(self, Path(path))


def look(
    frames: _Recording,
    cfg: Settings = None,
    *,
    variable: str | None = None,
    axes: str | None = None,
) -> Look:
    """Look at a recording before the chain is run: what it holds, and which settings fit it.

    Parameters
    ----------
    frames : array_like (T, Z, X), Block, path, FrameFile, or list of paths
        Any frames that `ulmpaper.ulm` or `ulmpaper.open_frames` takes, and also those it refuses:
        decibels, radio frequency, NaN. Several files are one recording.
    cfg : Config, mapping or str, optional
        Settings, as in `ulmpaper.ulm`: where they state a scale, it counts; `Look.settings` holds
        what should differ from them.
    variable, axes : str, optional
        See `ulmpaper.open_frames`.

    Returns
    -------
    Look
        With ``sentences()``, ``command`` and ``save("page.html")``.

    Raises
    ------
    TypeError, ValueError, OSError
        See `ulmpaper.open_frames`; not three axes, or files that differ in the size of their
        frames.

    Examples
    --------
    >>> from ulmpaper.core.testcard import simulate_testcard
    >>> rng = np.random.default_rng(0)
    >>> block = simulate_testcard(n_frames=60, n_bubbles=8, shape_px=(60, 60), rng=rng)
    >>> look(block)
    Look: 60 frames of 60 x 60 px, amplitude, svd_low 1, n_bubbles 10, min_score 0.2, ...
    """
    cfg = as_config(cfg)
    files = _open_files(frames, cfg, variable, axes)
    if files:
        first = files[0]
        sizes = {file.shape_px for file in files}
        if len(sizes) > 1:
            raise ValueError(
                f"the files differ in the size of their frames, {sorted(sizes)}: look at each"
            )
        n_frames = sum(file.n_frames for file in files)
        shape = first.shape_px
        names = (
            first.path.name if len(files) == 1 else f"{first.path.name} and {len(files) - 1} more"
        )
        scale = (first.px_mm, first.frame_rate_hz)
        dtype = first.stored_dtype
        stretches = _numbered(block.frames for file in files for block in file.blocks(_READ_FRAMES))
    else:
        block = frames if isinstance(frames, Block) else Block(np.asarray(frames), source="array")
        array = np.asarray(block.frames)
        if array.ndim != 3 or 0 in array.shape or array.dtype.kind not in "biufc":
            raise ValueError(
                f"look takes numbers with three axes (t, z, x), not {array.dtype} of the shape "
                f"{array.shape}"
            )
        n_frames = len(array)
        shape = (array.shape[1], array.shape[2])
        names = block.source
        scale = (block.px_mm, block.frame_rate_hz)
        dtype = str(array.dtype)
        stretches = ((t, array[t : t + _READ_FRAMES]) for t in range(0, n_frames, _READ_FRAMES))
    for note in files[0].notes if files else ():
        if note.startswith("you state"):  # another number than the file's
            warn_user(note)
    px_mm, frame_rate_hz = _scale(cfg, *scale)
    closely = _middle(n_frames, shape, cfg)
    values, health, kept = _read_through(stretches, closely)
    options = {"variable": variable, "axes": axes}
    return _look_closely(
        kept,
        cfg,
        source=names,
        files=tuple(files),
        n_frames=n_frames,
        shape_px=shape,
        px_mm=px_mm,
        frame_rate_hz=frame_rate_hz,
        stored_dtype=dtype,
        values=values,
        health=health,
        closely=closely,
        options={name: value for name, value in options.items() if value},
    )


def look_briefly(file: FrameFile) -> list[tuple[str, str]]:
    """Say what a file holds, in rows of a name and a text; a bounded part of it is read."""
    values, health, kept = _read_through(_spread(file))
    kind = value_kind(np.nan_to_num(kept, posinf=0, neginf=0))
    n_z, n_x = file.shape_px
    whole = health.n_frames == file.n_frames
    unit = "amplitude " if kind == "IQ" else ""
    seen = "" if whole else f" in the {health.n_frames} frames looked at"
    rows = [
        ("file", str(file.path)),
        ("what", file.source if file.source != "unknown source" else file.path.name),
        ("variable", file.variable),
        ("frames", f"{file.n_frames} of {n_z} x {n_x} px (z, x), stored as {file.stored_dtype}"),
        ("pixel pitch", _stated(file.px_mm, "mm", file.px_mm_from)),
        ("frame rate", _stated(file.frame_rate_hz, "Hz", file.rate_from)),
        ("truth", "yes" if file.has_truth else "no"),
        ("looked at", "all frames" if whole else f"{health.n_frames} frames, spread over the file"),
        (
            "values",
            f"{unit}{values.minimum:.4g} to {values.maximum:.4g}, median {values.median:.4g}",
        ),
        (
            "NaN",
            f"{values.n_nan}" + f", infinite {values.n_infinite}" * bool(values.n_infinite) + seen,
        ),
        ("empty", f"{len(health.missing)} frames of zeros or of one value{seen}"),
    ]
    rows += [("note", note) for note in file.notes]
    checks = [*_value_faults(kind, values), *health.sentences()]
    return rows + [("check", sentence) for sentence in checks]


# --- reading -----------------------------------------------------------------------------------


def _open_files(
    frames: Any, cfg: Config, variable: str | None, axes: str | None
) -> list[FrameFile]:
    """Files of a recording; none where it is in memory."""
    if isinstance(frames, FrameFile):
        return [frames]
    if isinstance(frames, str | os.PathLike):
        frames = [frames]
    are_paths = isinstance(frames, list | tuple) and all(
        isinstance(path, str | os.PathLike) for path in frames
    )
    if not are_paths:
        return []
    px_mm, frame_rate_hz = _scale(cfg, None, None)
    scale = {"px_mm": px_mm, "frame_rate_hz": frame_rate_hz}
    return [open_frames(path, variable, axes=axes, **scale) for path in frames]


def _scale(cfg: Config, px_mm: float | None, rate_hz: float | None) -> tuple[Any, Any]:
    """Scale that somebody stated: the user before the file."""
    if "acquisition.px_mm" in cfg.stated:
        px_mm = cfg.acquisition.px_mm
    if "acquisition.frame_rate_hz" in cfg.stated:
        rate_hz = cfg.acquisition.frame_rate_hz
    return px_mm, rate_hz


def _middle(n_frames: int, shape_px: tuple[int, int], cfg: Config) -> tuple[int, int]:
    """Frames to look at closely: a block in the middle, where bubbles have arrived."""
    most = max(50, _BLOCK_BYTES // (8 * shape_px[0] * shape_px[1]))
    size = min(n_frames, cfg.blocks.n_frames, most)
    first = (n_frames - size) // 2
    return first, first + size


def _numbered(stretches: Iterable[NDArray]) -> Iterator[tuple[int, NDArray]]:
    """Stretches that follow on each other, each with the number of its first frame."""
    first = 0
    for frames in stretches:
        yield first, frames
        first += len(frames)


def _spread(file: FrameFile) -> Iterator[tuple[int, NDArray]]:
    """Short runs of frames, spread over a file, each with the number of its first frame."""
    if file.n_frames <= _RUNS * _RUN_FRAMES or file.kind == "MAT v5":  # v5 is read whole each time
        every = max(1, file.n_frames // (_RUNS * _RUN_FRAMES))
        runs = _numbered(block.frames for block in file.blocks(_RUN_FRAMES))
        yield from itertools.islice(runs, 0, None, every)
        return
    for first in np.linspace(0, file.n_frames - _RUN_FRAMES, _RUNS).astype(int).tolist():
        yield first, next(file.blocks(_RUN_FRAMES, start=first, stop=first + _RUN_FRAMES)).frames


def _read_through(
    stretches: Iterator[tuple[int, NDArray]], wanted: tuple[int, int] | None = None
) -> tuple[Values, FrameHealth, NDArray]:
    """Range and health of all frames, and the wanted ones, or all."""
    lowest, highest = np.inf, -np.inf
    counts = np.zeros(5)  # NaN, infinite, zeros, negative, all
    sample = []
    checked = []
    kept = []
    for first, frames in stretches:
        checked.append(check_health(frames, first))
        numbers = np.abs(frames) if frames.dtype.kind == "c" else frames
        good = np.isfinite(numbers)
        n_bad = numbers.size - int(np.count_nonzero(good))
        n_nan = int(np.count_nonzero(np.isnan(numbers))) if n_bad else 0
        finite = numbers[good] if n_bad else numbers.reshape(-1)
        zero = int(np.count_nonzero(finite == 0))
        negative = int(np.count_nonzero(finite < 0))
        counts += np.array([n_nan, n_bad - n_nan, zero, negative, numbers.size])
        if finite.size:
            lowest = min(lowest, float(finite.min()))
            highest = max(highest, float(finite.max()))
            sample.append(finite[:: max(1, finite.size // _MEDIAN_OF)])
        here = slice(None)
        if wanted is not None:
            here = slice(max(wanted[0] - first, 0), max(wanted[1] - first, 0))
        kept.append(np.array(frames[here]))
    median = float(np.median(np.concatenate(sample))) if sample else np.nan
    if not sample:
        lowest = highest = np.nan
    shares = counts[2:4] / counts[4]
    values = Values(lowest, median, highest, int(counts[0]), int(counts[1]), *shares.tolist())
    return values, _joined(checked), np.concatenate(kept)


def _joined(parts: list[FrameHealth]) -> FrameHealth:
    """Health of a recording from that of its parts."""
    lists = {
        name: tuple(entry for part in parts for entry in getattr(part, name))
        for name in ("zero", "constant", "repeated", "not_finite", "outliers")
    }
    return FrameHealth(n_frames=sum(part.n_frames for part in parts), **lists)


# --- measuring ---------------------------------------------------------------------------------


def _look_closely(kept: NDArray, cfg: Config, **known: Any) -> Look:
    """Measure a block of frames, and put everything together."""
    health: FrameHealth = known["health"]
    start, stop = known["closely"]
    empty = set(health.missing) | set(health.not_finite)
    whole = [t - start for t in range(start, stop) if t not in empty] or list(range(len(kept)))
    frames = np.nan_to_num(kept[whole], posinf=0, neginf=0)
    if frames.dtype.kind not in "fc":
        frames = frames.astype(np.float32)
    kind = value_kind(frames)
    if kind != "IQ":
        frames = to_amplitude(frames, kind)
    hot = [
        o._replace(frame=whole.index(o.frame - start))
        for o in health.outliers
        if o.frame - start in whole
    ]
    frames = without_outliers(frames, hot)
    tissue = find_tissue(frames)
    amplitude = np.abs(tissue.filtered)
    some = np.unique(np.linspace(0, len(amplitude) - 1, _SCORED_FRAMES).astype(int))
    scores = split_scores(amplitude[some])
    side = min(known["shape_px"])
    step = None
    fastest = None
    if scores.n_bubbles and side >= cfg.locate.roi_px:
        bubbles = locate_peaks(
            amplitude[:_LINKED_FRAMES],
            "parabola",
            scores.n_bubbles,
            min_score=scores.min_score,
        )
        step = largest_step(bubbles, known["shape_px"])
        fastest = fastest_flow(bubbles, known["shape_px"])
    width = bubble_width(amplitude) if scores.n_bubbles and side > 12 else None
    frequency, spectrum = _spectrum(frames, known["frame_rate_hz"])
    raw = np.abs(frames)
    return Look(
        **known,
        kind=kind,
        first_frames=raw[:_SHOWN_FRAMES],
        mean_image=raw.mean(axis=0, dtype=np.float64),
        power=power_doppler(tissue.filtered),
        frequency=frequency,
        spectrum_db=spectrum,
        tissue=tissue._replace(filtered=np.empty((0, *known["shape_px"]))),
        scores=scores,
        width_px=width,
        largest_step_px=step,
        fastest_px=fastest,
        trained=_trained(),
        settings=_suggest(cfg, tissue, scores, step, width, known["n_frames"]),
    )


def _spectrum(frames: NDArray, rate_hz: float | None) -> tuple[NDArray, NDArray]:
    """Frequencies, and the power of pixels over time [dB below the highest]."""
    series = frames.reshape(len(frames), -1)
    series = series[:, :: max(1, series.shape[1] // _SPECTRUM_PIXELS)]
    # A taper, or the leak of tissue at frequency 0 would hide the bubbles.
    taper = np.hanning(len(series) + 2)[1:-1, None]
    power = np.mean(np.abs(np.fft.fft(series * taper, axis=0)) ** 2, axis=1)
    frequency = np.fft.fftfreq(len(series), 1 / (rate_hz or 1.0))
    order = np.argsort(frequency)
    if frames.dtype.kind != "c":  # both halves are the same
        order = order[frequency[order] >= 0]
    top = power.max() or 1.0
    return frequency[order], 10 * np.log10(np.maximum(power[order] / top, 1e-12))


def _trained() -> dict[str, tuple[float, float]]:
    """Ranges of the training of the shipped network, read without torch; nothing without file."""
    path = Path(__file__).parents[1] / "networks" / "trained" / "ml3d.safetensors"
    if not path.is_file():
        return {}
    with path.open("rb") as file:  # the length of the header, then the header as JSON
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    about = json.loads(header["__metadata__"]["about"])
    ranges = {name: (v[0], v[1]) for name, v in about["domain"].items() if isinstance(v, list)}
    return {**ranges, "step_px": (0.0, round(trained_speed_px(about["settings"]), 3))}


def _suggest_distance(step_px: float | None) -> float | None:
    """Longest step to link [px]: a quarter more than the largest one, in halves of a pixel."""
    return None if step_px is None else max(1.0, float(np.ceil(2 * _MARGIN * step_px) / 2))


def _suggest(
    cfg: Config,
    tissue: Tissue,
    scores: Scores,
    step_px: float | None,
    width_px: tuple[float, float] | None,
    n_frames: int,
) -> dict[str, Any]:
    """Settings that should differ from those of `cfg`."""
    wanted: dict[str, Any] = {"filter.svd_low": tissue.svd_low}
    if scores.n_bubbles:
        wanted["locate.n_bubbles"] = scores.n_bubbles
        wanted["locate.min_score"] = scores.min_score
    if width_px is not None:
        wanted["locate.roi_px"] = _window(width_px)
    distance = _suggest_distance(step_px)
    if distance is not None:
        wanted["track.max_distance_px"] = distance
    if n_frames < 4 * cfg.track.min_length:
        wanted["track.min_length"] = 5
    stated = {key: _setting(cfg, key) for key in sorted(cfg.stated)}
    differing = {key: value for key, value in wanted.items() if value != _setting(cfg, key)}
    return differing | stated


def _settings_table(seen: Look) -> list[tuple[str, str, str]]:
    """Suggested settings, their values, and why; those left as they are too."""
    tissue = "tissue was seen" if seen.svd_low > 1 else "no tissue was seen"
    rows = [("filter.svd_low", f"{seen.svd_low}", f"{tissue}; the knee of the singular values")]
    if seen.svd_low == 1:
        rows = [("filter.svd_low", "1", "no tissue was seen: no filter is needed")]
    if seen.n_bubbles:
        rows += [
            ("locate.n_bubbles", f"{seen.n_bubbles}", "a little more than in 95 % of the frames"),
            ("locate.min_score", f"{seen.min_score:g}", "keeps the peaks of noise out"),
        ]
    if seen.width_px is not None:
        z, x = seen.width_px
        side = _window(seen.width_px)
        rows.append(("locate.roi_px", f"{side}", f"bubbles are {z:.2g} x {x:.2g} px wide (z, x)"))
    if seen.largest_step_px is not None:
        rows.append(
            (
                "track.max_distance_px",
                f"{seen.max_distance_px:g}",
                f"the largest step of clear tracks is {seen.largest_step_px:.2g} px",
            )
        )
    if "track.min_length" in seen.settings:
        rows.append(("track.min_length", "5", "few frames; short tracks are less certain"))
    return rows


def _window(width_px: tuple[float, float]) -> int:
    """Side of an odd window that holds a bubble down to well below half of its height."""
    return int(np.clip(2 * int(np.ceil((_WINDOW * max(width_px) - 1) / 2)) + 1, 5, 15))


def _setting(cfg: Config, key: str) -> Any:
    section, _, name = key.partition(".")
    return getattr(getattr(cfg, section), name)


# --- words -------------------------------------------------------------------------------------


def _stated(value: float | None, unit: str, where: str | None) -> str:
    if value is None:
        return "unknown"
    return f"{value:g} {unit}" + (f" ({where})" if where else "")


def _value_faults(kind: str, values: Values) -> list[str]:
    said = [_WHAT[kind][0]] if kind in _WHAT else []
    bad = values.n_nan + values.n_infinite
    if bad:
        said.insert(
            0, f"{bad} values are NaN or infinite: drop these frames, or replace the values."
        )
    if values.minimum == values.maximum:
        said.insert(0, f"All values are {values.minimum:g}: is this the right array?")
    return said


def _faults(seen: Look) -> list[str]:
    """What keeps the chain from running rightly."""
    said = _value_faults(seen.kind, seen.values)
    said += [f"{text[0].upper()}{text[1:]}." for text in seen.health.sentences()]
    for file in seen.files[:1]:
        said += [f"{note[0].upper()}{note[1:]}." for note in file.notes if "--axes" in note]
    if seen.px_mm is None or seen.frame_rate_hz is None:
        unknown = [
            name
            for name, value in (
                ("pixel pitch (--set acquisition.px_mm=MILLIMETRES)", seen.px_mm),
                ("frame rate (--set acquisition.frame_rate_hz=HERTZ)", seen.frame_rate_hz),
            )
            if value is None
        ]
        said.append(
            f"Nobody states the {' or the '.join(unknown)}: lengths and speeds will be wrong "
            "until you do."
        )
    return said


def _findings(seen: Look) -> list[str]:
    """What was seen, and what follows."""
    if seen.svd_low > 1:
        said = [
            f"Tissue: {100 * seen.tissue.standing:.0f} % of the brightest peaks stand still. "
            f"filter.svd_low={seen.svd_low} removes it; raise it until only bubbles remain."
        ]
    else:
        said = ["No tissue seen: no filter needed."]
    if not seen.n_bubbles:
        return [*said, "No bubbles stand out of the noise."]
    how = (
        "stand clear of the noise"
        if seen.scores.is_clear
        else ("run into the noise: any threshold loses some or takes noise for bubbles")
    )
    said.append(
        f"About {seen.scores.mean:.0f} bubbles a frame {how}; "
        f"the threshold is locate.min_score={seen.min_score:g}."
    )
    if seen.width_px is None:
        said.append("No bubble stands alone, so their width was not measured.")
    if seen.largest_step_px is None:
        said.append(
            "No track is clear, so the largest step was not measured: track.max_distance_px stays "
            "as it is; raise it if bubbles move farther from frame to frame."
        )
    along_z, along_x = _network_scale(seen)
    if (along_z, along_x) != (1, 1):
        said.append(
            "Spots are not as wide as in the training of the networks, which therefore look at "
            f"{along_z:.2g} x {along_x:.2g} times as many pixels (z, x; ml3d.scale, mspcn.scale)."
        )
    outside = [row for row in _trained_rows(seen) if not row[3]]
    if outside:
        what = ", ".join(
            f"{name} {value:.3g} ({low:.3g} to {high:.3g})"
            for name, value, (low, high), _ in outside
        )
        said.append(
            f"The shipped networks were trained on other frames: {what}. Compare them with a "
            "classical method, or train weights for such frames."
        )
    return said


def _network_scale(seen: Look) -> tuple[float, float]:
    """Factors on the number of pixels at which the networks look, as ``ml3d.scale=auto`` does."""
    trained = [seen.trained.get(name) for name in ("fwhm_z_px", "fwhm_x_px")]
    if seen.width_px is None or trained[0] is None or trained[1] is None:
        return 1.0, 1.0
    return width_factor(seen.width_px[0], trained[0]), width_factor(seen.width_px[1], trained[1])


def _trained_rows(seen: Look) -> list[tuple[str, float, tuple[float, float], bool]]:
    """Figures of a recording at the networks' own scale beside the range of their training."""
    width_z, width_x = seen.width_px or (None, None)
    along_z, along_x = _network_scale(seen)
    density = seen.scores.mean / (along_z * along_x * np.prod(seen.shape_px))
    flow = None if seen.fastest_px is None else seen.fastest_px * np.sqrt(along_z * along_x)
    measured = {
        "fwhm_z_px": ("width in depth [px]", width_z and width_z * along_z),
        "fwhm_x_px": ("width across [px]", width_x and width_x * along_x),
        "bubbles_per_px": ("bubbles per pixel", density),
        "step_px": ("fastest flow [px/frame]", flow),
    }
    return [
        (name, float(value), limits, limits[0] * (1 - _TOLERANCE) <= value <= limits[1])
        for key, (name, value) in measured.items()
        if value is not None and (limits := seen.trained.get(key))
    ]


# --- command -----------------------------------------------------------------------------------


def _command(seen: Look) -> list[str]:
    """Lines to type: where needed, frames become amplitude first."""
    settings = dict(seen.settings)
    convert = _WHAT.get(seen.kind, ("", "{}"))[1]
    if seen.values.n_nan + seen.values.n_infinite:
        convert = convert.format("numpy.nan_to_num({}, posinf=0, neginf=0)")
    if not seen.files:
        frames = convert.format("frames")
        return ["import numpy, ulmpaper", f"result = ulmpaper.ulm({frames}, {settings!r})"]
    lines = []
    paths = []
    for file in seen.files:
        if convert == "{}":
            paths.append(str(file.path))
            continue
        path = file.path.with_name(f"{file.path.stem}_amplitude.npy")
        options = "".join(f", {name}={value!r}" for name, value in seen.options.items())
        read = f"ulmpaper.read_frames({str(file.path)!r}{options}).frames"
        code = f"import numpy, ulmpaper; numpy.save({str(path)!r}, {convert.format(read)})"
        lines.append(f"python -c {shlex.quote(code)}")
        paths.append(str(path))
    if convert != "{}":  # the new file states no scale
        scale = {"acquisition.px_mm": seen.px_mm, "acquisition.frame_rate_hz": seen.frame_rate_hz}
        settings |= {key: float(value) for key, value in scale.items() if value is not None}
    words = ["ulmpaper ulm", *map(shlex.quote, paths), "-o out"]
    if convert == "{}":
        words += [f"--{name} {shlex.quote(value)}" for name, value in seen.options.items()]
    return [
        *lines,
        " ".join([*words, *(f"--set {key}={value}" for key, value in settings.items())]),
    ]
