"""The command line as a user meets it: results, messages, exit codes, and nothing half-written."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import io

from ulmpaper.core.records import Block
from ulmpaper.io.results import read_table

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def npy(flow: Block, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("frames") / "flow.npy"
    np.save(path, flow.frames)
    return path


@pytest.mark.parametrize(
    ("option", "meant"),
    [("--px-mm", "acquisition.px_mm"), ("--n-bubbles", "locate.n_bubbles")],
)
def test_a_setting_taken_for_an_option_is_named(
    run: Run, npy: Path, option: str, meant: str
) -> None:
    code, _, err = run("ulm", npy, "-o", "out", option, "1")
    assert code == 2
    assert f"settings are given by --set: --set {meant}=VALUE" in err
    code, _, err = run("info", npy, option, "1")  # takes no settings
    assert (code, "--set" in err) == (2, False)
    code, _, err = run("ulm", npy, "-o", "out", "--nosuch", "1")
    assert (code, "--set" in err) == (2, False)


def test_from_frames_to_maps(run: Run, npy: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, _, err = run(
        "ulm",
        npy,
        "-o",
        out,
        "--method",
        "parabola",
        "--set",
        "locate.min_score=0.25",
        "--set",
        "blocks.n_frames=40",
    )
    assert code == 0
    assert "does not state its pixel pitch and frame rate: 0.09856 mm and 1000 Hz assumed" in err
    assert re.search(r"\d+ tracks \(medians: [\d.]+ mm/s, [\d.]+ frames long\)", err)
    assert "80 frames" in err
    assert sorted(path.name for path in out.iterdir()) == [
        "bubbles.csv",
        "density.png",
        "direction.png",
        "maps.npz",
        "mean_velocity.png",
        "power_doppler.png",
        "run.json",
        "tables.h5",
        "tracks.csv",
        "velocity.png",
    ]
    tracks = read_table(out / "tables.h5", "tracks")
    assert tracks.columns.tolist() == ["frame", "z", "x", "score", "track", "vz", "vx"]
    assert len(pd.read_csv(out / "tracks.csv")) == len(tracks) > 100
    for name in ("bubbles", "tracks"):
        text = read_table(out / "tables.h5", name).to_csv(index=False, float_format="%.6g")
        assert (out / f"{name}.csv").read_text(encoding="utf-8") == text
    settings = json.loads((out / "run.json").read_text())
    assert settings["config"]["locate"]["method"] == "parabola"
    assert settings["input"] == "flow.npy"


@pytest.fixture
def networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Small networks in place of those that come with the package, trained on far denser frames."""
    import torch

    from ulmpaper.networks.model import MSPCN, CountNet, ML3DResNet
    from ulmpaper.networks.weights import write_network

    torch.manual_seed(0)
    for recipe, cls, network in (
        ("ml3d", ML3DResNet, {"features": 4, "blocks": 1}),
        ("count", CountNet, {"n_max": 20, "features": 4}),
        ("mspcn", MSPCN, {"upsample": 2}),
    ):
        about = {
            "digest": recipe,
            "window": 5,
            "threshold": 0.01,
            "domain": {"bubbles_per_px": [5, 9]},
        }
        path = tmp_path / f"{recipe}.safetensors"
        write_network(path, cls(**network), recipe=recipe, network=network, about=about)
    monkeypatch.setattr("ulmpaper.networks.weights._SHIPPED", tmp_path)
    return tmp_path


