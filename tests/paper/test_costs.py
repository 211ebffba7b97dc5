"""Costs: multiplications by hand and by formula, measurements that make sense; none is timed."""

from __future__ import annotations

import math

import pytest

from ulmpaper.networks.model import MSPCN, CountNet, ML3DResNet
from ulmpaper.paper.costs import _RESET, _measure, measure_costs, multiplications, per_frame

pytestmark = pytest.mark.usefixtures("one_thread")


class TestMultiplications:
    def test_by_hand(self) -> None:
        table = multiplications(ML3DResNet(2, 1), (1, 1, 3, 4, 5)).set_index("name")
        n = 3 * 4 * 5
        assert table.multiplications["extract"] == n * 1 * 2 * 27
        assert table.multiplications["blocks.0.conv1"] == n * 2 * 2 * 27
        assert table.multiplications["blocks.0.prelu"] == 0
        assert table.multiplications["reconstruct"] == n * 2 * 3 * 27
        assert table["values"]["reconstruct"] == 3 * n

    @pytest.mark.parametrize(("features", "blocks"), [(96, 10), (8, 3)])
    def test_formula_of_the_book_for_3dml_resnet(self, features: int, blocks: int) -> None:
        for stride in (1, 2, 5, 10):
            sums = per_frame(ML3DResNet(features, blocks), (6, 7), window=10, stride=stride)
            a_pixel = 27 * (features + (2 * blocks + 1) * features**2 + 3 * features)
            assert sums.multiplications == 6 * 7 * a_pixel * 10 / stride
            assert sums.outputs == 3 * 6 * 7
            assert sums.largest == features * 10 * 6 * 7

    @pytest.mark.parametrize("u", [1, 4, 10])
    def test_formula_of_the_book_for_mspcn(self, u: int) -> None:
        sums = per_frame(MSPCN(u), (6, 7))
        assert sums.multiplications == 6 * 7 * (81 * 64 + 11 * 9 * 64**2 + 9 * 64 * u**2)
        assert sums.outputs == 6 * 7 * u**2

    def test_full_layers_and_strides_count(self) -> None:
        table = multiplications(CountNet(9, features=4), (2, 1, 16, 16)).set_index("name")
        assert table.multiplications["conv.2"] == 2 * 8 * 8 * 4 * 8 * 9
        assert table.multiplications["full.2"] == 2 * 32 * 10

    def test_as_torch_counts(self) -> None:
        import torch
        from torch.utils.flop_counter import FlopCounterMode

        net = ML3DResNet(4, 2)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            net(torch.zeros(1, 1, 5, 8, 9))
        assert (
            counter.get_total_flops()
            == 2 * multiplications(net, (1, 1, 5, 8, 9)).multiplications.sum()
        )


class TestMeasure:
    @pytest.mark.parametrize(
        ("method", "network"),
        [("ml3d", {"features": 4, "blocks": 1}), ("mspcn", {"upsample": 3}), ("count", {})],
    )
    def test_networks(self, method: str, network: dict) -> None:
        got = _measure(method, (24, 30), 4, 3, 2, network, 1, "cpu")
        assert got["network_s"] > 0
        assert math.isnan(got["memory_mb"]) or got["memory_mb"] >= 0

    def test_classical_method_in_a_process_of_its_own(self) -> None:
        got = measure_costs("radial", shape_px=(24, 30), n_frames=3, n_bubbles=4, repeats=1)
        assert got["readout_s"] > got["network_s"] >= 0

    @pytest.mark.slow
    def test_memory_grows_with_the_frames(self) -> None:
        if not _RESET.exists():
            pytest.skip("this system does not tell the peak of memory of a part of a run")
        network = {"features": 16, "blocks": 1}
        small, large = (
            measure_costs(
                "ml3d", shape_px=(side, side), n_frames=4, window=2, network=network, repeats=1
            )["memory_mb"]
            for side in (24, 192)
        )
        # One layer of the large frames alone is 16 x 4 x 192 x 192 numbers of 4 bytes.
        assert large > 9.4
        assert large > 2 * small

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            ({"method": "radail"}, "did you mean 'radial'"),
            ({"method": "ml3d", "n_frames": 15}, "15 frames do not fill windows of 10"),
            ({"method": "radial", "repeats": 0}, "repeats"),
        ],
    )
    def test_bad_input(self, call: dict, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            measure_costs(**call, shape_px=(24, 30))
