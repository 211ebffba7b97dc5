"""Fig. 5: panels, letters, histograms, what is missing."""

from __future__ import annotations

from collections.abc import Iterator

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from ulmpaper.figure5 import plot_figure5
from ulmpaper.metrics import subpixel_histogram

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
        f"({letter}) {name}" for letter, name in zip("abcdef", ("power Doppler", *NAMES), strict=True)
    ]
    assert [t for t in said if t.startswith("grid")] == [f"gridding index {7 + n}.0 dB" for n in range(4)]


def test_all_maps_have_one_scale_and_the_box() -> None:
    figure = drawn(top=2.0, box=(slice(10, 60), slice(20, 90)))
    maps = [ax for ax in figure.axes if ax.images and "Doppler" not in ax.get_title() and ax.get_title()]
    assert [ax.images[0].get_clim() for ax in maps] == [(0, 2.0)] * 5
    frames = [patch for ax in maps for patch in ax.patches if not patch.get_fill()]
    assert {patch.get_bbox().bounds for patch in frames} == {(20, 10, 70, 50)}


def test_any_number_of_maps_and_empty_ones() -> None:
    figure = drawn(NAMES[:2])
    assert len([t for t in titles(figure) if t.startswith("(")]) == 3
    empty = {"radial symmetry": np.zeros((240, 300))}
    plot_figure5(np.ones((24, 30)), empty, {}, {}, px_mm=None).canvas.draw()
