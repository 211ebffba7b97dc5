"""Figs. 3 and 4: panels, one scale, the enlarged parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ulmpaper.figure3 import crowded_boxes, density_norm, plot_figure3, plot_figure4
from ulmpaper.figures import save


def maps() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.poisson(0.02, (120, 200)).astype(float) for name in ("Truth", "RS", "mSPCN", "3DML-ResNet")}


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
    assert save(figure, tmp_path / "a.png", dpi=40).exists()


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
    (z1, x1, side), (z2, x2, _) = crowded_boxes(truth, 30)
    assert (z1, x1, side) in {(70, 20, 30), (10, 150, 30)}
    assert {(z1, x1), (z2, x2)} == {(70, 20), (10, 150)}
    assert crowded_boxes(np.zeros((20, 30)), 50)[0][2] == 10


def test_scale_of_an_empty_truth() -> None:
    assert density_norm(np.zeros((4, 4))).vmax == 1
    assert density_norm(np.full((4, 4), 9.0)).vmax == 9


def test_maps_must_be_of_one_size() -> None:
    with pytest.raises(ValueError, match="of one size, not 2"):
        plot_figure3({"a": np.ones((30, 30)), "b": np.ones((30, 40))}, px_mm=0.1)
