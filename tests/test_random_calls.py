"""Random calls over all public functions: a result, or a refusal in a sentence of this package."""

from __future__ import annotations

import contextlib
import copy
import importlib
import inspect
import signal
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from _valid_calls import HEAVY, LEFT_OUT, VALID, Call, World, make_world

import ulmpaper
from ulmpaper import io
from ulmpaper.core.records import Block, UlmWarning

PACKAGE = Path(ulmpaper.__file__).parent
ROOMS = ("core", "io", "metrics", "simulator", "networks", "pipeline", "paper")
LONGEST_S = 30
MOST_BYTES = 2 * 2**30
BAD: tuple[Any, ...] = (
    None,
    np.nan,
    np.inf,
    -1,
    0,
    -3.5,
    2.5,
    1e300,
    -(10**30),
    10**15,
    True,
    1j,
    "",
    "text",
    "radail",
    b"bytes",
    [],
    {},
    (),
    (1, 2, 3),
    (0, -1),
    (np.nan, 5),
    ("a", "b"),
    [[1.0], [2.0, 3.0]],
    {"a": 1},
    np.float64(3),
    np.int64(-2),
    np.empty(0),
    np.empty((0, 4, 4)),
    np.empty((2, 0, 4)),
    np.zeros((2, 9, 9)),
    np.full((2, 9, 9), np.nan),
    np.full((2, 9, 9), "a"),
    np.array([None, 1], dtype=object),
    np.array(["2020-01-01"], dtype="datetime64[D]"),
    np.ones((2, 2, 2, 2)),
    np.array(5.0),
    pd.DataFrame(),
    pd.DataFrame({"frame": [0], "z": ["a"], "x": [1.0], "score": [1.0]}),
    pd.Series([1.0, 2.0]),
    object(),
    print,
    np.random.RandomState(0),
    Block,
)


# --- bad arguments -----------------------------------------------------------------------------


def spoiled(value: Any, rng: np.random.Generator) -> Any:
    """A bad or odd neighbour of a good value."""
    if isinstance(value, pd.DataFrame):
        return spoiled_table(value, rng)
    if isinstance(value, np.ndarray) and value.ndim:
        return spoiled_array(value, rng)
    if isinstance(value, Block):
        frames = spoiled_array(value.frames, rng)
        bubbles = spoiled_table(value.bubbles, rng) if value.bubbles is not None else None
        return Block(frames, bubbles) if rng.random() < 0.7 else copy.copy(value)
    if isinstance(value, Path):
        return pick(
            rng, value / "none", value.parent, str(value), value.with_name("ä b.tx"), bytes(value)
        )
    if isinstance(value, str):
        return pick(
            rng, value[1:], value.upper(), f" {value}", value * 200, [value], value.encode()
        )
    if isinstance(value, bool) or value is None:
        return pick(rng, *BAD)
    if isinstance(value, int | float):
        return pick(rng, -value, 0, value + 0.5, value * 1e9, str(value), [value], float(value))
    if isinstance(value, tuple | list) and len(value):
        kind = type(value)
        i = int(rng.integers(len(value)))
        one = (*value[:i], pick(rng, *BAD, spoiled(value[i], rng)), *value[i + 1 :])
        return pick(
            rng,
            value[::-1],
            value[:-1],
            (*value, value[0]),
            kind(one),
            np.array(one[:1], dtype=object),
        )
    if isinstance(value, dict) and value:
        key = next(iter(value))
        bad = pick(rng, *BAD)
        return pick(rng, {**value, key: bad}, {**value, "nosuch": bad}, {**value, 3: bad}, {})
    torch = importlib.import_module("torch")
    if isinstance(value, torch.Tensor):
        return pick(
            rng,
            value[None],
            value[0],
            value * torch.nan,
            -value,
            value.to(torch.complex64),
            value[..., :0],
            value.numpy(),
            value.bool(),
        )
    return pick(rng, *BAD)


def spoiled_array(value: np.ndarray, rng: np.random.Generator) -> Any:
    ways: list[Callable[[], Any]] = [
        lambda: value[None],
        lambda: value[0],
        lambda: value[:0],
        lambda: value[..., :0],
        lambda: value[:1],
        lambda: value[..., ::-1].T,
        lambda: value.tolist(),
        lambda: [*value.tolist()[:-1], []],
        lambda: value.astype(object),
        lambda: value.astype(str),
        lambda: value.astype(bool),
        lambda: np.zeros_like(value),
        lambda: value.astype(complex),
        lambda: np.where(np.arange(value.size).reshape(value.shape) == 3, np.nan, value),
        lambda: np.where(np.arange(value.size).reshape(value.shape) == 3, -np.inf, value),
        lambda: -value if value.dtype != bool else ~value,
        lambda: value * 1e300,
        lambda: value * 1e-300,
        lambda: (np.abs(value) * 100).astype(np.int16),
        lambda: np.ma.masked_array(value, np.arange(value.size).reshape(value.shape) == 3),
        lambda: pd.DataFrame(value.reshape(len(value), -1)),
    ]
    try:
        with np.errstate(all="ignore"):
            return pick(rng, *ways)()
    except (AttributeError, TypeError, ValueError, IndexError):  # already spoiled: no array now
        return [value]


