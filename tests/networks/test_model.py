"""Networks: shapes, sizes, what sees what, and mSPCN against its authors' own output."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from ulmpaper.core.records import bubble_table
from ulmpaper.networks.loss import count_loss
from ulmpaper.networks.model import MSPCN, CountNet, ML3DResNet, ResidualBlock, SkipSum, layer_table
from ulmpaper.networks.predict import Mirrored
from ulmpaper.networks.targets import decode_heatmap


@pytest.fixture(autouse=True)
def same_weights_every_time() -> None:
    torch.manual_seed(0)


pytestmark = pytest.mark.usefixtures("one_thread")


def n_parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def reach(net: nn.Module, shape: tuple[int, ...]) -> list[torch.Tensor]:
    """Indices of the input that the output at the middle depends on, per axis."""
    frames = torch.rand(shape, requires_grad=True)
    out = net(frames)
    out[(0, slice(None), *(n // 2 for n in out.shape[2:]))].sum().backward()
    assert frames.grad is not None
    return [axis.unique() for axis in frames.grad.nonzero().T]


class TestMirrored:
    def test_answers_are_averaged_and_places_mirrored(self) -> None:
        class Leans(nn.Module):
            """p follows the brightness; all bubbles lie at a fifth of their pixel."""

            def forward(self, frames: torch.Tensor) -> torch.Tensor:
                tilt = torch.linspace(0.5, 1, frames.shape[-1])  # sees less on the left
                place = torch.full_like(frames, 0.2)
                return torch.cat([frames * tilt, torch.full_like(frames, 0.3), place], dim=1)

        frames = torch.zeros(1, 1, 2, 4, 5)
        frames[..., 1, 4] = 1
        maps = Mirrored(Leans())(frames)
        assert maps[0, 0, 0, 1].tolist() == pytest.approx([0, 0, 0, 0, (1 + 0.5) / 2])
        torch.testing.assert_close(maps[0, 1], torch.full((2, 4, 5), 0.3))
        assert float(maps[0, 2, 0, 1, 4]) == pytest.approx((1 * 0.2 + 0.5 * 0.8) / 1.5)
        assert float(maps[0, 2, 0, 0, 0]) == pytest.approx(0.5)

    def test_has_no_preferred_side(self) -> None:
        net, frames = Mirrored(ML3DResNet(4, 1)), torch.rand(1, 1, 5, 16, 12)
        maps, other = net(frames), net(frames.flip(-1)).flip(-1)
        torch.testing.assert_close(maps[:, :2], other[:, :2])
        torch.testing.assert_close(maps[:, 2], 1 - other[:, 2])


class TestML3DResNet:
    def test_the_papers_size(self) -> None:
        conv = 96 * 96 * 27 + 96
        first, block, last = 1 * 96 * 27 + 96, conv + 1 + conv + 1, 96 * 3 * 27 + 3
        assert n_parameters(ML3DResNet()) == first + 10 * block + conv + last == 5_237_975

    @pytest.mark.parametrize(
        "shape", [(1, 1, 1, 1, 1), (2, 1, 3, 7, 10), (1, 1, 10, 12, 9), (3, 1, 4, 5, 31)]
    )
    @pytest.mark.parametrize("temporal_kernel", [1, 3])
    def test_any_size_goes(self, shape: tuple[int, ...], temporal_kernel: int) -> None:
        maps = ML3DResNet(4, 2, temporal_kernel=temporal_kernel)(torch.rand(shape))
        assert maps.shape == (shape[0], 3, *shape[2:])
        assert maps.min() > 0
        assert maps.max() < 1

    def test_starts_with_few_bubbles_and_small_blocks(self) -> None:
        net = ML3DResNet(8, 3)
        p, oz, ox = net(torch.rand(1, 1, 3, 16, 16))[0]
        assert 0.005 < p.mean() < 0.06
        assert abs(oz.mean() - 0.5) < 0.2
        assert abs(ox.mean() - 0.5) < 0.2
        assert [block.sum.weight.item() for block in net.blocks] == [pytest.approx(0.3)] * 3

    def test_linear_output_is_the_sigmoid_s_argument(self) -> None:
        frames = torch.rand(1, 1, 3, 8, 8)
        bounded, free = ML3DResNet(4, 1), ML3DResNet(4, 1, output="linear")
        free.load_state_dict(bounded.state_dict())
        torch.testing.assert_close(torch.sigmoid(free(frames)), bounded(frames))

    def test_follows_the_figure(self) -> None:
        """Fig. 1 written out once more, in plain functions."""
        net, frames = ML3DResNet(4, 2), torch.rand(2, 1, 3, 6, 7)
        w = net.state_dict()

        def conv(name: str, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.conv3d(x, w[f"{name}.weight"], w[f"{name}.bias"], padding=1)

        first = x = conv("extract", frames)
        for k in range(2):
            hidden = conv(f"blocks.{k}.conv1", x)
            hidden = torch.where(hidden > 0, hidden, w[f"blocks.{k}.prelu.weight"] * hidden)
            x = x + w[f"blocks.{k}.sum.weight"] * conv(f"blocks.{k}.conv2", hidden)
        torch.testing.assert_close(
            torch.sigmoid(conv("reconstruct", first + conv("fuse", x))), net(frames)
        )

    def test_context(self) -> None:
        # Convolutions in a row: 1 + 2 per block + 2.
        _, _, t, z, x = reach(ML3DResNet(2, 1), (1, 1, 15, 15, 15))
        assert t.tolist() == z.tolist() == x.tolist() == list(range(2, 13))
        _, _, t, z, _ = reach(ML3DResNet(2, 1, temporal_kernel=1), (1, 1, 15, 15, 15))
        assert t.tolist() == [7]
        assert z.tolist() == list(range(2, 13))

    def test_windows_of_a_batch_are_independent(self) -> None:
        net, frames = ML3DResNet(4, 1), torch.rand(3, 1, 4, 9, 8)
        torch.testing.assert_close(net(frames), torch.cat([net(frame[None]) for frame in frames]))

    def test_memory_format_changes_nothing(self) -> None:
        net, frames = ML3DResNet(4, 1), torch.rand(2, 1, 4, 9, 8)
        expected = net(frames)
        layout = torch.channels_last_3d
        maps = net.to(memory_format=layout)(frames.to(memory_format=layout))
        torch.testing.assert_close(maps, expected)

    def test_all_weights_learn(self) -> None:
        net = ML3DResNet(4, 2)
        net(torch.rand(1, 1, 3, 8, 8)).square().sum().backward()
        for name, weight in net.named_parameters():
            assert weight.grad is not None, name
            assert weight.grad.isfinite().all(), name
            assert weight.grad.any(), name

    def test_derivatives(self) -> None:
        net = ML3DResNet(2, 1).double()
        frames = torch.rand(1, 1, 2, 3, 3, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(net, (frames,))

    def test_mixed_precision(self) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert ML3DResNet(4, 1)(torch.rand(1, 1, 3, 8, 8)).dtype == torch.bfloat16

    def test_refuses(self) -> None:
        with pytest.raises(ValueError, match="temporal_kernel must be odd and 99 or less, not 2"):
            ML3DResNet(temporal_kernel=2)
        with pytest.raises(ValueError, match="features must be a whole number, 1 or more"):
            ML3DResNet(features=0)
        with pytest.raises(ValueError, match="unknown output 'sigmod': did you mean 'sigmoid'"):
            ML3DResNet(output="sigmod")
        with pytest.raises(ValueError, match=r"shape \(B, 1, N, Z, X\), not \(10, 8, 8\)"):
            ML3DResNet(2, 1)(torch.zeros(10, 8, 8))
        with pytest.raises(ValueError, match=r"not \(1, 10, 1, 8, 8\)"):
            ML3DResNet(2, 1)(torch.zeros(1, 10, 1, 8, 8))

    def test_block_and_sum(self) -> None:
        features = torch.rand(1, 4, 3, 5, 5)
        block = ResidualBlock(4)
        nn.init.zeros_(block.sum.weight)
        assert torch.equal(block(features), features)
        assert n_parameters(SkipSum()) == 0
        assert torch.equal(SkipSum()(features, features), 2 * features)


class TestCountNet:
    @pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 1, 33, 50), (5, 1, 8, 9)])
    def test_any_size_goes(self, shape: tuple[int, ...]) -> None:
        assert CountNet(7, 4)(torch.rand(shape)).shape == (shape[0], 8)
        assert CountNet(None, 4)(torch.rand(shape)).shape == (shape[0], 1)

    def test_size(self) -> None:
        assert n_parameters(CountNet()) == 81_573

    def test_reads_the_expectation(self) -> None:
        likely = torch.tensor([[0.1, 0.1, 0.1, 0.7], [1.0, 0.0, 0.0, 0.0], [0.4, 0.2, 0.4, 0.0]])
        torch.testing.assert_close(CountNet.expected(likely.log()), torch.tensor([2.4, 0.0, 1.0]))

    def test_reads_numbers(self) -> None:
        assert CountNet.expected(torch.tensor([[2.5], [-0.75], [0.25]])).tolist() == [2.5, 0, 0.25]

    def test_frames_are_independent(self) -> None:
        net, frames = CountNet(7, 4), torch.rand(3, 1, 9, 8)
        torch.testing.assert_close(net(frames), torch.cat([net(frame[None]) for frame in frames]))

    @pytest.mark.parametrize("n_max", [3, None])
    def test_learns_to_count(self, n_max: int | None) -> None:
        counts = torch.arange(20) % 4
        frames = torch.rand(20, 1, 16, 16) * 0.1
        for frame, n in zip(frames, counts.tolist(), strict=True):
            place = torch.randperm(16)[:n]
            frame[0, 2 + place // 4 * 4, 2 + place % 4 * 4] = 1.0
        net = CountNet(n_max, 4)
        optimizer = torch.optim.Adam(net.parameters(), 1e-2)
        for _ in range(80):
            optimizer.zero_grad()
            count_loss(net(frames), counts).backward()
            optimizer.step()
        assert (net.expected(net(frames)).round() == counts).float().mean() > 0.9

    def test_refuses(self) -> None:
        with pytest.raises(ValueError, match="n_max must be a whole number, 1 or more, not 0"):
            CountNet(0)
        with pytest.raises(ValueError, match=r"shape \(B, 1, Z, X\), not \(3, 8, 8\)"):
            CountNet(3, 2)(torch.zeros(3, 8, 8))


class TestMSPCN:
    @pytest.mark.parametrize(("upsample", "size"), [(4, 420_688), (1, 412_033), (8, 448_384)])
    def test_size(self, upsample: int, size: int) -> None:
        assert n_parameters(MSPCN(upsample)) == size

    @pytest.mark.parametrize("upsample", [1, 3, 4])
    def test_any_size_goes(self, upsample: int) -> None:
        assert MSPCN(upsample)(torch.rand(2, 1, 5, 8)).shape == (2, 1, 5 * upsample, 8 * upsample)

    def test_refuses(self) -> None:
        with pytest.raises(ValueError, match="upsample must be a whole number, 1 or more"):
            MSPCN(0)
        with pytest.raises(ValueError, match=r"shape \(B, 1, Z, X\), not \(8, 8\)"):
            MSPCN(4)(torch.zeros(8, 8))

    @pytest.fixture
    def authors(self, data_mirror: Path) -> MSPCN:
        """The network with its authors' weights."""
        path = data_mirror / "mspcn_authors_x4.safetensors"
        if not path.is_file():
            pytest.skip(f"the mSPCN authors' weights are not here: {path}")
        net = MSPCN(4)
        net.load_state_dict(load_file(path))
        return net

    def test_equals_its_authors_output(self, authors: MSPCN, oracle_dir: Path) -> None:
        with np.load(oracle_dir / "mspcn_kidney.npz") as oracle:
            frames, expected = torch.from_numpy(oracle["input"])[:, None], oracle["output"]
        with torch.no_grad():
            maps = authors(frames)[:, 0].numpy()
        assert np.abs(maps - expected).max() < 1e-4 * np.abs(expected).max()

    def test_where_its_authors_weights_put_bubbles(self, authors: MSPCN) -> None:
        rng = np.random.default_rng(5)
        z, x = rng.uniform(10, 14, (2, 60))
        grid = np.arange(24)
        by_z = np.exp(-((grid - z[:, None]) ** 2) / (2 * 1.5**2))
        by_x = np.exp(-((grid - x[:, None]) ** 2) / (2 * 2.0**2))
        frames = (by_z[:, :, None] * by_x[:, None, :]).astype(np.float32)
        with torch.no_grad():
            found = decode_heatmap(authors(torch.from_numpy(frames)[:, None]), 4, counts=1)
        truth = bubble_table(np.arange(60), z, x, np.ones(60))
        shift = found[["z", "x"]] - truth[["z", "x"]]
        assert np.allclose(shift.mean(), 3 / 8, atol=0.04)
        assert (shift.std() < 0.12).all()


