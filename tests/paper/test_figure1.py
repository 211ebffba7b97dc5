"""Fig. 1: what it says is what the network has, and all of it can be read."""

from __future__ import annotations

import itertools

import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from matplotlib.text import Text

from ulmpaper.networks.model import MSPCN, ML3DResNet, layer_table
from ulmpaper.paper.figure1 import plot_figure1

NETWORKS = {
    "paper": (ML3DResNet(), (1, 1, 10, 250, 250)),
    "flat": (ML3DResNet(24, 4, temporal_kernel=1, output="linear"), (2, 1, 5, 84, 143)),
    "least": (ML3DResNet(1, 1), (1, 1, 1, 64, 48)),
    "long": (ML3DResNet(320, 2, temporal_kernel=11), (1, 1, 100, 1000, 300)),
}


def draw(name: str) -> Figure:
    return plot_figure1(layer_table(*NETWORKS[name]))


def only_axes(figure: Figure) -> Axes:
    (ax,) = figure.axes
    return ax


def words(figure: Figure) -> list[str]:
    return [text.get_text() for text in only_axes(figure).texts]


def test_numbers_are_those_of_the_papers_network() -> None:
    said = words(draw("paper"))
    weights = {name: p.numel() for name, p in NETWORKS["paper"][0].named_parameters()}
    conv = weights["fuse.weight"] + weights["fuse.bias"]
    assert {"10 in a window,", "250 × 250 px each", "1 → 96 channels, 2,688 weights"} <= set(said)
    assert f"96 → 96 channels, {conv:,} weights" in said
    assert "96 → 3 channels, 7,779 weights" in said
    assert {"10 residual blocks", f"{2 * conv + 2:,} weights each"} <= set(said)
    assert said.count(f"{conv:,} weights") == 2
    assert said.count("3 × 3 × 3") == 5
    assert said[-1] == "5,237,975 weights in all\nKernels: frames × z × x. Reach: 23 frames, 23 px"


def test_another_network_is_another_drawing() -> None:
    said = words(draw("flat"))
    assert {
        "5 in a window,",
        "84 × 143 px each",
        "4 residual blocks",
        "1 → 24 channels, 240 weights",
    } <= set(said)
    assert said.count("1 × 3 × 3") == 5
    assert "Identity" in said
    assert "Sigmoid" not in said
    assert "Reach: 0 frames, 11 px" in said[-1]


def test_reach_is_how_far_an_input_is_felt() -> None:
    import torch

    net = ML3DResNet(2, 1)
    frames = torch.zeros(1, 1, 15, 15, 15, requires_grad=True)
    net(frames)[0, :, 7, 7, 7].sum().backward()
    felt = frames.grad[0, 0].abs().sum(dim=(1, 2)).nonzero().ravel()
    reach = int(felt.max()) - 7
    said = words(plot_figure1(layer_table(net, (1, 1, 15, 15, 15))))
    assert f"Reach: {reach} frames, {reach} px" in said[-1]


@pytest.mark.parametrize("n_blocks", [1, 10, 40])
def test_every_block_is_a_bar(n_blocks: int) -> None:
    def bars(n: int) -> int:
        ax = only_axes(plot_figure1(layer_table(ML3DResNet(2, n), (1, 1, 2, 16, 16))))
        return sum(isinstance(patch, FancyBboxPatch) for patch in ax.patches)

    assert bars(n_blocks) - bars(2) == n_blocks - 2


@pytest.mark.parametrize("name", NETWORKS)
def test_no_text_overlaps_another_or_leaves_the_figure(name: str) -> None:
    figure = draw(name)
    figure.draw_without_rendering()

    def box(text: Text) -> tuple[float, float, float, float]:
        return text.get_window_extent().extents

    texts = only_axes(figure).texts
    for text in texts:
        left, low, right, high = box(text)
        assert left >= 0, text
        assert low >= 0, text
        assert right <= figure.bbox.width, text
        assert high <= figure.bbox.height, text
    for one, other in itertools.combinations(texts, 2):
        (l1, b1, r1, t1), (l2, b2, r2, t2) = box(one), box(other)
        assert not (l1 < r2 and l2 < r1 and b1 + 1 < t2 and b2 + 1 < t1), (one, other)


def test_letters_are_large_enough_on_a_phone() -> None:
    figure = draw("paper")
    shown = 340 / figure.get_figwidth() / 72  # CSS pixels per point on a phone
    assert min(text.get_fontsize() for text in only_axes(figure).texts) * shown > 9


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (layer_table(MSPCN(2), (1, 1, 8, 8)), "layers of a 3DML-ResNet.*got layers conv1, relu"),
        (layer_table(*NETWORKS["least"]).iloc[1:], "got layers blocks.0.conv1"),
        (pd.DataFrame({"name": ["extract"]}), "got columns name"),
    ],
)
def test_another_table_is_an_error(layers: pd.DataFrame, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plot_figure1(layers)
