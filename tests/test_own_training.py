"""Own training: frames with a table of true bubbles become a store, a network, bubbles."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

import ulmpaper as ulm
from ulmpaper.cli import app
from ulmpaper.config import load_config
from ulmpaper.core.records import Block, UlmWarning
from ulmpaper.io import BlockStore, open_frames, read_truth
from ulmpaper.io.readers import store_frames
from ulmpaper.io.truth import with_truth
from ulmpaper.networks.weights import find_weights

Run = Callable[..., tuple[int, str, str]]

SHAPE = (40, 48)


def table(n_frames: int, *, seed: int = 0) -> pd.DataFrame:
    """Three bubbles in every frame."""
    rng = np.random.default_rng(seed)
    frame = np.repeat(np.arange(n_frames), 3)
    z, x = (rng.uniform(0, n - 1, len(frame)).round(3) for n in SHAPE)
    return pd.DataFrame({"frame": frame, "z": z, "x": x})


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    """Two recordings, of 30 and 20 frames."""
    rng = np.random.default_rng(1)
    paths = [tmp_path / "one.npy", tmp_path / "two.npy"]
    for path, n_frames in zip(paths, (30, 20), strict=True):
        np.save(path, rng.random((n_frames, *SHAPE), dtype=np.float32))
    return paths


def stored_truth(path: Path) -> pd.DataFrame:
    with BlockStore(path) as store:
        return store.window(0, len(store)).truth


# --- tables ---------------------------------------------------------------------------------------


def test_one_table_counts_its_frames_over_all_files(parts: list[Path], tmp_path: Path) -> None:
    truth = table(50)
    assert store_frames(parts, tmp_path / "a.h5", truth=truth) == 50
    got = stored_truth(tmp_path / "a.h5")
    assert got.columns.tolist() == ["frame", "z", "x", "score"]
    pd.testing.assert_frame_equal(got, truth.assign(score=1.0))


def test_a_table_for_each_file_counts_its_own_frames(parts: list[Path], tmp_path: Path) -> None:
    one, two = table(30), table(20, seed=5).assign(score=0.5)
    tables = [tmp_path / "one.csv", tmp_path / "two.csv"]
    for path, truth in zip(tables, (one, two), strict=True):
        truth.to_csv(path, index=False)
    store_frames(parts, tmp_path / "a.h5", truth=tables)
    got = stored_truth(tmp_path / "a.h5")
    wanted = pd.concat([one.assign(score=1.0), two.assign(frame=two["frame"] + 30)])
    pd.testing.assert_frame_equal(got, wanted.reset_index(drop=True))


@pytest.mark.parametrize(
    "text",
    [
        "frame,z,x\n0,1.5,2.25\n29,3,4\n",
        "\ufeffFrame, Z, X\n0,1.5,2.25\n29,3,4\n",
        "frame;z;x\n0;1.5;2.25\n29;3;4\n",
        "frame;z;x\n0;1,5;2,25\n29;3;4\n",
        "frame\tz\tx\n0\t1.5\t2.25\n29\t3\t4\n",
        "x,vessel,z,frame\n2.25,7,1.5,0.0\n4,7,3,29.0\n",
    ],
)
def test_tables_as_spreadsheets_write_them(parts: list[Path], tmp_path: Path, text: str) -> None:
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    (got,) = read_truth(tmp_path / "t.csv", [open_frames(parts[0])])
    assert got.to_dict("list") == {
        "frame": [0, 29],
        "z": [1.5, 3.0],
        "x": [2.25, 4.0],
        "score": [1.0, 1.0],
    }
    assert got["frame"].dtype.kind == "i"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("frame,z\n0,1\n", "lacks the column(s) x; it has frame, z"),
        ("0,1,2\n1,1,2\n", "lacks the column(s) frame, z, x"),
        ("frame,z,x\n0,1,2\n0.5,1,2\n", "whole numbers, but row 1 holds 0.5"),
        ("frame,z,x\n0,1,2\n30,1,2\n", "line 3 is of frame 30, but the recording has frames 0 to"),
        ("frame,z,x\n-1,1,2\n", "line 2 is of frame -1"),
        ("frame,z,x\n1,1,2\n30,1,2\n", "It seems to count from 1: subtract 1"),
        ("frame,z,x\n0,1,2\n29,44,2\n", "line 3 lies at z = 44, x = 2, outside of frames of 40 x"),
        ("frame,z,x\n29,1,47.6\n", "line 2 lies at z = 1, x = 47.6, outside"),
        ("frame,z,x\n0,44,2\n29,40,3\n", "z and x seem to be swapped"),
        ("frame,z,x\n0,,2\n", "NaN or infinite"),
        ("frame,z,x\n0,deep,2\n", "numbers are needed"),
        ("frame,z,x\n", "holds no bubbles"),
        ("", "cannot read"),
        ("frame,z,x\n0,1,2\n1,2,3,4,5\n", "cannot read"),
    ],
)
def test_what_is_wrong_with_a_table_is_said_with_its_row(
    parts: list[Path], tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    with pytest.raises((ValueError, TypeError), match=re.escape(message)) as error:
        store_frames([parts[0]], tmp_path / "a.h5", truth=tmp_path / "t.csv")
    assert "t.csv" in str(error.value)
    assert not (tmp_path / "a.h5").exists()


def test_tables_that_fit_no_file_and_a_recording_half_labelled(parts: list[Path]) -> None:
    files = [open_frames(path) for path in parts]
    with pytest.raises(ValueError, match="3 tables of true bubbles for 2 files"):
        read_truth([table(5)] * 3, files)
    with pytest.raises(FileNotFoundError, match=r"no table of true bubbles at none\.csv"):
        read_truth("none.csv", files)
    with pytest.warns(UlmWarning, match="ends at frame 19 of 50"):
        read_truth(table(20), files)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 2**32 - 1))
def test_truth_falls_into_the_blocks_of_its_frames(lengths: list[int], seed: int) -> None:
    truth = table(sum(lengths), seed=seed).sample(frac=1, random_state=seed % 1000)
    blocks = [Block(np.ones((n, *SHAPE), np.float32)) for n in lengths]
    first = 0
    rows = []
    for block, n in zip(with_truth(blocks, truth), lengths, strict=True):
        assert block.truth["frame"].between(0, n - 1).all()
        rows.append(block.truth.assign(frame=block.truth["frame"] + first))
        first += n
    order = ["frame", "z", "x"]
    together = pd.concat(rows).sort_values(order, ignore_index=True)
    pd.testing.assert_frame_equal(together, truth.sort_values(order, ignore_index=True))


def test_truth_counts_before_that_of_the_file(flow: Block, tmp_path: Path) -> None:
    with BlockStore(tmp_path / "flow.h5", "w") as store:
        store.append(Block(flow.frames, flow.truth[["frame", "z", "x", "score"]]))
    mine = flow.truth[["frame", "z", "x"]].assign(z=3.0)
    store_frames([tmp_path / "flow.h5"], tmp_path / "mine.h5", truth=mine)
    assert (stored_truth(tmp_path / "mine.h5")["z"] == 3.0).all()


# --- three commands -------------------------------------------------------------------------------


def test_own_training_in_three_commands(
    run: Run, flow: Block, tmp_path: Path, one_thread: None
) -> None:
    frames, truth = tmp_path / "flow.npy", tmp_path / "truth.csv"
    np.save(frames, flow.frames)
    flow.truth[["frame", "z", "x"]].to_csv(truth, index=False)
    data, first, second = (tmp_path / name for name in ("flow.h5", "first", "second"))
    smoke = ("--profile", "smoke")
    assert run("store", frames, "--truth", truth, "-o", data)[0] == 0
    # Two trainings, so that the second starts from a network as small as those of smoke.
    code, _, err = run("train", "--recipe", "ml3d", "--data", data, "-o", first, *smoke)
    assert code == 0, err
    start = first / "best.safetensors"
    code, _, err = run(
        "train", "--recipe", "ml3d", "--data", data, "--start", start, "-o", second, *smoke
    )
    assert code == 0, err
    assert "6 of 6 steps" in err
    weights = f"ml3d.weights={second / 'best.safetensors'}"
    words = ("--method", "ml3d", "--set", weights, "--set", "ml3d.threshold=0", *smoke)
    out = tmp_path / "out"
    code, _, err = run("ulm", frames, "-o", out, *words)
    assert code == 0, err
    assert len(pd.read_csv(out / "bubbles.csv")) > 0


@pytest.mark.parametrize("name", ["shipped", "phantom", "paper"])
def test_start_takes_the_names_of_weights(run: Run, name: str, tmp_path: Path) -> None:
    """They are found; being of other sizes than in smoke, they do not fit."""
    code, _, err = run(
        *("train", "--recipe", "ml3d", "--profile", "smoke", "--start", name),
        *("-o", tmp_path / "run"),
    )
    assert code == 2
    assert f"{find_weights('ml3d', name)} does not fit this ML3DResNet" in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ("shiped", "did you mean 'shipped'? Allowed for ml3d: shipped, paper, phantom"),
        ("ml3d", "there are no weights at ml3d: Allowed for ml3d: shipped, paper, phantom"),
        ("run/none.safetensors", "there are no weights at run/none.safetensors"),
    ],
)
def test_other_names_are_answered_by_those_there_are(
    run: Run, start: str, message: str, tmp_path: Path
) -> None:
    code, _, err = run("train", "--recipe", "ml3d", "--start", start, "-o", tmp_path / "run")
    assert code == 2
    assert message in err
    assert not (tmp_path / "run").exists()


def test_data_that_are_no_store_are_told_how_to_become_one(
    run: Run, parts: list[Path], tmp_path: Path
) -> None:
    import h5py

    with h5py.File(tmp_path / "frames.h5", "w") as file:
        file["frames"] = np.load(parts[0])
    store_frames([parts[0]], tmp_path / "blind.h5")
    for path, message in (
        (parts[0], "is no block store, which is what trainings read"),
        (tmp_path / "frames.h5", "is no block store, which is what trainings read"),
        (tmp_path / "blind.h5", "comes without true bubbles"),
        (tmp_path / "none.h5", "there is no file"),
    ):
        code, _, err = run("train", "--recipe", "ml3d", "--data", path, "-o", tmp_path / "run")
        assert code == 2
        assert message in err
        assert "damaged" not in err
        assert ("ulmpaper store" in err) == ("none" not in path.name)
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_training_does_not_count_as_done(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    words = ["train", "--recipe", "count", "--profile", "smoke", "--set", "count.epochs=9999"]
    training = subprocess.Popen(
        [sys.executable, "-m", "ulmpaper", *words, "-o", str(tmp_path / "run")],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    until = time.monotonic() + 120
    while not (tmp_path / "run" / "best.safetensors").exists() and time.monotonic() < until:
        time.sleep(0.05)
    training.send_signal(number)
    _, err = training.communicate(timeout=60)
    assert training.returncode == code
    assert "of 29997 steps" in err
    assert "stopped, the same command goes on" in err


def test_version(run: Run) -> None:
    from ulmpaper import __version__

    assert run("--version")[:2] == (0, f"ulmpaper {__version__}\n")


# --- the page -------------------------------------------------------------------------------------

PAGE = (Path(__file__).parents[1] / "book" / "own_training.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "command", re.findall(r"^\$ .venv/bin/ulmpaper (.*?)(?:  # minutes)?$", PAGE, re.M)
)
def test_commands_of_the_page_exist_with_their_options(command: str) -> None:
    name, *words = command.split()
    known = typer.main.get_command(app).commands[name].params  # type: ignore[attr-defined]
    options = {option for parameter in known for option in parameter.opts}
    assert {word for word in words if word.startswith("-")} <= options
    load_config("quick", ",".join(words[i + 1] for i, word in enumerate(words) if word == "--set"))


def test_recordings_of_the_page_become_a_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (script,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)
    monkeypatch.chdir(tmp_path)
    exec(script.replace("1000", "20").replace("200", "20"), {})
    assert store_frames(["train.npy"], "train.h5", truth="train.csv") == 20
    assert len(stored_truth(Path("train.h5"))) == 20 * 30
    assert np.abs(pd.read_csv("test.csv")["z"][:30] - pd.read_csv("train.csv")["z"][:30]).min() > 0


# --- pixels that are not square ------------------------------------------------------------------


def test_tables_of_results_serve_as_truth_where_pixels_are_not_square(tmp_path: Path) -> None:
    """The user's table is in pixels of the file, that of results in the square ones; both fit."""
    rng = np.random.default_rng(0)
    z, x = np.mgrid[:40, :48]
    frame, k = np.indices((20, 4)).reshape(2, -1)
    at_z, at_x = 6 + 9 * k + 0.1 * frame, 5 + 10 * k + 0.2 * frame
    frames = rng.normal(0, 0.02, (20, 40, 48)) ** 2
    for t, b, a in zip(frame, at_z, at_x, strict=True):
        frames[t] += np.exp(-((z - b) ** 2) / 2 / 2**2 - (x - a) ** 2 / 2 / 1.2**2)
    own = pd.DataFrame({"frame": frame, "z": at_z, "x": at_x})
    own.to_csv(tmp_path / "own.csv", index=False)
    np.save(tmp_path / "film.npy", frames.astype(np.float32))
    file = open_frames(tmp_path / "film.npy", px_mm=(0.05, 0.1), frame_rate_hz=500)
    (tmp_path / "out").mkdir()
    with pytest.warns(UlmWarning, match="not square: sampled anew .* in which all places are"):
        result = ulm.ulm(file, {"locate.n_bubbles": 4, "locate.min_score": 0.3}, method="parabola")
    result.save(tmp_path / "out", overwrite=True)
    with pytest.warns(UlmWarning, match="z times 1 and x times 2 are the square ones"):
        (truth,) = read_truth(tmp_path / "own.csv", [file])
    np.testing.assert_allclose(truth["x"], 2 * at_x)
    with pytest.warns(UlmWarning, match="is of results"):
        (again,) = read_truth(tmp_path / "out" / "bubbles.csv", [file])
    assert ulm.score_bubbles(again, truth)["jaccard_far"] > 0.9


def test_two_pitches_are_no_setting_and_the_error_names_the_way() -> None:
    with pytest.raises(ValueError, match=r"read_frames\(path, px_mm=\(z, x\)\)"):
        load_config("quick", {"acquisition.px_mm": (0.05, 0.1)})
