"""The calls that users make, and those that they guess: they work, or name the right one."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import ulmpaper as ulm
from ulmpaper import io, metrics, networks, paper
from ulmpaper.core.records import Block, UlmWarning
from ulmpaper.paper.experiment import Comparison

ROOT = Path(__file__).parents[1]
OFFERED = """
    read_frames open_frames fetch load_config ulm locate link drop_short interpolate render_maps
    match_bubbles score_bubbles score_maps simulate train load_network plot_frame plot_tracks
    plot_map save_result look Block bubble_table
"""


SCALE = {"acquisition.px_mm": 0.09856, "acquisition.frame_rate_hz": 1000.0}


@pytest.fixture
def file(tmp_path: Path, flow: Block) -> Path:
    np.save(tmp_path / "frames.npy", flow.frames)
    return tmp_path / "frames.npy"


def test_the_front_door_offers_what_it_promises() -> None:
    assert set(ulm.__all__) == set(OFFERED.split())
    assert all(getattr(ulm, name).__doc__ for name in ulm.__all__)


def test_what_the_front_door_offers_can_be_sent_to_other_processes() -> None:
    for name in ulm.__all__:
        offered = getattr(ulm, name)
        assert pickle.loads(pickle.dumps(offered)) is offered


# --- the twelve calls ----------------------------------------------------------------------------


def test_read(file: Path, flow: Block) -> None:
    np.testing.assert_array_equal(ulm.read_frames(file).frames, flow.frames)
    assert sum(len(block.frames) for block in ulm.open_frames(file).blocks(30)) == 80


def test_all_at_once_from_everything(file: Path, flow: Block) -> None:
    settings = {"locate.n_bubbles": 12, **SCALE}
    from_array = ulm.ulm(flow.frames, settings, method="parabola")
    from_block = ulm.ulm(flow, ulm.load_config("quick", settings), "parabola")
    from_file = ulm.ulm(file, settings, method="parabola")
    for other in (from_block, from_file):
        pd.testing.assert_frame_equal(other.bubbles, from_array.bubbles)
    for profile, given in {"quick": None, "smoke": "smoke"}.items():
        with pytest.warns(UlmWarning, match=r"0\.09856 mm and 1000 Hz assumed"):
            assert ulm.ulm(flow.frames, given).config == ulm.load_config(profile)


def test_step_by_step(flow: Block) -> None:
    bubbles = ulm.locate(flow.frames, "parabola", n_bubbles=12)
    tracks = ulm.drop_short(ulm.link(bubbles), 15)
    maps = ulm.render_maps(tracks, (48, 60), px_mm=flow.px_mm, frame_rate_hz=1000)
    whole = ulm.ulm(flow, {"locate.n_bubbles": 12}, method="parabola")
    np.testing.assert_array_equal(maps.density, whole.maps["density"])
    truth = ulm.drop_short(ulm.link(flow.bubbles), 15)
    true = ulm.render_maps(truth, (48, 60), px_mm=flow.px_mm, frame_rate_hz=1000)
    assert ulm.score_bubbles(bubbles, flow.bubbles)["jaccard_far"] > 0.7
    scores = ulm.score_maps(maps.density, true.density, upsample=10)
    assert scores["ssim_max"] > 0.5
    assert scores["covered"] > 0.7


def test_a_method_of_ones_own(flow: Block) -> None:
    def brightest_pixel(windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros(len(windows)), np.zeros(len(windows))

    expected = ulm.locate(flow.frames, "none", 12)
    pd.testing.assert_frame_equal(ulm.locate(flow.frames, brightest_pixel, 12), expected)
    result = ulm.ulm(flow, {"locate.n_bubbles": 12}, method=brightest_pixel)
    pd.testing.assert_frame_equal(result.bubbles, expected)


@pytest.mark.filterwarnings("ignore:the frames are unlike those of the training")
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("method", ["ml3d", "mspcn"])
def test_networks_by_the_same_door(flow: Block, method: str) -> None:
    found = ulm.locate(flow.frames[:10], method)
    assert found.columns.tolist() == ["frame", "z", "x", "score"]
    assert ulm.score_bubbles(found, flow.first(10).bubbles)["jaccard_far"] > 0.4
    assert ulm.load_network(method).about["digest"]


@pytest.mark.parametrize("kind", ["cam", "phantom", "invivo", "testcard"])
def test_simulate(kind: str) -> None:
    cfg = ulm.load_config("smoke", {"phantom.n_bubbles": 5})
    n_frames = 30 if kind == "invivo" else 4
    block = ulm.simulate(kind, cfg, number=1, n_frames=n_frames)
    assert len(block.frames) == n_frames
    assert block.truth["frame"].nunique() == n_frames
    again = ulm.simulate(kind, cfg, number=1, n_frames=n_frames)
    np.testing.assert_array_equal(block.frames, again.frames)
    other = ulm.simulate(kind, cfg, number=0, n_frames=n_frames)
    assert not np.array_equal(block.frames, other.frames)


def test_train_and_compare(tmp_path: Path, flow: Block) -> None:
    summary = ulm.train("count", tmp_path / "run", "smoke")
    assert networks.read_network(summary.folder / "best.safetensors").about["data"] == "simulated"
    compared = paper.compare([flow], {"RS": paper.Method("radial", 12)}, "smoke")
    assert isinstance(compared, Comparison)
    rng = np.random.default_rng(0)
    assert compared.bubble_scores(rng=rng, n_draws=3).values.loc["RS", "recall_far"] > 0.7
    assert "ssim_max" in compared.map_scores(rng=rng, n_draws=0).values


def test_results_save_what_the_command_line_writes(file: Path, tmp_path: Path, run) -> None:
    settings = {"locate.n_bubbles": 12, **SCALE}
    result = ulm.ulm(file, settings, method="parabola")
    result.save(tmp_path / "python", dpi=30)
    sets = (word for key, value in settings.items() for word in ("--set", f"{key}={value}"))
    arguments = ("--method", "parabola", "--dpi", "30", *sets)
    assert run("ulm", file, "-o", tmp_path / "cli", *arguments)[0] == 0
    names = sorted(path.name for path in (tmp_path / "cli").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "python").iterdir())
    for name in names:
        one, other = (tmp_path / kind / name for kind in ("python", "cli"))
        if name == "run.json":
            assert json.loads(one.read_text()) == json.loads(other.read_text())
        elif name != "tables.h5":  # which holds times of day
            same = one.read_bytes() == other.read_bytes()
            assert same, name  # pytest would look for the differences of two pictures for minutes
    for name in ("bubbles", "tracks"):
        tables = [io.read_table(tmp_path / k / "tables.h5", name) for k in ("python", "cli")]
        pd.testing.assert_frame_equal(*tables)
    with pytest.raises(ValueError, match="holds the results of another run"):
        ulm.save_result(ulm.ulm(file, SCALE), tmp_path / "python")
    ulm.save_result(ulm.ulm(file, SCALE), tmp_path / "python", overwrite=True)


# --- calls that people guess ---------------------------------------------------------------------


def test_guesses_that_work(flow: Block, file: Path) -> None:
    bubbles = ulm.locate(flow.frames, "parabola", 12)
    pairs = ulm.match_bubbles(bubbles, flow.bubbles, 0.5)
    scores = metrics.detection_scores(pairs)
    assert scores["n_true_positive"] + scores["n_false_negative"] == len(flow.bubbles)
    assert ulm.open_frames(file, px_mm=0.1).px_mm == 0.1
    assert ulm.read_frames(file, frame_rate_hz=500).frame_rate_hz == 500
    assert next(ulm.open_frames(file).blocks()).frames.shape == flow.frames.shape
    noise = np.random.default_rng(0).random((32, 32))
    assert "frc" in metrics.fourier_ring_correlation(noise, noise)
    tracks = ulm.link(bubbles)
    assert ulm.plot_tracks(tracks).axes
    assert ulm.plot_map(np.eye(40)).axes
    assert ulm.plot_map(np.eye(40), "density").axes


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda f: ulm.jaccard, AttributeError, r"score_bubbles\(found, truth\)"),
        (lambda f: metrics.jaccard, AttributeError, r"score_bubbles\(found, truth\)"),
        (lambda f: ulm.read, AttributeError, r"read_frames\(path\)"),
        (lambda f: io.read, AttributeError, r"read_frames\(path\)"),
        (lambda f: ulm.write_result, AttributeError, r"result.save\(folder\)"),
        (lambda f: io.write_result, AttributeError, "save_result"),
        (lambda f: ulm.loacte, AttributeError, "did you mean 'locate'"),
        (lambda f: ulm.core.lengths, AttributeError, r"tracks\['track'\].value_counts\(\)"),
        (lambda f: ulm.core.summary, AttributeError, r"track_summary\(tracks"),
        (lambda f: networks.fit, AttributeError, r"ulmpaper.train\(recipe, folder, cfg\)"),
        (
            lambda f: ulm.load_config("quick", method="parabola"),
            TypeError,
            r"load_config\('quick', {'locate.method': 'parabola'}\)",
        ),
        (lambda f: ulm.load_config("quick", "max_gap"), ValueError, "a mapping, e.g."),
        (lambda f: ulm.load_config("quick", {"px_mm": 1}), ValueError, "'acquisition.px_mm'"),
        (lambda f: ulm.open_frames(f), TypeError, "an array needs no reading"),
        (lambda f: Block(f, truth=None), TypeError, r"Block\(frames, bubbles=table\)"),
        (lambda f: ulm.locate(f[0]), ValueError, r"frame\[None\]"),
        (lambda f: ulm.locate(f, "parabloa"), ValueError, "did you mean 'parabola'"),
        (lambda f: ulm.ulm(f, 3), TypeError, "settings are a Config, a mapping"),
        (lambda f: ulm.ulm("nothing.npy"), FileNotFoundError, "there is no file nothing.npy"),
        (lambda f: io.BlockStore("a.h5", "r"), FileNotFoundError, "there is no file a.h5"),
        (lambda f: ulm.simulate("can"), ValueError, "did you mean 'cam'"),
    ],
)
def test_guesses_that_name_the_right_call(call, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(np.ones((3, 20, 20)))


def test_a_store_names_its_verb(tmp_path: Path, flow: Block) -> None:
    with io.BlockStore(tmp_path / "a.h5", "w") as store:
        with pytest.raises(AttributeError, match=r"store.append\(block\) adds to it"):
            store.write(flow)
        store.append(flow)


# --- what is optional ----------------------------------------------------------------------------

HIDDEN = """
import sys

