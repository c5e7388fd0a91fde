"""The host's functions, as componentize-py binds them.

Elsewhere, in an editor or in tests of a program's own functions, the package can be imported all the same;
whatever reaches the host then says that it is not there.
"""

from __future__ import annotations

import json as _json
from typing import Any, Callable, Optional, TypeVar

T = TypeVar("T")


class _Missing:
    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("this works within a run only: `wfhost build` makes a workflow of the program")


agent: Any = _Missing()
child: Any = _Missing()
context: Any = _Missing()
log: Any = _Missing()
signal: Any = _Missing()
sleep: Any = _Missing()
types: Any = _Missing()


class Err(Exception):
    """What the bindings raise."""

    value: Any


try:
    from componentize_py_types import Err  # type: ignore[no-redef, import-not-found]
    from wit_world.imports import agent, child, context, log, signal, sleep, types  # type: ignore[no-redef, import-not-found]
except ImportError:
    pass


class Failure(Exception):
    """The failure of a step. If a workflow raises it, the run fails with it; any other exception fails
    it as ``failed``.

    Attributes:
        kind: ``failed``, ``timed-out``, ``cancelled``, ``invalid-output``, ``budget-exceeded``,
            ``unavailable`` or ``rejected``.
        message: For people.
        details: For programs: JSON, or None.
        attempts: How often it was tried; 0 if it never was.
    """

    def __init__(self, kind: str, message: str, details: Any = None, attempts: int = 0) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.details = details
        self.attempts = attempts

    def __str__(self) -> str:
        return self.message or self.kind

    @property
    def is_outcome_unknown(self) -> bool:
        """Whether it is unknown if the call was carried out: the host died during one that may be made
        ``once``."""
        return isinstance(self.details, dict) and self.details.get("reason") == "unknown-outcome"


def call(function: Callable[..., T], *arguments: Any) -> T:
    """Calls the host, whose failures are exceptions of the bindings."""
    try:
        return function(*arguments)
    except Err as error:
        failure = error.value
        kind = failure.kind.name.lower().replace("_", "-")
        details = None if failure.details is None else _json.loads(failure.details)
        raise Failure(kind, failure.message, details, failure.attempts) from None


def kind_of(name: str) -> Any:
    """A kind as the host has it."""
    return types.FailureKind[name.upper().replace("-", "_")]


def dump(value: Any, what: str = "value") -> str:
    """A value as JSON for the host."""
    from ._schema import encode, plain

    try:
        return _json.dumps(plain(value), ensure_ascii=False, allow_nan=False, default=encode)
    # What contains itself has no end.
    except (TypeError, ValueError, RecursionError) as error:
        raise Failure("rejected", f"the {what} cannot be written as JSON: {error}") from error


def optional(value: Any, what: str = "value") -> Optional[str]:
    """The same; None stays None."""
    return None if value is None else dump(value, what)
