"""Networks as files: they come back as written, misfits are named, no half file, no code."""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors
import torch
from safetensors.torch import save_file
from torch import nn

from ulmpaper.config import load_config
from ulmpaper.core.records import Block
from ulmpaper.metrics.bubbles import detection_scores, match_bubbles
from ulmpaper.networks.localize import locate_mspcn
from ulmpaper.networks.model import MSPCN, CountNet, ML3DResNet
from ulmpaper.networks.predict import predict_counts
from ulmpaper.networks.weights import (
    _FORMAT,
    checksum,
    find_weights,
    load_tensors,
    read_network,
    resolve_device,
    resolve_precision,
    shipped_weights,
    write_network,
)
from ulmpaper.simulator.simulate import cam_pictures, cam_scene, psf_bank, simulate_block

ABOUT = {"digest": "0123456789", "scores": {"jaccard": 0.5}, "domain": {"fwhm_z_px": [1.0, 2.0]}}
NETWORKS = {
    "ml3d": (ML3DResNet, {"features": 4, "blocks": 1, "temporal_kernel": 1}, (1, 1, 3, 9, 8)),
    "count": (CountNet, {"n_max": None, "features": 4}, (2, 1, 16, 16)),
    "mspcn": (MSPCN, {"upsample": 2}, (1, 1, 9, 8)),
}


@pytest.fixture
def ml3d(tmp_path: Path) -> Path:
    """A small network of seed 0 in a file."""
    torch.manual_seed(0)
    network = {"features": 4, "blocks": 1}
    return write_network(
        tmp_path / "ml3d.safetensors",
        ML3DResNet(**network),
        recipe="ml3d",
        network=network,
        about=ABOUT,
    )


@pytest.mark.parametrize("recipe", NETWORKS)
def test_what_is_written_comes_back(recipe: str, tmp_path: Path) -> None:
    cls, network, shape = NETWORKS[recipe]
    net = cls(**network).eval()
    path = write_network(
        tmp_path / "a.safetensors", net, recipe=recipe, network=network, about=ABOUT
    )
    state = torch.get_rng_state()
    read = read_network(path, recipe=recipe)
    assert torch.equal(torch.get_rng_state(), state)
    assert read.about == ABOUT
    assert type(read) is cls
    assert not read.training
    frames = torch.rand(shape)
    with torch.no_grad():
        torch.testing.assert_close(read(frames), net(frames), rtol=0, atol=0)
    assert [path.name] == [p.name for p in tmp_path.iterdir()]


def test_half_precision_halves_the_file_and_reads_as_single(tmp_path: Path) -> None:
    net = MSPCN(2).to(memory_format=torch.channels_last)
    kept = [
        write_network(
            tmp_path / f"{half}", net, recipe="mspcn", network={"upsample": 2}, about={}, half=half
        )
        for half in (False, True)
    ]
    assert kept[1].stat().st_size < 0.51 * kept[0].stat().st_size
    read = read_network(kept[1])
    for a, b in zip(read.parameters(), net.parameters(), strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_files_are_open_to_others(ml3d: Path) -> None:
    with safetensors.safe_open(ml3d, framework="np") as file:
        metadata = file.metadata()
        assert file.get_tensor("extract.weight").shape == (4, 1, 3, 3, 3)
    assert (metadata["format"], metadata["recipe"]) == (_FORMAT, "ml3d")
    assert json.loads(metadata["network"]) == {"features": 4, "blocks": 1}
    assert json.loads(metadata["about"]) == ABOUT


def test_a_read_network_can_be_trained_on(ml3d: Path) -> None:
    net = read_network(ml3d)
    net(torch.rand(1, 1, 3, 8, 8)).sum().backward()
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "damaged or no safetensors file"),
        (b"not a network", "damaged or no safetensors file"),
        (b"PK\x03\x04 and so on", "pickled checkpoint"),
        (b"\x80\x02}q\x00.", "pickled checkpoint"),
    ],
)
def test_files_of_other_kinds_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\.safetensors is .*{message}"):
        read_network(path)


def test_a_pickled_checkpoint_is_not_opened(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "ran",)

    for new in (True, False):
        torch.save({"net": Bomb()}, tmp_path / "a.pt", _use_new_zipfile_serialization=new)
        with pytest.raises(ValueError, match="can run code"):
            read_network(tmp_path / "a.pt")
    assert not (tmp_path / "ran").exists()