@pytest.mark.parametrize(("method", "weights"), [("ml3d", ["ml3d", "count"]), ("mspcn", ["mspcn"])])
def test_networks_from_frames_to_maps(
    run: Run, networks: Path, npy: Path, tmp_path: Path, method: str, weights: list[str]
) -> None:
    few = tmp_path / "few.npy"
    np.save(few, np.load(npy)[:20])
    out = tmp_path / "out"
    sets = ["ml3d.stride=5", "blocks.n_frames=10", "track.min_length=1"]
    code, _, err = run(
        "ulm", few, "-o", out, "--method", method, *(word for s in sets for word in ("--set", s))
    )
    assert code == 0
    warnings = [line for line in err.splitlines() if line.startswith("warning: ")]
    assert ["does not state" in line for line in warnings] == [True, False]
    assert "bubbles per pixel (5 to 9)" in warnings[-1]
    assert ".py" not in err
    assert json.loads((out / "run.json").read_text())["weights"] == {name: name for name in weights}
    assert len(read_table(out / "tables.h5", "bubbles")) > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--set", "blocks.n_frames=4", "--set", "ml3d.stride=1"],
            "comes in blocks of 4 frames, filters or network need 5: give more frames",
        ),
        (["--set", "ml3d.weights=nothing.safetensors"], "no weights at nothing.safetensors"),
        (["--set", "ml3d.weights=PICKLED"], "pickled checkpoint"),
        (["--set", "compute.device=tpu"], "device 'tpu' cannot be used"),
        (["--method", "ml3"], "unknown method 'ml3': did you mean 'ml3d'"),
        (["--set", "count.weights=MSPCN"], "recipe 'mspcn', but 'count' is needed"),
    ],
)
def test_networks_that_cannot_run_are_one_clear_error(
    run: Run, networks: Path, npy: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    pickled = tmp_path / "a.pt"
    pickled.write_bytes(b"PK\x03\x04")
    names = {"PICKLED": str(pickled), "MSPCN": str(networks / "mspcn.safetensors")}
    for name, path in names.items():
        arguments = [a.replace(name, path) for a in arguments]
    code, _, err = run("ulm", npy, "-o", tmp_path / "out", "--method", "ml3d", *arguments)
    assert code == 2
    assert err.splitlines()[-1].startswith("ulmpaper: ")
    assert message in err
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_data_of_the_same_name_are_told_apart(run: Run, npy: Path, tmp_path: Path) -> None:
    frames, out = np.load(npy), tmp_path / "out"
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "a.npy", frames if name == "one" else frames[::-1])
    assert run("ulm", tmp_path / "one" / "a.npy", "-o", out)[0] == 0
    code, _, err = run("ulm", tmp_path / "two" / "a.npy", "-o", out)
    assert (code, "holds the results of another run (content" in err) == (2, True)
    (out / "run.json").unlink()
    code, _, err = run("ulm", tmp_path / "one" / "a.npy", "-o", out)
    assert (code, "tracks.csv, maps.npz, density.png" in err) == (2, True)
    assert run("ulm", tmp_path / "two" / "a.npy", "-o", out, "--overwrite")[0] == 0


def test_files_of_two_sizes_are_refused_before_the_work(
    run: Run, npy: Path, tmp_path: Path
) -> None:
    np.save(tmp_path / "crop.npy", np.load(npy)[:, :40, :40])
    code, _, err = run("ulm", npy, tmp_path / "crop.npy", "-o", tmp_path / "out")
    assert (code, "differ in the size of their frames" in err) == (2, True)
    assert not (tmp_path / "out").exists()


def test_store_writes_over_nothing_else(run: Run, npy: Path, tmp_path: Path) -> None:
    before = npy.read_bytes()
    code, _, err = run("store", npy, "-o", npy)
    assert (code, "unknown kind of file to write" in err) == (2, True)
    assert npy.read_bytes() == before
    out = tmp_path / "a.h5"
    assert run("store", npy, "-o", out)[0] == run("store", npy, "-o", out)[0] == 0
    np.save(tmp_path / "other.npy", np.load(npy))
    code, _, err = run("store", tmp_path / "other.npy", "-o", out)
    assert (code, "was not made of other.npy" in err) == (2, True)
    np.save(tmp_path / "db.npy", -np.load(npy))
    for command in (("store",), ("ulm", "--set", "filter.svd_low=5")):
        code, _, err = run(command[0], tmp_path / "db.npy", "-o", tmp_path / "b.h5", *command[1:])
        assert (code, "negative values" in err) == (2, True)


@pytest.mark.parametrize("filtering", ["filter.svd_low=10", "filter.band_hz=(50,249)"])
def test_a_short_rest_joins_the_block_before(
    run: Run, npy: Path, tmp_path: Path, filtering: str
) -> None:
    np.save(tmp_path / "a.npy", np.load(npy)[:65])
    how = ("--set", filtering, "--set", "blocks.n_frames=60")
    code, _, err = run("ulm", tmp_path / "a.npy", "-o", tmp_path / "out", *how)
    assert (code, "65 frames" in err) == (0, True)
    assert json.loads((tmp_path / "out" / "run.json").read_text())["n_frames"] == 65
    np.save(tmp_path / "b.npy", np.load(npy)[:8])
    code, _, err = run("ulm", tmp_path / "b.npy", "-o", tmp_path / "other", *how)
    assert code == 2
    assert "b.npy comes in blocks of 8 frames, filters or network need 1" in err
    assert not (tmp_path / "other").exists()


