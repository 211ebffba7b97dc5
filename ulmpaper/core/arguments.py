"""Which argument of a failed call is of another kind than its function takes.

Most doors check what matters and say so. Where something fails further inside, as by an attribute
that text does not have, the arguments are held against the annotations afterwards: that costs
nothing where a call succeeds, and refuses nothing that would work.
"""

from __future__ import annotations

import contextlib
import dis
import functools
import inspect
import numbers
import re
import types
import typing
from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

_F = TypeVar("_F", bound=Callable[..., Any])

_PACKAGE = str(Path(__file__).parents[1])
_WORDS = {
    "None": "None",
    "int": "a whole number",
    "float": "a number",
    "bool": "True or False",
    "str": "text",
    "ArrayLike": "an array of numbers",
    "NDArray": "an array of numpy",
    "Path": "a path",
    "os.PathLike": "a path",
    "pd.DataFrame": "a DataFrame of pandas",
    "np.random.Generator": "a numpy.random.Generator",
    "Tensor": "a tensor of torch",
    "nn.Module": "a network of torch",
}
_MOST_LETTERS = 60  # of a value in an error


def explained(function: _F) -> _F:
    """Make a function whose failure inside names the argument of another kind, if there is one.

    Of a class it is said for its public methods, and for what makes it.

    Examples
    --------
    >>> @explained
    ... def half(count: int) -> int:
    ...     return count // 2
    >>> half("seven")
    Traceback (most recent call last):
    ...
    TypeError: half takes a whole number for count, not 'seven'
    """

    if isinstance(function, type):
        for name, part in list(vars(function).items()):
            if inspect.isfunction(part) and (name == "__init__" or not name.startswith("_")):
                setattr(function, name, explained(part))
        return function

    @contextlib.contextmanager
    def telling(args: tuple, kwargs: dict[str, Any]) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if not _is_our_sentence(error) and (text := _misfit(function, args, kwargs)):
                raise TypeError(text) from error
            raise

    def steps(
        made: Generator[Any, Any, Any], args: tuple, kwargs: dict[str, Any]
    ) -> Generator[Any, Any, Any]:
        with telling(args, kwargs):
            yield from made

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with telling(args, kwargs):
            made = function(*args, **kwargs)
        if isinstance(made, contextlib._GeneratorContextManager):
            made.gen = steps(made.gen, args, kwargs)
        return steps(made, args, kwargs) if inspect.isgenerator(made) else made

    return typing.cast(_F, call)


def _is_our_sentence(error: Exception) -> bool:
    """Whether the package raised it itself, by `raise`; or the system, about a file."""
    if isinstance(error, OSError | ImportError | MemoryError):
        return True
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None or not trace.tb_frame.f_code.co_filename.startswith(_PACKAGE):
        return False
    return trace.tb_frame.f_code.co_code[trace.tb_lasti] == dis.opmap["RAISE_VARARGS"]


def _misfit(function: Callable, args: tuple, kwargs: dict[str, Any]) -> str | None:
    """What is wrong with the first argument of another kind than its annotation."""
    signature = inspect.signature(function)
    try:
        given = signature.bind(*args, **kwargs).arguments
    except TypeError as error:  # an unknown name, or too many values
        return f"{function.__qualname__}() {error}"
    names = getattr(inspect.unwrap(function), "__globals__", {})
    for name, value in given.items():
        kinds = _parts(str(signature.parameters[name].annotation))
        variadic = signature.parameters[name].kind in (
            inspect.Parameter.VAR_POSITIONAL,
            inspect.Parameter.VAR_KEYWORD,
        )
        if not variadic and name != "self" and not any(_fits(value, kind, names) for kind in kinds):
            words = " or ".join(_WORDS.get(kind.partition("[")[0], kind) for kind in kinds)
            shown = re.sub(r"\s+", " ", repr(value))
            if len(shown) > _MOST_LETTERS:
                shown = f"{type(value).__name__} {shown[:_MOST_LETTERS]} ..."
            name_of_call = function.__qualname__.removesuffix(".__init__")
            return f"{name_of_call} takes {words} for {name}, not {shown}"
    return None


def _parts(annotation: str) -> list[str]:
    """The kinds that an annotation joins by ``|``, outside of brackets.

    Examples
    --------
    >>> _parts("tuple[int | None, int] | None")
    ['tuple[int | None, int]', 'None']
    """
    depth = 0
    parts = [""]
    for letter in annotation:
        depth += (letter == "[") - (letter == "]")
        if letter == "|" and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def _fits(value: Any, kind: str, names: dict[str, Any]) -> bool:
    """Whether a value is of the kind that an annotation names; True where that is not known."""
    if kind == "ArrayLike":
        return _holds_numbers(value)
    try:
        return _is_of(value, eval(kind, names))
    except (NameError, AttributeError, SyntaxError, TypeError):
        return True


def _is_of(value: Any, kind: Any) -> bool:
    """Whether a value is of a kind: a class, a generic, or several of them."""
    if kind is Any:
        return True
    if kind is None or value is None:
        return kind is value or kind is type(value)
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        return any(_is_of(value, part) for part in typing.get_args(kind))
    if kind is int or kind is float:
        wanted = numbers.Integral if kind is int else numbers.Real
        return isinstance(value, wanted) and not isinstance(value, bool)
    if kind is bool:
        return isinstance(value, bool) or type(value).__name__ == "bool"
    origin = typing.get_origin(kind) or kind
    if not isinstance(origin, type):
        return True
    parts = typing.get_args(kind)
    if origin is tuple and parts and Ellipsis not in parts:
        is_pair = isinstance(value, tuple | list) and len(value) == len(parts)
        return is_pair and all(map(_is_of, value, parts))
    # An array without axes has the method that makes a value iterable, but cannot be iterated.
    if not isinstance(value, origin) or getattr(value, "shape", None) == ():
        return False
    if isinstance(value, Mapping) and len(parts) == 2:
        return all(_is_of(key, parts[0]) and _is_of(value[key], parts[1]) for key in value)
    if len(parts) == 1 and isinstance(value, Collection):
        return all(_is_of(item, parts[0]) for item in value)
    return True


def _holds_numbers(value: Any) -> bool:
    """Whether numpy makes an array of numbers of it."""
    import numpy as np

    try:
        return np.asarray(value).dtype.kind in "biufc"
    except (TypeError, ValueError):  # text, or rows of different lengths
        return False
