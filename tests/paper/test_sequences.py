"""In silico sequences by split, from the phantom and from PALA's files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from _pala_files import insilico_settings, list_pos, write_insilico

from ulmpaper.config import load_config
from ulmpaper.paper.sequences import insilico_blocks, sequence_numbers
from ulmpaper.simulator.phantom import phantom_block

CFG = load_config("smoke")


def test_test_and_validation_share_no_sequence() -> None:
    for profile in ("smoke", "quick", "paper"):
        cfg = load_config(profile)
        test, validation = (set(sequence_numbers(cfg, split)) for split in ("test", "validation"))
        assert not test & validation
        assert len(test) == min(cfg.phantom.n_sequences, 15)
        assert test | validation <= set(range(1, 21))
    with pytest.raises(ValueError, match="did you mean 'test'"):
        sequence_numbers(CFG, "tst")


def test_phantom_is_that_of_the_settings(tmp_path: Path) -> None:
    (block,) = insilico_blocks(CFG, "test", data_dir=tmp_path, n_frames=3)
    expected = phantom_block(1, n_frames=3, n_bubbles=CFG.phantom.n_bubbles, seed=CFG.seed)
    np.testing.assert_array_equal(block.frames, expected.frames)
    pd.testing.assert_frame_equal(block.bubbles, expected.bubbles)
    (first,) = insilico_blocks(CFG, "validation", data_dir=tmp_path, n_sequences=1, n_frames=2)
    assert first.source == "flow phantom, sequence 16"
    assert (tmp_path / "cache").is_dir()


def test_phantom_is_simulated_before_its_first_sequence_is_used(tmp_path: Path) -> None:
    """Else processes that use it and processes that simulate the next sequence would get in each
    other's way.
    """
    blocks = insilico_blocks(
        CFG, "validation", data_dir=tmp_path, n_sequences=2, n_frames=2, n_jobs=2
    )
    assert len([path for path in (tmp_path / "cache").rglob("*") if path.is_file()]) == 2
    assert [block.source for block in blocks] == [
        f"flow phantom, sequence {number}" for number in (16, 17)
    ]


def test_pala_files_stream_and_are_cut(tmp_path: Path) -> None:
    folder = tmp_path / "PALA_data_InSilicoFlow"
    rng = np.random.default_rng(0)
    for number in (1, 2, 16):
        iq = (rng.normal(size=(9, 12, 7)) + number).astype(np.complex64)
        truth = list_pos([(frame, 4.0, 3.0 + number / 8, 1.0) for frame in range(7)], 7)
        write_insilico(folder, number, iq, truth, settings=insilico_settings())
    cfg = load_config("smoke", {"phantom.n_sequences": 2, "phantom.n_frames": 5})
    blocks = list(insilico_blocks(cfg, "test", source="pala", data_dir=tmp_path))
    assert [block.frames.shape for block in blocks] == [(5, 9, 12)] * 2
    assert [block.truth.x.unique().tolist() for block in blocks] == [[3.125], [3.25]]
    assert [block.truth.frame.max() for block in blocks] == [4, 4]
    assert blocks[0].frame_rate_hz == 500
    (few,) = insilico_blocks(
        cfg, "validation", source="pala", data_dir=tmp_path, n_sequences=1, n_frames=3
    )
    assert len(few.frames) == 3
    with pytest.raises(FileNotFoundError, match="no sequence 17"):
        list(insilico_blocks(cfg, "validation", source="pala", data_dir=tmp_path, n_sequences=2))


def test_missing_files_say_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="ulmpaper fetch pala-insilico"):
        insilico_blocks(CFG, "test", source="pala", data_dir=tmp_path)
    with pytest.raises(ValueError, match="did you mean 'pala'"):
        insilico_blocks(CFG, "test", source="pla", data_dir=tmp_path)
