"""A `Look` as one HTML page that needs no other file: readable light, dark, and on a phone."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ulmpaper.core.doors import optional
from ulmpaper.core.filters import to_db
from ulmpaper.core.records import check_choice
from ulmpaper.io.files import made_folder, writable, write_atomic

with optional("plot"):
    import matplotlib
    import matplotlib.image
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

if TYPE_CHECKING:
    from ulmpaper.pipeline.look import Look

_INK = "#010203"  # stands for the colour of the text, which the reader's mode decides
_BUBBLE = "#2e86c1"
_MARK = "#d9650b"
_SIZE_IN = (5.2, 2.6)
_RANGE_DB = 40  # of the power Doppler image, at most

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2128; --soft: #59636e; --page: #ffffff;
  --line: #d5dae0; --box: #f3f5f8; --link: #1f6feb; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ec; --soft: #9aa5b1;
  --page: #14181d; --line: #353d46; --box: #1d232a; --link: #6cb0ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.2rem 1rem 3rem; max-width: 60rem; color: var(--ink);
  background: var(--page); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .2rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .5rem; border-bottom: 1px solid var(--line); }
p { max-width: 44rem; } .soft, figcaption { color: var(--soft); }
ul { padding-left: 1.2rem; max-width: 46rem; } li { margin: .35rem 0; }
pre { background: var(--box); border: 1px solid var(--line); border-radius: 6px;
  padding: .7rem .9rem; white-space: pre-wrap; overflow-wrap: anywhere; user-select: all;
  font: 14px/1.5 ui-monospace, monospace; }
code { font: .92em ui-monospace, monospace; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; font-size: .95rem; }
th, td { text-align: left; vertical-align: top; padding: .3rem .7rem .3rem 0;
  border-bottom: 1px solid var(--line); overflow-wrap: break-word; }
table.long td { overflow-wrap: anywhere; }
th { font-weight: 600; } tbody th { font-weight: 400; color: var(--soft); width: 11rem; }
td.no { color: var(--ink); font-weight: 600; }
figure { margin: .8rem 0; max-width: 36rem; } figcaption { font-size: .9rem; }
figure svg { width: 100%; height: auto; display: block; font-family: system-ui, sans-serif; }
figure img { width: 100%; height: auto; display: block; image-rendering: pixelated;
  border-radius: 3px; }
.row { display: grid; gap: .3rem 1.2rem;
  grid-template-columns: repeat(auto-fit, minmax(16rem, 1fr)); }
.row.three { grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); }
@media (max-width: 30rem) { tbody th { width: 7.5rem; } body { padding-inline: .8rem; } }
"""


def write_page(seen: Look, path: Path) -> Path:
    """Write a look as a page, at once or not at all.

    Parameters
    ----------
    seen : Look
        As from `look`.
    path : path
        The page, ``.html``.

    Raises
    ------
    ValueError
        Another kind of file, which may be one that is read.
    """
    check_choice(path.suffix.lower(), (".html", ".htm"), "kind of page to write")
    with writable(path.parent), made_folder(path.parent):
        write_atomic(path, _page(seen).encode())
    return path


def _page(seen: Look) -> str:
    title = f"A look at {seen.source}"
    n_z, n_x = seen.shape_px
    first, last = seen.closely
    parts = [
        f"<h1>{_text(title)}</h1>",
        f'<p class="soft">{seen.n_frames} frames of {n_z} × {n_x} px (z, x). Range and health are '
        f"of all frames; pictures and suggestions of frames {first} to {last - 1}.</p>",
        _list(seen.sentences()),
        "<h2>Run it</h2>",
        f"<pre>{_text(seen.command)}</pre>",
        _settings(seen),
        "<h2>What was read</h2>",
        _read(seen),
        "<h2>How it looks</h2>",
        _pictures(seen),
        "<h2>Tissue</h2>",
        _tissue(seen),
        "<h2>Bubbles</h2>",
        _bubbles(seen),
    ]
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(title)}</title><style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


# --- parts -------------------------------------------------------------------------------------


def _settings(seen: Look) -> str:
    rows = [(_breakable(key), _text(value), _text(why)) for key, value, why in seen.suggestions()]
    return (
        "<p>Settings that fit these frames. The command names those that differ from the "
        "defaults.</p>" + _table(rows, ("Setting", "Suggested", "Because"))
    )


