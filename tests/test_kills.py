"""Nothing lost, nothing left: runs that are stopped or killed, and what lies where they write."""

from __future__ import annotations

import hashlib
import http.server
import io
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from ulmpaper.core.records import Block, bubble_table
from ulmpaper.io import files, results
from ulmpaper.io.files import SafeHDF5, atomic_path, hidden_part, only_writer, undo_changes
from ulmpaper.io.processes import Stopped, as_a_whole, handle_stops, raise_stop
from ulmpaper.io.store import BlockStore
from ulmpaper.pipeline import blocks as chain

Run = Callable[..., tuple[int, str, str]]
SETTINGS = {"locate.min_score": 0.25, "blocks.n_frames": 20, "render.upsample": 2}
HOW = ["--method", "parabola", *(w for k, v in SETTINGS.items() for w in ("--set", f"{k}={v}"))]
N_BLOCKS = 4
LARGE = {f"{name}.png" for name in ("density", "velocity", "direction", "mean_velocity")}
LARGE |= {"power_doppler.png", "maps.npz", "tables.h5", "bubbles.csv", "tracks.csv"}
SMOKE = ["--profile", "smoke"]


@pytest.fixture(scope="module")
def npy(flow: Block, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("frames") / "flow.npy"
    np.save(path, flow.frames)
    return path


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ULMPAPER_DATA_MIRROR", raising=False)
    monkeypatch.delenv("ULMPAPER_DATA_DIR", raising=False)


@pytest.fixture
def whole(run: Run, npy: Path) -> dict[str, bytes]:
    """Files of an undisturbed run."""
    assert run("ulm", npy, "-o", "whole", *HOW)[0] == 0
    return contents(Path("whole"))


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder, hidden ones too; large results by their hash.

    Pytest would look for the differences of two pictures for minutes.
    """
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    read = {name: path.read_bytes() for name, path in found.items() if path.is_file()}
    return {
        name: hashlib.sha256(content).digest() if Path(name).name in LARGE else content
        for name, content in read.items()
    }


@pytest.fixture
def stopping(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, BaseException | None], list[int]]:
    """Let the n-th block raise; gives the list of the blocks that were begun."""
    real = chain.locate

    def arm(n_blocks: int, error: BaseException | None) -> list[int]:
        begun: list[int] = []

        def locate(*arguments: object, **options: object) -> pd.DataFrame:
            if len(begun) == n_blocks and error is not None:
                raise error
            begun.append(len(begun))
            return real(*arguments, **options)

        monkeypatch.setattr(chain, "locate", locate)
        return begun

    return arm


# --- a run goes on -----------------------------------------------------------------------------


@pytest.mark.parametrize("n_done", range(N_BLOCKS))
@pytest.mark.parametrize(
    ("error", "code"), [(Stopped(signal.SIGTERM), 143), (Stopped(signal.SIGINT), 130)]
)
def test_a_stopped_run_goes_on_block_by_block(
    run: Run, npy: Path, whole: dict, stopping: Callable, n_done: int, error: Stopped, code: int
) -> None:
    stopping(n_done, error)
    got, _, err = run("ulm", npy, "-o", "out", *HOW)
    assert got == code
    assert ("the same command goes on" in err) == (n_done > 0)
    assert Path("out").exists() == (n_done > 0), "nothing done, nothing left"
    begun = stopping(N_BLOCKS, None)
    assert run("ulm", npy, "-o", "out", *HOW)[0] == 0
    assert len(begun) == N_BLOCKS - n_done
    assert contents(Path("out")) == whole


def test_an_error_of_the_machine_keeps_what_is_done_and_one_of_the_input_does_not(
    run: Run, npy: Path, whole: dict, stopping: Callable
) -> None:
    stopping(2, ValueError("frame 41 holds NaN"))
    assert run("ulm", npy, "-o", "new/out", *HOW)[0] == 2
    assert not Path("new").exists()
    stopping(2, OSError(28, "No space left on device"))
    code, _, err = run("ulm", npy, "-o", "new/out", *HOW)
    assert (code, "what 2 blocks gave is kept: the same command goes on" in err) == (2, True)
    begun = stopping(9, None)
    assert run("ulm", npy, "-o", "new/out", *HOW)[0] == 0
    assert len(begun) == 2
    assert contents(Path("new/out")) == whole


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "missing"])
def test_a_damaged_block_is_found_anew(
    run: Run, npy: Path, whole: dict, stopping: Callable, damage: str
) -> None:
    stopping(3, Stopped(signal.SIGTERM))
    run("ulm", npy, "-o", "out", *HOW)
    block = sorted(Path("out").rglob("block-*.npz"))[1]
    content = bytearray(block.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "missing":
        block.unlink()
    else:
        half = len(content) // 2
        block.write_bytes({"cut": content[:half], "flipped": content, "empty": b""}[damage])
    stopping(9, None)
    assert run("ulm", npy, "-o", "out", *HOW)[0] == 0
    assert contents(Path("out")) == whole


def test_what_another_run_had_done_is_not_lost_without_a_word(
    run: Run, npy: Path, whole: dict, stopping: Callable
) -> None:
    stopping(2, Stopped(signal.SIGTERM))
    run("ulm", npy, "-o", "out", *HOW)
    before = contents(Path("out"))
    stopping(9, None)
    other = [*HOW, "--set", "track.max_gap=1"]
    code, _, err = run("ulm", npy, "-o", "out", *other)
    assert code == 2
    assert "holds what another run had done when it was interrupted (digest" in err
    assert contents(Path("out")) == before
    assert run("ulm", npy, "-o", "out", *other, "--overwrite")[0] == 0
    code, _, err = run("ulm", npy, "-o", "out", *HOW)
    assert (code, "holds the results of another run" in err) == (2, True)
    assert run("ulm", npy, "-o", "out", *HOW, "--overwrite")[0] == 0
    assert contents(Path("out")) == whole


def test_a_changed_input_is_not_mixed_with_the_old_one(
    run: Run, npy: Path, stopping: Callable
) -> None:
    frames = np.load(npy)
    np.save("a.npy", frames)
    stopping(2, Stopped(signal.SIGTERM))
    run("ulm", "a.npy", "-o", "out", *HOW)
    np.save("a.npy", np.concatenate([frames[:40], frames[:39:-1]]))
    stopping(9, None)
    assert run("ulm", "a.npy", "-o", "out", *HOW)[0] == 2
    assert run("ulm", "a.npy", "-o", "out", *HOW, "--overwrite")[0] == 0
    assert run("ulm", "a.npy", "-o", "anew", *HOW)[0] == 0
    assert contents(Path("out")) == contents(Path("anew"))


def test_a_saved_result_has_the_bytes_of_the_command(
    run: Run, npy: Path, whole: dict, recwarn: pytest.WarningsRecorder
) -> None:
    import ulmpaper

    ulmpaper.ulm(npy, SETTINGS, method="parabola").save("saved", dpi=30)  # as in `run`
    assert contents(Path("saved")) == whole


@pytest.mark.parametrize("n_moves", [0, 1, 5, 9])
def test_a_folder_with_a_run_json_is_whole_at_every_moment(
    run: Run, npy: Path, n_moves: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between two moves, over older results: those are gone then, not mixed with the new."""
    old = [*HOW, "--set", "track.max_gap=1"]
    assert run("ulm", npy, "-o", "out", *old)[0] == run("ulm", npy, "-o", "new", *HOW)[0] == 0
    wanted = contents(Path("new"))
    real = Path.replace
    moved: list[str] = []

    def replace(path: Path, target: Path) -> Path:
        if Path(target).parent.name == "out":
            if len(moved) == n_moves:
                raise Killed
            moved.append(Path(target).name)
        return real(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        # A killed process clears nothing.
        patch.setattr(results.ResultWriter, "_clear", lambda *_, **__: None)
        with pytest.raises(Killed):
            run("ulm", npy, "-o", "out", *HOW, "--overwrite")
    assert not Path("out/run.json").exists()
    assert moved == sorted(moved)[:n_moves]
    # The same command without --overwrite may go on, too, for what lies there is its own.
    assert run("ulm", npy, "-o", "out", *HOW)[0] == 0
    assert contents(Path("out")) == wanted


class Killed(BaseException):
    """Stands for SIGKILL."""


# --- one run on one target ---------------------------------------------------------------------


COMMANDS = {
    "ulm": ("out/ulmpaper-unfinished", ["ulm", "f.npy", "-o", "out", *SMOKE]),
    "store": ("out.h5", ["store", "f.npy", "-o", "out.h5"]),
    "cam": ("out.h5", ["simulate", "cam", "-o", "out.h5", *SMOKE]),
    "phantom": ("out/IQ", ["simulate", "phantom", "-o", "out", *SMOKE]),
    "train": ("out/training", ["train", "--recipe", "count", "-o", "out", *SMOKE]),
    "fetch": ("out/normal_rat_kidney_frame50.mat", ["fetch", "rat-kidney", "--data-dir", "out"]),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_two_runs_on_one_target_are_refused(run: Run, npy: Path, command: str) -> None:
    shutil.copy(npy, "f.npy")
    target, arguments = COMMANDS[command]
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    with only_writer(Path(target)):
        before = contents(Path())
        code, _, err = run(*arguments)
        assert code == 2
        assert f"another run is writing {target}: wait until it has ended" in err
        assert contents(Path()) == before


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    script = """
import os, sys, time
from pathlib import Path
from ulmpaper.io.files import only_writer
with only_writer(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""
    command = [sys.executable, "-c", script, str(tmp_path / "a.h5")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(OSError, match=r"another run is writing .*a\.h5"):
            only_writer(tmp_path / "a.h5").__enter__()
        holder.kill()
    with only_writer(tmp_path / "a.h5"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_writers_of_one_small_file_wait_for_each_other(tmp_path: Path) -> None:
    path = tmp_path / "a.json"

    def write(text: str) -> None:
        for _ in range(20):
            files.write_atomic(path, text.encode() * 1000)

    threads = [threading.Thread(target=write, args=(letter,)) for letter in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in (b"a" * 1000, b"b" * 1000)
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_run_left_is_cleared_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    hidden_part(path).mkdir()
    (hidden_part(path) / "half").write_text("half")
    (tmp_path / ".a.zip.lock").touch()
    with atomic_path(path) as part:
        part.write_text("whole")
    assert contents(tmp_path) == {"a.zip": b"whole"}


# --- no input among the outputs ----------------------------------------------------------------


@pytest.mark.parametrize("name", ["tables.h5", "run.json", "density.png"])
@pytest.mark.parametrize("link", [None, "symlink_to", "hardlink_to"])
def test_ulm_replaces_no_file_that_it_reads(
    run: Run, flow: Block, name: str, link: str | None
) -> None:
    with h5py.File("frames.h5", "w") as file:
        file["frames"] = flow.frames
    Path("out").mkdir()
    there = Path("out") / name
    if link:
        getattr(there, link)(Path("frames.h5").resolve())
        given = Path("frames.h5")
    else:
        Path("frames.h5").rename(there)
        given = there
        if there.suffix != ".h5":
            given = Path("out/link.h5")
            given.symlink_to(there.resolve())
    before = contents(Path())
    code, _, err = run("ulm", given, "-o", "out", "--overwrite", *SMOKE)
    assert (code, "is read and would be replaced" in err) == (2, True)
    assert contents(Path()) == before


def test_store_and_train_replace_no_file_that_they_read(run: Run, npy: Path) -> None:
    shutil.copy(npy, "f.npy")
    assert run("store", "f.npy", "-o", "a.h5")[0] == 0
    Path("b.h5").symlink_to(Path("a.h5").resolve())
    small = ["train", "--recipe", "count", *SMOKE]
    assert run(*small, "-o", "run")[0] == 0
    before = contents(Path())
    Path("run/last.safetensors").rename("kept")
    for command in (
        ["store", "b.h5", "-o", "a.h5"],
        ["store", "a.h5", "-o", "b.h5"],
        [*small, "--start", "run/best.safetensors", "-o", "run"],
    ):
        code, _, err = run(*command)
        assert (code, "is read and would be replaced" in err) == (2, True)
    Path("kept").rename("run/last.safetensors")
    assert contents(Path()) == before


def test_store_knows_its_sources_by_content_and_by_how_they_were_read(run: Run, npy: Path) -> None:
    for name, frames in (("a", np.load(npy)), ("b", np.load(npy)[::-1])):
        Path(name).mkdir()
        np.save(f"{name}/IQ_001.npy", frames)
    assert run("store", "a/IQ_001.npy", "-o", "mine.h5")[0] == 0
    before = Path("mine.h5").read_bytes()
    for arguments in (["b/IQ_001.npy"], ["a/IQ_001.npy", "--axes", "txz"]):
        code, _, err = run("store", *arguments, "-o", "mine.h5")
        assert (code, "was not made of IQ_001.npy as they are now" in err) == (2, True)
    assert Path("mine.h5").read_bytes() == before
    assert run("store", "a/IQ_001.npy", "-o", "mine.h5")[0] == 0
    assert Path("mine.h5").read_bytes() == before


# --- what lies in the folder -------------------------------------------------------------------


@pytest.mark.parametrize("name", ["maps.npz", "run.json", "density.png", "velocity.png"])
def test_a_folder_in_place_of_a_file_is_seen_before_the_work(
    run: Run, npy: Path, name: str, stopping: Callable
) -> None:
    (Path("out") / name).mkdir(parents=True)
    begun = stopping(9, None)
    for options in ([], ["--overwrite"]):
        code, _, err = run("ulm", npy, "-o", "out", *HOW, *options)
        assert (code, f"{name} is not a file, but results are to be written" in err) == (2, True)
    assert begun == []
    assert [path.name for path in Path("out").iterdir()] == [name]


def test_pictures_of_the_user_are_not_replaced(run: Run, npy: Path) -> None:
    Path("out").mkdir()
    Path("out/density.png").write_text("mine")
    code, _, err = run("ulm", npy, "-o", "out", *HOW)
    assert (code, "out holds density.png of something else" in err) == (2, True)
    assert contents(Path("out")) == {"density.png": hashlib.sha256(b"mine").digest()}
    assert run("ulm", npy, "-o", "out", *HOW, "--overwrite")[0] == 0


@pytest.mark.parametrize("note", ["[1, 2]", "null", "[" * 100_000, "{", "", "3"])
def test_a_run_json_that_is_none_is_said_to_be(run: Run, npy: Path, note: str) -> None:
    Path("out").mkdir()
    Path("out/run.json").write_text(note)
    code, _, err = run("ulm", npy, "-o", "out", *HOW)
    assert (code, "run.json is damaged or of something else" in err) == (2, True)
    assert len(err.splitlines()[-1]) < 300


@pytest.mark.parametrize(
    "command",
    [
        ["ulm", "f.npy", "-j", "0"],
        ["ulm", "f.npy", "--set", "filter.band_hz=(50,900)"],
        ["ulm", "f.npy", "--scheduler", "foo"],
        ["ulm", "nan.npy"],
        ["ulm", "db.npy"],
        ["train", "--recipe", "count", "--data", "f.npy", *SMOKE],
        ["train", "--recipe", "count", "--start", "f.npy", *SMOKE],
        ["simulate", "phantom", "-j", "0"],
    ],
)
def test_an_error_leaves_no_folder(run: Run, npy: Path, command: list[str]) -> None:
    frames = np.load(npy)
    np.save("f.npy", frames)
    np.save("db.npy", -frames)
    frames[50, 3, 4] = np.nan
    np.save("nan.npy", frames)
    code, _, err = run(*command, "-o", "new/deep/out")
    assert code == 2
    assert "Traceback" not in err
    assert not Path("new").exists()


@pytest.mark.parametrize(
    "command",
    [["ulm", "f.npy"], ["store", "f.npy"], ["train", "--recipe", "count"], ["simulate", "cam"]],
)
@pytest.mark.parametrize("name", ["", "  "])
def test_an_empty_name_is_none(run: Run, npy: Path, command: list[str], name: str) -> None:
    shutil.copy(npy, "f.npy")
    code, _, err = run(*command, "-o", name, *(SMOKE if command[0] != "store" else []))
    assert code == 2
    assert "names nothing" in err or "not an empty name" in err
    assert list(contents(Path())) == ["f.npy"]


# --- stores ------------------------------------------------------------------------------------


def block(seed: int, n_frames: int = 6) -> Block:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(0, 40))
    frame = np.sort(rng.integers(0, n_frames, n))
    truth = bubble_table(frame, rng.uniform(0, 9, n), rng.uniform(0, 9, n), rng.random(n))
    frames = rng.random((n_frames, 10, 12), dtype=np.float32)
    return Block(frames, truth, 0.1, 500.0, "noise")


def test_a_store_that_was_killed_at_any_write_is_as_before_or_as_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each write of an addition the files are copied, as a kill would leave them."""
    path = tmp_path / "it.h5"
    for seed in range(3):
        with BlockStore(path, "a") as store:
            store.append(block(seed))
    before = path.read_bytes()
    real = files._Disk.write
    moments: list[dict[str, bytes]] = []

    def write(disk: files._Disk, data: object) -> int:
        n_bytes = real(disk, data)
        moments.append(contents(tmp_path))
        return n_bytes

    with monkeypatch.context() as patch:
        patch.setattr(files._Disk, "write", write)
        with BlockStore(path, "a") as store:
            store.append(block(3))
    after = contents(tmp_path)
    assert list(after) == ["it.h5"]
    assert len(moments) > 10
    for moment in moments:
        killed = tmp_path / "killed"
        killed.mkdir()
        for name, content in moment.items():
            (killed / name).write_bytes(content)
        with BlockStore(killed / "it.h5") as store:  # reading, too, sees what was complete
            assert len(store) == 18
        assert (killed / "it.h5").read_bytes() == before
        with BlockStore(killed / "it.h5", "a") as store:
            store.append(block(3))
        assert contents(killed) == after
        shutil.rmtree(killed)


def test_changes_that_are_not_complete_are_undone(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path, undo = tmp_path / "a.h5", tmp_path / ".undo"
    for _ in range(20):
        with SafeHDF5(path, "w") as file:
            file["a"] = rng.random(int(rng.integers(1, 3000)))
            file.create_dataset("b", (10,), "f4", maxshape=(None,), chunks=(7,))
        before = path.read_bytes()
        with SafeHDF5(path, "r+", undo) as file:
            file["b"].resize((int(rng.integers(0, 500)),))
            file["b"][:] = 3
            del file["a"]
            file["c"] = rng.random(99)
        notes = undo.read_bytes()
        undo.write_bytes(notes + notes[24:40])  # a note that was cut short
        undo_changes(path, undo)
        assert path.read_bytes() == before
        assert not undo.exists()


def test_a_full_disk_leaves_a_store_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "it.h5"
    with BlockStore(path, "a") as store:
        store.append(block(0))
        before = path.read_bytes()
        real = io.FileIO.write
        with monkeypatch.context() as patch:
            written: list[int] = []

            def write(disk: files._Disk, data: object) -> int:
                written.append(1)
                if len(written) > 6:
                    disk.error = disk.error or OSError(28, "No space left on device")
                    return len(memoryview(data).cast("B"))
                return real(disk, data)

            patch.setattr(files._Disk, "write", write)
            with pytest.raises(OSError, match="No space left on device"):
                store.append(block(1))
        assert contents(tmp_path) == {"it.h5": before, ".it.h5.lock": b""}
        store.append(block(1))
        assert len(store) == 12


@pytest.mark.parametrize("fault", ["about", "truth_end", "complete", "frames", "column"])
def test_a_forged_store_is_refused_in_a_sentence(run: Run, tmp_path: Path, fault: str) -> None:
    path = tmp_path / "it.h5"
    with BlockStore(path, "w") as store:
        store.append(block(1))
    with h5py.File(path, "r+") as file:
        if fault == "about":
            file.attrs["about"] = "[1, 2]"
        elif fault == "complete":
            file.attrs["complete"] = 99
        elif fault == "column":
            file["truth/frame"].resize((0,))
        else:
            del file[fault]
    for command in (["info", path], ["store", path, "-o", "b.h5"]):
        code, _, err = run(*command)
        assert (code, "it.h5" in err, "Traceback" in err) == (2, True, False)
    with h5py.File(path, "r+"):
        pass  # it was closed
    assert not Path("b.h5").exists()


def test_a_file_name_that_is_no_text_is_stored(run: Run, npy: Path) -> None:
    name = os.fsdecode(b"f\xff.npy")
    shutil.copy(npy, name)
    assert run("store", name, "-o", "s.h5")[0] == 0
    with BlockStore("s.h5") as store:
        assert store.about["files"] == [name]


# --- signals -----------------------------------------------------------------------------------


def test_a_signal_waits_for_what_must_be_whole() -> None:
    done = []

    def work() -> None:
        with handle_stops(raise_stop):
            with as_a_whole(), as_a_whole():
                signal.raise_signal(signal.SIGTERM)
                done.append("inside")
            done.append("after")

    with pytest.raises(Stopped) as stop:
        work()
    assert done == ["inside"]
    assert stop.value.number == signal.SIGTERM
    assert str(stop.value) == "stopped by SIGTERM"


@pytest.mark.parametrize("turned_into", [ImportError, SystemError, RuntimeError])
def test_a_stop_that_a_library_turns_into_its_own_error_stays_a_stop(
    run: Run, npy: Path, turned_into: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = chain.locate
    begun: list[int] = []

    def locate(*arguments: object, **options: object) -> pd.DataFrame:
        begun.append(1)
        if len(begun) == 2:
            return real(*arguments, **options)
        try:
            signal.raise_signal(signal.SIGTERM)
        except BaseException as error:
            raise turned_into("initialization failed") from error

    monkeypatch.setattr(chain, "locate", locate)
    code, _, err = run("ulm", npy, "-o", "out", *HOW)
    assert (code, err.splitlines()[-1]) == (143, "ulmpaper: stopped by SIGTERM")
    assert not Path("out").exists()
    code, _, _ = run("ulm", npy, "-o", "out", *HOW)
    assert (code, len(list(Path("out").rglob("block-*.npz")))) == (143, 1)


def test_ignored_signals_stay_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with handle_stops(raise_stop):
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_training_does_not_end_as_a_done_one(
    run: Run, number: int, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ulmpaper.networks import train

    rate = train._learning_rate

    def raising(options: object, step: int) -> float:
        if step == 2:
            signal.raise_signal(number)
        return rate(options, step)

    command = ["train", "--recipe", "count", *SMOKE, "-o", "run"]
    with monkeypatch.context() as patch:
        patch.setattr(train, "_learning_rate", raising)
        got, _, err = run(*command)
    assert (got, "3 of 6 steps" in err, "the same command goes on" in err) == (code, True, True)
    assert run(*command)[0] == 0
    assert len(contents(Path("run"))) == 4


def workers(session: int) -> list[str]:
    """Worker processes of a session that are alive."""
    listing = subprocess.run(["ps", "-eo", "sess,stat,args"], capture_output=True, text=True)
    rows = [line.split(None, 2) for line in listing.stdout.splitlines()[1:]]
    alive = [r for r in rows if r[0] == str(session) and "Z" not in r[1]]
    return [r[2] for r in alive if "popen_loky" in r[2] or "spawn_main" in r[2]]


def begin(arguments: list[object], *, code: str = "from ulmpaper.cli import main; main()"):
    """Start the command line as a batch system does."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NO_PROXY": "127.0.0.1"}
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )


def ends(process: subprocess.Popen, number: int) -> tuple[int, str]:
    """Send a signal and wait until process and workers are gone; its exit code and last words."""
    if number == signal.SIGINT:  # as a terminal does, to all processes of a job
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    _, err = process.communicate(timeout=60)  # workers that live on would hold the pipe
    until = time.monotonic() + 20
    while workers(process.pid) and time.monotonic() < until:
        time.sleep(0.1)
    assert not workers(process.pid)
    return process.returncode, err


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_workers_and_the_same_command_goes_on(
    run: Run, number: int, code: int
) -> None:
    frames = np.random.default_rng(0).random((2400, 32, 32), dtype=np.float32)
    np.save("f.npy", frames)
    command = ["ulm", "f.npy", "-o", "out", "-j", "2", *HOW, "--set", "blocks.n_frames=100"]
    process = begin(command)
    while process.poll() is None and len(list(Path("out").rglob("block-*.npz"))) < 2:
        time.sleep(0.02)
    got, err = ends(process, number)
    assert got == code, err
    assert [path.name for path in Path("out").iterdir()] == ["ulmpaper-unfinished"]
    code, _, err = run(*command)
    assert code == 0, err
    command[3] = "whole"
    command[5] = "1"
    assert run(*command)[0] == 0
    assert contents(Path("out")) == contents(Path("whole"))


# --- random kills ------------------------------------------------------------------------------


class SlowServer(http.server.BaseHTTPRequestHandler):
    """Sends an archive in pieces."""

    body = b""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        try:
            for start in range(0, len(self.body), 100_000):
                self.wfile.write(self.body[start : start + 100_000])
                time.sleep(0.05)
        except OSError:
            pass  # the client was killed

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("a.bin", np.random.default_rng(0).bytes(2_000_000))
    SlowServer.body = content.getvalue()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), SlowServer) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/a.zip"
        server.shutdown()


FETCH = """
import dataclasses, sys
from ulmpaper.io import fetch
data = fetch.REGISTRY["pala-insilico"]
file = dataclasses.replace(data.files[0], url=sys.argv.pop(1))
fetch.REGISTRY["pala-insilico"] = dataclasses.replace(data, files=(file,))
from ulmpaper.cli import main
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    "command", ["ulm", "ulm -j 2", "store", "cam", "phantom", "train", "fetch"]
)
def test_random_kills(command: str, number: signal.Signals, address: str) -> None:
    rng = np.random.default_rng(time.time_ns())
    np.save("f.npy", rng.random((3000, 48, 48), dtype=np.float32))
    ulm = ["ulm", "f.npy", *SMOKE, "--set", "blocks.n_frames=100", "-o"]
    sizes = ["--set", "cam.n_frames=4000", "--set", "cam.sequence_frames=100"]
    phantom = ["phantom.n_sequences=2", "phantom.n_frames=4", "phantom.n_bubbles=3"]
    arguments: list[str] = {
        "ulm": [*ulm, "FOLDER/out"],
        "ulm -j 2": [*ulm, "FOLDER/out", "-j", "2"],
        "store": ["store", "f.npy", "f.npy", "-o", "FOLDER/it.h5"],
        "cam": ["simulate", "cam", *SMOKE, *sizes, "-o", "FOLDER/it.h5"],
        "phantom": [
            *["simulate", "phantom", *SMOKE, "-o", "FOLDER/it"],
            *(word for s in phantom for word in ("--set", s)),
        ],
        "train": ["train", "--recipe", "count", *SMOKE, "--set", "count.epochs=40", "-o", "FOLDER"],
        "fetch": [address, "fetch", "pala-insilico", "--data-dir", "FOLDER"],
    }[command]
    options = {"code": FETCH} if command == "fetch" else {}

    def start(folder: str) -> subprocess.Popen:
        Path(folder).mkdir(exist_ok=True)
        return begin([word.replace("FOLDER", folder) for word in arguments], **options)

    began = time.monotonic()
    undisturbed = start("whole")
    _, err = undisturbed.communicate()
    assert undisturbed.returncode == 0, err
    lasts = time.monotonic() - began
    stops = 0
    for _ in range(6):
        process = start("it")
        time.sleep(float(rng.uniform(0.1, 1)) * lasts)
        if process.poll() is None:
            stops += 1
            # Before the command line has begun, the system's own way to end holds.
            got, err = ends(process, number)
            assert got in (128 + number, -number, 0), err
        else:  # it was quicker than the first: once more from the beginning
            process.communicate()
            shutil.rmtree("it")
    last = start("it")
    _, err = last.communicate()
    assert last.returncode == 0, err
    one, other = contents(Path("whole")), contents(Path("it"))
    if command == "train":  # times differ
        for files_ in (one, other):
            table = pd.read_csv(io.BytesIO(files_.pop("metrics.csv"))).drop(columns="seconds")
            files_["metrics"] = table.to_csv().encode()
            for name in ("best.safetensors", "last.safetensors"):
                content = files_.pop(name)
                n_header = int.from_bytes(content[:8], "little")
                files_[name] = content[8 + n_header :]
    assert stops
    assert other == one
