"""What notebooks hand to the Python functions (numpy's numbers, arrays, columns of a table) as Python's own values."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def plain_arguments(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Converts all arguments at a function's entrance: nothing below meets an int64, which neither JSON nor a frozen model takes."""

    @wraps(function)
    def called(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        converted: Any = function
        result: Result = converted(*map(python_value, args), **{name: python_value(value) for name, value in kwargs.items()})
        return result

    return called


def python_value(value: Any) -> Any:
    """A number, text or list for what has a dtype (numpy, pandas, torch), also inside lists, tuples and dictionaries; all else as it is."""
    if hasattr(value, "dtype") and hasattr(value, "tolist"):
        return value.tolist()
    if type(value) in (list, tuple):
        return type(value)(map(python_value, value))
    if type(value) is dict:
        return {python_value(key): python_value(entry) for key, entry in value.items()}
    return value