def test_every_cut_and_every_change_is_noticed(ml3d: Path) -> None:
    whole = ml3d.read_bytes()
    for size in (5, 100, len(whole) // 2, len(whole) - 1):
        ml3d.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="damaged or no safetensors file"):
            read_network(ml3d)
    for old, new in (
        (whole[-3:], bytes([whole[-3] ^ 1]) + whole[-2:]),
        (b"0.5", b"0.9"),
        (b"sha256", b"sha257"),
    ):
        assert whole.count(old) == 1
        ml3d.write_bytes(whole.replace(old, new))
        with pytest.raises(ValueError, match="does not hold what was written"):
            read_network(ml3d)


def test_safetensors_of_somebody_else_are_refused(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(128)}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="no network of ulmpaper: its format is None"):
        read_network(tmp_path / "a.safetensors")


def test_another_recipe_and_a_missing_file(ml3d: Path) -> None:
    with pytest.raises(ValueError, match="holds a network of recipe 'ml3d', but 'count' is needed"):
        read_network(ml3d, recipe="count")
    with pytest.raises(ValueError, match="unknown recipe 'ml3'"):
        read_network(ml3d, recipe="ml3")
    with pytest.raises(FileNotFoundError, match=r"no weights at .*nothing\.safetensors"):
        read_network(ml3d.with_name("nothing.safetensors"))


