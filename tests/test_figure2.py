"""Fig. 2: what each panel shows, its scales and its titles."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from ulmpaper.figure2 import plot_figure2, plot_grey, plot_steps, step_limit

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
    sizes = [size_in(panel(figure, letter)) for letter in "abcde"]  # the PSF is square, the frame is not
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