def test_without_weights_it_is_said_how_to_train_them(
    run: Run, npy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ulmpaper.networks.weights._SHIPPED", tmp_path)
    code, _, err = run("ulm", npy, "-o", tmp_path / "out", "--method", "mspcn")
    assert code == 2
    assert "`ulmpaper train --recipe mspcn`" in err


def test_what_the_user_says_of_the_scale_counts(run: Run, npy: Path, tmp_path: Path) -> None:
    scale = ["--set", "acquisition.px_mm=1", "--set", "acquisition.frame_rate_hz=1"]
    code, _, err = run("ulm", npy, "-o", tmp_path, *scale)
    assert code == 0
    assert "assumed" not in err
    tracks = read_table(tmp_path / "tables.h5", "tracks")
    assert np.hypot(tracks.vz, tracks.vx).median() < 1  # pixels per frame


def test_results_of_another_run_are_kept(run: Run, npy: Path, tmp_path: Path) -> None:
    assert run("ulm", npy, "-o", tmp_path / "out")[0] == 0
    assert run("ulm", npy, "-o", tmp_path / "out")[0] == 0, "the same again"
    first = (tmp_path / "out" / "tables.h5").read_bytes()
    code, _, err = run("ulm", npy, "-o", tmp_path / "out", "--method", "parabola")
    assert code == 2
    assert "out holds the results of another run (method 'radial' there" in err
    assert "--overwrite" in err
    assert (tmp_path / "out" / "tables.h5").read_bytes() == first
    other = tmp_path / "other.npy"
    other.write_bytes(npy.read_bytes())
    code, _, err = run("ulm", other, "-o", tmp_path / "out")
    assert code == 2
    assert "input 'flow.npy' there, 'other.npy' now" in err
    assert run("ulm", other, "-o", tmp_path / "out", "--overwrite")[0] == 0
    assert json.loads((tmp_path / "out" / "run.json").read_text())["input"] == "other.npy"


def test_matlab_file_of_every_version(run: Run, flow: Block, tmp_path: Path) -> None:
    frames = np.moveaxis(flow.frames, 0, 2)
    io.savemat(tmp_path / "v5.mat", {"frames": frames})
    with h5py.File(tmp_path / "v73.mat", "w", userblock_size=512) as file:
        file["frames"] = frames.T
    tables = []
    for name in ("v5.mat", "v73.mat"):
        assert run("ulm", tmp_path / name, "-o", tmp_path / name[:-4])[0] == 0
        tables.append(read_table(tmp_path / name[:-4] / "tables.h5", "tracks"))
    pd.testing.assert_frame_equal(*tables)


def test_real_kidney(run: Run, data_mirror: Path, tmp_path: Path) -> None:
    path = data_mirror / "normal_rat_kidney_frame50.mat"
    code, out, _ = run("info", path)
    assert code == 0
    assert "50 of 343 x 230 px" in out
    code, _, _ = run(
        "ulm", path, "-o", tmp_path, "--set", "locate.n_bubbles=300", "--set", "locate.roi_px=7",
        "--set", "locate.max_peaks_in_roi=7", "--set", "track.min_length=5",
    )  # fmt: skip
    assert code == 0
    with np.load(tmp_path / "maps.npz") as maps:
        assert maps["density"].shape == (3430, 2300)
    assert read_table(tmp_path / "tables.h5", "tracks").track.nunique() > 300


def test_info_and_config_and_list(run: Run, npy: Path) -> None:
    code, out, _ = run("info", npy)
    assert code == 0
    assert "80 of 48 x 60 px (z, x), stored as float32" in out
    code, out, _ = run("config", "--set", "track.max_gap=2")
    assert code == 0
    assert any(line.split()[:2] == ["track.max_gap", "2"] for line in out.splitlines())
    code, out, _ = run("fetch", "--list")
    assert code == 0
    assert all(name in out for name in ("rat-kidney", "pala-insilico", "licence"))


def test_fetch_from_the_mirror(
    run: Run, data_mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ULMPAPER_DATA_MIRROR", str(data_mirror))
    code, out, _ = run("fetch", "rat-kidney", "--data-dir", tmp_path)
    assert code == 0
    assert Path(out.split(": ", 1)[1].strip()).is_file()


def bad_files(folder: Path) -> dict[str, Path]:
    """Files that cannot be used, by what is wrong with them."""
    files = {
        name: folder / f"{name}.npy" for name in ("nan", "two_d", "negative", "empty", "words")
    }
    np.save(files["nan"], np.full((3, 9, 9), np.nan))
    np.save(files["two_d"], np.ones((9, 9)))
    np.save(files["negative"], -np.ones((3, 9, 9)))
    np.save(files["empty"], np.ones((0, 9, 9)))
    np.save(files["words"], np.array([[["a"]]]))
    io.savemat(folder / "other.mat", {"a": np.ones((9, 9, 3)), "b": np.ones((9, 9, 4))})
    whole = (folder / "other.mat").read_bytes()
    (folder / "cut.mat").write_bytes(whole[: len(whole) // 2])
    (folder / "text.mat").write_text("not a MATLAB file")
    (folder / "frames.xyz").write_text("?")
    return {**files, **{p.stem: p for p in folder.iterdir()}}


@pytest.mark.parametrize(
    ("file", "arguments", "message"),
    [
        ("nan", [], "NaN or infinite values, first in frame 0"),
        ("two_d", [], "9"),
        ("negative", [], "negative values"),
        ("empty", [], "(0, 9, 9)"),
        ("words", [], "words.npy"),
        ("other", [], "a"),
        ("other", ["--variable", "c"], "b"),
        ("cut", [], "cut.mat"),
        ("text", [], "text.mat"),
        ("frames", [], ".npy"),
        ("missing", [], "missing.npy"),
        ("flow", ["--method", "radail"], "unknown method 'radail': did you mean 'radial'"),
        ("flow", ["--profile", "quik"], "unknown profile 'quik': did you mean 'quick'"),
        ("flow", ["--set", "track.max_gpa=1"], "did you mean 'track.max_gap'"),
        ("flow", ["--set", "track.max_gap"], "--set takes KEY=VALUE"),
        ("flow", ["--set", "track.max_gap=-1"], "max_gap must be 0 or more"),
        ("flow", ["--set", "locate.roi_px=71"], "smaller than the window of 71 x 71"),
        (
            "flow",
            ["--set", "filter.svd_low=90"],
            "comes in blocks of 80 frames, filters or network need 90",
        ),
        ("flow", ["--set", "filter.band_hz=(50,900)"], "half the frame rate (500 Hz)"),
        ("flow", ["--jobs", "0"], "n_jobs"),
        ("flow", ["-o", "FILE/sub"], "choose another folder"),
    ],
)
def test_bad_input_is_one_clear_error(
    run: Run, npy: Path, tmp_path: Path, file: str, arguments: list[str], message: str
) -> None:
    files = {**bad_files(tmp_path), "flow": npy, "missing": tmp_path / "missing.npy"}
    out = tmp_path / "out"
    arguments = [a.replace("FILE", str(files["nan"])) for a in arguments]
    code, stdout, err = run("ulm", files[file], "-o", out, *arguments)
    errors = [line for line in err.splitlines() if "assumed" not in line]
    assert code == 2
    assert stdout == ""
    assert "Traceback" not in err
    assert errors[0].startswith("ulmpaper: ")
    assert message in "\n".join(errors)
    assert not out.exists() or not list(out.iterdir())


@pytest.mark.parametrize("arguments", [["fetch"], ["fetch", "rat-kidny"], ["info", "nothing.mat"]])
def test_other_commands_fail_as_clearly(run: Run, arguments: list[str]) -> None:
    code, _, err = run(*arguments)
    assert code == 2
    assert err.startswith("ulmpaper: ")
    assert "rat-kidney" in err or "nothing.mat" in err


def test_a_full_disk_leaves_nothing_half_written(npy: Path, tmp_path: Path) -> None:
    def no_large_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    command = [sys.executable, "-m", "ulmpaper", "ulm", str(npy), "-o", str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    ended = subprocess.run(
        command, preexec_fn=no_large_files, capture_output=True, text=True, env=environment
    )
    assert ended.returncode == 2, ended.stderr
    assert "Traceback" not in ended.stderr
    assert "File too large" in ended.stderr
    assert "choose another folder" in ended.stderr
    assert not (tmp_path / "out").exists()


def test_a_full_disk_does_not_crash_the_block_store(tmp_path: Path) -> None:
    script = """
import sys, numpy as np
from ulmpaper.core.records import Block
from ulmpaper.io.store import BlockStore
try:
    with BlockStore(sys.argv[1], "w") as store:
        store.append(Block(np.random.default_rng(0).random((20, 30, 30), dtype=np.float32)))
except OSError as error:
    sys.exit(f"{error}")
"""

    def no_large_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))

    command = [sys.executable, "-B", "-c", script, str(tmp_path / "store.h5")]
    ended = subprocess.run(command, preexec_fn=no_large_files, capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr.startswith("cannot write")
    assert "make room and start again" in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_help_names_all_commands(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    assert all(name in out for name in ("ulm", "info", "fetch", "config"))
