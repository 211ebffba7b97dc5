"""Fig. 2: what each panel shows, its scales and its titles."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from ulmpaper.metrics.bubbles import subpixel_histogram
from ulmpaper.paper.figures import (
    _crowded_boxes,
    plot_figure2,
    plot_figure3,
    plot_figure4,
    plot_figure5,
)
from ulmpaper.plots import density_norm, plot_grey, plot_steps, save_figure, step_limit

PICTURE = np.linspace(0, 1, 1200).reshape(30, 40)
MASK = np.zeros((30, 40), dtype=bool)
MASK[10:20] = True
MAPS = np.zeros((2, 30, 40))
MAPS[0, 10:15], MAPS[0, 15:20], MAPS[1, 10:20] = 0.02, -0.02, 0.01
SCALE = {"px_mm": 0.1, "frame_rate_hz": 1000.0}


def panel(figure: Figure, letter: str) -> Axes:
    (found,) = (ax for ax in figure.axes if ax.get_title().startswith(f"({letter})"))
    return found


def image(ax: Axes) -> AxesImage:
    (found,) = ax.get_images()
    return found


def size_in(ax: Axes) -> tuple[float, float]:
    box = ax.get_window_extent()
    return box.width, box.height


def test_four_panels_come_in_the_papers_order() -> None:
    figure = plot_figure2(PICTURE, MASK, MAPS, **SCALE, what="Grown picture")
    assert [ax.get_title() for ax in figure.axes] == [
        "(a) Grown picture",
        "(b) Segmentation result",
        "(c) Vertical displacement map",
        "(d) Horizontal displacement map",
    ]
    assert (image(panel(figure, "a")).get_array() == PICTURE).all()
    assert (image(panel(figure, "b")).get_array() == MASK).all()


def test_maps_share_a_limit_and_hide_what_is_not_vessel() -> None:
    figure = plot_figure2(PICTURE, MASK, MAPS, **SCALE)
    for letter, steps in (("c", MAPS[0]), ("d", MAPS[1])):
        shown = image(panel(figure, letter))
        assert shown.get_clim() == (-0.02, 0.02)
        values = shown.get_array()
        assert (np.ma.getmaskarray(values) == ~MASK).all()
        np.testing.assert_array_equal(values.compressed(), steps[MASK])


def test_six_panels_show_frame_in_db_and_modulus_of_psf() -> None:
    frame = np.full((30, 40), 1e-6)
    frame[3, 4], frame[5, 6] = 2.0, 0.2
    psf = np.array([[0, 0.5j, 0], [0, 1, 0], [0, -0.5, 0]])
    figure = plot_figure2(PICTURE, MASK, MAPS, frame, psf, **SCALE, psf_px=3)
    in_db = image(panel(figure, "e")).get_array()
    assert (in_db[3, 4], round(float(in_db[5, 6]), 3), in_db[0, 0]) == (0, -20, -30)
    assert image(panel(figure, "f")).get_array().tolist() == [[0, 0.5, 0], [0, 1, 0], [0, 0.5, 0]]


def test_all_panels_are_equally_large() -> None:
    figure = plot_figure2(PICTURE, MASK, MAPS, PICTURE, np.eye(4), **SCALE)
    figure.draw_without_rendering()
    sizes = [
        size_in(panel(figure, letter)) for letter in "abcde"
    ]  # the PSF is square, the frame is not
    np.testing.assert_allclose(sizes, [sizes[0]] * 5, rtol=1e-6)


def test_steps_are_read_in_both_units() -> None:
    ax = Figure().subplots()
    plot_steps(MAPS[0], MASK, ax=ax, **SCALE)
    (bar,) = ax.child_axes
    (in_mm_s,) = bar.child_axes
    in_mm_s.figure.draw_without_rendering()
    assert [text.get_text() for text in bar.texts] == ["px/frame", "mm/s"]
    np.testing.assert_allclose(in_mm_s.get_xlim(), np.multiply(bar.get_xlim(), 0.1 * 1000))


@pytest.mark.parametrize(("px_mm", "text"), [(0.1, "0.5 mm"), (None, "5 px")])
def test_grey_has_a_scale_bar_inside_the_panel(px_mm: float | None, text: str) -> None:
    figure = Figure(figsize=(1, 1))
    ax = figure.add_axes((0, 0, 1, 1))
    plot_grey(PICTURE, ax=ax, px_mm=px_mm)
    figure.draw_without_rendering()
    (label,) = ax.texts
    assert label.get_text() == text
    assert label.get_window_extent().x1 <= ax.get_window_extent().x1


def test_grey_has_a_colour_bar_where_a_unit_is_given() -> None:
    without, bar = Figure().subplots(1, 2)
    plot_grey(PICTURE, ax=without)
    shown = plot_grey(PICTURE, ax=bar, unit="dB", limits=(-1, 2))
    assert without.child_axes == []
    assert [text.get_text() for text in bar.child_axes[0].texts] == ["dB"]
    assert shown.get_clim() == (-1, 2)


def test_limit_leaves_out_the_fastest_two_percent() -> None:
    assert step_limit(np.concatenate([np.full(98, -0.01), [5.0], np.zeros(1000)])) == 0.01
    assert step_limit(np.zeros((2, 3, 3))) == 1.0


def test_frame_without_psf_is_an_error() -> None:
    with pytest.raises(ValueError, match="give both frame and psf, or neither"):
        plot_figure2(PICTURE, MASK, MAPS, PICTURE, **SCALE)


def test_scale_must_be_positive() -> None:
    with pytest.raises(ValueError, match="frame_rate_hz must be a number above 0"):
        plot_figure2(PICTURE, MASK, MAPS, px_mm=0.1, frame_rate_hz=0)


def maps() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        name: rng.poisson(0.02, (120, 200)).astype(float)
        for name in ("Truth", "RS", "mSPCN", "3DML-ResNet")
    }


@pytest.mark.parametrize("plot", [plot_figure3, plot_figure4])
def test_every_map_has_a_panel_over_two_parts(plot: object, tmp_path: Path) -> None:
    drawn = maps()
    figure = plot(drawn, px_mm=0.1, upsample=10, zoom_px=4)  # type: ignore[operator]
    axes = [ax for ax in figure.axes if ax.images]
    assert [ax.get_title() for ax in axes if ax.get_title()] == list(drawn)
    assert len(axes) == 3 * len(drawn)
    assert len({ax.images[0].norm for ax in axes}) == 1
    parts = {ax.images[0].get_array().shape for ax in axes if not ax.get_title()}
    assert parts == {(40, 40)}
    assert [len(ax.patches) for ax in axes if ax.get_title()] == [
        3,
        2,
        2,
        2,
    ]  # two squares, and a scale bar in the truth
    assert save_figure(figure, tmp_path / "a.png", dpi=40).exists()


def test_parts_show_pixels_as_they_are() -> None:
    drawn = maps()
    figure = plot_figure3(drawn, px_mm=0.1, boxes=[(0, 0, 50), (60, 100, 50)])
    shown = [ax.images[0].get_array() for ax in figure.axes if ax.images]
    np.testing.assert_array_equal(shown[1], drawn["Truth"][:50, :50])
    np.testing.assert_array_equal(shown[5], drawn["RS"][60:110, 100:150])


def test_boxes_are_crowded_and_apart() -> None:
    truth = maps()["Truth"]
    truth[70:100, 20:50] = 3
    truth[10:40, 150:180] = 2
    (z1, x1, side), (z2, x2, _) = _crowded_boxes(truth, 30)
    assert (z1, x1, side) in {(70, 20, 30), (10, 150, 30)}
    assert {(z1, x1), (z2, x2)} == {(70, 20), (10, 150)}
    assert _crowded_boxes(np.zeros((20, 30)), 50)[0][2] == 10


def test_scale_of_an_empty_truth() -> None:
    assert density_norm(np.zeros((4, 4))).vmax == 1
    assert density_norm(np.full((4, 4), 9.0)).vmax == 9


def test_maps_must_be_of_one_size() -> None:
    with pytest.raises(ValueError, match="of one size, not 2"):
        plot_figure3({"a": np.ones((30, 30)), "b": np.ones((30, 40))}, px_mm=0.1)


NAMES = ("truth", "radial symmetry", "parabola", "mSPCN", "3DML-ResNet")


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    plt.close("all")


def drawn(names: tuple[str, ...] = NAMES, **how: object) -> Figure:
    rng = np.random.default_rng(0)
    maps = {name: rng.poisson(0.1, (240, 300)).astype(float) for name in names}
    bubbles = pd.DataFrame(rng.uniform(2, 20, (500, 2)), columns=["z", "x"])
    spreads = {name: subpixel_histogram(bubbles) for name in names[1:]}
    gridding = {name: 7.0 + number for number, name in enumerate(names[1:])}
    return plot_figure5(rng.random((24, 30)), maps, spreads, gridding, px_mm=0.1, **how)


def titles(figure: Figure) -> list[str]:
    return [ax.get_title() for ax in figure.axes if ax.get_title()]


def test_panels_are_lettered_in_order_and_each_histogram_has_its_index() -> None:
    said = titles(drawn())
    assert [t for t in said if t.startswith("(")] == [
        f"({letter}) {name}"
        for letter, name in zip("abcdef", ("power Doppler", *NAMES), strict=True)
    ]
    assert [t for t in said if t.startswith("grid")] == [
        f"gridding index {7 + n}.0 dB" for n in range(4)
    ]


def test_all_maps_have_one_scale_and_the_box() -> None:
    figure = drawn(top=2.0, box=(slice(10, 60), slice(20, 90)))
    maps = [
        ax for ax in figure.axes if ax.images and "Doppler" not in ax.get_title() and ax.get_title()
    ]
    assert [ax.images[0].get_clim() for ax in maps] == [(0, 2.0)] * 5
    frames = [patch for ax in maps for patch in ax.patches if not patch.get_fill()]
    assert {patch.get_bbox().bounds for patch in frames} == {(20, 10, 70, 50)}


def test_any_number_of_maps_and_empty_ones() -> None:
    figure = drawn(NAMES[:2])
    assert len([t for t in titles(figure) if t.startswith("(")]) == 3
    empty = {"radial symmetry": np.zeros((240, 300))}
    plot_figure5(np.ones((24, 30)), empty, {}, {}, px_mm=None).canvas.draw()
