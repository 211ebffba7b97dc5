"""`ulmpaper simulate`: files that ULM reads, runs that are taken up again, messages."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from _pala_files import write_flow

from ulmpaper.config import load_config
from ulmpaper.core.records import Block
from ulmpaper.io.readers import open_frames, read_insilico
from ulmpaper.io.results import read_table
from ulmpaper.io.store import BlockStore
from ulmpaper.networks.weights import read_network
from ulmpaper.paper.experiment import Method, compare
from ulmpaper.paper.sequences import insilico_blocks
from ulmpaper.simulator import datasets, simulate
from ulmpaper.simulator.datasets import simulate_dataset
from ulmpaper.simulator.simulate import cam_blocks, phantom_blocks

Run = Callable[..., tuple[int, str, str]]
SMOKE = ["--profile", "smoke"]
SHORT = [*SMOKE, "--set", "cam.n_frames=25", "--set", "cam.sequence_frames=10"]
FEW = [
    *SMOKE,
    "--set",
    "phantom.n_sequences=2",
    "--set",
    "phantom.n_frames=2",
    "--set",
    "phantom.n_bubbles=3",
]


@pytest.fixture(autouse=True)
def empty_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Work where no data lie about."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ULMPAPER_DATA_MIRROR", raising=False)


@pytest.fixture
def stops(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], None]:
    """Make a function of `scenes` raise KeyboardInterrupt at its n-th call."""

    def arm(name: str, n_calls: int) -> None:
        real, calls = getattr(simulate, name), []

        def stopping(*arguments: object, **options: object) -> Block:
            calls.append(arguments)
            if len(calls) == n_calls:
                raise KeyboardInterrupt
            return real(*arguments, **options)

        monkeypatch.setattr(simulate, name, stopping)

    return arm


def read(path: Path) -> Block:
    return open_frames(path).read()


def assert_same(a: Block, b: Block) -> None:
    np.testing.assert_array_equal(a.frames, b.frames)
    pd.testing.assert_frame_equal(a.bubbles, b.bubbles)
    assert (a.px_mm, a.frame_rate_hz, a.source) == (b.px_mm, b.frame_rate_hz, b.source)


@pytest.mark.parametrize(
    ("kind", "arguments", "filter_"),
    [
        ("cam", ["--split", "train"], []),
        ("invivo", ["--set", "invivo.n_bubbles=30"], ["--set", "filter.svd_low=10"]),
    ],
)
def test_from_settings_to_maps(
    run: Run, kind: str, arguments: list[str], filter_: list[str]
) -> None:
    scale = ["--set", "acquisition.px_mm=0.05", "--set", "acquisition.frame_rate_hz=800"]
    code, out, err = run("simulate", kind, "-o", "it.h5", *SMOKE, *scale, *arguments)
    assert (code, out) == (0, "")
    assert "60 frames with their true bubbles -> it.h5" in err
    assert ("--set filter.svd_low=10" in err) == (kind == "invivo")
    code, out, _ = run("info", "it.h5")
    assert "pixel pitch  0.05 mm" in out
    assert "frame rate   800 Hz" in out
    assert "truth        yes" in out
    assert ("complex64" in out) == (kind == "invivo")
    code, _, err = run("ulm", "it.h5", "-o", "maps", *SMOKE, *filter_)
    assert code == 0
    assert "assumed" not in err, "pixel pitch and frame rate come from the file"
    settings = json.loads(Path("maps/run.json").read_text())
    assert (settings["px_mm"], settings["config"]["acquisition"]["frame_rate_hz"]) == (0.05, 800)
    assert len(read_table("maps/tables.h5", "tracks")) > 100


def test_blocks_are_those_of_scenes(run: Run) -> None:
    assert run("simulate", "cam", "-o", "it.h5", *SHORT)[0] == 0
    cfg = load_config("smoke", {"cam.n_frames": 25, "cam.sequence_frames": 10})
    with BlockStore("it.h5") as store:
        windows = [store.window(0, 10), store.window(10, 10), store.window(20, 5)]
        assert store.about["simulate"] == "cam"
        assert store.about["split"] == "test"
        assert store.about["cam.shape_px"] == list(cfg.cam.shape_px)
    for window, block in zip(windows, cam_blocks(cfg, "test"), strict=True):
        assert_same(window, block)


def test_same_seed_same_bytes(run: Run) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert run("simulate", "cam", "-o", f"{name}.h5", *SHORT, "--set", f"seed={seed}")[0] == 0
    a, b, c = (Path(f"{name}.h5").read_bytes() for name in "abc")
    assert a == b
    assert a != c


@pytest.mark.parametrize(("kind", "n_calls"), [("cam", 1), ("cam", 2), ("cam", 3), ("invivo", 2)])
def test_an_interrupted_store_goes_on(run: Run, stops: Callable, kind: str, n_calls: int) -> None:
    arguments = [*SHORT, "--set", "invivo.n_frames=16", "--set", "invivo.n_blocks=3"]
    assert run("simulate", kind, "-o", "whole.h5", *arguments)[0] == 0
    whole = read(Path("whole.h5"))
    stops(f"{kind}_block", n_calls)
    assert run("simulate", kind, "-o", "it.h5", *arguments)[0] != 0
    size = {"cam": 10, "invivo": 16}[kind]
    if n_calls == 1:
        assert not Path("it.h5").exists(), "nothing is left where nothing was done"
    else:
        assert open_frames("it.h5").n_frames == (n_calls - 1) * size
    code, _, err = run("simulate", kind, "-o", "it.h5", *arguments)
    assert code == 0
    assert f"{len(whole.frames)} frames" in err
    assert_same(read(Path("it.h5")), whole)


def test_a_complete_store_is_left_alone(run: Run) -> None:
    assert run("simulate", "cam", "-o", "it.h5", *SHORT)[0] == 0
    before = read(Path("it.h5"))
    code, _, err = run("simulate", "cam", "-o", "it.h5", *SHORT, "--set", "track.max_gap=3")
    assert code == 0, "settings of other sections do not matter"
    assert "25 frames" in err
    assert_same(read(Path("it.h5")), before)


def test_killed_and_taken_up_again(run: Run, tmp_path: Path) -> None:
    arguments = [*SMOKE, "--set", "cam.n_frames=1000", "--set", "cam.sequence_frames=100"]
    it, command = (
        tmp_path / "it.h5",
        [sys.executable, "-m", "ulmpaper", "simulate", "cam", *arguments],
    )
    with subprocess.Popen([*command, "-o", str(it)]) as process:
        while process.poll() is None and not (it.exists() and it.stat().st_size > 2_000_000):
            time.sleep(0.005)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    with BlockStore(it) as store:
        assert len(store) in range(100, 1000, 100)
    for name in ("it.h5", "whole.h5"):
        assert run("simulate", "cam", "-o", name, *arguments)[0] == 0
    assert_same(read(it), read(tmp_path / "whole.h5"))


def test_more_blocks_are_added(run: Run) -> None:
    short = [*SMOKE, "--set", "invivo.n_frames=16"]
    for n_blocks in (1, 3, 2):
        assert (
            run(
                "simulate", "invivo", "-o", "it.h5", *short, "--set", f"invivo.n_blocks={n_blocks}"
            )[0]
            == 0
        )
    assert open_frames("it.h5").n_frames == 48


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--set", "seed=3"],
            "it.h5 was begun with seed = 2024, not 3: choose another name, or delete it",
        ),
        (["--set", "cam.n_frames=30"], "begun with cam.n_frames = 25, not 30"),
        (["--set", "acquisition.px_mm=0.1"], "begun with acquisition.px_mm = 0.09856, not 0.1"),
        (["--split", "train"], "begun with split = test, not train"),
    ],
)
def test_other_settings_do_not_add_to_a_store(run: Run, arguments: list[str], message: str) -> None:
    assert run("simulate", "cam", "-o", "it.h5", *SHORT)[0] == 0
    before = Path("it.h5").read_bytes()
    code, _, err = run("simulate", "cam", "-o", "it.h5", *SHORT, *arguments)
    assert code == 2
    assert message in err
    assert Path("it.h5").read_bytes() == before


def test_files_of_others_are_left_alone(run: Run, flow: Block) -> None:
    with BlockStore("store.h5", "w") as store:
        store.append(flow)
    Path("text.h5").write_text("text")
    Path("pala/IQ").mkdir(parents=True)
    before = Path("store.h5").read_bytes()
    for kind, name, message in [
        (
            "cam",
            "store.h5",
            "store.h5 holds something else than simulated data: choose another name",
        ),
        ("cam", "text.h5", "cannot read text.h5"),
        ("phantom", "pala", "pala holds something else than simulated data"),
    ]:
        code, _, err = run("simulate", kind, "-o", name, *SHORT)
        assert code == 2
        assert message in err
    assert Path("store.h5").read_bytes() == before
    assert Path("text.h5").read_text() == "text"
    assert [path.name for path in Path("pala").iterdir()] == ["IQ"]


def test_phantom_in_the_layout_of_pala(run: Run) -> None:
    code, _, err = run("simulate", "phantom", "-o", "new/insilico", *FEW)
    assert code == 0
    assert "4 frames with their true bubbles -> new/insilico" in err
    cfg = load_config(
        "smoke", {"phantom.n_sequences": 2, "phantom.n_frames": 2, "phantom.n_bubbles": 3}
    )
    for number, block in enumerate(phantom_blocks(cfg, cache_dir=None), 1):
        again = read_insilico("new/insilico", number)
        np.testing.assert_array_equal(again.frames, block.frames)
        np.testing.assert_allclose(again.bubbles[["z", "x"]], block.bubbles[["z", "x"]], atol=1e-9)
        assert (again.px_mm, again.frame_rate_hz) == (
            pytest.approx(block.px_mm),
            block.frame_rate_hz,
        )
    assert sorted(path.name for path in Path("new/insilico").iterdir()) == [
        "IQ",
        "PALA_InSilicoFlow_sequence.mat",
        "simulate.json",
    ]
    assert run("ulm", "new/insilico/IQ/PALA_InSilicoFlow_IQ001.mat", "-o", "maps", *SMOKE)[0] == 0


@pytest.mark.parametrize("n_calls", [1, 2])
def test_an_interrupted_phantom_goes_on(run: Run, stops: Callable, n_calls: int) -> None:
    stops("phantom_block", n_calls)
    assert run("simulate", "phantom", "-o", "it", *FEW)[0] != 0
    done = {path.name: path.read_bytes() for path in Path("it").rglob("*IQ*.mat")}
    assert len(done) == n_calls - 1
    assert run("simulate", "phantom", "-o", "it", *FEW)[0] == 0
    files = {path.name: path.read_bytes() for path in Path("it").rglob("*IQ*.mat")}
    assert len(files) == 2
    assert done.items() <= files.items(), "what was done is not done again"
    code, _, err = run("simulate", "phantom", "-o", "it", *FEW, "--set", "phantom.n_frames=3")
    assert code == 2
    assert "it was begun with phantom.n_frames = 2, not 3" in err


def test_a_split_of_the_phantom_is_added_to_the_first_sequences(run: Run) -> None:
    assert run("simulate", "phantom", "-o", "it", *FEW)[0] == 0
    code, _, err = run("simulate", "phantom", "-o", "it", "--split", "validation", *FEW)
    assert (code, err) == (0, "10 frames with their true bubbles -> it\n")
    names = sorted(path.name for path in Path("it/IQ").iterdir())
    assert names == [f"PALA_InSilicoFlow_IQ{number:03d}.mat" for number in (1, 2, *range(16, 21))]
    cfg = load_config("smoke", {"phantom.n_frames": 2, "phantom.n_bubbles": 3})
    (sixteenth,) = phantom_blocks(cfg, [16], cache_dir=None)
    np.testing.assert_array_equal(read_insilico("it", 16).frames, sixteenth.frames)


@pytest.mark.parametrize(
    ("kind", "out", "arguments", "message"),
    [
        (
            "can",
            "it.h5",
            [],
            "unknown kind of data 'can': did you mean 'cam'? Allowed: cam, phantom, invivo",
        ),
        ("cam", "", [], "cam needs a place to be written to, not an empty name"),
        ("phantom", "", [], "phantom needs a place to be written to"),
        ("cam", "it.mat", [], "one file whose name ends in .h5, not to 'it.mat'"),
        ("cam", "there/is/none/it.h5", [], "there is no folder there/is/none: make it first"),
        ("cam", "FILE/it.h5", [], "there is no folder"),
        ("phantom", "FILE/it", [], "(Not a directory): choose another folder"),
        ("cam", "it.h5", ["--split", "tests"], "unknown split 'tests': did you mean 'test'?"),
        (
            "invivo",
            "it.h5",
            ["--split", "test"],
            "invivo has no split 'test': only cam and phantom have",
        ),
        ("cam", "it.h5", ["--profile", "smok"], "unknown profile 'smok': did you mean 'smoke'"),
        ("cam", "it.h5", ["--set", "cam.psf=bmoed"], "did you mean 'bmode'"),
        (
            "cam",
            "it.h5",
            ["--set", "cam.n_bubbles=(90,10)"],
            "n_bubbles must be two numbers, the lower one first",
        ),
        (
            "cam",
            "it.h5",
            ["--set", "cam.picture_px=70"],
            "raise cam.picture_px or lower cam.shape_px",
        ),
        (
            "cam",
            "it.h5",
            ["--set", "cam.n_bubbles=(1,99999)"],
            "the pixels of the mask that have flow",
        ),
        (
            "invivo",
            "it.h5",
            ["--set", "invivo.n_bubbles=99999"],
            "the pixels of the mask that have flow",
        ),
        ("phantom", "it", ["-j", "0"], "n_jobs (-j) must be 1 or more"),
        ("phantom", "it", ["--split", "train"], "unknown split of the phantom 'train'"),
    ],
)
def test_bad_input_is_one_clear_error(
    run: Run, kind: str, out: str, arguments: list[str], message: str
) -> None:
    Path("FILE").write_text("a file")
    code, stdout, err = run("simulate", kind, "-o", out, *SMOKE, *arguments)
    assert (code, stdout) == (2, "")
    assert len(err.splitlines()) == 1
    assert err.startswith("ulmpaper: ")
    assert message in err
    assert [path.name for path in Path().iterdir()] == ["FILE"], "nothing is left behind"


@pytest.mark.parametrize(("kind", "out"), [("cam", "it.h5"), ("phantom", "it")])
def test_a_folder_that_cannot_be_written_to(
    run: Run, kind: str, out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(datasets, "BlockStore", refuse)
    monkeypatch.setattr(Path, "mkdir", refuse)
    code, _, err = run("simulate", kind, "-o", out, *SMOKE)
    assert code == 2
    assert "cannot write to" in err
    assert "(Permission denied): choose another folder" in err


def test_what_a_store_is_told_about_itself(tmp_path: Path, flow: Block) -> None:
    about = {"words": "a", "numbers": [1, 2.5], "none": None}
    with BlockStore(tmp_path / "a.h5", "w", about) as store:
        store.append(flow)
    with BlockStore(tmp_path / "a.h5", "a", {"words": "others"}) as store:
        assert store.about == about, "only a new store gets it"
    BlockStore(tmp_path / "b.h5", "w").close()
    with BlockStore(tmp_path / "b.h5") as store:
        assert store.about == {}


def test_progress_is_shown_after_two_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = []

    class Bar(list):
        def __init__(self, **options: object) -> None:
            shown.append(options)

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def update(self, n: int) -> None:
            shown.append(n)

    monkeypatch.setattr(datasets, "tqdm", Bar)
    cfg = load_config("smoke", {"cam.n_frames": 25, "cam.sequence_frames": 10})

    blocks = list(cam_blocks(cfg))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulate, "cam_blocks", lambda *_, **__: iter(blocks[:2]))
        simulate_dataset("cam", tmp_path / "a.h5", cfg, progress=True)
    simulate_dataset("cam", tmp_path / "a.h5", cfg, progress=True)
    assert [options for options in shown if isinstance(options, dict)] == [
        {"total": 25, "initial": 0, "unit": "frame", "delay": 2, "disable": False},
        {"total": 25, "initial": 20, "unit": "frame", "delay": 2, "disable": False},
    ]
    assert [n for n in shown if isinstance(n, int)] == [10, 10, 5]


def test_store_joins_palas_sequences_with_their_truth(run: Run, tmp_path: Path) -> None:
    run("simulate", "phantom", "-o", tmp_path / "pala", *FEW)
    files = sorted((tmp_path / "pala" / "IQ").glob("*.mat"))
    code, _, err = run("store", *files, "-o", tmp_path / "all.h5")
    assert (code, err) == (0, f"4 frames -> {tmp_path / 'all.h5'}\n")
    blocks = [read_insilico(file) for file in files]
    with BlockStore(tmp_path / "all.h5") as store:
        joined = store.window(0, 4)
    np.testing.assert_array_equal(
        joined.frames, np.abs(np.concatenate([block.frames for block in blocks]))
    )
    assert joined.frames.dtype == np.float32
    assert len(joined.truth) == sum(len(block.truth) for block in blocks)
    np.save(tmp_path / "other.npy", np.ones((3, 8, 9), np.float32))
    code, _, err = run("store", files[0], tmp_path / "other.npy", "-o", tmp_path / "bad.h5")
    assert code == 2
    assert err.count("\n") == 1
    assert not (tmp_path / "bad.h5").exists()


def test_a_network_goes_on_with_palas_last_sequences(run: Run, tmp_path: Path) -> None:
    """As the paper trains: on sequences 16 to 20, the last tenth to validate on; tested on another
    one.
    """
    folder = write_flow(tmp_path, (1, *range(16, 21)), n_frames=10)
    files = [folder / "IQ" / f"PALA_InSilicoFlow_IQ{number:03d}.mat" for number in range(16, 21)]
    assert run("store", *files, "-o", tmp_path / "last.h5")[0] == 0
    small = ["--recipe", "ml3d", *SMOKE, "--set", "ml3d.steps=1"]
    assert run("train", *small, "-o", tmp_path / "cam")[0] == 0
    how = ["--data", tmp_path / "last.h5", "--start", tmp_path / "cam" / "best.safetensors"]
    code, _, err = run("train", *small, *how, "-o", tmp_path / "pala")
    assert (code, err.splitlines()[0].split(",")[0]) == (0, "2 of 2 steps")
    about = read_network(tmp_path / "pala" / "best.safetensors", recipe="ml3d").about
    assert about["settings"]["data"] == "last.h5"
    cfg = load_config("smoke", {"phantom.n_frames": 10})
    ours = Method("ml3d", "true", weights=str(tmp_path / "pala" / "best.safetensors"))
    made = compare(
        insilico_blocks(cfg, "test", source="pala", data_dir=tmp_path),
        {"ours": ours},
        cfg,
        draw=False,
    )
    assert made.sums["truth"].n_true.sum() > 100