class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {hidden}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name.split(".")[0])

sys.meta_path.insert(0, Hide())
import numpy as np
import pydoc
import ulmpaper
assert "load_network" in pydoc.render_doc(ulmpaper)
for call in {calls}:
    try:
        eval(call)
    except ImportError as error:
        print(error)
frames = ulmpaper.core.simulate_testcard(n_frames=60, n_bubbles=8, rng=np.random.default_rng(0))
print(len(ulmpaper.ulm(frames, {{"locate.n_bubbles": 12}}).tracks) > 100)
"""
OPTIONAL = {
    "ulmpaper.load_network('ml3d')": "networks",
    "ulmpaper.networks.ML3DResNet": "networks",
    "ulmpaper.locate(np.ones((10, 40, 40)), 'ml3d')": "networks",
    "ulmpaper.train('ml3d', 'x')": "networks",
    "ulmpaper.simulate('cam')": "simulate",
    "ulmpaper.score_maps(np.eye(64), np.eye(64))": "simulate",
    "ulmpaper.plot_map(np.ones((4, 4)))": "plot",
    "ulmpaper.paper.compare": "all",
    "ulmpaper.fetch('rat-kidney')": "fetch",
    "__import__('ulmpaper.cli')": "cli",
}


def test_what_lacks_its_extra_says_which(tmp_path: Path) -> None:
    packages = ["torch", "safetensors", "pymust", "skimage", "matplotlib", "PIL", "pooch", "typer"]
    code = HIDDEN.format(hidden=[*packages, "threadpoolctl"], calls=list(OPTIONAL))
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    *messages, works = done.stdout.splitlines()
    assert [m.partition("pip install ")[2] for m in messages] == [
        f"'ulmpaper[{extra}]'" for extra in OPTIONAL.values()
    ]
    assert works == "True"


@pytest.mark.slow
def test_the_wheel_alone_runs_the_classical_chain(tmp_path: Path) -> None:
    """In a fresh environment with the core dependencies and nothing else."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", str(ROOT), "-w", str(tmp_path)]
    subprocess.run(build, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    venv.create(tmp_path / "env", with_pip=True)
    python = str(tmp_path / "env" / "bin" / "python")
    install = [python, *pip[1:], "install", "-c", str(ROOT / "constraints.txt"), str(wheel)]
    made = subprocess.run(install, capture_output=True, text=True, check=False)
    if made.returncode and "Could not find a version" in made.stderr:
        pytest.skip("no package registry is reached from here")
    assert made.returncode == 0, made.stderr
    code = HIDDEN.format(hidden=[], calls=["ulmpaper.load_network('ml3d')"])
    command = [python, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    message, works = done.stdout.splitlines()[-2:]
    assert message.endswith("is not installed: pip install 'ulmpaper[networks]'")
    assert works == "True", done.stderr
