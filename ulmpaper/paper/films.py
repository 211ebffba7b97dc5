"""Players and film files of frames and tracks."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from PIL import Image

from ulmpaper.core.arguments import explained
from ulmpaper.core.records import check_frames, check_positive
from ulmpaper.io.files import atomic_path

_COLOURS = {"true": "#56b4e9", "found": "#f0a020"}

_PAGE = """\
<div class="ulm-player" id="{id}" style="max-width:{width}px">
<canvas width="{width}" height="{height}" role="img" aria-label="{label}"
style="width:100%;display:block"></canvas>
<div style="display:flex;gap:.6em;align-items:center;margin-top:.3em">
<button type="button" aria-label="Play or pause" style="min-width:4.5em">Play</button>
<input type="range" min="0" max="{last}" value="0" aria-label="Frame" style="flex:1">
<output style="min-width:6em;text-align:right">frame 0</output></div>
<div style="font-size:.85em">{legend}</div>
<script>(() => {{
const root = document.getElementById("{id}");
const canvas = root.querySelector("canvas");
const pen = canvas.getContext("2d");
const button = root.querySelector("button");
const slider = root.querySelector("input");
const note = root.querySelector("output");
const asImage = data => Object.assign(new Image(), {{src: "data:image/png;base64," + data}});
const images = {images}.map(asImage);
const marks = {marks}, colours = {colours}, scale = {scale};
let timer = null;
const draw = () => {{
  const t = +slider.value;
  pen.imageSmoothingEnabled = false;
  pen.drawImage(images[t], 0, 0, canvas.width, canvas.height);
  pen.lineWidth = 1.5;
  for (const [name, frames] of Object.entries(marks)) {{
    pen.strokeStyle = colours[name];
    for (const [z, x] of frames[t]) {{
      const v = (z + 0.5) * scale, u = (x + 0.5) * scale, r = name === "true" ? 7 : 4;
      pen.beginPath();
      if (name === "true") pen.arc(u, v, r, 0, 7);
      else {{
        pen.moveTo(u - r, v); pen.lineTo(u + r, v);
        pen.moveTo(u, v - r); pen.lineTo(u, v + r);
      }}
      pen.stroke();
    }}
  }}
  note.textContent = "frame " + t;
}};
button.onclick = () => {{
  if (timer) {{ clearInterval(timer); timer = null; button.textContent = "Play"; return; }}
  button.textContent = "Pause";
  const next = () => {{ slider.value = (+slider.value + 1) % images.length; draw(); }};
  timer = setInterval(next, {wait});
}};
slider.oninput = draw;
images[0].complete ? draw() : images[0].onload = draw;
}})();</script></div>"""


@explained
class Player:
    """Frames with the bubbles drawn over them, shown by Jupyter and in the book.

    Parameters
    ----------
    frames : array_like (T, Z, X)
        amplitude; white is exceeded by one pixel in a thousand.
    bubbles : mapping of str to DataFrame, optional
        Bubble tables under the names ``"true"`` (circles) and ``"found"`` (crosses).
    scale : int
        Screen pixels per pixel.
    frames_per_s : float
        Speed of the film [1/s].
    label : str
        What is seen, in words, for readers who cannot see it.

    Examples
    --------
    >>> film = Player(np.random.default_rng(0).random((2, 8, 9)), label="Noise")
    >>> film._repr_html_().startswith('<div class="ulm-player"')
    True
    """

    def __init__(
        self,
        frames: ArrayLike,
        bubbles: Mapping[str, pd.DataFrame] | None = None,
        *,
        scale: int = 4,
        frames_per_s: float = 12,
        label: str,
    ) -> None:
        shown = check_frames(frames)
        check_positive(scale=scale, frames_per_s=frames_per_s)
        unknown = set(bubbles or {}) - set(_COLOURS)
        if unknown:
            raise ValueError(f"bubbles can be 'true' or 'found', not {', '.join(sorted(unknown))}")
        grey = np.rint(
            255 * np.clip(shown / max(float(np.quantile(shown, 0.999)), 1e-30), 0, 1)
        ).astype(np.uint8)
        images = json.dumps([_png(frame) for frame in grey])
        marks = {
            name: [
                table.loc[table.frame == t, ["z", "x"]].round(2).values.tolist()
                for t in range(len(grey))
            ]
            for name, table in (bubbles or {}).items()
        }
        symbol = {"true": "&#9675;", "found": "+"}
        self._html = _PAGE.format(
            id="film-" + hashlib.sha256((label + images).encode()).hexdigest()[:10],
            width=grey.shape[2] * scale,
            height=grey.shape[1] * scale,
            label=label,
            last=len(grey) - 1,
            legend=" &nbsp; ".join(
                f'<span style="color:{_COLOURS[n]}">{symbol[n]}</span> {n}' for n in marks
            ),
            images=images,
            marks=json.dumps(marks),
            colours=json.dumps(_COLOURS),
            scale=scale,
            wait=round(1000 / frames_per_s),
        )

    def _repr_html_(self) -> str:
        return self._html


def _png(grey: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(grey).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def as_picture(figure: Figure, *, dpi: float = 100) -> Image.Image:
    """Draw a figure as it is now, e.g. for `save_film`."""
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=dpi, format="png", pil_kwargs={"compress_level": 0})
    return Image.open(drawn).convert("RGB")


def save_film(
    pictures: Sequence[Image.Image], path: str | os.PathLike, *, picture_s: float = 0.12
) -> Path:
    """Write pictures as an animated PNG that plays once and stays at the last one.

    Parameters
    ----------
    pictures : sequence of Image
        Of one size, as from `as_picture`. Where films are not shown, the last one is.
    path : path-like
        Where; the file appears under its name when it is complete.
    picture_s : float
        Time that each picture is shown [s].

    Raises
    ------
    ValueError
        No picture.
    """
    if not pictures:
        raise ValueError("a film needs at least one picture")
    path = Path(path)
    colours = pictures[-1].quantize(128)  # of the last one, which shows most
    last, *film = [
        picture.quantize(palette=colours, dither=Image.Dither.NONE)
        for picture in (pictures[-1], *pictures)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as part:
        last.save(
            part,
            format="PNG",
            save_all=True,
            default_image=True,  # shown where the film does not play
            append_images=film,
            duration=round(1000 * picture_s),
            loop=1,
        )
    return path
