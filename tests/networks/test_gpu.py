"""What runs on a GPU gives what the CPU gives, with every setting that only a GPU has.

    python -m pytest -m gpu

The rest of the suite runs on the CPU, save for tests that take the default device
(``compute.device`` is ``auto``).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from ulmpaper.config import Config, load_config
from ulmpaper.core.records import Block
from ulmpaper.metrics.bubbles import score_bubbles
from ulmpaper.networks.checkpoint import BEST, METRICS
from ulmpaper.networks.localize import load_network
from ulmpaper.networks.model import MSPCN, CountNet, ML3DResNet
from ulmpaper.networks.predict import predict_counts, predict_heatmaps, predict_maps
from ulmpaper.networks.train import train
from ulmpaper.networks.weights import read_network
from ulmpaper.networks.windows import SimulatedSource, seeded_sequence
from ulmpaper.pipeline.detect import locate

pytestmark = pytest.mark.gpu
SHAPE = (45, 52)


@pytest.fixture(scope="module")
def block() -> Block:
    cfg = load_config("quick", {"cam.shape_px": (128, 128), "cam.n_bubbles": (25, 25)})
    return seeded_sequence(SimulatedSource(cfg, "validation"), 20, 7, "gpu", 0)


def both(predict, net: nn.Module, **options) -> list[torch.Tensor]:  # type: ignore[no-untyped-def]
    """What a network says of the same frames here and there, put together along time."""
    frames = np.random.default_rng(3).random((13, *SHAPE), dtype=np.float32)
    axis = 1 if predict is predict_maps else 0
    devices = ("cpu", "cuda")
    return [
        torch.cat([part for _, part in predict(net, frames, device=d, **options)], dim=axis)
        for d in devices
    ]


@pytest.mark.parametrize("tile_px", [None, 32])
@pytest.mark.parametrize("batch", [1, 4])
def test_maps_are_those_of_the_cpu(batch: int, tile_px: int | None) -> None:
    torch.manual_seed(1)
    here, there = both(
        predict_maps, ML3DResNet(8, 2), window=5, stride=2, batch=batch, tile_px=tile_px
    )
    torch.testing.assert_close(there, here, atol=1e-5, rtol=1e-4)
    here, there = both(predict_heatmaps, MSPCN(2), batch=batch, tile_px=tile_px)
    torch.testing.assert_close(there, here, atol=1e-5, rtol=1e-4)


def test_counts_are_those_of_the_cpu(block: Block) -> None:
    torch.manual_seed(1)
    for net in (CountNet(20, features=4), CountNet(None, features=4), load_network("count")):
        here, there = (
            predict_counts(net, block.frames, device=device) for device in ("cpu", "cuda")
        )
        np.testing.assert_allclose(there, here, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("method", ["ml3d", "mspcn"])
def test_shipped_networks_find_the_same_bubbles(method: str, block: Block) -> None:
    scores, tables = {}, {}
    for device, precision in (("cpu", "float32"), ("cuda", "float32"), ("cuda", "bfloat16")):
        cfg = load_config("quick", {"compute.device": device, "compute.precision": precision})
        tables[device, precision] = locate(block.frames, method, cfg=cfg)
        scores[device, precision] = score_bubbles(tables[device, precision], block.truth)[
            "jaccard_near"
        ]
    here, there = tables["cpu", "float32"], tables["cuda", "float32"]
    assert len(here) == len(there)
    pd.testing.assert_frame_equal(there, here, check_exact=False, rtol=1e-3, atol=1e-3)
    assert scores["cpu", "float32"] > 0.6
    assert max(scores.values()) - min(scores.values()) < 0.01


def config(**overrides: object) -> Config:
    return load_config(
        "smoke",
        {"compute.device": "cuda", **{k.replace("__", "."): v for k, v in overrides.items()}},
    )


@pytest.mark.parametrize("name", ["ml3d", "count", "mspcn"])
def test_trainings_start_stop_and_go_on(name: str, tmp_path: Path) -> None:
    stopped = train(name, tmp_path / "run", config(), stop_after=4)
    assert stopped.step == 4
    summary = train(name, tmp_path / "run", config())
    assert summary.step == summary.n_steps == 6
    net = read_network(tmp_path / "run" / BEST, recipe=name)
    about = net.about
    assert about["hardware"] == torch.cuda.get_device_name()
    assert next(net.parameters()).device.type == "cpu"


def test_a_step_is_that_of_the_cpu(tmp_path: Path) -> None:
    losses = []
    for device in ("cpu", "cuda"):
        cfg = config(
            compute__device=device, train__precision="float32", ml3d__epochs=1, ml3d__steps=1
        )
        train("ml3d", tmp_path / device, cfg)
        losses.append(pd.read_csv(tmp_path / device / METRICS)["loss"].iloc[0])
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


@pytest.mark.filterwarnings("default")  # of torch's compiler
def test_compiled_training_lowers_the_loss(tmp_path: Path) -> None:
    size = {
        "ml3d__features": 16,
        "ml3d__epochs": 4,
        "ml3d__steps": 30,
        "ml3d__batch": 4,
        "train__crops": 4,
    }
    train("ml3d", tmp_path, config(**size, ml3d__learning_rate=5e-3, compute__compile=True))
    table = pd.read_csv(tmp_path / METRICS)
    assert table["loss"].iloc[-1] < 0.8 * table["loss"].iloc[0]


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_share_a_step(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node=2",
        "-m",
        "ulmpaper",
        "train",
    ]
    command += [
        "--recipe",
        "ml3d",
        "--profile",
        "smoke",
        "--set",
        "train.precision=float32",
        "-o",
        str(tmp_path / "two"),
    ]
    subprocess.run(command, check=True)
    train("ml3d", tmp_path / "one", config(train__precision="float32", ml3d__batch=4))
    one, two = (pd.read_csv(tmp_path / name / METRICS)["loss"] for name in ("one", "two"))
    np.testing.assert_allclose(two, one, rtol=1e-2)