def spoiled_table(table: pd.DataFrame, rng: np.random.Generator) -> Any:
    if not len(table.columns):
        return table
    name = pick(rng, *table.columns)
    row = np.arange(len(table)) == len(table) // 2
    number = pick(rng, np.nan, np.inf, -1.0, 0.5, 1e300, -1e12, 1e6)

    def with_column(values: Any) -> pd.DataFrame:
        return table.assign(**{str(name): values})

    ways: list[Callable[[], Any]] = [
        lambda: table.drop(columns=name),
        lambda: pd.concat([table, table[[name]]], axis=1),
        lambda: with_column("text"),
        lambda: with_column(1j),
        lambda: with_column(table[name].astype(object)),
        lambda: with_column(table[name].astype(str).astype("category")),
        lambda: with_column(pd.to_datetime("2020-01-01")),
        lambda: with_column(pd.array([None] * len(table), dtype="Int64")),
        lambda: with_column(np.where(row, number, table[name].to_numpy(float))),
        lambda: with_column(True),
        lambda: table.sample(frac=1, random_state=0),
        lambda: table.set_index(np.zeros(len(table), dtype=int)),
        lambda: pd.concat([table, table]),
        lambda: table[:0],
        lambda: table[:1],
        lambda: table.to_numpy(),
        lambda: table.to_dict("list"),
        lambda: table.rename(columns=str.upper),
        lambda: table.T,
        lambda: table.set_index(name),
    ]
    return pick(rng, *ways)()


def pick(rng: np.random.Generator, *values: Any) -> Any:
    return values[rng.integers(len(values))]


def spoil(given: Call, function: Callable, rng: np.random.Generator) -> Call:
    """The call with up to two arguments spoiled; now and then one too many, or an unknown name."""
    args, kwargs = list(given[0]), dict(given[1])
    for _ in range(pick(rng, 0, 1, 1, 1, 2)):
        places = [
            *range(is_method(function), len(args)),
            *(name for name in kwargs if name != "n_jobs"),
            *optional_names(function, len(args)),
        ]
        if not places:
            break
        place = pick(rng, *places)
        good = args[place] if isinstance(place, int) else kwargs.get(place)
        bad = pick(rng, *BAD) if rng.random() < 0.4 else spoiled(good, rng)
        if isinstance(place, int):
            args[place] = bad
        else:
            kwargs[place] = bad
    if rng.random() < 0.02:
        kwargs[pick(rng, "nosuch", "px", "upsampling")] = 1
    return tuple(args), kwargs


def is_method(function: Callable) -> bool:
    return next(iter(inspect.signature(function).parameters), "") == "self"


def optional_names(function: Callable, n_given: int) -> list[str]:
    """Parameters that a keyword can give, without those that start processes."""
    found = list(inspect.signature(function).parameters.values())[n_given:]
    kinds = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [p.name for p in found if p.kind in kinds]
    return [
        name for name in names if name not in ("n_jobs", "compiled", "world", "rank", "progress")
    ]


# --- one call ----------------------------------------------------------------------------------


def resolve(name: str) -> Callable:
    found: Any = ulmpaper
    for part in name.split("."):
        if inspect.ismodule(found) and part in ("config", "plots", *ROOMS):
            found = importlib.import_module(f"ulmpaper.{part}")
        else:
            found = getattr(found, part)
    return found


def use(result: Any) -> None:
    """Look at what a call gave, as a user would: the first of an iterator, the inside of a with."""
    if isinstance(result, Iterator):
        for _, _item in zip(range(3), result, strict=False):
            pass
    elif isinstance(
        result, contextlib._GeneratorContextManager
    ):  # a path is one that can be entered too
        with result as inside:
            inside.write_text("text")
    elif hasattr(result, "close"):
        result.close()
    repr(result)


