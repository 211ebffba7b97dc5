"""Bubbles to maps and back: by hand, on generated tables, and against pixel-by-pixel loops."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ulmpaper.core.records import bubble_table
from ulmpaper.networks.targets import decode_heatmap, decode_offsets, encode_heatmap, encode_offsets

N_FRAMES, SHAPE = 3, (9, 12)


def table(*rows: tuple[float, float, float, float]) -> pd.DataFrame:
    return bubble_table(*(np.array(rows).reshape(-1, 4).T))


def in_order(bubbles: pd.DataFrame) -> pd.DataFrame:
    """By frame and pixel."""
    return bubbles.sort_values(
        ["frame", "z", "x"], key=lambda place: np.floor(place + 0.5), ignore_index=True
    )


@st.composite
def scattered(draw: st.DrawFn, apart: int) -> pd.DataFrame:
    """Bubbles anywhere in pixels that are `apart` or more from each other, all with score 1."""
    n_z, n_x = (-(-n // apart) for n in SHAPE)
    cells = st.tuples(
        st.integers(0, N_FRAMES - 1), st.integers(0, n_z - 1), st.integers(0, n_x - 1)
    )
    offset = st.floats(-0.5, 0.499)
    rows = [
        (frame, apart * i + draw(offset), apart * j + draw(offset), 1.0)
        for frame, i, j in draw(st.lists(cells, unique=True, max_size=20))
    ]
    return table(*rows)


class TestEncodeOffsets:
    def test_one_bubble_by_hand(self) -> None:
        expected = torch.zeros(3, 2, 4, 5)
        expected[:, 1, 1, 3] = torch.tensor([1.0, 0.75, 0.125])
        maps = encode_offsets(table((1, 1.25, 2.625, 0.4)), 2, (4, 5))
        assert maps.dtype == torch.float32
        assert torch.equal(maps, expected)

    @pytest.mark.parametrize(
        ("place", "pixel", "offset"),
        [(0.0, 0, 0.5), (-0.5, 0, 0.0), (0.5, 1, 0.0), (2.49, 2, 0.99), (3.4, 3, 0.9)],
    )
    def test_pixel_and_offset(self, place: float, pixel: int, offset: float) -> None:
        maps = encode_offsets(table((0, place, 1.0, 1.0)), 1, (4, 5))
        assert maps[0].nonzero().tolist() == [[0, pixel, 1]]
        assert maps[1, 0, pixel, 1] == pytest.approx(offset)

    def test_leaves_out_what_is_outside(self) -> None:
        inside, outside = (
            (0, 1.0, 1.0, 1.0),
            [(0, -0.51, 1, 1), (0, 3.5, 1, 1), (0, 1, -0.6, 1), (0, 1, 4.5, 1)],
        )
        assert torch.equal(
            encode_offsets(table(inside, *outside), 1, (4, 5)),
            encode_offsets(table(inside), 1, (4, 5)),
        )

    @pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 2, 0]])
    def test_of_two_in_a_pixel_keeps_the_brighter(self, order: list[int]) -> None:
        bubbles = table((0, 2.1, 2.1, 0.5), (0, 1.9, 2.2, 0.9), (0, 2.3, 1.8, 0.7)).iloc[order]
        assert torch.equal(
            encode_offsets(bubbles, 1, SHAPE), encode_offsets(table((0, 1.9, 2.2, 0.9)), 1, SHAPE)
        )

    def test_of_equals_the_first(self) -> None:
        maps = encode_offsets(table((0, 2.1, 2.1, 1), (0, 1.9, 2.2, 1)), 1, SHAPE)
        assert maps[1, 0, 2, 2] == pytest.approx(0.6)

    def test_none(self) -> None:
        maps = encode_offsets(table(), N_FRAMES, SHAPE)
        assert maps.shape == (3, N_FRAMES, *SHAPE)
        assert not maps.any()

    def test_refuses(self) -> None:
        with pytest.raises(
            ValueError,
            match=r"frames 4 to 4, but the window only 0 to 2: .* subtract its first frame",
        ):
            encode_offsets(table((4, 1, 1, 1)), 3, SHAPE)
        with pytest.raises(ValueError, match="lacks the column"):
            encode_offsets(table().drop(columns="score"), 3, SHAPE)
        with pytest.raises(ValueError, match="n_frames must be a number above 0"):
            encode_offsets(table(), 0, SHAPE)


class TestEncodeHeatmap:
    @settings(max_examples=30, deadline=None)
    @given(seed=st.integers(0, 1000), upsample=st.sampled_from([1, 4]))
    def test_each_pixel_holds_one_bubble(self, seed: int, upsample: int) -> None:
        rng = np.random.default_rng(seed)
        n = 60
        z, x = rng.uniform(-2, 11, n), rng.uniform(-2, 14, n)
        bubbles = bubble_table(rng.integers(0, N_FRAMES, n), z, x, rng.uniform(0, 1, n))
        inside = bubbles[(z >= -0.5) & (z < 8.5) & (x >= -0.5) & (x < 11.5)]
        pixels = {
            (int(b.frame), int((b.z + 0.5) * upsample), int((b.x + 0.5) * upsample))
            for b in inside.itertuples()
        }
        assert int(encode_heatmap(bubbles, N_FRAMES, SHAPE, upsample=upsample).sum()) == len(pixels)


class TestDecodeOffsets:
    @settings(max_examples=60, deadline=None)
    @given(bubbles=scattered(apart=1))
    def test_returns_what_was_written(self, bubbles: pd.DataFrame) -> None:
        counts = np.bincount(bubbles["frame"], minlength=N_FRAMES)
        found = decode_offsets(encode_offsets(bubbles, N_FRAMES, SHAPE), counts, min_distance_px=0)
        pd.testing.assert_frame_equal(in_order(found), in_order(bubbles), rtol=0, atol=1e-6)

    @settings(max_examples=60, deadline=None)
    @given(bubbles=scattered(apart=2), spare=st.integers(0, 3))
    def test_returns_what_was_written_apart(self, bubbles: pd.DataFrame, spare: int) -> None:
        counts = np.bincount(bubbles["frame"], minlength=N_FRAMES) + spare
        found = decode_offsets(encode_offsets(bubbles, N_FRAMES, SHAPE).numpy(), counts)
        pd.testing.assert_frame_equal(in_order(found), in_order(bubbles), rtol=0, atol=1e-6)

    def test_takes_the_most_probable(self) -> None:
        maps = torch.full((3, 2, 5, 7), 0.5)
        maps[0] = 0
        maps[0, 0, 1, [1, 3, 5]] = torch.tensor([0.3, 0.9, 0.6])
        maps[0, 1, 3, [1, 5]] = torch.tensor([0.2, 0.1])
        found = decode_offsets(maps, torch.tensor([2, 1]))
        pd.testing.assert_frame_equal(
            found, table((0, 1, 3, 0.9), (0, 1, 5, 0.6), (1, 3, 1, 0.2)), rtol=1e-6
        )
        assert len(decode_offsets(maps, [0, 1])) == 1
        assert len(decode_offsets(maps, 0)) == 0
        assert len(decode_offsets(maps, 100)) == 5

    def test_finds_a_bubble_between_two_pixels_once(self) -> None:
        maps = torch.full((3, 1, 5, 5), 0.5)
        maps[0] = 0
        maps[0, 0, 2, 1:4] = torch.tensor([0.5, 0.6, 0.3])
        maps[2, 0, 2, 1:4] = torch.tensor(
            [0.9, 0.1, 0.5]
        )  # the first two pixels mean nearly the same place
        found = decode_offsets(maps, 3)
        assert found["x"].round(3).tolist() == [round((1.4 * 0.5 + 1.6 * 0.6) / 1.1, 3), 3.0]
        assert found["score"].round(3).tolist() == [
            1.0,
            0.3,
        ]  # 0.5 and 0.6, but no probability is above 1
        assert decode_offsets(maps, 3, min_distance_px=0)["x"].round(3).tolist() == [1.6, 1.4, 3.0]
        assert len(decode_offsets(maps, 3, min_distance_px=3)) == 1

    def test_a_bubble_at_a_corner_of_four_pixels_has_the_probability_of_all(self) -> None:
        maps = torch.full((3, 1, 6, 6), 0.5)
        maps[0] = 0
        maps[0, 0, 2:4, 2:4] = torch.tensor([[0.2, 0.3], [0.2, 0.25]])
        maps[1, 0, 2:4], maps[2, 0, :, 2:4] = torch.tensor([[0.9], [0.1]]), torch.tensor([0.9, 0.1])
        (bubble,) = decode_offsets(maps, 5, threshold=0.5).to_dict("records")
        assert bubble["score"] == pytest.approx(0.95)
        assert bubble["z"] == pytest.approx((2.4 * 0.5 + 2.6 * 0.45) / 0.95)
        assert bubble["x"] == pytest.approx((2.4 * 0.4 + 2.6 * 0.55) / 0.95)

    @settings(max_examples=60, deadline=None)
    @given(seed=st.integers(0, 10_000), distance=st.sampled_from([0.3, 0.7, 1.2, 3.0]))
    def test_joins_what_a_slow_search_joins(self, seed: int, distance: float) -> None:
        rng = np.random.default_rng(seed)
        maps = rng.integers(1, 8, (3, 2, 5, 6)) / 8  # so that some are equal
        kept = []
        for t, z, x in np.argwhere(maps[0] >= 0):
            p, place = maps[0, t, z, x], (z, x) + maps[1:, t, z, x]
            same = [
                (maps[0, t, i, j], (i, j) + maps[1:, t, i, j], (i, j))
                for i in range(max(0, z - 1), min(5, z + 2))
                for j in range(max(0, x - 1), min(6, x + 2))
                if np.hypot(*((i, j) + maps[1:, t, i, j] - place)) < distance
            ]
            if not any(q > p or (q == p and pixel < (z, x)) for q, _, pixel in same):
                mean = np.average(
                    [place for _, place, _ in same], axis=0, weights=[q for q, *_ in same]
                )
                kept.append((t, *(mean - 0.5), min(1.0, sum(q for q, *_ in same))))
        found = decode_offsets(maps, 30, min_distance_px=distance)
        exact = [
            t.round(4).sort_values(["frame", "z", "x"], ignore_index=True)
            for t in (found, table(*kept))
        ]
        pd.testing.assert_frame_equal(*exact, rtol=0, atol=2e-4)

    def test_takes_what_is_above_the_threshold(self) -> None:
        maps = torch.full((3, 1, 5, 9), 0.5)
        maps[0] = 0
        maps[0, 0, 2, 1::2] = torch.tensor([0.2, 0.5, 0.8, 0.4])
        assert decode_offsets(maps, 4, threshold=0.4)["x"].tolist() == [5, 3]
        assert decode_offsets(maps, 1, threshold=0.4)["x"].tolist() == [5]
        assert decode_offsets(maps, 4, threshold=1.0).empty

    @pytest.mark.parametrize("threshold", [-0.1, 1.1, np.nan])
    def test_bad_threshold(self, threshold: float) -> None:
        with pytest.raises(ValueError, match="threshold is a probability, so from 0 to 1"):
            decode_offsets(torch.zeros(3, 2, 4, 4), 3, threshold=threshold)

    @pytest.mark.parametrize("distance", [-1, np.nan, np.inf])
    def test_bad_distance(self, distance: float) -> None:
        with pytest.raises(ValueError, match="min_distance_px"):
            decode_offsets(torch.zeros(3, 2, 4, 4), 3, min_distance_px=distance)

    def test_of_equal_neighbours_takes_one(self) -> None:
        maps = torch.zeros(3, 1, 5, 6)
        maps[0, 0, 1:3, 2:5] = 1.0
        assert decode_offsets(maps, 9, min_distance_px=3)[["z", "x"]].values.tolist() == [
            [1.0, 2.0]
        ]

    def test_no_probability_no_bubble(self) -> None:
        assert decode_offsets(torch.zeros(3, 2, 4, 4), 3, min_distance_px=0).empty

    def test_what_the_maps_may_be(self) -> None:
        bubbles = table((0, 4.25, 2.5, 1.0), (1, 3.0, 7.75, 1.0))
        maps = encode_offsets(bubbles, 2, SHAPE)
        read_only = maps.numpy().copy()
        read_only.flags.writeable = False
        other_order = np.ascontiguousarray(read_only.transpose(1, 0, 2, 3)).transpose(1, 0, 2, 3)
        for form in (
            read_only,
            other_order,
            maps.tolist(),
            maps.to(torch.bfloat16),
            maps.requires_grad_(),
        ):
            pd.testing.assert_frame_equal(decode_offsets(form, 3), bubbles)

    def test_refuses(self) -> None:
        maps = torch.zeros(3, 2, 4, 4)
        with pytest.raises(ValueError, match=r"shape \(3, N, Z, X\), not \(2, 3, 4, 4\)"):
            decode_offsets(maps.transpose(0, 1), 1)
        with pytest.raises(ValueError, match=r"one for each of 2 frames, not \(3,\)"):
            decode_offsets(maps, [1, 2, 3])
        with pytest.raises(ValueError, match="whole numbers of 0 or more, not -1 to 2"):
            decode_offsets(maps, [-1, 2])
        with pytest.raises(ValueError, match="whole numbers"):
            decode_offsets(maps, 1.5)
        maps[1, 0, 0, 0] = torch.nan
        with pytest.raises(ValueError, match="NaN or infinite values: has the training diverged"):
            decode_offsets(maps, 1)


class TestHeatmap:
    def test_by_hand(self) -> None:
        heatmap = encode_heatmap(
            table((1, -0.5, 0.0, 0.3), (0, 1.49, 2.25, 1)), 2, (2, 4), upsample=4
        )
        assert heatmap.shape == (2, 1, 8, 16)
        assert heatmap.nonzero().tolist() == [[0, 0, 7, 11], [1, 0, 0, 2]]
        assert set(heatmap.unique().tolist()) == {0.0, 1.0}

    @settings(max_examples=60, deadline=None)
    @given(bubbles=scattered(apart=3), upsample=st.integers(1, 6))
    def test_returns_what_was_written_to_half_a_fine_pixel(
        self, bubbles: pd.DataFrame, upsample: int
    ) -> None:
        heatmap = encode_heatmap(bubbles, N_FRAMES, SHAPE, upsample=upsample)
        found = decode_heatmap(heatmap, upsample, threshold=0.5, side=2 * upsample - 1)
        tolerance = 0.5 / upsample + 1e-6
        pd.testing.assert_frame_equal(in_order(found), in_order(bubbles), rtol=0, atol=tolerance)

    def test_of_upsample_1_has_the_pixels_of_the_offset_maps(
        self, rng: np.random.Generator
    ) -> None:
        bubbles = bubble_table(
            np.zeros(50), rng.uniform(-1, 10, 50), rng.uniform(-1, 13, 50), np.ones(50)
        )
        assert torch.equal(
            encode_heatmap(bubbles, 1, SHAPE, upsample=1)[:, 0],
            encode_offsets(bubbles, 1, SHAPE)[0],
        )

    def test_threshold_and_counts(self) -> None:
        heatmap = torch.zeros(2, 8, 24)
        heatmap[0, 4, [4, 12, 20]] = torch.tensor([30.0, 50.0, 10.0])
        heatmap[1, 4, 4] = 20
        assert decode_heatmap(heatmap, 4, threshold=15)["score"].tolist() == [50, 30, 20]
        assert decode_heatmap(heatmap, 4, counts=[1, 1])["score"].tolist() == [50, 20]
        assert decode_heatmap(heatmap, 4, threshold=25, counts=3)["score"].tolist() == [50, 30]
        assert decode_heatmap(heatmap, 4, counts=0).empty
        assert decode_heatmap(heatmap[:, None], 4, threshold=99).empty

    def test_centre_of_mass(self) -> None:
        heatmap = torch.zeros(1, 8, 24)
        heatmap[0, 3:5, 9:12] = torch.tensor([[1.0, 3.0, 2.0], [0.0, 2.0, 0.0]])
        heatmap[0, 0, 23] = 5  # in the corner: what is outside weighs nothing
        heatmap[0, 6, 10] = -4  # nor what is below 0
        found = decode_heatmap(heatmap, 4, threshold=2, centre_side=5)
        fine = (found[["z", "x"]] + 0.5) * 4 - 0.5
        np.testing.assert_allclose(fine, [[0, 23], [3.25, (9 + 10 * 5 + 11 * 2) / 8]])
        assert found["score"].tolist() == [5, 3]

    def test_below_zero_with_a_threshold_below_zero(self) -> None:
        heatmap = torch.full((1, 8, 8), -5.0)
        heatmap[0, 3, 3] = -1
        assert decode_heatmap(heatmap, 4, threshold=-2)["score"].tolist() == [-1]

    @pytest.mark.parametrize("side", [1, 3, 5, 7])
    def test_peaks_equal_the_slow_ones(self, side: int, rng: np.random.Generator) -> None:
        heatmap = rng.integers(0, 5, (2, 7, 9)).astype(np.float32)  # few values, many ties
        half, expected = side // 2, []
        for t, z, x in np.ndindex(heatmap.shape):
            here = heatmap[t, z, x]
            around = [
                (heatmap[t, i, j], (i, j) < (z, x))
                for i in range(max(0, z - half), min(7, z + half + 1))
                for j in range(max(0, x - half), min(9, x + half + 1))
                if (i, j) != (z, x)
            ]
            if here > 1 and not any(
                value > here or (value == here and earlier) for value, earlier in around
            ):
                expected.append((t, z, x, here))
        found = decode_heatmap(heatmap, 1, threshold=1, side=side)
        pd.testing.assert_frame_equal(in_order(found), table(*expected))

    def test_refuses(self) -> None:
        heatmap = torch.zeros(1, 8, 8)
        with pytest.raises(ValueError, match="give threshold, counts or both"):
            decode_heatmap(heatmap, 4)
        with pytest.raises(ValueError, match="side must be odd, not 4"):
            decode_heatmap(heatmap, 4, threshold=1, side=4)
        with pytest.raises(ValueError, match="centre_side must be odd, not 2"):
            decode_heatmap(heatmap, 4, threshold=1, centre_side=2)
        with pytest.raises(ValueError, match=r"not \(8, 8\)"):
            decode_heatmap(heatmap[0], 4, threshold=1)
        with pytest.raises(ValueError, match="upsample must be a number above 0"):
            encode_heatmap(table(), 1, SHAPE, upsample=0)
