"""Training: learns, resumes to the last bit, shares steps, and loses nothing when stopped."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ulmpaper.config import Config, Fitted, load_config
from ulmpaper.core.records import Block, bubble_table
from ulmpaper.io.store import BlockStore
from ulmpaper.metrics.bubbles import match_bubbles
from ulmpaper.networks import train
from ulmpaper.networks.checkpoint import _LAST, BEST, METRICS
from ulmpaper.networks.recipes import RECIPES
from ulmpaper.networks.targets import decode_offsets
from ulmpaper.networks.train import _begin, _learning_rate, _step, training_windows
from ulmpaper.networks.weights import read_network

pytestmark = pytest.mark.usefixtures("one_thread")  # as the processes started here


def config(**overrides: object) -> Config:
    """Small and exact: bfloat16 sums depend on how a batch is cut, those of a GPU on the run."""
    exact = {"train.precision": "float32", "compute.device": "cpu"}
    return load_config("smoke", exact | {k.replace("__", "."): v for k, v in overrides.items()})


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / _LAST)


def progress(folder: Path) -> dict:
    with safe_open(folder / _LAST, "pt") as file:
        return json.loads(file.metadata()["progress"])


def assert_same_run(one: Path, other: Path) -> None:
    a, b = tensors(one), tensors(other)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    tables = [pd.read_csv(folder / METRICS).drop(columns="seconds") for folder in (one, other)]
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    assert load_file(one / BEST).keys() == load_file(other / BEST).keys()
    best = [load_file(folder / BEST) for folder in (one, other)]
    assert all(torch.equal(best[0][name], best[1][name]) for name in best[0])


@pytest.mark.slow
def test_thirty_windows_are_learnt_by_heart() -> None:
    size = {"ml3d__features": 16, "ml3d__blocks": 2, "ml3d__crop_px": 16, "ml3d__window": 3}
    cfg = config(**size, ml3d__batch=30, train__crops=3, cam__n_bubbles=(5, 5))
    recipe = RECIPES["ml3d"](cfg)
    batch = training_windows(recipe, cfg)[0]
    frames = recipe.inputs(batch.frames / batch.frames.amax())
    net = _begin(recipe, 0).to(memory_format=recipe.layout)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(net.parameters())
    options = Fitted(epochs=1, steps=300, learning_rate=1e-2, warmup=0.05, decay="cosine")
    for step in range(options.steps):
        optimizer.param_groups[0]["lr"] = _learning_rate(options, step)
        optimizer.zero_grad()
        loss, _ = recipe.loss(net(frames), batch.targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 0.1)
        optimizer.step()
    with torch.no_grad():
        maps = net(frames)
    hits = pred = true = 0
    for found, target in zip(maps, batch.targets, strict=True):
        n_true = target[0].sum(dim=(1, 2)).long()
        truth = decode_offsets(target, n_true, min_distance_px=0)
        bubbles = decode_offsets(found, n_true, min_distance_px=0)
        match = match_bubbles(bubbles, truth, max_distance_px=0.5)
        hits, pred, true = hits + len(match), pred + len(bubbles), true + len(truth)
    assert true > 80
    assert hits / pred > 0.98
    assert hits / true > 0.98


@pytest.mark.parametrize("name", ["ml3d", "count", "mspcn"])
def test_a_stopped_training_goes_on_as_if_it_had_not(name: str, tmp_path: Path) -> None:
    cfg = config()
    whole = train.train(name, tmp_path / "whole", cfg)
    assert (whole.step, whole.n_steps) == (6, 6)
    for stop in (2, 4, 5):  # within an epoch, and after its end
        part = train.train(name, tmp_path / "parts", cfg, stop_after=stop)
        assert part.step == progress(part.folder)["step"] == stop
    last = train.train(name, tmp_path / "parts", cfg)
    assert_same_run(whole.folder, last.folder)
    assert last.scores == whole.scores
    again = train.train(name, tmp_path / "parts", cfg)  # nothing is left to do
    assert (again.step, again.scores) == (6, whole.scores)


@pytest.mark.slow
def test_workers_do_not_change_the_outcome(tmp_path: Path) -> None:
    alone = train.train("count", tmp_path / "alone", config())
    helped = train.train("count", tmp_path / "helped", config(compute__workers=1))
    assert_same_run(alone.folder, helped.folder)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_after_the_step_and_saves(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rate = _learning_rate

    def raising(options: Fitted, step: int) -> float:
        if step == 3:
            signal.raise_signal(number)
        return rate(options, step)

    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        patch.setattr(train, "_learning_rate", raising)
        summary = train.train("count", tmp_path / "stopped", config())
    assert summary.step == progress(summary.folder)["step"] == 4
    assert signal.getsignal(number) is before
    train.train("count", tmp_path / "stopped", config())
    assert_same_run(train.train("count", tmp_path / "whole", config()).folder, summary.folder)


GROUP = """
import os, sys, time
from ulmpaper.networks import train
from ulmpaper.config import load_config
cfg = load_config("smoke", {"compute.device": "cpu", "compute.workers": 1, "count.steps": 100000})
step = train._step

