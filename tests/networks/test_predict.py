"""Networks on sequences: against literal versions, in flat memory, for every batch and tile."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ulmpaper.networks.model import MSPCN, CountNet, ML3DResNet
from ulmpaper.networks.predict import (
    Mirrored,
    count_tiles,
    predict_counts,
    predict_heatmaps,
    predict_maps,
    with_quicker_convolutions,
)
from ulmpaper.networks.stream import Stream

N_FRAMES, SHAPE = 13, (34, 29)


@pytest.fixture(scope="module")
def net() -> nn.Module:
    """A network whose numbers are large enough that maps are far from flat."""
    torch.manual_seed(1)
    net = ML3DResNet(features=4, blocks=1).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter *= 3
        net.reconstruct.bias.zero_()
    return net


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return np.random.default_rng(3).random((N_FRAMES, *SHAPE), dtype=np.float32) * 7


class Recorder:
    """Frames that note which of them are read."""

    def __init__(self, frames: np.ndarray) -> None:
        self._frames = frames
        self.shape = frames.shape
        self.read: list[tuple[int, int]] = []

    def __getitem__(self, part: slice) -> np.ndarray:
        self.read.append((part.start, part.stop))
        return self._frames[part]


class Function(nn.Module):
    """A function as a network."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, frames: Tensor) -> Tensor:
        return self.function(frames)


def joined(chunks, axis: int) -> Tensor:
    """Chunks of maps, put together after a look at their first frames."""
    parts, position = [], 0
    for first, part in chunks:
        assert first == position
        position += part.shape[axis]
        parts.append(part)
    return torch.cat(parts, dim=axis)


def maps_of(net: nn.Module, frames, **options) -> Tensor:
    return joined(predict_maps(net, frames, **{"device": "cpu", "window": 5, **options}), 1)


def literal_maps(net: nn.Module, frames: np.ndarray, window: int, stride: int) -> np.ndarray:
    """Every window by itself, every frame by itself."""
    starts = {*range(0, len(frames) - window + 1, stride), len(frames) - window}
    seen = [[] for _ in frames]
    for start in sorted(starts):
        with torch.no_grad():
            maps = (
                net(torch.from_numpy(frames[start : start + window] / frames.max())[None, None])[0]
                .double()
                .numpy()
            )
        for k in range(window):
            seen[start + k].append(maps[:, k])
    result = np.empty((3, *frames.shape))
    for t, maps in enumerate(seen):
        p = np.mean([m[0] for m in maps], axis=0)
        result[0, t] = p
        for axis in (1, 2):
            result[axis, t] = sum(m[0] * m[axis] for m in maps) / sum(m[0] for m in maps)
    return result


@pytest.mark.parametrize(("window", "stride"), [(5, 1), (5, 2), (5, 5), (4, 3), (13, 1), (1, 1)])
def test_maps_are_the_literal_average(
    net: nn.Module, frames: np.ndarray, window: int, stride: int
) -> None:
    expected = literal_maps(net, frames, window, stride)
    assert expected[0].std() > 1e-3
    ours = maps_of(net, frames, window=window, stride=stride, batch=2)
    assert (ours.shape, ours.dtype) == ((3, N_FRAMES, *SHAPE), torch.float32)
    np.testing.assert_allclose(ours, expected, atol=1e-5)


@settings(deadline=None, max_examples=12)
@given(stride=st.integers(1, 5), batch=st.integers(1, 9), tile_px=st.none() | st.integers(8, 40))
def test_batch_and_tile_change_nothing(
    net: nn.Module, frames: np.ndarray, stride: int, batch: int, tile_px: int | None
) -> None:
    ours = maps_of(net, frames, stride=stride, batch=batch, tile_px=tile_px)
    np.testing.assert_allclose(ours, maps_of(net, frames, stride=stride), atol=1e-5)