def _read(seen: Look) -> str:
    rows: list[tuple[str, str]] = []
    for file in seen.files[:1]:
        more = f" and {len(seen.files) - 1} more" if len(seen.files) > 1 else ""
        rows += [("File", f"{file.path}{more}"), ("Array", file.variable)]
        rows += [("Note", note) for note in file.notes]
    values = seen.values
    of = "amplitude " if seen.kind == "IQ" else ""
    rows += [
        ("Stored as", f"{seen.stored_dtype}, taken for {seen.kind}"),
        ("Pixel pitch", "unknown" if seen.px_mm is None else f"{seen.px_mm:.4g} mm"),
        ("Frame rate", "unknown" if seen.frame_rate_hz is None else f"{seen.frame_rate_hz:.4g} Hz"),
        ("Values", f"{of}{values.minimum:.4g} to {values.maximum:.4g}, median {values.median:.4g}"),
        (
            "Zeros, negative",
            f"{values.zero_share:.2%} and {values.negative_share:.2%} of the values",
        ),
        ("NaN, infinite", f"{values.n_nan} and {values.n_infinite} values"),
        ("Frames", "; ".join(seen.health.sentences()) or "none empty or repeated, no hot pixel"),
    ]
    table = _table([(_text(name), _text(value)) for name, value in rows])
    return table.replace("<table>", '<table class="long">')


def _pictures(seen: Look) -> str:
    first, _ = seen.closely
    high = float(np.quantile(seen.first_frames, 0.999)) or 1.0
    frames = "".join(
        _picture(np.sqrt(np.clip(frame / high, 0, 1)), "gray", f"Frame {first + number}")
        for number, frame in enumerate(seen.first_frames)
    )
    mean = seen.mean_image / (np.quantile(seen.mean_image, 0.999) or 1)
    power = to_db(np.sqrt(seen.power), floor_db=-_RANGE_DB)
    dark = min(float(np.quantile(power, 0.1)), -1.0)
    cut = "no filter" if seen.svd_low == 1 else f"components {seen.svd_low} and up"
    return (
        "<p>Depth runs down. If these do not look like tissue or bubbles, the axes are wrong.</p>"
        f'<div class="row three">{frames}</div>'
        '<div class="row">'
        + _picture(np.sqrt(np.clip(mean, 0, 1)), "gray", "Mean of the frames, as its square root")
        + _picture(1 - power / dark, "cividis", f"Power Doppler, {cut}, {-dark:.0f} dB")
        + "</div>"
    )


def _tissue(seen: Look) -> str:
    figure, ax = _axes()
    n = np.arange(1, len(seen.tissue.singular_db) + 1)
    ax.plot(n, seen.tissue.singular_db, color=_BUBBLE, lw=1.6)
    ax.set(xscale="log", xlabel="singular component", ylabel="dB", xlim=(1, len(n) + 1e-9))
    if seen.svd_low > 1:
        _mark(ax, seen.svd_low, f"svd_low={seen.svd_low}")
    values = _svg(figure, "singular", "Singular values; tissue fills the first ones")
    figure, ax = _axes()
    ax.plot(seen.frequency, seen.spectrum_db, color=_BUBBLE, lw=1)
    unit = "Hz" if seen.frame_rate_hz else "cycles per frame"
    ax.set(xlabel=f"frequency [{unit}]", ylabel="dB")
    ax.margins(x=0)
    spectrum = _svg(figure, "spectrum", "Power over time, mean of the pixels; tissue is slow")
    share = seen.tissue.standing
    text = (
        f"Of the five brightest peaks of a frame, {100 * share:.0f} % stand in the same pixel "
        "half a block later. Bubbles go on (below 15 %), tissue stands still (above 70 %)."
    )
    return f'<p>{text}</p><div class="row">{values}{spectrum}</div>'


