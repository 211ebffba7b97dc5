"""Networks as safetensors files; device and precision.

A file holds the tensors of one network and, as text, its class, the keyword arguments of that class
and a description of its training. So it can be read without a configuration, and it cannot run
code.
"""

from __future__ import annotations

import copy
import difflib
import hashlib
import json
import os
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import safetensors
import torch
from pydantic import BaseModel, ConfigDict, Field, Json, PositiveInt, ValidationError
from safetensors.torch import save
from torch import Tensor, nn

from ulmpaper.core.records import check_choice
from ulmpaper.io.files import write_atomic
from ulmpaper.networks.model import MSPCN, CountNet, ML3DResNet, Network

CLASSES: dict[str, type[Network]] = {"ml3d": ML3DResNet, "count": CountNet, "mspcn": MSPCN}

_FORMAT = "ulmpaper network 1"
_SHIPPED = Path(__file__).parent / "trained"
_FIRST_CHOICE = "shipped"  # name of the weights that are taken where none are named
# First bytes of the files of torch.save, now and before version 1.6.
_PICKLED = (b"PK\x03\x04", b"\x80")
_KINDS = (torch.float16, torch.float32)  # as `write_network` writes them
_SMALL = 64  # sizes that are built at once, whatever the tensors
_SHOWN = 4  # lines of torch's report of what does not fit: missing, unexpected, two shapes

# --- files -------------------------------------------------------------------------------------


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
        The file; an older one stays until the new one is complete.
    net : Module
        The network, on any device.
    recipe : {"ml3d", "count", "mspcn"}
        Which network it is.
    network : mapping
        Keyword arguments that make an untrained one, e.g. ``{"features": 96, "blocks": 10}``.
    about : mapping
        Description of its training; goes through JSON.
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
    ...     path, size = f"{folder}/a.safetensors", {"n_max": 9}
    ...     write_network(path, CountNet(9), recipe="count", network=size, about={"seconds": 60})
    ...     net = read_network(path)
    PosixPath('...a.safetensors')
    >>> net.n_max, net.about
    (9, {'seconds': 60})
    """
    path = Path(path)
    tensors = {
        name: t.detach().to("cpu", copy=True).contiguous() for name, t in net.state_dict().items()
    }
    # A file that could not be read again is not written.
    load_tensors(
        _untrained(recipe, network, "network"), tensors, what=f"the network to write to {path}"
    )
    if half:
        tensors = {name: t.half() for name, t in tensors.items()}
    header = {
        "format": _FORMAT,
        "recipe": recipe,
        "network": json.dumps(dict(network)),
        "about": json.dumps(dict(about)),
    }
    write_atomic(path, save(tensors, {**header, "sha256": checksum(tensors, header)}))
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
        The network in 32-bit floats, ready for use (``eval``); its ``about`` describes its
        training.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        A pickled checkpoint, a file that is damaged or of another kind, another recipe, tensors
        that do not fit.
    """
    path = Path(path)
    tensors, metadata = _read_file(path)
    header = _read_header(path, metadata, tensors)
    found = header.recipe
    if recipe is not None and found != check_choice(recipe, CLASSES, "recipe"):
        raise ValueError(
            f"{path} holds a network of recipe {found!r}, but {recipe!r} is needed: "
            "give another file"
        )
    net = _untrained(found, header.network, str(path))
    # Copies: safetensors returns views of the file, whose layout in memory is slow and rounds anew.
    copies = {name: t.to(torch.float32, copy=True) for name, t in tensors.items()}
    load_tensors(net, copies, what=str(path))
    net.about = json.loads(metadata["about"])  # as it was written, not as it was checked
    net.to(resolve_device(device))
    net.eval()
    return net


def load_tensors(net: nn.Module, tensors: Mapping[str, Tensor], *, what: str = "the file") -> None:
    """Put tensors into a network, or say what does not fit and leave the network as it is.

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
        Tensors are missing, unexpected or of another shape.

    Examples
    --------
    >>> load_tensors(nn.Linear(2, 1), {"weight": torch.zeros(1, 3), "scale": torch.zeros(1)})
    Traceback (most recent call last):
    ...
    ValueError: the file does not fit this Linear (was it made with other settings?):
    Missing key(s) in state_dict: "bias". Unexpected key(s) in state_dict: "scale".
    size mismatch for weight: copying a param with shape torch.Size([1, 3]) from checkpoint,
    the shape in current model is torch.Size([1, 2]).
    """
    state = dict(tensors)
    try:
        # First into a copy without memory: torch loads what fits before it reports the rest.
        copy.deepcopy(net).to("meta").load_state_dict(state, assign=True)
    except RuntimeError as error:
        # A line for missing tensors, one for unexpected ones, one for each of another shape.
        lines = str(error).split("\n\t")[1:]
        report = [textwrap.shorten(line, 200, placeholder=" ...") for line in lines[:_SHOWN]]
        if len(lines) > _SHOWN:
            report.append(f"And {len(lines) - _SHOWN} more.")
        raise ValueError(
            f"{what} does not fit this {type(net).__name__} (was it made with other settings?): "
            f"{' '.join(report)}"
        ) from None
    net.load_state_dict(state, assign=True)


