"""Losses: against the equations written out in loops, on single bubbles, and in a training."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from ulmpaper.core.records import bubble_table
from ulmpaper.core.testcard import simulate_testcard
from ulmpaper.metrics.bubbles import localization_errors, match_bubbles
from ulmpaper.networks.loss import (
    blur,
    count_loss,
    detection_loss,
    mixture_loss,
    ml3d_loss,
    mspcn_loss,
    offset_loss,
)
from ulmpaper.networks.model import ML3DResNet
from ulmpaper.networks.targets import decode_offsets, encode_heatmap, encode_offsets

N, Z, X = 2, 6, 5


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def maps() -> Tensor:
    """Two windows as a network might put them out."""
    return torch.rand(
        2, 3, N, Z, X, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )


@pytest.fixture
def truth(rng: np.random.Generator) -> Tensor:
    """The first window holds seven bubbles, the second none."""
    bubbles = bubble_table(
        rng.integers(0, N, 7),
        rng.uniform(0, Z - 1, 7),
        rng.uniform(0, X - 1, 7),
        rng.uniform(size=7),
    )
    return torch.stack(
        [encode_offsets(table, N, (Z, X)) for table in (bubbles, bubbles[:0])]
    ).double()


def gaussian(sigma_px: float, half: int) -> np.ndarray:
    around = range(-half, half + 1)
    kernel = np.array(
        [[np.exp(-(i * i + j * j) / (2 * sigma_px**2)) for j in around] for i in around]
    )
    return kernel / kernel.sum()


def slow_blur(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    half, out = len(kernel) // 2, np.zeros(image.shape)
    for (z, x), (i, j) in (
        (a, b) for a in np.ndindex(image.shape) for b in np.ndindex(kernel.shape)
    ):
        row, column = z + i - half, x + j - half
        if 0 <= row < image.shape[0] and 0 <= column < image.shape[1]:
            out[z, x] += kernel[i, j] * image[row, column]
    return out


def slow_losses(
    maps: Tensor, truth: Tensor, sigma_px: float, half: int, masked: bool
) -> tuple[float, float]:
    """Eqs. (2) and (3), frame by frame and pixel by pixel."""
    detection, offset, kernel = [], [], gaussian(sigma_px, half)
    for window, true_window in zip(maps.numpy(), truth.numpy(), strict=True):
        for n in range(N):
            difference = slow_blur(true_window[0, n], kernel) - slow_blur(window[0, n], kernel)
            detection.append(np.linalg.norm(difference, "fro") ** 2)
            terms = 0.0
            for z, x in np.ndindex(Z, X):
                if not masked or true_window[0, n, z, x] == 1:
                    terms += 0.5 * (true_window[1, n, z, x] - window[1, n, z, x]) ** 2
                    terms += 0.5 * (true_window[2, n, z, x] - window[2, n, z, x]) ** 2
            offset.append(terms)
    return float(np.mean(detection)), float(np.mean(offset))


class TestML3DLoss:
    @pytest.mark.parametrize(("sigma_px", "half"), [(1.0, 3), (0.5, 2), (1.5, 5)])
    @pytest.mark.parametrize("masked", [True, False])
    def test_equals_the_equations(
        self, maps: Tensor, truth: Tensor, sigma_px: float, half: int, masked: bool
    ) -> None:
        total, parts = ml3d_loss(maps, truth, sigma_px=sigma_px, masked=masked)
        detection, offset = slow_losses(maps, truth, sigma_px, half, masked)
        assert parts["detection"].item() == pytest.approx(detection, rel=1e-12)
        assert parts["offset"].item() == pytest.approx(offset, rel=1e-12)
        assert total.item() == pytest.approx(detection + offset, rel=1e-12)

    def test_no_blur(self, maps: Tensor, truth: Tensor) -> None:
        expected = (maps - truth)[:, 0].square().sum() / (2 * N)
        torch.testing.assert_close(detection_loss(maps, truth, sigma_px=0), expected)

    def test_is_0_for_the_truth(self, truth: Tensor) -> None:
        assert ml3d_loss(truth, truth)[0] == 0
        assert ml3d_loss(truth, truth, masked=False)[0] == 0

    def test_a_near_miss_costs_less_than_a_far_one(self) -> None:
        truth, near, far = (
            encode_offsets(bubble_table([0], [8.0], [place], [1.0]), 1, (16, 16))
            for place in (4.0, 5.0, 10.0)
        )
        assert detection_loss(near, truth) < 0.5 * detection_loss(far, truth)

    def test_only_pixels_with_bubbles_have_a_place(self, maps: Tensor, truth: Tensor) -> None:
        elsewhere = maps.clone()
        elsewhere[:, 1:] += (truth[:, :1] == 0) * torch.rand_like(maps[:, 1:])
        assert offset_loss(maps, truth) == offset_loss(elsewhere, truth)
        assert offset_loss(maps, truth, masked=False) != offset_loss(elsewhere, truth, masked=False)
        maps.requires_grad_()
        offset_loss(maps, truth).backward()
        assert maps.grad is not None
        assert torch.equal(maps.grad[:, 1:].any(dim=1), truth[:, 0] == 1)

    def test_no_bubbles(self, maps: Tensor, truth: Tensor) -> None:
        empty = maps[1:].requires_grad_()
        total, parts = ml3d_loss(empty, truth[1:])
        total.backward()
        assert parts["offset"] == 0
        assert total == parts["detection"] > 0
        assert empty.grad is not None
        assert empty.grad.isfinite().all()

    def test_of_a_batch_is_the_mean_over_its_windows(self, maps: Tensor, truth: Tensor) -> None:
        single = [
            ml3d_loss(window, true_window)[0]
            for window, true_window in zip(maps, truth, strict=True)
        ]
        torch.testing.assert_close(ml3d_loss(maps, truth)[0], torch.stack(single).mean())

    @pytest.mark.parametrize("masked", [True, False])
    def test_derivatives(self, maps: Tensor, truth: Tensor, masked: bool) -> None:
        maps.requires_grad_()
        assert torch.autograd.gradcheck(lambda m: ml3d_loss(m, truth, masked=masked)[0], (maps,))
        total, parts = ml3d_loss(maps, truth)
        total.backward()
        assert maps.grad is not None
        assert maps.grad[:, 0].all()
        assert not any(part.requires_grad for part in parts.values())

    def test_mixed_precision(self, maps: Tensor, truth: Tensor) -> None:
        maps, truth = maps.bfloat16(), truth.float()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            total, _ = ml3d_loss(maps, truth)
        assert total.dtype == torch.float32
        torch.testing.assert_close(total, ml3d_loss(maps.float(), truth)[0])

    @pytest.mark.parametrize("loss", [detection_loss, offset_loss, ml3d_loss])
    def test_refuses(self, loss: Callable) -> None:
        with pytest.raises(
            ValueError,
            match=r"both be \(..., 3, N, Z, X\), not \(1, 3, 2, 4, 4\) and \(3, 2, 4, 4\)",
        ):
            loss(torch.zeros(1, 3, 2, 4, 4), torch.zeros(3, 2, 4, 4))
        with pytest.raises(ValueError, match=r"not \(2, 3, 4, 4\)"):
            loss(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4))


class TestBlur:
    def test_keeps_the_shape_and_the_sum_inside(self) -> None:
        maps = torch.zeros(2, 3, 9, 11)
        maps[:, :, 4, 5] = torch.rand(2, 3)
        blurred = blur(maps)
        assert blurred.shape == maps.shape
        torch.testing.assert_close(blurred.sum(dim=(2, 3)), maps[:, :, 4, 5])
        torch.testing.assert_close(
            blurred[0, 0, 1:8, 2:9] / maps[0, 0, 4, 5], torch.tensor(gaussian(1, 3)).float()
        )
        assert not blurred[..., 0].any()

    def test_refuses(self) -> None:
        with pytest.raises(ValueError, match="sigma_px must be a number from 0 to 100, not -1"):
            blur(torch.zeros(1, 4, 4), sigma_px=-1)


class TestCountLoss:
    def test_cross_entropy_by_hand(self) -> None:
        likely = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]])
        expected = -(np.log(0.25) + np.log(0.8)) / 2
        assert count_loss(likely.log(), torch.tensor([1, 2])).item() == pytest.approx(expected)

    def test_smooth_l1_by_hand(self) -> None:
        # Half the square below 1, the distance less one half above.
        loss = count_loss(torch.tensor([[2.5], [7.0]]), torch.tensor([2, 4]))
        assert loss.item() == pytest.approx((0.5 * 0.5**2 + 3 - 0.5) / 2)

    @pytest.mark.parametrize("n_outputs", [1, 6])
    def test_derivatives(self, n_outputs: int) -> None:
        outputs = torch.rand(4, n_outputs, dtype=torch.float64).requires_grad_()
        assert torch.autograd.gradcheck(
            lambda o: count_loss(o, torch.tensor([0, 2, 5, 1])), (outputs,)
        )

    def test_refuses(self) -> None:
        with pytest.raises(
            ValueError,
            match="counts go from 0 to 12, but the network predicts 0 to 9: set its n_max higher",
        ):
            count_loss(torch.zeros(2, 10), torch.tensor([0, 12]))
        with pytest.raises(ValueError, match=r"do not fit: \(2, 10\) and \(3,\)"):
            count_loss(torch.zeros(2, 10), torch.tensor([0, 1, 2]))


class TestMspcnLoss:
    @pytest.fixture
    def target(self) -> Tensor:
        return encode_heatmap(
            bubble_table([0, 1], [1.0, 2.0], [1.2, 0.7], [1.0, 1.0]), 2, (3, 2), upsample=4
        ).double()

    def test_equals_the_formula(self, target: Tensor) -> None:
        out = torch.rand(target.shape, dtype=torch.float64)
        kernel, inner = 2 * gaussian(1, 3), slice(3, -3)  # whole 7 x 7 squares alone
        errors = [
            (slow_blur(o[0], kernel) - slow_blur(50 * t[0], kernel))[inner, inner]
            for o, t in zip(out.numpy(), target.numpy(), strict=True)
        ]
        total, parts = mspcn_loss(out, target)
        assert parts["heatmap"].item() == pytest.approx(np.mean(np.square(errors)))
        assert parts["sparsity"].item() == pytest.approx(out.abs().mean().item())
        assert total.item() == pytest.approx(sum(part.item() for part in parts.values()))

    def test_sparsity_has_its_weight(self, target: Tensor) -> None:
        out = torch.ones_like(target)
        torch.testing.assert_close(
            mspcn_loss(out, target, sparsity=3.0)[0] - mspcn_loss(out, target, sparsity=0.0)[0],
            torch.tensor(3.0).double(),
        )

    def test_derivatives(self, target: Tensor) -> None:
        out = torch.rand(target.shape, dtype=torch.float64).requires_grad_()
        assert torch.autograd.gradcheck(lambda o: mspcn_loss(o, target)[0], (out,))

    def test_no_bubbles(self, target: Tensor) -> None:
        out = torch.zeros_like(target).requires_grad_()
        total, _ = mspcn_loss(out, torch.zeros_like(target))
        total.backward()
        assert total == 0
        assert out.grad is not None
        assert out.grad.isfinite().all()

    def test_refuses(self, target: Tensor) -> None:
        with pytest.raises(
            ValueError, match=r"both be \(B, 1, uZ, uX\), 7 or more each way, not \(1, 1, 6, 6\)"
        ):
            mspcn_loss(torch.zeros(1, 1, 6, 6), torch.zeros(1, 1, 6, 6))
        with pytest.raises(ValueError, match=r"not \(2, 12, 8\)"):
            mspcn_loss(target[:, 0], target)


def test_a_small_network_learns_its_windows_by_heart() -> None:
    torch.manual_seed(0)
    n_windows, n_frames, shape_px = 3, 4, (20, 20)
    block = simulate_testcard(
        n_frames=n_windows * n_frames,
        n_bubbles=3,
        shape_px=shape_px,
        rng=np.random.default_rng(3),
        noise=0.01,
    )
    assert block.bubbles is not None
    window = block.bubbles["frame"] // n_frames
    tables = [
        part.assign(frame=part["frame"] % n_frames) for _, part in block.bubbles.groupby(window)
    ]
    frames = torch.from_numpy(block.frames / block.frames.max()).reshape(
        n_windows, 1, n_frames, *shape_px
    )
    truth = torch.stack([encode_offsets(table, n_frames, shape_px) for table in tables])

    net = ML3DResNet(8, 2)
    optimizer = torch.optim.Adam(net.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=120)
    for _ in range(120):
        optimizer.zero_grad()
        ml3d_loss(net(frames), truth)[0].backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        schedule.step()

    counts = truth[:, 0].sum(dim=(2, 3)).int()
    found = [decode_offsets(maps, n) for maps, n in zip(net(frames), counts, strict=True)]
    matches = [
        match_bubbles(here, true, max_distance_px=0.5)
        for here, true in zip(found, tables, strict=True)
    ]
    assert sum(map(len, matches)) >= 0.95 * len(block.bubbles)
    assert localization_errors(pd.concat(matches))["rms"] < 0.15


# --- mixture -------------------------------------------------------------------------------------


def slow_mixture_loss(maps: np.ndarray, truth: np.ndarray) -> float:
    """One bubble and one pixel after the other."""
    total, n_terms = 0.0, 0
    for window in range(len(maps)):
        for frame in range(maps.shape[2]):
            p, oz, ox, sz, sx = maps[window, :, frame]
            here, tz, tx = truth[window, :, frame]
            variance = (p * (1 - p)).sum() + 0.01
            total += (here.sum() - p.sum()) ** 2 / (2 * variance) + np.log(variance) / 2
            n_terms += 1
            for row, column in np.argwhere(here > 0):
                density = 0.0
                for i, j in np.ndindex(p.shape):
                    if max(abs(i - row), abs(j - column)) <= 4:
                        z = (i + oz[i, j] - row - tz[row, column]) / sz[i, j]
                        x = (j + ox[i, j] - column - tx[row, column]) / sx[i, j]
                        peak = p[i, j] / (2 * np.pi * sz[i, j] * sx[i, j])
                        density += peak * np.exp(-(z**2 + x**2) / 2)
                total -= np.log(density / p.sum())
                n_terms += 1
    return total / n_terms


@pytest.mark.parametrize("seed", range(3))
def test_mixture_is_that_of_all_pixels_around_each_bubble(seed: int) -> None:
    rng = np.random.default_rng(seed)
    maps = rng.uniform(0.01, 0.99, (2, 5, 3, 11, 12))
    maps[:, 3:] = rng.uniform(0.2, 2, (2, 2, 3, 11, 12))
    truth = rng.random((2, 3, 3, 11, 12))
    truth *= (rng.random((2, 1, 3, 11, 12)) < 0.04) * np.sign(truth)
    truth[:, 0] = truth[:, 0] > 0
    loss, parts = mixture_loss(torch.from_numpy(maps).float(), torch.from_numpy(truth).float())
    assert float(loss) == pytest.approx(slow_mixture_loss(maps, truth), rel=1e-3, abs=1e-3)
    assert float(loss) == pytest.approx(sum(float(part) for part in parts.values()), rel=1e-5)


def test_mixture_of_empty_frames_asks_for_no_bubbles_and_stays_finite() -> None:
    maps = torch.full((1, 5, 2, 8, 8), 0.3, requires_grad=True)
    loss, _ = mixture_loss(maps, torch.zeros(1, 3, 2, 8, 8))
    loss.backward()
    assert maps.grad is not None
    assert bool((maps.grad[:, 0] > 0).all())
    sharp = torch.cat([torch.ones(1, 1, 2, 8, 8), torch.zeros(1, 2, 2, 8, 8)], dim=1)
    sharp = torch.cat([sharp, torch.full((1, 2, 2, 8, 8), 0.01)], dim=1).requires_grad_()
    truth = torch.zeros(1, 3, 2, 8, 8)
    truth[0, :, 0, 0, 0] = 1
    loss, _ = mixture_loss(sharp, truth)
    loss.backward()
    assert bool(loss.isfinite())
    assert sharp.grad is not None
    assert bool(sharp.grad.isfinite().all())
    with pytest.raises(ValueError, match=r"do not fit: \(1, 3, 2, 8, 8\)"):
        mixture_loss(truth, truth)