def _bubbles(seen: Look) -> str:
    parts = []
    peaks = seen.scores.peaks[seen.scores.peaks > 0]
    if len(peaks):
        figure, ax = _axes()
        edges = np.geomspace(peaks.min(), max(peaks.max(), peaks.min() * 1.01), 60)
        ax.hist(peaks, edges.tolist(), color=_BUBBLE, lw=0)
        ax.set(xscale="log", yscale="log", xlabel="height of a peak (score)", ylabel="peaks")
        ax.set_ylim(0.7, 4 * ax.get_ylim()[1])  # room for the name of the threshold
        if seen.n_bubbles:
            _mark(ax, seen.min_score, f"min_score={seen.min_score:g}")
        parts.append(_svg(figure, "scores", "Peaks of all heights: noise left, bubbles right"))
    rows = []
    pitch = seen.px_mm
    for name, value, (low, high), inside in seen.beside_training():
        size = f"{value:.3g}"
        if pitch and "width" in name:
            size += f" ({1000 * value * pitch:.0f} µm)"
        verdict = "inside" if inside else "outside"
        mark = "" if inside else ' class="no"'
        rows.append(
            (_text(name), _text(size), f"{low:.3g} to {high:.3g}", f"<span{mark}>{verdict}</span>")
        )
    table = ""
    if rows:
        table = (
            "<p>Widths are those at half the height, of bubbles that stand alone. The shipped "
            "networks (<code>ml3d</code>, <code>mspcn</code>) know only what they were trained "
            "on; classical methods want two to four pixels.</p>"
            + _table(rows, ("Measured", "Here", "Trained on", ""))
        )
    return f'<div class="row">{"".join(parts)}<div>{table}</div></div>'


# --- figures -----------------------------------------------------------------------------------


def _axes() -> tuple[Figure, Axes]:
    figure = Figure(figsize=_SIZE_IN, layout="constrained")
    ax = figure.add_subplot()
    ax.spines[["top", "right"]].set_visible(False)
    for spine in ax.spines.values():
        spine.set_color(_INK)
    ax.tick_params(which="both", colors=_INK)
    ax.xaxis.label.set_color(_INK)
    ax.yaxis.label.set_color(_INK)
    return figure, ax


def _mark(ax: Axes, x: float, text: str) -> None:
    """A dashed line with its name."""
    ax.axvline(x, color=_MARK, lw=1.4, ls="--")
    low, high = np.log(ax.get_xlim())
    right = np.log(x) > (low + high) / 2
    ax.annotate(
        text,
        (x, 1),
        xycoords=("data", "axes fraction"),
        xytext=(-4 if right else 4, -2),
        textcoords="offset points",
        ha="right" if right else "left",
        va="top",
        color=_MARK,
    )


def _svg(figure: Figure, name: str, caption: str) -> str:
    """A figure as a part of the page, with text in the colour and the font of the page."""
    file = io.StringIO()
    # Names of parts must differ between the figures of a page; same figure, same bytes.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    drawn = file.getvalue()
    drawn = drawn[drawn.index("<svg") :].replace(_INK, "currentColor")
    return f"<figure>{drawn}<figcaption>{_text(caption)}</figcaption></figure>"


def _picture(values: NDArray, colours: str, caption: str) -> str:
    """Values from 0 to 1 as a picture of one pixel each."""
    file = io.BytesIO()
    matplotlib.image.imsave(file, values, cmap=colours, vmin=0, vmax=1, format="png")
    code = base64.b64encode(file.getvalue()).decode()
    text = _text(caption)
    return (
        f'<figure><img alt="{text}" src="data:image/png;base64,{code}">'
        f"<figcaption>{text}</figcaption></figure>"
    )


# --- words -------------------------------------------------------------------------------------


def _text(value: Any) -> str:
    return html.escape(str(value))


def _breakable(key: str) -> str:
    """Name of a setting, which a narrow page may break after a dot or an underscore."""
    return f"<code>{key.replace('.', '.<wbr>').replace('_', '_<wbr>')}</code>"


def _list(sentences: list[str]) -> str:
    return "<ul>" + "".join(f"<li>{_text(sentence)}</li>" for sentence in sentences) + "</ul>"


def _table(rows: Sequence[tuple[str, ...]], head: tuple[str, ...] = ()) -> str:
    """Rows whose first cell names them; cells are HTML."""
    top = "<thead><tr>" + "".join(f"<th>{h}</th>" for h in head) + "</tr></thead>" if head else ""
    body = "".join(
        f"<tr><th>{row[0]}</th>" + "".join(f"<td>{cell}</td>" for cell in row[1:]) + "</tr>"
        for row in rows
    )
    return f"<table>{top}<tbody>{body}</tbody></table>"
