"""Figures, film strips and result folders: what is drawn, that it is complete, and that nothing
half-written stays.
"""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from ulmpaper.config import load_config
from ulmpaper.core.records import Block
from ulmpaper.io.results import ResultWriter, read_table
from ulmpaper.paper.films import Player, save_film
from ulmpaper.pipeline.blocks import MapTotals, ulm_blocks
from ulmpaper.pipeline.recording import finish_results, ulm
from ulmpaper.plots import _MAP_KINDS, plot_frame, plot_map, plot_tracks, save_figure

CFG = load_config("smoke", {"locate.method": "parabola", "locate.min_score": 0.25})


@pytest.fixture(scope="module")
def result(flow: Block):
    return ulm(flow, CFG)


@pytest.mark.parametrize("kind", _MAP_KINDS)
def test_maps_are_drawn_with_unit_and_scale(kind: str, result) -> None:
    figure = plot_map(result.maps[kind], kind, px_mm=0.01)
    ax, bar = figure.axes
    assert re.search(r"\[(mm/s|dB)\]|per pixel", bar.get_ylabel())
    assert ax.texts[0].get_text().endswith(("mm", "µm"))
    assert figure.axes[0].get_title()


@pytest.mark.parametrize("kind", _MAP_KINDS)
def test_empty_maps_are_drawn_too(kind: str, tmp_path: Path) -> None:
    assert save_figure(
        plot_map(np.zeros((20, 30)), kind, px_mm=None), tmp_path / "a.png", dpi=30
    ).exists()


def test_unknown_scale_is_shown_in_pixels_and_frames(result) -> None:
    figure = plot_map(result.maps["velocity"], "velocity", px_mm=None)
    assert figure.axes[1].get_ylabel() == "speed [px/frame]"
    assert figure.axes[0].texts[0].get_text() == "10 px"


def test_unknown_map_is_an_error() -> None:
    with pytest.raises(ValueError, match="unknown map 'densty': did you mean 'density'"):
        plot_map(np.zeros((2, 2)), "densty", px_mm=None)


@pytest.mark.parametrize(
    ("width", "px_mm", "text"), [(100, 0.1, "1 mm"), (100, 0.001, "10 µm"), (100, None, "10 px")]
)
def test_scale_bar_is_round_and_true(width: int, px_mm: float | None, text: str) -> None:
    ax = plot_frame(np.ones((50, width)), px_mm=px_mm).axes[0]
    bar = ax.patches[-1]
    assert ax.texts[0].get_text() == text
    assert bar.get_width() == pytest.approx(0.1)


def test_frames_and_tracks_are_drawn(flow: Block, result) -> None:
    here = result.bubbles[result.bubbles.frame == 3]
    ax = plot_frame(flow.frames[3], here, flow.bubbles[flow.bubbles.frame == 3]).axes[0]
    assert [len(c.get_offsets()) for c in ax.collections] == [12, len(here)]
    lines = (
        plot_tracks(result.tracks, flow.frames.shape[1:], px_mm=flow.px_mm).axes[0].collections[0]
    )
    assert len(lines.get_segments()) == len(result.tracks) - result.tracks.track.nunique()


def test_same_figure_same_bytes(result, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.png", "b.png")]
    for path in paths:
        save_figure(plot_map(result.maps["density"], "density", px_mm=0.01), path, dpi=50)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_failed_save_leaves_the_old_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"old")
    figure = plot_frame(np.ones((9, 9)))

    def fail(name: Path, **_: object) -> None:
        Path(name).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(figure, "savefig", fail)
    with pytest.raises(OSError, match="No space left"):
        save_figure(figure, path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_player_is_self_contained(flow: Block, result) -> None:
    page = Player(
        flow.frames[:4], {"true": flow.bubbles, "found": result.bubbles}, label="Flow"
    )._repr_html_()
    assert not re.search(r"(src|href)=[\"']?https?:|//cdn|import ", page)
    assert page.count("iVBOR") == 4
    marks = json.loads(re.search(r"const marks = (\{.*?\}), colours", page).group(1))
    assert [len(frame) for frame in marks["true"]] == [12] * 4
    with pytest.raises(ValueError, match="'true' or 'found', not wrong"):
        Player(flow.frames[:4], {"wrong": flow.bubbles}, label="Flow")


def test_results_read_back(flow: Block, tmp_path: Path) -> None:
    halves = [
        dataclasses.replace(flow, frames=flow.frames[s]) for s in (slice(0, 40), slice(40, 80))
    ]
    totals = MapTotals(CFG)
    with ResultWriter(tmp_path / "new" / "out") as writer:
        for part in ulm_blocks(halves, CFG):
            writer.add(part.bubbles, part.tracks)
            totals.add(part)
        finish_results(writer, totals.as_dict(), CFG, {"input": "flow"}, 80)
    whole = ulm(halves, CFG)
    for name in ("bubbles", "tracks"):
        expected = getattr(whole, name)
        pd.testing.assert_frame_equal(read_table(writer.folder / "tables.h5", name), expected)
        text = pd.read_csv(writer.folder / f"{name}.csv")
        np.testing.assert_allclose(text, expected, rtol=1e-5, atol=1e-6)
    with np.load(writer.folder / "maps.npz") as maps:
        np.testing.assert_allclose(maps["density"], whole.maps["density"])
    run = json.loads((writer.folder / "run.json").read_text())
    assert (run["input"], run["n_frames"], run["digest"]) == ("flow", 80, CFG.digest())
    with pytest.raises(ValueError, match="holds no table 'track'; it has bubbles, tracks"):
        read_table(writer.folder / "tables.h5", "track")


def test_failed_run_leaves_earlier_results(flow: Block, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("earlier")

    def fail_in_the_middle() -> None:
        with ResultWriter(tmp_path) as writer:
            for part in ulm_blocks([flow], CFG):
                writer.add(part.bubbles, part.tracks)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_in_the_middle()
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
    assert (tmp_path / "run.json").read_text() == "earlier"


def test_a_film_plays_once_and_shows_its_last_picture_elsewhere(tmp_path: Path) -> None:
    stripes = np.repeat(np.array([0, 120, 240], np.uint8), 6)[None].repeat(10, axis=0)
    pictures = [Image.fromarray(stripes.copy()).convert("RGB") for _ in range(3)]
    for shade, picture in zip((0, 120, 240), pictures, strict=True):
        picture.paste((shade,) * 3, (0, 0, 4, 4))
    with Image.open(save_film(pictures, tmp_path / "a.png", picture_s=0.5)) as film:
        assert (film.n_frames, film.info["loop"]) == (4, 1)
        shades = []
        for number in range(4):
            film.seek(number)
            shades.append(film.convert("RGB").getpixel((1, 1))[0])
            assert number == 0 or film.info["duration"] == 500
    assert shades == [240, 0, 120, 240]
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    with pytest.raises(ValueError, match="at least one picture"):
        save_film([], tmp_path / "b.png")
