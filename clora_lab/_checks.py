"""Argument checks shared by the whole package: every error names the argument, the limit and the value."""

from __future__ import annotations

import difflib
import numbers
from collections.abc import Iterable


def one_of(argument: str, value, choices: Iterable[str]) -> str:
    """Return `value` if it is one of `choices`; else raise and suggest the nearest one."""
    choices = list(choices)
    if isinstance(value, str) and value in choices:
        return value
    given = str(value).lower()
    near = [choice for choice in choices if given and choice.startswith(given)]
    near = near or difflib.get_close_matches(given, choices, n=1, cutoff=0.4)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"`{argument}` must be one of {choices}. Received: {value!r}.{hint}")


def positive_int(argument: str, value) -> int:
    """Return `value` as an int if it is an integer of at least 1."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
        raise ValueError(
            f"`{argument}` must be an integer of at least 1. "
            f"Received: {value!r} (type {type(value).__name__})."
        )
    return int(value)


def real(argument: str, value, low: float = float("-inf"), high: float = float("inf")) -> float:
    """Return `value` as a float if it is a real number in [low, high]."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not low <= value <= high:
        raise ValueError(f"`{argument}` must be a number in [{low:g}, {high:g}]. Received: {value!r}.")
    return float(value)