def killing(*arguments):
    if not os.path.exists(sys.argv[1] + "/sent"):
        open(sys.argv[1] + "/sent", "w").close()
        os.system(f"kill -TERM -{os.getpgrp()}")  # by another process, as a scheduler does
        time.sleep(0.5)
    return step(*arguments)

if __name__ == "__main__":
    train._step = killing
    print(train.train("count", sys.argv[1], cfg).step)
"""


@pytest.mark.slow
def test_a_signal_to_the_whole_job_spares_the_workers(tmp_path: Path) -> None:
    (tmp_path / "run.py").write_text(GROUP, encoding="utf-8")
    (tmp_path / "run").mkdir()
    command = [sys.executable, str(tmp_path / "run.py"), str(tmp_path / "run")]
    done = subprocess.run(
        command, start_new_session=True, capture_output=True, text=True, timeout=120
    )
    assert int(done.stdout) == progress(tmp_path / "run")["step"] == 1, done.stderr


@pytest.mark.parametrize("crash_at", range(1, 9))
def test_a_crash_at_any_write_leaves_a_state_to_go_on_from(
    crash_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = 0
    replace = Path.replace

    def crashing(path: Path, target: Path) -> Path:
        nonlocal written
        written += 1
        if written == crash_at:
            raise KeyboardInterrupt
        return replace(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", crashing)
        with pytest.raises(KeyboardInterrupt):
            train.train("count", tmp_path / "crashed", config())
    train.train("count", tmp_path / "crashed", config())
    assert_same_run(train.train("count", tmp_path / "whole", config()).folder, tmp_path / "crashed")


SCRIPT = """
import sys, torch
torch.set_num_threads(1)
from ulmpaper.config import load_config
from ulmpaper.networks.train import train
exact = {"train.precision": "float32", "compute.device": "cpu"}
cfg = load_config("smoke", {**exact, **eval(sys.argv[2])})
if __name__ == "__main__":
    train("ml3d", sys.argv[1], cfg)
