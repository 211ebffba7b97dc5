"""Networks as safetensors files; device and precision.

A file holds the tensors of one network and, as text, which class it is, the keyword arguments of that class and what
is known of the training. So it can be read without a configuration, and it cannot run code.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import safetensors
import torch
from safetensors.torch import save
from torch import Tensor, nn

from ulmpaper.core.records import check_choice
from ulmpaper.io.files import write_atomic
from ulmpaper.networks.model import MSPCN, CountNet, ML3DResNet, Network

FORMAT = "ulmpaper network 1"
CLASSES: dict[str, type[Network]] = {"ml3d": ML3DResNet, "count": CountNet, "mspcn": MSPCN}
_SHIPPED = Path(__file__).parent / "trained"
_PICKLED = (
    b"PK\x03\x04",
    b"\x80",
)  # first bytes of what torch.save writes, now and before version 1.6


def write_network(
    path: str | os.PathLike,
    net: nn.Module,
    *,
    recipe: str,
    network: Mapping,
    about: Mapping,
    half: bool = False,
) -> Path:
    """Write a network to a safetensors file, at once or not at all.

    Parameters
    ----------
    path : path-like
        The file; what was there before stays until the new one is complete.
    net : Module
        The network, on any device.
    recipe : {"ml3d", "count", "mspcn"}
        Which network it is.
    network : mapping
        Keyword arguments that make an untrained one, e.g. ``{"features": 96, "blocks": 10}``.
    about : mapping
        What is known of its training; goes through JSON.
    half : bool
        Store 16-bit floats: half the size.

    Raises
    ------
    OSError
        The disk is full, or cannot be written for another reason.
    ValueError
        Unknown recipe; `network` does not make this network.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     how = {"recipe": "count", "network": {"n_max": 9}, "about": {"seconds": 60}}
    ...     net = read_network(write_network(f"{folder}/a.safetensors", CountNet(9), **how))
    >>> net.n_max, net.about
    (9, {'seconds': 60})
    """
    path = Path(path)
    tensors = {
        name: t.detach().to("cpu", copy=True).contiguous() for name, t in net.state_dict().items()
    }
    _check_fit(_untrained(recipe, network, "network"), tensors, f"the network to write to {path}")
    if half:
        tensors = {name: t.half() for name, t in tensors.items()}
    said = {
        "format": FORMAT,
        "recipe": recipe,
        "network": json.dumps(dict(network)),
        "about": json.dumps(dict(about)),
    }
    metadata = {**said, "sha256": _sha256(tensors, said)}
    write_atomic(path, save(tensors, metadata))
    return path


def read_network(
    path: str | os.PathLike, *, recipe: str | None = None, device: str = "cpu"
) -> Network:
    """Read a network written by `write_network`.

    Parameters
    ----------
    path : path-like
        The file.
    recipe : {"ml3d", "count", "mspcn"}, optional
        Which network it must be; by default any.
    device : str
        See `resolve_device`.

    Returns
    -------
    Module
        The network in 32-bit floats, ready for use (``eval``); its ``about`` holds what is known of its training.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        A pickled checkpoint, a file that is damaged or of another kind, another recipe, tensors that do not fit.
    """
    path = Path(path)
    tensors, metadata = _read(path)
    found = metadata["recipe"]
    if recipe is not None and found != check_choice(recipe, CLASSES, "recipe"):
        raise ValueError(
            f"{path} holds a network of recipe {found!r}, but {recipe!r} is needed: give another file"
        )
    net = _untrained(found, json.loads(metadata["network"]), str(path))
    # Copies: what safetensors gives is a view of the file, and lies in memory in a way that slows down and rounds anew.
    load_tensors(
        net, {name: t.to(torch.float32, copy=True) for name, t in tensors.items()}, what=str(path)
    )
    net.about = json.loads(metadata["about"])
    net.to(resolve_device(device))
    net.eval()
    return net


def load_tensors(net: nn.Module, tensors: Mapping[str, Tensor], *, what: str = "the file") -> None:
    """Put tensors into a network, or name what does not fit and leave the network as it is.

    Parameters
    ----------
    net : Module
        Takes the tensors over as they are; it may be on the device ``meta``.
    tensors : mapping of str to Tensor
        As from ``net.state_dict()``.
    what : str
        Where they come from, for the message.

    Raises
    ------
    ValueError
        Tensors are missing, superfluous or of another shape.

    Examples
    --------
    >>> load_tensors(nn.Linear(2, 1), {"weight": torch.zeros(1, 3), "scale": torch.zeros(1)})
    Traceback (most recent call last):
    ...
    ValueError: the file does not fit this Linear: missing: bias; superfluous: scale;
    of another shape: weight (1, 3) instead of (1, 2); was it made with other settings?
    """
    _check_fit(net, tensors, what)
    net.load_state_dict(dict(tensors), assign=True)


def shipped_weights(recipe: str, *, missing_ok: bool = False) -> Path:
    """Find the weights that come with the package; beside them lies the course of their training, as CSV.

    Parameters
    ----------
    recipe : {"ml3d", "count", "mspcn"}
        Which network.
    missing_ok : bool
        Say where they belong even if there are none.

    Raises
    ------
    FileNotFoundError
        There are none; says how to train them.
    """
    path = _SHIPPED / f"{check_choice(recipe, CLASSES, 'recipe')}.safetensors"
    if not (missing_ok or path.is_file()):
        raise FileNotFoundError(
            f"no trained weights for {recipe!r} come with this installation ({path}): train them with "
            f"`ulmpaper train --recipe {recipe}`, or all three with `make weights`, "
            f"and name the file in the setting {recipe}.weights"
        )
    return path


def find_weights(recipe: str, weights: str | os.PathLike | None = None) -> Path:
    """Find the file that a setting means: a path, ``phantom`` or ``paper`` for others of the package, or None."""
    if weights is None:
        return shipped_weights(recipe)
    named = _SHIPPED / f"{recipe}_{weights}.safetensors"
    return named if named.is_file() else Path(weights)


def resolve_device(device: str | torch.device) -> torch.device:
    """Device for a setting: ``auto`` is CUDA where there is one, else the CPU.

    Raises
    ------
    ValueError
        There is no such device here.

    Examples
    --------
    >>> resolve_device("cpu")
    device(type='cpu')
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=device).cpu()
        return torch.device(device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"device {str(device)!r} cannot be used ({reason}): set compute.device to auto or cpu, "
            "or install torch for this device"
        ) from None