@settings(deadline=None, max_examples=12)
@given(
    window=st.integers(1, 14),
    batch=st.integers(1, 3),
    tile_px=st.none() | st.integers(8, 40),
    is_mirrored=st.booleans(),
)
def test_one_pass_is_the_whole_sequence_at_once(
    net: nn.Module,
    frames: np.ndarray,
    window: int,
    batch: int,
    tile_px: int | None,
    is_mirrored: bool,
) -> None:
    net = Mirrored(net) if is_mirrored else net
    with torch.no_grad():
        expected = net(torch.from_numpy(frames / frames.max())[None, None])[0]
    ours = maps_of(net, frames, stride=None, window=window, batch=batch, tile_px=tile_px)
    np.testing.assert_allclose(ours, expected, atol=1e-5)


@pytest.mark.parametrize("n_frames", [1, 2, 3])
def test_one_pass_takes_any_number_of_frames(
    net: nn.Module, frames: np.ndarray, n_frames: int
) -> None:
    ours = maps_of(net, frames[:n_frames], stride=None, window=1, batch=1)
    whole = maps_of(net, frames[:n_frames], stride=1, window=n_frames)
    np.testing.assert_allclose(ours, whole, atol=1e-5)


def test_one_pass_by_the_quicker_convolutions_is_the_same(
    net: nn.Module, frames: np.ndarray
) -> None:
    sequence = torch.from_numpy(frames)[None, None]
    stream = Stream(with_quicker_convolutions(net))
    with torch.no_grad():
        parts = [stream(sequence[:, :, k : k + 4], is_last=k == 12) for k in (0, 4, 8, 12)]
        np.testing.assert_allclose(torch.cat(parts, dim=2), net(sequence), atol=1e-4)


def test_windows_that_see_the_bubble_say_where_it_is(frames: np.ndarray) -> None:
    first_frame = (
        frames[:, :1, :1] * 0 + np.arange(N_FRAMES)[:, None, None]
    )  # each frame is its number
    net = Function(
        lambda x: torch.stack(
            [(x[:, 0] + 1) * (x[:, :, :1] == 0)[:, 0], x[:, 0] * 0 + 0.3, x[:, 0]], dim=1
        )
    )
    maps = maps_of(net, first_frame, window=2, scale=1)
    # Of the two windows that see frame 1, the first has a p of 2, the second of 0.
    assert maps[:, 1, 0, 0].tolist() == pytest.approx([1.0, 0.3, 1.0])
    # No window says that anything is in frame 5: still a number.
    assert maps[:, 5, 0, 0].tolist() == pytest.approx([0.0, 0.3, 5.0])


def test_only_the_windows_in_work_are_in_memory(net: nn.Module, frames: np.ndarray) -> None:
    source = Recorder(np.tile(frames, (20, 1, 1)))
    chunks = predict_maps(net, source, window=5, stride=2, batch=3, device="cpu")
    n = source.shape[0]
    assert source.read == [
        (start, min(start + 64, n)) for start in range(0, n, 64)
    ]  # for the highest value
    source.read.clear()
    for first, maps in chunks:
        assert (
            source.read[-1][1] - first <= 5 + 2 * 2
        )  # nothing is read that these windows do not need
        assert maps.untyped_storage().nbytes() <= 4 * 3 * (5 + 2 * 2) * maps[0, 0].numel()
    stops = [0, *(stop for _, stop in source.read)]
    assert source.read == list(itertools.pairwise(stops))  # each frame once


def test_files_are_read_as_arrays_are(net: nn.Module, frames: np.ndarray, tmp_path: Path) -> None:
    expected = maps_of(net, frames)
    np.save(tmp_path / "a.npy", frames)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["frames"] = frames
        for source in (
            np.load(tmp_path / "a.npy", mmap_mode="r"),
            file["frames"],
            frames.tolist(),
            frames.astype(">f8"),
        ):
            np.testing.assert_allclose(maps_of(net, source), expected, atol=1e-6)