"""


@pytest.mark.slow
def test_kill_at_random_moments(tmp_path: Path) -> None:
    longer = {"ml3d.epochs": 12}
    train.train("ml3d", tmp_path / "whole", config(ml3d__epochs=12))
    (tmp_path / "run.py").write_text(SCRIPT, encoding="utf-8")
    rng, killed = np.random.default_rng(time.time_ns()), 0
    command = [sys.executable, str(tmp_path / "run.py"), str(tmp_path / "killed"), repr(longer)]
    for _ in range(4):
        process = subprocess.Popen(command)
        while process.poll() is None and not (tmp_path / "killed" / _LAST).exists():
            time.sleep(0.05)
        time.sleep(float(rng.uniform(0, 4)))
        killed += process.poll() is None
        process.kill()
        process.wait()
    assert killed
    subprocess.run(command, check=True)
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.slow
def test_two_processes_do_what_one_does_with_twice_the_batch(tmp_path: Path) -> None:
    (tmp_path / "run.py").write_text(SCRIPT, encoding="utf-8")
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    shared = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    command = [
        sys.executable,
        str(tmp_path / "run.py"),
        str(tmp_path / "two"),
        "{}",
    ]  # what torchrun starts
    both = [
        subprocess.Popen(command, env={**shared, "RANK": str(k), "LOCAL_RANK": str(k)})
        for k in range(2)
    ]
    assert [process.wait() for process in both] == [0, 0]
    train.train("ml3d", tmp_path / "one", config(ml3d__batch=4))
    one, two = tensors(tmp_path / "one"), tensors(tmp_path / "two")
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-5, msg=name)
    rows = [pd.read_csv(tmp_path / folder / METRICS) for folder in ("one", "two")]
    np.testing.assert_allclose(rows[1]["loss"], rows[0]["loss"], rtol=1e-4)


@pytest.mark.parametrize("name", ["ml3d", "count", "mspcn"])
def test_parts_of_a_batch_add_up(name: str, tmp_path: Path) -> None:
    whole = train.train(name, tmp_path / "whole", config(), stop_after=1)
    parts = train.train(
        name, tmp_path / "parts", config(**{f"{name}__accumulate": 2}), stop_after=1
    )
    gradient, other = (
        {n: t for n, t in tensors(run.folder).items() if n.startswith("adam.exp_avg.")}
        for run in (whole, parts)
    )
    for key, value in gradient.items():
        torch.testing.assert_close(other[key], value, rtol=1e-3, atol=1e-6)


def test_training_lowers_the_loss_and_records_it(tmp_path: Path) -> None:
    cfg = config(
        ml3d__epochs=4, ml3d__steps=30, ml3d__batch=4, ml3d__learning_rate=5e-3, train__crops=4
    )
    train.train("ml3d", tmp_path, cfg)
    table = pd.read_csv(tmp_path / METRICS)
    assert table["epoch"].tolist() == [1, 2, 3, 4]
    assert table["step"].tolist() == [30, 60, 90, 120]
    np.testing.assert_allclose(table["detection"] + table["offset"], table["loss"], rtol=1e-5)
    assert table["loss"].iloc[-1] < table["loss"].iloc[0]
    assert {"score", "jaccard_near", "recall_far", "seconds", "learning_rate"} <= set(table)
    net = read_network(tmp_path / BEST, recipe="ml3d")
    about = net.about
    assert about["scores"]["score"] == table["score"].max()
    assert (about["window"], about["data"]) == (5, "simulated")
    assert about["domain"]["bubbles_per_px"] == [8 / (64 * 72), 12 / (64 * 72)]
    assert 0.8 < about["domain"]["fwhm_z_px"][0] < about["domain"]["fwhm_z_px"][1] < 3
    assert net(torch.zeros(1, 1, 5, 16, 16)).shape == (1, 3, 5, 16, 16)


def test_compiled_and_bfloat16_are_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled, types = [], []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda net: compiled.append(net))
    loss = _step

    def noting(*arguments: object) -> dict[str, float]:
        types.append(arguments[4])
        return loss(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(train, "_step", noting)
    cfg = config(compute__compile=True, train__precision="bfloat16")
    summary = train.train("count", tmp_path, cfg, stop_after=2)
    assert len(compiled) == 1
    assert types == [torch.bfloat16] * 2
    assert all(value.dtype == torch.float32 for value in tensors(summary.folder).values())


def test_stored_data_are_trained_and_validated_on(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    table = bubble_table(
        np.repeat(np.arange(40), 3), rng.uniform(0, 63, 120), rng.uniform(0, 71, 120), np.ones(120)
    )
    with BlockStore(tmp_path / "data.h5", "w") as store:
        store.append(Block(rng.random((40, 64, 72), dtype=np.float32), table, 0.1, 1000.0))
    summary = train.train("mspcn", tmp_path / "run", config(), data=tmp_path / "data.h5")
    assert summary.step == 6
    about = read_network(summary.folder / BEST).about
    assert about["data"] == "data.h5"
    assert "domain" not in about
    with pytest.raises(ValueError, match=r"data = data\.h5, not simulated"):
        train.train("mspcn", tmp_path / "run", config())
    (tmp_path / "elsewhere").mkdir()
    with BlockStore(tmp_path / "elsewhere" / "data.h5", "w") as store:
        store.append(Block(rng.random((40, 64, 72), dtype=np.float32), table, 0.1, 1000.0))
    with pytest.raises(ValueError, match="begun with content = "):
        train.train("mspcn", tmp_path / "run", config(), data=tmp_path / "elsewhere" / "data.h5")
    with pytest.raises(ValueError, match="4 frames in this part, a window needs 30"):
        train.train("ml3d", tmp_path / "other", config(ml3d__window=30), data=tmp_path / "data.h5")


def test_a_training_begins_with_the_weights_of_another(tmp_path: Path) -> None:
    first = train.train("count", tmp_path / "first", config()).folder / BEST
    still = config(count__learning_rate=1e-12)
    train.train("count", tmp_path / "second", still, start=first)
    one, two = load_file(first), load_file(tmp_path / "second" / BEST)
    assert all(torch.allclose(one[name], two[name], atol=1e-9) for name in one)
    about = read_network(tmp_path / "second" / BEST).about
    assert len(about["settings"]["start"]) == 10
    with pytest.raises(ValueError, match="is read and would be replaced"):
        train.train("count", tmp_path / "first", still, start=first)
    with pytest.raises(ValueError, match="does not fit this CountNet"):
        train.train(
            "count", tmp_path / "shipped", still, start="paper"
        )  # the shipped one, of another size
    with pytest.raises(FileNotFoundError, match="no weights at papr"):
        train.train("count", tmp_path / "none", still, start="papr")
    with pytest.raises(ValueError, match="does not fit this CountNet"):
        train.train("count", tmp_path / "third", config(count__features=8), start=first)


def test_data_without_truth_are_refused(tmp_path: Path) -> None:
    with BlockStore(tmp_path / "data.h5", "w") as store:
        store.append(Block(np.zeros((40, 64, 72), dtype=np.float32)))
    with pytest.raises(ValueError, match="without true bubbles"):
        train.train("count", tmp_path / "run", config(), data=tmp_path / "data.h5")


def test_a_diverging_training_stops_and_keeps_its_last_state(tmp_path: Path) -> None:
    cfg = config(count__learning_rate=1e30, count__steps=1, count__epochs=9)
    with pytest.raises(FloatingPointError, match=r"diverged.*lower count.learning_rate"):
        train.train("count", tmp_path, cfg)
    assert progress(tmp_path)["step"] >= 1


def test_a_run_begun_with_other_settings_is_not_touched(tmp_path: Path) -> None:
    train.train("count", tmp_path, config(), stop_after=2)
    before = (tmp_path / _LAST).read_bytes()
    with pytest.raises(
        ValueError, match=r"begun with count\.features = 4, not 8: choose another folder"
    ):
        train.train("count", tmp_path, config(count__features=8))
    with pytest.raises(ValueError, match="begun with"):
        train.train("mspcn", tmp_path, config())
    assert (tmp_path / _LAST).read_bytes() == before
    assert (
        train.train("count", tmp_path, config(compute__batch=1, ml3d__features=3)).step == 6
    )  # none of its business


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04 pickled", b"\x80\x02pickled", b"\x10\0\0\0\0\0\0\0{ not json"]
)
def test_a_damaged_state_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / _LAST).write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot go on from .*delete the folder"):
        train.train("count", tmp_path, config())
    assert (tmp_path / _LAST).read_bytes() == content


def rewritten(folder: Path, change: str) -> None:
    """A state of which something was changed, without a checksum as in version 0.1.0."""
    path = folder / _LAST
    with safe_open(path, "pt") as file:
        about = file.metadata()
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    del about["sha256"]
    moments = sorted(name for name in state if name.startswith("adam.exp_avg."))
    done = json.loads(about["progress"])
    if change in about:
        del about[change]
    elif change == "no moment":
        del state[moments[0]]
    elif change == "unknown moment":
        state["adam.exp_avg.nothing"] = state[moments[0]].clone()
    elif change == "other shape":
        state[moments[0]] = torch.zeros(3)
    elif change == "no weight":
        del state[next(name for name in state if name.startswith("net."))]
    elif change in ("step", "-step"):
        about["progress"] = json.dumps({**done, "step": -1 if change == "-step" else 99})
    elif change == "words":
        about["progress"] = json.dumps({**done, "step": "two"})
    elif change == "more":
        about["progress"] = json.dumps({**done, "more": 1})
    elif change == "list":
        about["settings"] = "[1, 2]"
    save_file(state, path, about)


@pytest.mark.parametrize(
    "change",
    [
        *("format", "progress", "settings", "no moment", "unknown moment", "other shape"),
        *("no weight", "step", "-step", "words", "more", "list"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(change: str, tmp_path: Path) -> None:
    train.train("count", tmp_path, config(), stop_after=2)
    rewritten(tmp_path, change)
    before = (tmp_path / _LAST).read_bytes()
    with pytest.raises(ValueError, match=r"cannot go on from|does not fit"):
        train.train("count", tmp_path, config())
    assert (tmp_path / _LAST).read_bytes() == before


@pytest.mark.parametrize("place", [-1, -1000, 0.5, 400])
def test_a_flipped_bit_of_a_state_is_seen(place: float, tmp_path: Path) -> None:
    train.train("count", tmp_path, config(), stop_after=2)
    content = bytearray((tmp_path / _LAST).read_bytes())
    content[int(place * len(content)) if place == 0.5 else int(place)] ^= 4
    (tmp_path / _LAST).write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot go on from"):
        train.train("count", tmp_path, config())


def test_bad_requests(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown recipe 'ml3'"):
        train.train("ml3", tmp_path, config())
    with pytest.raises(ValueError, match=r"must be a multiple of train\.crops = 3"):
        train.train("count", tmp_path, config(train__crops=3))
    with pytest.raises(ValueError, match="does not fit into frames"):
        train.train("ml3d", tmp_path, config(ml3d__crop_px=100))
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="choose another folder"):
        train.train("count", tmp_path / "file", config())
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match=r"cuda.*cannot be used"):
            train.train("count", tmp_path / "cuda", config(compute__device="cuda"))


def test_learning_rates() -> None:
    options = Fitted(epochs=10, steps=10, learning_rate=1.0, warmup=0.2)
    rates = {
        decay: [_learning_rate(dataclasses.replace(options, decay=decay), k) for k in range(100)]
        for decay in ("none", "cosine", "halfway")
    }
    for curve in rates.values():
        np.testing.assert_allclose(curve[:20], np.arange(1, 21) / 20)
        assert max(curve) == 1.0
        assert min(curve) > 0
    assert set(rates["none"][20:]) == {1.0}
    assert np.all(np.diff(rates["cosine"][20:]) < 0)
    assert rates["halfway"][49:51] == [1.0, 0.1]
