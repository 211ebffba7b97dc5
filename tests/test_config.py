"""Profiles, overrides, limits, digest and table of the settings."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ulmpaper.config import PROFILES, Config, config_table, load_config


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
            r"band_hz takes 2 values \(a number, a number\) or none, not '50'",
        ),
        ("quick", {"filter.zero_phase": "maybe"}, "zero_phase takes true or false, not 'maybe'"),
        ("quick", {"seed": -1}, "seed must be 0 or more"),
    ],
)
def test_bad_settings(profile: str, overrides: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_config(profile, overrides)


def test_text_from_the_command_line_is_read_as_values() -> None:
    cfg = load_config(
        "quick", {"filter.band_hz": "(50, 249)", "filter.svd_high": "none", "pala": "true"}
    )
    assert cfg.filter.band_hz == (50.0, 249.0)
    assert cfg.filter.svd_high is None
    assert cfg.pala is True


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
        "quick", {"track.max_distance_px": np.float64(1.5), "track.max_gap": np.int64(2)}
    )
    assert (cfg.track.max_distance_px, cfg.track.max_gap) == (1.5, 2)
    assert type(cfg.track.max_gap) is int
