"""Methods that run one at a time. The lock comes from outside: nothing here knows of threads. Pure."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar


class Guarded(Protocol):
    """Something with a lock that whoever holds it may take again."""

    guard: AbstractContextManager[Any]


Owner = TypeVar("Owner", bound=Guarded)
Given = ParamSpec("Given")
Result = TypeVar("Result")


def guarded(
    method: Callable[Concatenate[Owner, Given], Result],
) -> Callable[Concatenate[Owner, Given], Result]:
    """The method under its owner's guard."""

    @wraps(method)
    def one_at_a_time(self: Owner, /, *args: Given.args, **kwargs: Given.kwargs) -> Result:
        with self.guard:
            return method(self, *args, **kwargs)

    return one_at_a_time
