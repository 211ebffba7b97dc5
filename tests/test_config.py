"""Profiles, overrides, limits, digest and table of the settings."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ulmpaper
from ulmpaper import config
from ulmpaper.config import PROFILES, Config, Locate, config_table, load_config
from ulmpaper.networks import read_network

TRAINED = Path(ulmpaper.__file__).parent / "networks" / "trained"


@pytest.mark.parametrize("profile", PROFILES)
def test_profiles_load(profile: str) -> None:
    assert isinstance(load_config(profile), Config)


def test_paper_profile_is_the_default_values() -> None:
    assert load_config("paper", {"ml3d.weights": None}) == Config()
    assert (
        load_config("paper").ml3d.weights == "paper"
    )  # the network as large as these values make it


@pytest.mark.parametrize(
    ("profile", "overrides", "message"),
    [
        ("quik", {}, "unknown profile 'quik': did you mean 'quick'"),
        ("quick", {"locate.metod": "radial"}, "did you mean 'locate.method'"),
        ("quick", {"locate": 3}, "unknown setting 'locate'"),
        (
            "quick",
            {"locate.method": "radail"},
            "'locate.method': unknown method 'radail': did you mean 'radial'",
        ),
        ("quick", {"locate.n_bubbles": 0}, "n_bubbles must be 1 or more, not 0"),
        ("quick", {"locate.n_bubbles": 1.5}, "n_bubbles takes a whole number, not 1.5"),
        ("quick", {"locate.n_bubbles": True}, "n_bubbles takes a whole number, not True"),
        ("quick", {"locate.roi_px": 4}, "roi_px must be odd, not 4"),
        ("quick", {"acquisition.px_mm": -1}, "px_mm must be above 0, not -1"),
        ("quick", {"acquisition.px_mm": float("nan")}, "px_mm must be finite"),
        (
            "quick",
            {"filter.band_hz": "50"},
            "'filter.band_hz': band_hz takes two numbers or none, not 50",
        ),
        ("quick", {"filter.band_hz": (-1, 50)}, "band_hz must be above 0, not -1"),
        ("quick", {"filter.svd_high": "all"}, "svd_high takes a whole number or none, not 'all'"),
        (
            "quick",
            {"cam.shape_px": (80, 80, 80)},
            r"shape_px takes two numbers, not \(80, 80, 80\)",
        ),
        ("quick", {"cam.n_bubbles": (9, 8)}, r"the lower one first, not \(9, 8\)"),
        ("quick", {"train.still": 1.1}, "still must be 1 or less, not 1.1"),
        ("quick", {"compute.device": 0}, "device takes text, not 0"),
        ("quick", {"px_mm": 0.1}, r"unknown setting 'px_mm': did you mean 'acquisition.px_mm'\?"),
        ("quick", {"filter.zero_phase": "maybe"}, "zero_phase takes true or false, not 'maybe'"),
        ("quick", {"seed": -1}, "seed must be 0 or more"),
    ],
)
def test_bad_settings(profile: str, overrides: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_config(profile, overrides)


def test_a_section_made_alone_says_one_plain_thing_too() -> None:
    with pytest.raises(ValueError, match=r"^n_bubbles must be 1 or more, not 0$"):
        dataclasses.replace(load_config().locate, n_bubbles=0)
    with pytest.raises(
        ValueError, match="unknown setting of Locate 'metod': did you mean 'method'"
    ):
        Locate(metod="radial")  # type: ignore[call-arg]


def test_text_from_the_command_line_is_read_as_values() -> None:
    cfg = load_config(
        "quick", {"filter.band_hz": "(50, 249)", "filter.svd_high": "none", "pala": "true"}
    )
    assert cfg.filter.band_hz == (50.0, 249.0)
    assert cfg.filter.svd_high is None
    assert cfg.pala is True


@pytest.mark.parametrize(
    ("profile", "digest"),
    [("smoke", "fbba07da56"), ("quick", "585f955447"), ("paper", "265c337cb2")],
)
def test_keys_and_values_of_the_profiles_stay(profile: str, digest: str) -> None:
    assert load_config(profile).digest() == digest, "stores, runs and results carry this digest"


@pytest.mark.parametrize("path", sorted(TRAINED.glob("*.safetensors")), ids=lambda path: path.stem)
def test_shipped_weights_state_settings_that_still_are(path: Path) -> None:
    about = read_network(path).about
    settings = about["settings"]
    own = {key: value for key, value in settings.items() if key not in ("data", "start", "content")}
    cfg = load_config("paper", own)
    # The same keys and the same values of the same types: the digest is made of this text.
    for key, value in own.items():
        section, _, name = key.rpartition(".")
        read = getattr(getattr(cfg, section) if section else cfg, name)
        assert json.dumps(read) == json.dumps(value), key
    text = json.dumps(settings, sort_keys=True)
    assert hashlib.sha256(text.encode()).hexdigest()[:10] == about["digest"]


def test_digest_does_not_depend_on_how_a_value_was_written() -> None:
    assert (
        load_config("quick", {"track.max_gap": "1"}).digest()
        == load_config("quick", {"track.max_gap": 1}).digest()
    )


@given(st.integers(1, 500), st.floats(0.1, 50), st.booleans())
def test_overrides_round_trip(n_bubbles: int, distance: float, pala: bool) -> None:
    overrides = {"locate.n_bubbles": n_bubbles, "track.max_distance_px": distance, "pala": pala}
    cfg = load_config("quick", overrides)
    table = config_table(cfg).set_index("setting")["value"]
    again = load_config("quick", {key: table[key] for key in overrides})
    assert again == cfg
    assert again.digest() == cfg.digest()


def test_settings_print_a_section_a_line_and_read_back() -> None:
    cfg = load_config("quick", {"acquisition.px_mm": 0.1})
    lines = str(cfg).splitlines()
    assert lines[1] == "    acquisition=Scale(px_mm=0.1, frame_rate_hz=1000.0),"
    assert max(map(len, lines)) <= 100
    assert eval(repr(cfg), vars(config)) == cfg


def test_settings_cannot_be_changed_afterwards() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        load_config().seed = 3  # type: ignore[misc]


def test_every_setting_states_unit_source_and_meaning() -> None:
    table = config_table(load_config())
    assert (table[["unit", "source", "meaning"]].map(len) > 0).all(axis=None)
    assert table["source"].str.match(r"(paper §|PALA|mSPCN|ours)").all()
    assert json.dumps(dataclasses.asdict(load_config()))


def test_numbers_of_numpy_are_numbers() -> None:
    cfg = load_config(
        "quick",
        {
            "track.max_distance_px": np.float64(1.5),
            "track.max_gap": np.int64(2),
            "cam.ratio_db": [np.float32(3), 4],
            "pala": np.bool_(True),
        },
    )
    assert (cfg.track.max_distance_px, cfg.track.max_gap) == (1.5, 2)
    assert type(cfg.track.max_gap) is int
    assert cfg.cam.ratio_db == (3.0, 4.0)
    assert cfg.pala is True
    assert json.loads(json.dumps(dataclasses.asdict(cfg)))["cam"]["ratio_db"] == [3.0, 4.0]


@pytest.mark.parametrize(
    ("text", "given"),
    [
        ("track.max_gap=1", {"track.max_gap": 1}),
        ("track.max_gap=1, pala=true", {"track.max_gap": 1, "pala": True}),
        ("{track.max_gap: 1}", {"track.max_gap": 1}),
        (
            '{"track.max_gap": 1, "filter.band_hz": [50, 249]}',
            {"track.max_gap": 1, "filter.band_hz": (50, 249)},
        ),
        (
            "filter.band_hz=50,249,locate.method='3DML-ResNet'",
            {"filter.band_hz": (50, 249), "locate.method": "ml3d"},
        ),
        ("{ml3d.weights: null}", {"ml3d.weights": None}),
        ("track.max_gap: 1\npala: true", {"track.max_gap": 1, "pala": True}),
        ("", {}),
    ],
)
def test_overrides_may_be_text(text: str, given: dict) -> None:
    cfg = load_config("smoke", text)
    assert cfg == load_config("smoke", given)
    assert cfg.stated == frozenset(given)


@pytest.mark.parametrize(
    "nested", [{"track": {"max_gap": 1}}, {"seed": 1, "track": {"max_gap": 1}}]
)
def test_nested_settings_are_shown_with_their_dotted_names(nested: dict) -> None:
    with pytest.raises(ValueError, match=r"dotted names.*write \{'track\.max_gap': 1\}"):
        load_config("quick", nested)


@pytest.mark.parametrize("text", ["hello", "track.max_gap", "=", "[1, 2]", "{'track': {'a': 1}}"])
def test_other_text_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(ValueError, match=r"overrides are a mapping, e\.g\. .* papermill|-y"):
        load_config("quick", text)


def test_what_the_user_stated_is_remembered_and_is_no_setting() -> None:
    cfg = load_config("quick", {"acquisition.px_mm": 0.09856})
    usual = load_config("quick")
    assert cfg.stated == {"acquisition.px_mm"}
    assert cfg == usual
    assert cfg.digest() == usual.digest()
    assert dataclasses.asdict(cfg) == dataclasses.asdict(usual)
    assert dataclasses.replace(cfg, pala=True).stated == cfg.stated
    assert pickle.loads(pickle.dumps(cfg)).stated == cfg.stated
    assert "stated" not in set(config_table(cfg)["setting"])


@pytest.mark.parametrize("name", ["3DML-ResNet", "ml3d", "ML3D", "3dml", "3DML ResNet"])
def test_methods_are_known_by_the_names_of_the_paper(name: str) -> None:
    assert load_config("quick", {"locate.method": name}).locate.method == "ml3d"


@pytest.mark.parametrize(
    "key", ["px_mm", "px_mn", "acquisition.pxmm", "acquisitions.px_mm", "PX_MM", "pixel.px_mm"]
)
def test_a_bare_or_misspelt_key_is_told_the_right_one_in_short(key: str) -> None:
    with pytest.raises(ValueError, match=r"acquisition\.px_mm") as error:
        load_config("quick", {key: 0.1})
    assert len(str(error.value)) < 250
