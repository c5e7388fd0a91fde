"""What the component exports, around the program's `run`."""

from __future__ import annotations

import inspect
import json as _json
import random as _random
import traceback as _traceback
import typing
from typing import Any, Callable

from . import _host, _schema
from ._host import Failure
from ._loop import Loop, settle
from ._patterns import failure_of

# Names of hosts are encoded by it. It is looked up while the component is built, for later nothing can be
# imported.
"localhost".encode("idna")


def _arguments(body: Callable[..., Any], value: Any) -> list[Any]:
    """The input as the function wants it: of the type that it names, or nothing if it takes nothing."""
    parameters = list(inspect.signature(body).parameters.values())
    if not parameters:
        return []
    try:
        kind = typing.get_type_hints(body, include_extras=True).get(parameters[0].name, Any)
    except NameError:
        kind = Any
    try:
        return [_schema.decode(kind, value)]
    except _schema.Misfit as misfit:
        raise Failure("rejected", f"the input does not fit: {misfit}") from None


async def _main(body: Callable[..., Any], arguments: list[Any]) -> Any:
    return await settle(body(*arguments))


def execute(body: Callable[..., Any], text: str) -> str:
    """Runs the program. Gives its result as JSON, or raises the failure as the host takes it."""
    # The state that was made when the module was built is the same in every run.
    _random.seed(_host.context.random())
    try:
        arguments = _arguments(body, _json.loads(text))
        loop = Loop()  # type: ignore[abstract]
        return _host.dump(loop.run(_main(body, arguments)), "result")
    except BaseException as error:
        failure = failure_of(error)
        details = failure.details
        if failure.kind == "failed" and not isinstance(error, Failure):
            details = {"traceback": "".join(_traceback.format_exception(error))}
        record = _host.types.Failure(
            _host.kind_of(failure.kind), failure.message, _host.optional(details, "details"), failure.attempts
        )
        raise _host.Err(record) from None