def test_weights_of_another_architecture_are_named_and_change_nothing() -> None:
    net = ML3DResNet(features=4, blocks=1)
    before = {name: t.clone() for name, t in net.state_dict().items()}
    with pytest.raises(ValueError, match="made with other settings") as error:
        load_tensors(net, MSPCN(2).state_dict(), what="a.safetensors")
    text = str(error.value)
    assert text.startswith("a.safetensors does not fit this ML3DResNet ")
    assert 'Missing key(s) in state_dict: "extract.weight", "extract.bias", ' in text
    assert 'Unexpected key(s) in state_dict: "conv1.weight", ' in text
    assert len(text) < 600
    assert "\n" not in text
    with pytest.raises(
        ValueError,
        match=r"for extract\.weight: .*\[8, 1, 3, 3, 3\].*\[4, 1, 3, 3, 3\].* And 5 more\.",
    ):
        load_tensors(net, ML3DResNet(features=8, blocks=1).state_dict())
    with pytest.raises(ValueError, match=r'Unexpected key.*"blocks\.1\.conv1\.weight"'):
        load_tensors(net, ML3DResNet(features=4, blocks=2).state_dict())
    assert all(torch.equal(net.state_dict()[name], t) for name, t in before.items())


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({"features": 8, "blocks": 1}, "does not fit"),
        ({"width": 3}, "do not make a ML3DResNet .*'width'"),
    ],
)
def test_a_file_that_could_not_be_read_is_not_written(
    tmp_path: Path, network: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        write_network(tmp_path / "a", ML3DResNet(4, 1), recipe="ml3d", network=network, about={})
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_keeps_the_old_file(ml3d: Path) -> None:
    script = """
import sys
from ulmpaper.networks.model import ML3DResNet
from ulmpaper.networks.weights import write_network
try:
    size = {"features": 8, "blocks": 1}
    write_network(sys.argv[1], ML3DResNet(**size), recipe="ml3d", network=size, about={})
except OSError as error:
    sys.exit(f"{error}")
"""

    def no_large_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    before = ml3d.read_bytes()
    command = [sys.executable, "-B", "-c", script, str(ml3d)]
    ended = subprocess.run(command, preexec_fn=no_large_files, capture_output=True, text=True)
    assert ended.returncode == 1
    assert (
        ended.stderr.strip()
        == f"cannot write {ml3d} (File too large): make room, or choose another folder"
    )
    assert [p.name for p in ml3d.parent.iterdir()] == [ml3d.name]
    assert ml3d.read_bytes() == before


def test_shipped_weights_are_found_or_the_error_says_how_to_train_them(
    ml3d: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("ulmpaper.networks.weights._SHIPPED", tmp_path)
    assert shipped_weights("ml3d") == ml3d
    with pytest.raises(
        FileNotFoundError, match="`ulmpaper train --recipe mspcn`, or all three with `make weights`"
    ):
        shipped_weights("mspcn")
    with pytest.raises(ValueError, match="did you mean 'ml3d'"):
        shipped_weights("mld3")


def test_settings_name_weights_of_the_package_or_a_file(tmp_path: Path) -> None:
    assert find_weights("ml3d") == shipped_weights("ml3d")
    for variant in ("phantom", "paper"):
        assert find_weights("ml3d", variant) == shipped_weights("ml3d").with_name(
            f"ml3d_{variant}.safetensors"
        )
        assert (
            read_network(find_weights("ml3d", variant), recipe="ml3d").about["settings"][
                "ml3d.window"
            ]
            == 10
        )
    assert find_weights("ml3d", "shipped") == shipped_weights("ml3d")
    mine = tmp_path / "mine.safetensors"
    mine.touch()
    assert find_weights("ml3d", mine) == mine


@pytest.mark.parametrize(
    ("recipe", "weights", "message"),
    [
        ("ml3d", "papr", "papr: did you mean 'paper'? Allowed for ml3d: shipped, paper, phantom,"),
        ("count", "phantom", "phantom: Allowed for count: shipped, paper, or a .safetensors file"),
        ("mspcn", "mspcn", "mspcn: Allowed for mspcn: shipped, paper, phantom,"),
        ("ml3d", "run/best", "run/best: Allowed for ml3d: shipped"),
        ("ml3d", ".", "it is a folder; of a training's folder give best.safetensors"),
    ],
)
def test_unknown_weights_are_answered_by_the_names_there_are(
    recipe: str, weights: str, message: str
) -> None:
    with pytest.raises(FileNotFoundError, match=re.escape(message)):
        find_weights(recipe, weights)


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto") == torch.device("cuda")
    assert resolve_device(torch.device("cpu")) == torch.device("cpu")
    for device in ("tpu", "meta", "cuda:99"):
        with pytest.raises(
            ValueError,
            match=f"device '{device}' cannot be used .*set compute.device to auto or cpu",
        ):
            resolve_device(device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is here")
def test_cuda_that_is_not_there(ml3d: Path) -> None:
    with pytest.raises(ValueError, match="device 'cuda' cannot be used"):
        read_network(ml3d, device="cuda")


def test_precision_follows_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    assert resolve_precision("float32", cpu) == torch.float32
    assert resolve_precision("bfloat16", cpu) == torch.bfloat16
    for has, dtype in ((False, torch.float32), (True, torch.bfloat16)):
        monkeypatch.setattr(
            torch.cpu, "_is_avx512_bf16_supported", lambda has=has: has, raising=False
        )
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
        assert resolve_precision("auto", cpu) == dtype
    for capability, dtype in (((7, 5), torch.float32), ((8, 0), torch.bfloat16)):
        monkeypatch.setattr(
            torch.cuda, "get_device_capability", lambda _, capability=capability: capability
        )
        assert resolve_precision("auto", torch.device("cuda")) == dtype
    with pytest.raises(ValueError, match="unknown precision 'half'"):
        resolve_precision("half", cpu)


def test_load_tensors_takes_any_module() -> None:
    net = nn.Linear(2, 1)
    load_tensors(net, {"weight": torch.ones(1, 2), "bias": torch.zeros(1)})
    assert net(torch.ones(1, 2)).item() == 2


def held_out(n_bubbles: int, n_frames: int, rng: np.random.Generator) -> Block:
    """Single simulated frames with vessels that no training sees, each with a maximum of 1."""
    cfg = load_config("quick", {"cam.shape_px": (128, 128), "cam.picture_px": 256})
    scene = cam_scene(cfg, cam_pictures(cfg, "test")[0])
    use = {"n_frames": 1, "n_bubbles": n_bubbles, "ratio_db": cfg.cam.ratio_db, "rng": rng}
    blocks = [simulate_block(scene.mask, scene.maps, psf_bank(cfg), **use) for _ in range(n_frames)]
    frames = np.concatenate([block.frames / block.frames.max() for block in blocks])
    return Block(frames, pd.concat([block.truth.assign(frame=k) for k, block in enumerate(blocks)]))


def shipped(recipe: str) -> nn.Module:
    try:
        path = shipped_weights(recipe)
    except FileNotFoundError as error:
        pytest.skip(str(error))
    assert path.with_suffix(".csv").is_file(), "the curve of the training comes with the weights"
    assert path.stat().st_size < 2e6
    return read_network(path, recipe=recipe)


def test_shipped_counter_counts_frames_it_never_saw(rng: np.random.Generator) -> None:
    net = shipped("count")
    wrong, true = [], []
    for n in (8, 25, 40):
        frames = held_out(n, 16, rng).frames
        counts = predict_counts(net, frames, tile_px=net.about["tile_px"], device="cpu", scale=1)
        wrong += [abs(counts - n).mean()]
        true += [n]
    assert sum(wrong) / sum(true) < 0.15


def test_shipped_mspcn_finds_bubbles_in_frames_it_never_saw(rng: np.random.Generator) -> None:
    net = shipped("mspcn")
    block = held_out(25, 3, rng)
    found = locate_mspcn(block.frames, net=net, threshold=net.about["threshold"], device="cpu")
    pairs = match_bubbles(found, block.truth, max_distance_px=0.5)
    assert detection_scores(pairs)["jaccard"] > 0.7


def forged(path: Path, **changes: object) -> None:
    """A file of weights with another header, and the checksum that fits it."""
    write_network(
        path, CountNet(9, 4), recipe="count", network={"n_max": 9, "features": 4}, about=ABOUT
    )
    with safetensors.safe_open(path, framework="pt") as file:
        header = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    del header["sha256"]
    for name, value in changes.items():
        if value is None:
            del header[name]
        else:
            header[name] = value if isinstance(value, str) else json.dumps(value)
    save_file(tensors, path, {**header, "sha256": checksum(tensors, header)})


SIZE = {"n_max": 9, "features": 4}


@pytest.mark.parametrize(
    "changes",
    [
        *({name: None} for name in ("recipe", "network", "about")),
        {"recipe": "count2"},
        {"network": "{"},
        {"network": [1, 2]},
        {"network": {**SIZE, "features": "many"}},
        {"network": {**SIZE, "features": -4}},
        {"network": {**SIZE, "features": 4.5}},
        {"network": {**SIZE, "n_max": 10**12}},
        {"network": {**SIZE, "device": "cpu"}},
        {"recipe": "ml3d", "network": {"features": 4, "blocks": 10_000_000}},
        {"recipe": "mspcn", "network": {"upsample": 10**9}},
        {"about": [1, 2]},
        {"about": "null"},
        {"about": "[" * 100_000},
        {"about": {"window": "ten"}},
        {"about": {"window": 0}},
        {"about": {"threshold": "NaN"}},
        {"about": '{"threshold": NaN}'},
        {"about": {"tile_px": 1.5}},
        {"about": {"domain": [1]}},
        {"about": {"domain": {"fwhm_z_px": [1]}}},
        {"about": {"digest": 7}},
    ],
)
def test_a_forged_header_is_refused_in_a_sentence(changes: dict, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    forged(path)
    read_network(path)
    forged(path, **changes)
    with pytest.raises(ValueError, match=re.escape(str(path))) as refused:
        read_network(path)
    assert len(str(refused.value)) < 600


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_weights_that_are_no_numbers_are_refused(bad: float, tmp_path: Path) -> None:
    net = CountNet(9, 4)
    with torch.no_grad():
        next(net.parameters())[0] = bad
    path = write_network(tmp_path / "a.safetensors", net, recipe="count", network=SIZE, about=ABOUT)
    with pytest.raises(ValueError, match="NaN or infinite"):
        read_network(path)


def test_other_kinds_of_numbers_are_refused(tmp_path: Path) -> None:
    header = {"format": _FORMAT, "recipe": "count", "network": "{}", "about": "{}"}
    for dtype in (torch.bfloat16, torch.int32, torch.float64):
        save_file({"a": torch.ones(3, dtype=dtype)}, tmp_path / "a.safetensors", header)
        with pytest.raises(ValueError, match="only 16 and 32-bit floats"):
            read_network(tmp_path / "a.safetensors")