def resolve_precision(precision: str, device: torch.device) -> torch.dtype:
    """Type of number for a setting: ``auto`` is bfloat16 where `device` computes with it, else float32.

    Parameters
    ----------
    precision : {"auto", "float32", "bfloat16"}
        The setting.
    device : torch.device
        Where the network runs.

    Raises
    ------
    ValueError
        Unknown precision.

    Notes
    -----
    NVIDIA's processors have bfloat16 from compute capability 8.0 on, Intel's and AMD's with AVX512_BF16 or AMX. Others
    emulate it and are slower than with float32. Weights stay float32; torch converts them (``autocast``).

    Examples
    --------
    >>> resolve_precision("float32", torch.device("cpu"))
    torch.float32
    """
    check_choice(precision, ("auto", "float32", "bfloat16"), "precision")
    if precision != "auto":
        return getattr(torch, precision)
    if device.type == "cuda":
        quick = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        queries = (
            "_is_avx512_bf16_supported",
            "_is_amx_tile_supported",
        )  # not in every version of torch
        quick = device.type == "cpu" and any(getattr(torch.cpu, name, bool)() for name in queries)
    return torch.bfloat16 if quick else torch.float32


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a file whose contents are as they were written."""
    if not path.is_file():
        raise FileNotFoundError(
            f"there are no weights at {path}: check the name, or train a network"
        )
    with path.open("rb") as file:
        first = file.read(9)
    if first.startswith(_PICKLED) and first[8:] != b"{":
        raise ValueError(
            f"{path} is a pickled checkpoint (torch.save), which can run code when it is opened: "
            "only safetensors files of ulmpaper are read"
        )
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{path} is damaged or no safetensors file ({error}): fetch or train it anew"
        ) from None
    if metadata.get("format") != FORMAT:
        raise ValueError(
            f"{path} is no network of ulmpaper: its format is {metadata.get('format')!r}, needed is {FORMAT!r}"
        )
    if metadata.pop("sha256", None) != _sha256(tensors, metadata):
        raise ValueError(
            f"{path} is damaged: it does not hold what was written; fetch or train it anew"
        )
    return tensors, metadata


def _untrained(recipe: str, network: Mapping, what: str) -> Network:
    """Network without numbers, on the device ``meta``: nothing is drawn at random, nothing allocated."""
    cls = CLASSES[check_choice(recipe, CLASSES, "recipe")]
    try:
        with torch.device("meta"):
            return cls(**network)
    except TypeError as error:
        raise ValueError(
            f"{what}: {dict(network)} do not make a {cls.__name__} ({error})"
        ) from None


def _check_fit(net: nn.Module, tensors: Mapping[str, Tensor], what: str) -> None:
    wanted = {name: tuple(t.shape) for name, t in net.state_dict().items()}
    found = {name: tuple(t.shape) for name, t in tensors.items()}
    differences = {
        "missing": [name for name in wanted if name not in found],
        "superfluous": [name for name in found if name not in wanted],
        "of another shape": [
            f"{n} {found[n]} instead of {s}" for n, s in wanted.items() if found.get(n, s) != s
        ],
    }
    said = [
        f"{kind}: {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
        for kind, names in differences.items()
        if names
    ]
    if said:
        raise ValueError(
            f"{what} does not fit this {type(net).__name__}: {'; '.join(said)}; was it made with other settings?"
        )


def _sha256(tensors: Mapping[str, Tensor], said: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].numpy().tobytes())
    return digest.hexdigest()