def _read_file(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a file whose contents are as they were written."""
    if not path.is_file():
        raise FileNotFoundError(
            f"there are no weights at {path}: check the name, or train a network"
        )
    with path.open("rb") as file:
        first = file.read(9)
    # A safetensors file may begin with the same bytes, but its ninth opens the header.
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
    if odd := {str(t.dtype) for t in tensors.values() if t.dtype not in _KINDS}:
        raise ValueError(
            f"{path} holds tensors of {', '.join(odd)}: only 16 and 32-bit floats can be"
        )
    if metadata.get("format") != _FORMAT:
        raise ValueError(
            f"{path} is no network of ulmpaper: its format is {metadata.get('format')!r}, "
            f"needed is {_FORMAT!r}"
        )
    if metadata.pop("sha256", None) != checksum(tensors, metadata):
        raise ValueError(
            f"{path} is damaged: it does not hold what was written; fetch or train it anew"
        )
    return tensors, metadata


class _About(BaseModel):
    """What is used of the record of a training; more may stand there."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)

    digest: str = ""
    window: PositiveInt = 1
    tile_px: PositiveInt = 1
    threshold: float = 0.0
    domain: dict[str, float | Annotated[list[float], Field(min_length=2, max_length=2)]] = {}
    settings: dict[str, Any] = {}
    scores: dict[str, Any] = {}


class _Header(BaseModel):
    """Metadata of a file of weights."""

    model_config = ConfigDict(extra="ignore")

    recipe: Literal["ml3d", "count", "mspcn"]
    network: Json[dict[str, int | float | str | None]]
    about: Json[_About]


def _read_header(path: Path, metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> _Header:
    """Metadata of a file, checked: they may come from anywhere."""
    try:
        header = _Header.model_validate(metadata)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(
            f"{path} is no network of ulmpaper, {where} in its header: {first['msg']}; "
            "fetch or train it anew"
        ) from None
    # Sizes are sides of tensors and numbers of layers; larger ones would take forever to be made.
    sides = [side for t in tensors.values() for side in t.shape]
    largest = max([_SMALL, len(tensors), *sides])
    for name, value in header.network.items():
        if isinstance(value, int) and value > largest:
            raise ValueError(f"{path} does not hold a network with {name} = {value}: train it anew")
    if not all(bool(t.isfinite().all()) for t in tensors.values()):
        raise ValueError(f"{path} holds weights that are NaN or infinite: fetch or train it anew")
    return header


def _untrained(recipe: str, network: Mapping, what: str) -> Network:
    """Network without numbers, on the device ``meta``: no random draw, no memory."""
    cls = CLASSES[check_choice(recipe, CLASSES, "recipe")]
    try:
        with torch.device("meta"):
            return cls(**network)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{what}: {dict(network)} do not make a {cls.__name__} ({error})"
        ) from None


def checksum(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> str:
    """Checksum of the tensors and of the rest of the metadata."""
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].numpy().tobytes())
    return digest.hexdigest()


def shipped_weights(recipe: str, *, missing_ok: bool = False) -> Path:
    """Find the weights that come with the package; beside them lies their training curve, as CSV.

    Parameters
    ----------
    recipe : {"ml3d", "count", "mspcn"}
        Which network.
    missing_ok : bool
        Return where they belong even if there are none.

    Raises
    ------
    FileNotFoundError
        There are none; says how to train them.
    """
    path = _SHIPPED / f"{check_choice(recipe, CLASSES, 'recipe')}.safetensors"
    if not (missing_ok or path.is_file()):
        raise FileNotFoundError(
            f"no trained weights for {recipe!r} come with this installation ({path}): train them "
            f"with `ulmpaper train --recipe {recipe}`, or all three with `make weights`, "
            f"and name the file in the setting {recipe}.weights"
        )
    return path


def find_weights(recipe: str, weights: str | os.PathLike | None = None) -> Path:
    """Find the file that a setting means.

    Parameters
    ----------
    recipe : {"ml3d", "count", "mspcn"}
        Which network.
    weights : path-like or {"shipped", "phantom", "paper"}, optional
        A file, or the name of weights that come with the package; by default ``shipped``, its first
        choice.

    Raises
    ------
    FileNotFoundError
        Neither such a name nor such a file; lists the names.

    Examples
    --------
    >>> find_weights("ml3d", "paper").name
    'ml3d_paper.safetensors'
    """
    if weights is None or str(weights) == _FIRST_CHOICE:
        return shipped_weights(recipe)
    named = _SHIPPED / f"{recipe}_{weights}.safetensors"
    if named.is_file():
        return named
    path = Path(weights)
    if path.is_file():
        return path
    names = _weight_names(recipe)
    close = difflib.get_close_matches(str(weights), names, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    if path.is_dir():
        hint = f"it is a folder; of a training's folder give {path / 'best.safetensors'}. "
    raise FileNotFoundError(
        f"there are no weights at {weights}: {hint}Allowed for {recipe}: {', '.join(names)}, or "
        "a .safetensors file, as ulmpaper train writes it (best.safetensors)"
    )


def _weight_names(recipe: str) -> list[str]:
    """Names of the weights of a recipe that come with the package, the first choice first."""
    others = sorted(path.stem for path in _SHIPPED.glob(f"{recipe}_*.safetensors"))
    return [_FIRST_CHOICE, *(name.removeprefix(f"{recipe}_") for name in others)]


# --- device and precision ----------------------------------------------------------------------


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
    """Number type for a setting: ``auto`` is bfloat16 where `device` has it, else float32.

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
    NVIDIA's processors have bfloat16 from compute capability 8.0 on, Intel's and AMD's with
    AVX512_BF16 or AMX. Others emulate it and are slower than with float32. Weights stay float32;
    torch converts them (``autocast``).

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
        # Not every version of torch has these functions; bool() is False.
        queries = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        quick = device.type == "cpu" and any(getattr(torch.cpu, name, bool)() for name in queries)
    return torch.bfloat16 if quick else torch.float32