def test_the_unit_of_the_frames_does_not_matter_but_scale_does(
    net: nn.Module, frames: np.ndarray
) -> None:
    expected = maps_of(net, frames)
    np.testing.assert_allclose(maps_of(net, frames * 1000), expected, atol=1e-5)
    np.testing.assert_allclose(maps_of(net, frames, scale=float(frames.max())), expected, atol=1e-6)
    assert (maps_of(net, frames, scale=100.0) - expected).abs().max() > 1e-3
    assert torch.isfinite(maps_of(net, np.zeros((6, 9, 9)))).all()


def test_bfloat16_is_near(net: nn.Module, frames: np.ndarray) -> None:
    near = maps_of(net, frames, precision="bfloat16")
    assert near.dtype == torch.float32
    difference = (near - maps_of(net, frames)).abs().max()
    assert 0 < difference < 0.05


def test_the_network_and_its_gradients_stay_as_they_are(net: nn.Module, frames: np.ndarray) -> None:
    before = {name: t.clone() for name, t in net.state_dict().items()}
    maps = maps_of(net, frames)
    assert not maps.requires_grad
    maps += 1  # a tensor like any other
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())


def test_heat_maps_come_frame_by_frame(frames: np.ndarray) -> None:
    torch.manual_seed(0)
    net = MSPCN(3).eval()
    frames = frames[:4]
    with torch.no_grad():
        expected = net(torch.from_numpy(frames / frames.max())[:, None])
    for options in ({"batch": 1}, {"batch": 3}, {"tile_px": 16, "batch": 20}):
        heat = joined(predict_heatmaps(net, frames, device="cpu", **options), 0)
        assert heat.shape == (4, 1, 3 * SHAPE[0], 3 * SHAPE[1])
        torch.testing.assert_close(heat, expected, rtol=0, atol=1e-5)


@settings(deadline=None, max_examples=25)
@given(z=st.integers(3, 40), x=st.integers(3, 40), tile=st.integers(5, 25))
def test_tiles_are_the_frames_and_nearly_alike(z: int, x: int, tile: int) -> None:
    frames = torch.arange(2.0 * z * x).reshape(2, z, x)
    tiles = count_tiles(frames, tile)
    sizes = np.array([part.shape[1:] for part in tiles])
    assert sizes.max() <= tile
    assert (np.ptp(sizes, axis=0) <= 1).all()
    assert len(tiles) == -(-z // tile) * -(-x // tile)
    assert torch.equal(
        torch.cat([part.flatten() for part in tiles]).sort().values, frames.flatten()
    )


@settings(deadline=None, max_examples=25)
@given(z=st.integers(3, 40), x=st.integers(3, 40), tile=st.integers(5, 25), batch=st.integers(1, 4))
def test_every_bubble_counts_once(z: int, x: int, tile: int, batch: int) -> None:
    frames = (np.random.default_rng(z * x).random((3, z, x)) < 0.1).astype(float)
    total = Function(lambda tiles: tiles.sum(dim=(2, 3)))
    ours = predict_counts(total, frames, tile_px=tile, batch=batch, device="cpu", scale=1)
    np.testing.assert_allclose(ours, frames.sum(axis=(1, 2)), rtol=1e-5)


def test_logits_are_read_as_an_expectation(frames: np.ndarray) -> None:
    half = Function(
        lambda tiles: torch.zeros(len(tiles), 4).index_fill(1, torch.tensor([1, 2]), 50.0)
    )
    np.testing.assert_allclose(
        predict_counts(half, frames[:, :20, :20], tile_px=20, device="cpu"), 1.5
    )


def test_dark_frames_and_dark_tiles_hold_no_bubbles(frames: np.ndarray) -> None:
    torch.manual_seed(0)
    net = CountNet(n_max=30, features=4).eval()
    dark = frames.copy()
    dark[[2, 7]] = 0
    counts = predict_counts(net, dark, tile_px=16, device="cpu")
    assert (counts == 0).nonzero()[0].tolist() == [2, 7]
    assert predict_counts(net, np.zeros((3, 40, 40)), device="cpu").tolist() == [0, 0, 0]
    alone = dark[:, :16, :16]
    beside_nothing = np.pad(alone, ((0, 0), (0, 0), (0, 16)))
    np.testing.assert_allclose(
        predict_counts(net, beside_nothing, tile_px=16, device="cpu"),
        predict_counts(net, alone, tile_px=16, device="cpu"),
        rtol=1e-5,
    )


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate "
            "memory: you"
        ),
        MemoryError(),
    ],
)
def test_out_of_memory_says_which_setting_to_lower(error: Exception, frames: np.ndarray) -> None:
    def fail(_: Tensor) -> Tensor:
        raise error

    for call in (predict_maps, predict_heatmaps, predict_counts):
        with pytest.raises(
            MemoryError, match=r"lower compute\.batch, or set a smaller compute\.tile_px"
        ):
            list(call(Function(fail), frames, device="cpu"))