def fault(error: BaseException) -> str | None:
    """What is wrong with an error; None for a refusal in a sentence."""
    frames = traceback.extract_tb(error.__traceback__)
    last = frames[-1]
    file = Path(last.filename)
    own = file.is_relative_to(PACKAGE)
    text = str(error)
    # Arguments that do not fit a signature: raised where the call stands, or in a generated method.
    is_binding = isinstance(error, TypeError) and "argument" in text
    if isinstance(error, OSError):  # a file that is not there, or is a folder
        return None
    if is_binding and (own or last.filename in (__file__, "<string>")):
        return None
    if isinstance(error, MemoryError) and "Unable to allocate" in text:
        return None
    if not isinstance(error, TypeError | ValueError | ImportError | MemoryError):
        return "of another type"
    if len(text.split()) < 4 or text.endswith((": ''", ":")):
        return "no sentence"
    return None


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Stop what hangs or fills the memory, on Linux."""

    def stop(*_: Any) -> None:
        raise TimeoutError(f"took longer than {seconds} s")

    if sys.platform != "linux":
        yield
        return
    import resource

    limits = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + MOST_BYTES, limits[1]))
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, limits)


def short(value: Any) -> str:
    with np.printoptions(threshold=5):
        text = " ".join(repr(value).split())
    shape = getattr(value, "shape", "")
    return f"{type(value).__name__}{shape} {text[:120]}"


def try_call(name: str, world: World, seed: int) -> tuple[bool, str | None]:
    """Whether the call succeeded, and what was wrong with it."""
    rng = np.random.default_rng(seed)
    function = resolve(name)
    given = VALID[name](world, rng)
    args, kwargs = spoil(given, function, rng)
    said = [*map(short, args), *(f"{key}={short(value)}" for key, value in kwargs.items())]
    asked = f"{name} (seed {seed}): {'; '.join(said)}"
    try:
        with warnings.catch_warnings(), limited(LONGEST_S):
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", UlmWarning)
            use(function(*args, **kwargs))
    except TimeoutError as error:
        return False, f"{asked}\n    {error}"
    except Exception as error:
        wrong = fault(error)
        where = traceback.extract_tb(error.__traceback__)
        own = [f for f in where if Path(f.filename).is_relative_to(PACKAGE)]
        place = f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else "outside"
        what = f"{place}: {type(error).__name__}: {error}"
        return False, f"{asked}\n    {wrong}: {what[:300]}" if wrong else None
    finally:
        for value in (*given[0], *args):
            if isinstance(value, io.BlockStore):
                value.close(keep=False)
    return True, None


# --- tests -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("calls")
    with contextlib.chdir(folder):  # some calls write to a path such as "text"
        yield make_world(folder / "world")


@pytest.fixture(autouse=True)
def _closed_figures() -> Iterator[None]:
    yield
    import matplotlib.pyplot as plt

    plt.close("all")


def promised() -> dict[str, Any]:
    """Each public callable once, by the first name that leads to it."""
    found: dict[int, tuple[str, Any]] = {}
    for room in (*ROOMS, ""):
        door = importlib.import_module(f"ulmpaper.{room}".rstrip("."))
        for name in door.__all__:
            value = getattr(door, name)
            if callable(value):
                found.setdefault(id(value), (f"{room}.{name}".lstrip("."), value))
    return dict(found.values())


def test_every_public_function_is_called() -> None:
    known = {id(resolve(name)) for name in [*VALID, *LEFT_OUT]}
    missing = [name for name, value in promised().items() if id(value) not in known]
    assert not missing, "write a valid call of these in _valid_calls.py"


def run_calls(world: World, seeds: range) -> None:
    names = [*sorted(VALID.keys() - HEAVY)] * 10 + sorted(HEAVY)
    successes: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    faults = []
    for seed in seeds:
        name = names[seed % len(names)]
        succeeded, wrong = try_call(name, world, seed)
        calls[name] += 1
        successes[name] += succeeded
        if wrong:
            faults.append(wrong)
    assert not faults, f"{len(faults)} faults:\n" + "\n".join(faults)
    assert successes.total() > 0.2 * calls.total()


@pytest.mark.slow
def test_valid_calls_succeed(world: World) -> None:
    refused = {}
    for name, make in VALID.items():
        args, kwargs = make(world, np.random.default_rng(0))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UlmWarning)
            try:
                use(resolve(name)(*args, **kwargs))
            except Exception as error:
                refused[name] = error
            finally:
                for value in args:
                    if isinstance(value, io.BlockStore):
                        value.close(keep=False)
    needs_files = {"io.read_insilico", "io.read_ratbrain", "io.read_ratkidney", "io.unpack"}
    assert set(refused) <= needs_files


@pytest.mark.slow
def test_some_random_calls(world: World) -> None:
    run_calls(world, range(600))


@pytest.mark.slow
def test_ten_thousand_random_calls(world: World) -> None:
    run_calls(world, range(1000, 11000))
