"""What a notebook checks before it starts, where its results lie, and what they say."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ulmpaper
from ulmpaper.config import config_table, load_config, read_overrides
from ulmpaper.paper import start_run
from ulmpaper.paper.runs import NotebookRun

IN_SILICO, BRAIN = "07_figure3_table1_insilico", "09_figure5_ratbrain"


def run(
    name: str = "04_classical_ulm", cells: tuple[str, ...] = (), **changed: object
) -> NotebookRun:
    parameters: dict = {
        "profile": "smoke",
        "overrides": {},
        "source": "simulated",
        "data_dir": "",
        "out_dir": "outputs",
    }
    return start_run(name, cells, **{**parameters, **changed})


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ULMPAPER_DATA_DIR", raising=False)


def write_insilico(folder: Path, content: str) -> None:
    files = folder / "PALA_data_InSilicoFlow"
    files.mkdir(parents=True, exist_ok=True)
    (files / "PALA_InSilicoFlow_IQ001.mat").write_text(content)


# --- the folder -----------------------------------------------------------------------------------


def test_settings_and_source_have_folders_of_their_own(tmp_path: Path) -> None:
    runs = [run(), run(overrides={"seed": 1}), run(profile="quick"), run(source="pala")]
    assert len({one.out for one in runs}) == len(runs)
    assert run().out == run(overrides={"seed": load_config("smoke").seed}).out
    assert run().out.parent.name.startswith("smoke-")
    assert not list(tmp_path.iterdir()), "no folder appears before the first result"


def test_real_data_are_told_apart_by_content_not_by_place(tmp_path: Path) -> None:
    def folder(place: str, content: str) -> Path:
        write_insilico(tmp_path / place, content)
        return run(IN_SILICO, source="pala", data_dir=tmp_path / place).out

    first = folder("a", "one recording")
    assert first == folder("b", "one recording")
    assert first != folder("a", "another recording")
    assert first != run(IN_SILICO).out


@pytest.mark.parametrize(
    ("name", "command"), [(IN_SILICO, "pala-insilico"), (BRAIN, "pala-ratbrain")]
)
def test_missing_data_are_named_with_what_fetches_them(name: str, command: str) -> None:
    with pytest.raises(FileNotFoundError, match=f"run `ulmpaper fetch {command}`"):
        run(name, source="pala")
    assert run(name).data is None
    with pytest.raises(
        FileNotFoundError, match=f"run `ulmpaper fetch {command} --data-dir 'my data'`"
    ):
        run(name, source="pala", data_dir="my data")


def test_data_folder_is_the_parameter_then_the_variable_then_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run().data_dir == Path("data")
    monkeypatch.setenv("ULMPAPER_DATA_DIR", str(tmp_path / "mine"))
    assert run().data_dir == tmp_path / "mine"
    assert run(data_dir="there").data_dir == Path("there")
    write_insilico(tmp_path / "mine", "a recording")
    assert run(IN_SILICO, source="pala").data["files"] == 1


@pytest.mark.parametrize("place", ["file", "file/below", "file/far/below", "/proc/nope"])
def test_folder_that_cannot_be_written_is_refused_in_a_sentence(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match=r"^cannot write to .*choose another folder$"):
        run(out_dir=tmp_path / place)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "mine"


# --- parameters -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"profile": "quik"}, ValueError, "unknown profile 'quik': did you mean 'quick'"),
        ({"source": "paal"}, ValueError, "unknown source 'paal': did you mean 'pala'"),
        ({"out_dir": ""}, ValueError, "out_dir is empty: name a folder"),
        ({"overrides": {"track.max_gpa": 1}}, ValueError, "did you mean 'track.max_gap'"),
        ({"overrides": "track.max_gpa=1"}, ValueError, "did you mean 'track.max_gap'"),
        (
            {"overrides": "track.max_gap"},
            ValueError,
            "overrides are a mapping, .*, not 'track.max_gap'",
        ),
        ({"overrides": {5: 1}}, ValueError, "unknown setting '5'"),
        ({"overrides": 3}, TypeError, "overrides are a mapping .*, not 3"),
        ({"overrides": "track.max_gap=much"}, ValueError, "max_gap"),
    ],
)
def test_slips_are_refused_in_a_sentence(
    tmp_path: Path, changed: dict, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        run(**changed)
    assert not list(tmp_path.iterdir())


def test_papermill_may_only_set_what_the_notebook_has() -> None:
    run(cells=("", "profile: str = 'quick'", "# Parameters\nprofile = 'smoke'\n", "start_run"))
    with pytest.raises(ValueError, match="unknown parameter of this notebook 'profil'"):
        run(cells=("", "profile: str = 'quick'", "# Parameters\nprofil = 'smoke'\n", "start_run"))
    for name in ("profile", "overrides", "source", "data_dir", "out_dir"):
        run(cells=(f"# Parameters\n{name} = 1\n", "start_run"))


@pytest.mark.parametrize(
    "text",
    [
        "track.max_gap=1 cam.ratio_db=(10, 20)",
        "track.max_gap=1, cam.ratio_db=(10,20)",
        "{track.max_gap: 1, cam.ratio_db: [10, 20]}",
        '{"track.max_gap": 1, "cam.ratio_db": [10, 20]}',
        "{'track.max_gap': 1, 'cam.ratio_db': (10, 20)}",
        "track.max_gap = 1; cam.ratio_db = (10, 20)",
    ],
)
def test_text_means_what_the_mapping_means(text: str) -> None:
    meant = load_config("smoke", {"track.max_gap": 1, "cam.ratio_db": (10, 20)})
    assert load_config("smoke", read_overrides(text)) == meant
    assert run(overrides=text).out == run(overrides=read_overrides(text)).out


SIMPLE = [
    (row.setting, row.value)
    for row in config_table(load_config("quick")).itertuples()
    if " " not in row.value
]


@given(st.lists(st.sampled_from(SIMPLE), min_size=1, unique=True), st.sampled_from([" ", ", "]))
def test_any_settings_can_be_written_as_text(pairs: list[tuple[str, str]], between: str) -> None:
    text = between.join(f"{key}={value}" for key, value in pairs)
    assert load_config("quick", read_overrides(text)) == load_config("quick")


# --- results.json ---------------------------------------------------------------------------------


def test_results_say_what_made_them() -> None:
    one = run(overrides="seed=7 cam.ratio_db=(10,20)")
    path = one.write({"n_tracks": 3})
    assert path == one.out / "results.json"
    written = json.loads(path.read_text())
    assert written["n_tracks"] == 3
    made_by = written["run"]
    assert made_by["overrides"] == {"seed": 7, "cam.ratio_db": [10, 20]}
    assert (made_by["profile"], made_by["seed"], made_by["source"]) == ("smoke", 7, "simulated")
    assert made_by["version"] == ulmpaper.__version__
    assert made_by["notebook"] == "04_classical_ulm"
    assert made_by["data"] is None
    assert made_by["date"].endswith("+00:00")
    assert made_by["revision"]
    again = load_config(made_by["profile"], made_by["overrides"])
    assert again == load_config("smoke", {"seed": 7, "cam.ratio_db": (10, 20)})


def test_results_without_a_number_are_not_written() -> None:
    one = run()
    with pytest.raises(ValueError, match="JSON"):
        one.write({"n_tracks": math.nan})
    assert not one.out.exists()
