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
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from ulmpaper.cli import app
from ulmpaper.config import load_config
from ulmpaper.core.records import Block
from ulmpaper.io.results import ResultWriter, read_table
from ulmpaper.io.stacks import tiff_scale
from ulmpaper.io.tiff import write_tiff
from ulmpaper.paper.films import Player, save_film
from ulmpaper.pipeline.blocks import MapTotals, ulm_blocks
from ulmpaper.pipeline.pictures import Pictures
from ulmpaper.pipeline.recording import finish_results, ulm
from ulmpaper.plots import (
    _MAP_KINDS,
    density_norm,
    plot_frame,
    plot_map,
    plot_side_by_side,
    plot_tracks,
    save_figure,
    thicken,
    whole_ticks,
)

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


@given(st.integers(1, 10**6))
def test_ticks_of_a_density_are_whole_and_apart(top: int) -> None:
    norm = density_norm(np.full((2, 2), float(top)))
    ticks = whole_ticks(norm)
    assert (ticks[0], ticks[-1]) == (0, top)
    assert all(tick == int(tick) for tick in ticks)
    assert min(np.diff([float(norm(tick)) for tick in ticks])) >= 0.099


@pytest.mark.parametrize(
    ("kind", "values", "extend"),
    [
        ("density", [[0, 1, 2]], "neither"),
        ("density", [[0, *[1] * 3000, 5]], "max"),
        ("velocity", [[0, *[1] * 99, 9]], "max"),
        ("velocity", [[0, 2, 2]], "neither"),
        ("mean_velocity", [[0, *[1] * 99, 9]], "max"),
        ("direction", [[0, *[1] * 99, 9]], "max"),
        ("direction", [[0, *[1] * 99, -9]], "min"),
        ("direction", [[9, *[1] * 198, -9]], "both"),
        ("power_doppler", [[1e-4, *[0.5] * 99, 1]], "min"),
        ("power_doppler", [[1, 1]], "neither"),
    ],
)
def test_a_colour_bar_has_an_arrow_where_the_map_goes_on(
    kind: str, values: list, extend: str
) -> None:
    assert plot_map(np.array(values, float), kind).axes[0].images[0].colorbar.extend == extend


def test_maps_side_by_side_have_an_arrow_where_one_goes_on() -> None:
    low = np.ones((60, 60))
    high = np.where(np.eye(60, k=59), 9.0, low)
    for maps, extend in (({"a": low, "b": low}, "neither"), ({"a": high, "b": low}, "max")):
        figure = plot_side_by_side(maps)
        assert figure.axes[0].images[0].norm.vmax == 1
        bar = next(ax for ax in figure.axes if ax.get_label() == "<colorbar>")
        assert "per pixel" in bar.get_ylabel()
        assert bar._colorbar.extend == extend


def shown(values: np.ndarray, kind: str, **how: object) -> np.ndarray:
    """Colours (Z, X, 3) that a map's pixels are given."""
    image = plot_map(values, kind, **how).axes[0].images[0]  # type: ignore[arg-type]
    return image.to_rgba(image.get_array())[..., :3]


@pytest.mark.parametrize("red", ["towards", "away"])
def test_direction_is_red_towards_the_probe_unless_turned_round(red: str) -> None:
    speeds = np.linspace(0.01, 1, 50)
    up, down, nothing = shown(np.array([-speeds, speeds, 0 * speeds]), "direction", red=red)
    reds, blues = (up, down) if red == "towards" else (down, up)
    assert (reds[:, 0] > reds[:, 2]).all()
    assert (blues[:, 2] > blues[:, 0]).all()
    assert (nothing == 0).all()
    for side in (reds, blues):
        luminance = (side**2.2) @ [0.2126, 0.7152, 0.0722]
        assert luminance[0] > 0.1  # slow flow is far from black
        assert (np.diff(luminance) >= 0).all()