def test_other_errors_of_a_network_pass(frames: np.ndarray) -> None:
    with pytest.raises(RuntimeError, match="channels"):
        maps_of(nn.Conv3d(2, 3, 3), frames)


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is here")
def test_cuda_that_is_not_there(net: nn.Module, frames: np.ndarray) -> None:
    with pytest.raises(ValueError, match="device 'cuda' cannot be used"):
        predict_maps(net, frames, device="cuda")


def bad(index: int, value: float) -> np.ndarray:
    frames = np.ones((80, 9, 9))
    frames[index, 1, 1] = value
    return frames


@pytest.mark.parametrize(
    ("frames", "options", "error", "message"),
    [
        (np.ones((4, 9, 9)), {}, ValueError, "4 frames are fewer than the window of 5"),
        (np.ones((9, 9, 9)), {"stride": 6}, ValueError, "a stride of 6 leaves frames out"),
        (np.ones((9, 9, 9)), {"stride": 0}, ValueError, "stride must be a number above 0"),
        (np.ones((9, 9, 9)), {"batch": 0}, ValueError, "batch must be a number above 0"),
        (np.ones((9, 9, 9)), {"tile_px": 0}, ValueError, "tile_px must be a number above 0"),
        (np.ones((9, 9, 9)), {"scale": 0.0}, ValueError, "scale must be a number above 0"),
        (np.ones((9, 9, 9)), {"precision": "half"}, ValueError, "unknown precision"),
        (np.ones((9, 9)), {}, ValueError, "three axes"),
        (np.ones((0, 9, 9)), {}, ValueError, "empty axis"),
        (np.ones((9, 9, 9), dtype=complex), {}, TypeError, "complex"),
        (
            bad(70, np.nan),
            {},
            ValueError,
            "frames hold NaN or infinite values, first in frame 70",
        ),
        (bad(70, -3.0), {}, ValueError, r"negative values \(down to -3, first in frame 70\)"),
    ],
)
def test_bad_input_is_one_error_before_any_work(
    net: nn.Module, frames: np.ndarray, options: dict, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        predict_maps(net, frames, **{"window": 5, "device": "cpu", **options})


def test_each_window_may_be_divided_by_its_own_maximum() -> None:
    """A flash makes the others of its windows dark, and no others."""
    frames = np.random.default_rng(0).random((12, 10, 10), dtype=np.float32)
    frames[7] *= 5
    seen = []

    class Peaks(torch.nn.Module):
        def forward(self, windows: torch.Tensor) -> torch.Tensor:
            seen.extend(windows.amax(dim=(1, 2, 3, 4)).tolist())
            return torch.zeros(len(windows), 3, *windows.shape[2:])

    for each_window in (False, True):
        seen.clear()
        use = {"window": 3, "stride": 3, "device": "cpu", "each_window": each_window}
        assert sum(maps.shape[1] for _, maps in predict_maps(Peaks(), frames, **use)) == 12
        assert (np.array(seen) == 1).sum() == (4 if each_window else 1)
    with pytest.raises(ValueError, match="in one pass there are no windows to normalize"):
        predict_maps(Peaks(), frames, stride=None, each_window=True)
