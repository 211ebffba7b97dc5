"""Doors: names that load on first use, and the extra to install where a package is missing.

>>> import ulmpaper
>>> ulmpaper.jaccard
Traceback (most recent call last):
...
AttributeError: ulmpaper has no 'jaccard': score_bubbles(found, truth) gives jaccard_near ...
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ulmpaper.core.arguments import explained


def offer(
    room: str, files: Mapping[str, str], hints: Mapping[str, str] | None = None
) -> tuple[list[str], Callable[[str], Any], Callable[[], list[str]]]:
    """Make ``__all__``, ``__getattr__`` and ``__dir__`` of a room whose names load on first use.

    Parameters
    ----------
    room : str
        The room's ``__name__``.
    files : mapping of str to str
        The names that each file of the room promises, separated by blanks.
    hints : mapping of str to str, optional
        For names that people guess, the right call in a few words.
    """
    home = {name: file for file, names in files.items() for name in names.split()}

    def load(name: str) -> Any:
        if name in home:
            try:
                return _at_the_door(
                    getattr(importlib.import_module(f"{room}.{home[name]}"), name), room
                )
            except _MissingExtra as error:
                return _answer(name, error)
        try:  # a file of the room
            if not name.startswith("_"):
                return importlib.import_module(f"{room}.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"{room}.{name}":
                raise
        raise AttributeError(
            f"{room} has no {name!r}: {(hints or {}).get(name) or _nearest(name, home)}"
        )

    return list(home), load, lambda: list(home)


@functools.cache
def _explained(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same for each room that offers a function."""
    return explained(function)


def _at_the_door(value: Any, room: str) -> Any:
    """Functions explain a failed call; everything else is as it is."""
    if isinstance(value, type) or not callable(value):
        return value
    function = _explained(value)
    if function.__module__ == value.__module__:
        function.__module__ = room  # where pickle finds it again, to send it to other processes
    return function


class _MissingExtra(ImportError):
    """A package is missing that an extra of ulmpaper brings."""


@contextlib.contextmanager
def optional(extra: str) -> Iterator[None]:
    """Name the extra to install where an import inside fails because a package is missing.

    Raises
    ------
    _MissingExtra
        An ImportError: a package is missing.

    Examples
    --------
    >>> with optional("simulate"):
    ...     import no_such_package
    Traceback (most recent call last):
    ...
    ulmpaper.core.doors._MissingExtra: no_such_package is not installed: pip install ...
    """
    try:
        yield
    except ModuleNotFoundError as error:
        text = f"{error.name} is not installed: pip install 'ulmpaper[{extra}]'"
        raise _MissingExtra(text, name=error.name) from None


def _answer(name: str, error: _MissingExtra) -> Callable[..., Any]:
    """Stand in for a function that cannot be loaded: listing and help work, calls say why not."""

    def missing(*_: Any, **__: Any) -> Any:
        raise error

    missing.__name__ = name
    missing.__doc__ = f"Not available here: {error}."
    return missing


def _nearest(name: str, names: Mapping[str, str]) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"it offers {', '.join(names)}"