def test_the_label_of_direction_says_which_way_is_which() -> None:
    bar = plot_map(np.array([[-4.0, 0, 4]]), "direction").axes[1]
    away, towards = bar.get_ylabel().split("\n")[1].split("\N{RIGHTWARDS ARROW}")
    assert (away[:4], towards) == ("away", " towards the probe")
    low, high = bar.get_ylim()
    assert low > high  # read upwards, it ends with what runs up, which is negative
    bar.figure.canvas.draw()
    assert not [text for text in bar.get_yticklabels() if "-" in text.get_text()]
    with pytest.raises(ValueError, match="unknown direction of red 'up': Allowed: towards, away"):
        plot_map(np.eye(3), "direction", red="up")


@pytest.mark.parametrize("kind", ["velocity", "mean_velocity"])
def test_speed_is_called_speed(kind: str) -> None:
    ax, bar = plot_map(np.eye(9), kind, px_mm=0.1).axes
    assert "speed" in bar.get_ylabel()
    assert "speed" in ax.get_title().lower()


@given(st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_lines_are_widened_by_the_value_farthest_from_nothing(width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(9, 11)) * (rng.random((9, 11)) < 0.1)
    before = values.copy()
    wide = thicken(values, width)
    z, x = np.indices(values.shape)
    for (i, k), value in np.ndenumerate(wide):
        # A disk of even width has no pixel in its middle: it lies half a pixel off.
        middle = (0.5 if width % 2 == 0 else 0.0) * np.ones(2)
        near = np.hypot(z - i + middle[0], x - k + middle[1]) <= width / 2 + 1e-9
        assert abs(value) == pytest.approx(np.abs(values[near]).max())
    np.testing.assert_array_equal(values, before)


def test_a_line_is_seen_in_a_printed_column(tmp_path: Path) -> None:
    """84 x 143 px, ten times finer, 85 mm wide at 300 dots per inch; one track among its pixels."""
    density = np.zeros((840, 1430))
    density[:, 700] = 1
    bright = {}
    for width in (1, None):
        path = save_figure(plot_map(density, thicken_px=width), tmp_path / "a.png", dpi=300)
        with Image.open(path) as picture:
            column = picture.convert("L").resize((1004, round(1004 * picture.height / 2100)))
        bright[width] = np.asarray(column)[300, 200:600].max()
    assert bright[None] > 130 > bright[1]
    assert "drawn 3 px wide" in plot_map(density, thicken_px=None).axes[0].get_title()
    assert plot_map(density).axes[0].get_title() == "Density"


def test_the_legend_of_a_frame_covers_no_pixel_of_it(flow: Block) -> None:
    figure = plot_frame(flow.frames[3], flow.bubbles, flow.bubbles)
    figure.canvas.draw()
    ax = figure.axes[0]
    box = ax.get_legend().get_window_extent()
    assert box.y1 <= ax.get_window_extent().y0 + 1
    assert box.y0 >= 0


@pytest.mark.parametrize(
    "values", [np.ones(3), np.ones((2, 2, 2)), np.ones((0, 3)), 1j * np.eye(2)]
)
def test_what_is_no_map_is_refused(values: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a map is an image"):
        plot_map(values)
    with pytest.raises(ValueError, match="a map is an image"):
        write_tiff(tmp_path / "a.tiff", values)


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg", "tiff", "jpg"])
def test_every_format_has_the_same_bytes_again(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []
    for day in (1, 10**8):  # [s] of the clock
        monkeypatch.setattr("time.time", lambda day=day: float(day))
        figure = plot_map(np.eye(30), "direction", px_mm=0.1)
        written.append(save_figure(figure, tmp_path / f"{day}.{suffix}", dpi=50).read_bytes())
        assert figure.axes[0].images[0].get_interpolation() in ("antialiased", "auto")
    assert written[0] == written[1]


def test_a_pdf_keeps_the_pixels_of_the_map(tmp_path: Path) -> None:
    path = save_figure(plot_map(np.eye(301, 407)), tmp_path / "a.pdf", dpi=30)
    assert {b"/Width 407", b"/Height 301"} <= set(
        re.findall(rb"/(?:Width|Height) \d+", path.read_bytes())
    )


@pytest.mark.parametrize(("kind", "dtype"), [("density", np.uint16), ("velocity", np.float32)])
def test_a_tiff_holds_the_numbers_and_their_scale(
    kind: str, dtype: type, result, tmp_path: Path
) -> None:
    result.save(tmp_path / "out", formats="tiff")
    path = tmp_path / "out" / f"{kind}.tiff"
    with tifffile.TiffFile(path) as file:
        pixels = file.asarray()
        about = file.imagej_metadata
    assert pixels.dtype == dtype
    np.testing.assert_array_equal(pixels, result.maps[kind].astype(dtype))
    assert about["unit"] == "mm"
    assert "upsample: 10" in about["Info"]
    pitch = result.config.acquisition.px_mm / 10
    assert tiff_scale(path, "").px_mm == pytest.approx((pitch, pitch), rel=1e-6)


def test_a_density_beyond_16_bit_keeps_its_numbers(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tiff", np.array([[0, 70000]]))
    assert tifffile.imread(path).tolist() == [[0, 70000]]


def test_the_command_line_and_python_write_the_same_pictures(flow: Block, tmp_path: Path) -> None:
    np.save(tmp_path / "f.npy", flow.frames)
    scale = {"acquisition.px_mm": 0.1, "acquisition.frame_rate_hz": 500, "track.min_length": 5}
    pairs = [part for key, value in scale.items() for part in ("--set", f"{key}={value}")]
    command = ["ulm", str(tmp_path / "f.npy"), "-o", str(tmp_path / "a"), *pairs]
    style = ["--format", "tiff,png", "--dpi", "50", "--thicken", "2", "--red", "away"]
    assert CliRunner().invoke(app, [*command, *style]).exit_code == 0
    found = ulm(tmp_path / "f.npy", scale)
    found.save(tmp_path / "b", formats=["PNG", ".tif"], dpi=50, thicken_px=2, red="away")
    files = [{path.name: path.read_bytes() for path in (tmp_path / f).iterdir()} for f in "ab"]
    assert files[0] == files[1]
    assert len(files[0]) == 5 + 2 * len(found.maps)
    # The same run may draw other pictures; those that it does not draw go.
    found.save(tmp_path / "b", formats="pdf")
    left = {path.name for path in (tmp_path / "b").iterdir()}
    assert {name for name in left if name.endswith((".png", ".tiff"))} == set()
    assert {f"{kind}.pdf" for kind in found.maps} <= left


def test_own_pictures_in_the_folder_stay(result, tmp_path: Path) -> None:
    result.save(tmp_path / "out", dpi=20)
    mine = tmp_path / "out" / "density.pdf"
    mine.write_bytes(b"mine")
    result.save(tmp_path / "out", dpi=20)
    assert mine.read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("style", "message"),
    [
        ({"formats": "pgn"}, "unknown format 'pgn': did you mean 'png'"),
        ({"formats": ["png", "bmp"]}, "unknown format 'bmp'.*png, pdf, tiff"),
        ({"dpi": 0}, "dpi must be a number above 0"),
        ({"dpi": 1e5}, "dpi must be 1200 or less"),
        ({"thicken_px": 0}, "thicken_px must be a whole number, 1 or more"),
        ({"thicken_px": 99}, "thicken_px must be 25 or less"),
        ({"red": "up"}, "unknown direction of red 'up'"),
        ({"format": "png"}, "unknown option of the pictures 'format': did you mean 'formats'"),
    ],
)
def test_wrong_styles_are_refused_before_anything_is_written(
    style: dict, message: str, result, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        result.save(tmp_path / "out", **style)
    assert not (tmp_path / "out").exists()


def test_formats_have_one_order() -> None:
    assert Pictures("tiff, .PNG,png").formats == ("png", "tiff")
    assert Pictures(()).formats == ()


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