class TestLayerTable:
    @pytest.mark.parametrize(
        ("net", "shape"),
        [
            (ML3DResNet(4, 2), (1, 1, 5, 9, 8)),
            (CountNet(5, 4), (2, 1, 9, 8)),
            (MSPCN(2), (1, 1, 6, 7)),
        ],
    )
    def test_adds_up(self, net: nn.Module, shape: tuple[int, ...]) -> None:
        table = layer_table(net, shape)
        assert table["parameters"].sum() == n_parameters(net)
        assert table["output_shape"].iloc[-1] == tuple(net(torch.zeros(shape)).shape)

    def test_of_the_papers_network(self) -> None:
        table = layer_table(ML3DResNet(), (1, 1, 10, 250, 250)).set_index("name")
        assert list(table.index[:5]) == [
            "extract",
            *(f"blocks.0.{k}" for k in ("conv1", "prelu", "conv2", "sum")),
        ]
        assert list(table.index[-4:]) == ["fuse", "sum", "reconstruct", "output"]
        assert len(table) == 1 + 10 * 4 + 4
        assert table.loc["blocks.9.conv2"].to_dict() == {
            "kind": "Conv3d",
            "kernel": (3, 3, 3),
            "output_shape": (1, 96, 10, 250, 250),
            "parameters": 248_928,
        }
        assert table.loc["output", "output_shape"] == (1, 3, 10, 250, 250)
        assert table.loc["output", "kernel"] == ()

    def test_leaves_the_network_alone(self) -> None:
        net = ML3DResNet(2, 1)
        before = {name: weight.clone() for name, weight in net.state_dict().items()}
        layer_table(net, (1, 1, 2, 4, 4))
        assert all(torch.equal(before[name], weight) for name, weight in net.state_dict().items())
        assert not any(layer._forward_hooks for layer in net.modules())

    def test_layers_that_run_again_count_once(self) -> None:
        table = layer_table(MSPCN(4), (1, 1, 8, 8))
        assert (table["name"] == "relu").sum() == 6
        assert (table["name"] == "sum").sum() == 6

    def test_refuses_a_shape_that_does_not_fit(self) -> None:
        with pytest.raises(ValueError, match=r"shape \(B, 1, N, Z, X\)"):
            layer_table(ML3DResNet(2, 1), (1, 1, 8, 8))
