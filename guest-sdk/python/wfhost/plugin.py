"""Agents as components: a plugin answers the agent calls of workflows.

The module ``plugin`` of a project has a function ``run`` that takes a :class:`Call` and returns a :class:`Reply`, or
what is to be its output::

    from wfhost.plugin import Call, http, line

    def run(call: Call) -> str:
        line("asking")
        return http("GET", "https://example.com/").text
"""

from __future__ import annotations

import json as _json
import math as _math
import traceback as _traceback
from dataclasses import dataclass, field
from typing import Any, Callable, Iterator, Optional, Union

from ._host import Err, _Missing

_progress: Any = _Missing()
_types: Any = _Missing()
_web: Any = _Missing()

try:
    from wit_world.imports import http as _web, progress as _progress, types as _types  # type: ignore[no-redef, import-not-found]
except ImportError:
    pass


class Failure(Exception):
    """Why an attempt did not end well. Any other exception fails it as ``failed``.

    Attributes:
        kind: ``failed``, ``timed-out``, ``cancelled``, ``invalid-output``, ``unavailable`` or ``rejected``: it
            decides whether there is another attempt.
        message: For people.
        details: For programs: JSON, or None.
        auth: Who is asking is not accepted: the provider is of no use to this run any more.
        retry_after: Milliseconds for which the other side asks to be left alone.
        usage: What the attempt consumed all the same.
    """

    def __init__(
        self,
        kind: str,
        message: str,
        details: Any = None,
        auth: bool = False,
        retry_after: Optional[int] = None,
        usage: Optional[Usage] = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.details = details
        self.auth = auth
        self.retry_after = retry_after
        self.usage = usage


@dataclass
class Usage:
    """The usage of an answer. The cost is in millionths of a US dollar."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cost_micros: int = 0


@dataclass
class Reply:
    """An answer with what belongs to it."""

    output: Any
    session: Optional[str] = None
    model: Optional[str] = None
    usage: Optional[Usage] = None


@dataclass
class Call:
    """One attempt at a call: see ``wit/plugin/plugin.wit``."""

    message: str
    prompt: str
    input: Any
    schema: Any
    options: Any
    model: Optional[str]
    session: Optional[str]
    history: list[tuple[str, str]]
    key: str
    run: str
    step: int
    attempt: int
    heartbeat: Any


@dataclass
class Response:
    """An answer of a service, of any status. Redirects are not followed."""

    status: int
    headers: dict[str, str]
    body: bytes = field(repr=False)

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")

    def json(self) -> Any:
        return _json.loads(self.body)


def chunk(text: str) -> None:
    """Shows a piece of the answer, as it comes."""
    _progress.chunk(text)


def line(text: str) -> None:
    """Shows a line about the work."""
    _progress.line(text)


def transcript(event: Any) -> None:
    """Adds an event to the transcript of the call."""
    _progress.transcript(_json.dumps(event))


def heartbeat(at: Any) -> None:
    """Reports the progress of the work. The next attempt finds the last report in ``call.heartbeat``."""
    _progress.heartbeat(_json.dumps(at))


def cancelled() -> bool:
    """Whether the call was cancelled."""
    return bool(_progress.cancelled())


def _refused(error: Err) -> Failure:
    name, text = type(error.value).__name__, getattr(error.value, "value", "")
    if name.endswith("Denied"):
        return Failure("rejected", f"the host denies the request: {text}")
    if name.endswith("Invalid"):
        return Failure("rejected", f"the request cannot be sent: {text}")
    return Failure("unavailable", f"the service gives no answer: {text}")


def stream(
    method: str,
    url: str,
    headers: Optional[dict[str, str]] = None,
    body: Union[None, bytes, str, Any] = None,
    timeout: Optional[int] = None,
) -> tuple[int, dict[str, str], Iterator[bytes]]:
    """Sends a request; gives the status, the headers, and the pieces of the body as they come.

    What is not granted is denied. A body that is neither bytes nor text is sent as JSON; ``timeout`` is in
    milliseconds.
    """
    if body is not None and not isinstance(body, bytes):
        body = (body if isinstance(body, str) else _json.dumps(body)).encode()
    given = [(name, value.encode()) for name, value in (headers or {}).items()]
    try:
        response = _web.send(_web.Request(method, url, given, body, timeout))
    except Err as error:
        raise _refused(error) from None
    found = {name.lower(): value.decode("utf-8", "replace") for name, value in response.headers()}

    def pieces() -> Iterator[bytes]:
        while True:
            try:
                piece = response.read()
            except Err as error:
                raise _refused(error) from None
            if piece is None:
                return
            yield bytes(piece)

    return response.status(), found, pieces()


def http(
    method: str,
    url: str,
    headers: Optional[dict[str, str]] = None,
    body: Union[None, bytes, str, Any] = None,
    timeout: Optional[int] = None,
) -> Response:
    """Sends a request and waits for the whole answer: see :func:`stream`."""
    status, found, pieces = stream(method, url, headers, body, timeout)
    return Response(status, found, b"".join(pieces))


def _usage(usage: Optional[Usage]) -> Any:
    if usage is None:
        return None
    counts = (usage.input_tokens, usage.output_tokens, usage.cached_tokens, usage.cost_micros)
    return _types.Usage(*(_whole(count, round) for count in counts))


def _whole(count: Any, rounded: Callable[[Any], int]) -> int:
    """A number as the host takes it. What services report may be none, which is no reason to lose their answer."""
    try:
        return min(max(rounded(count), 0), (1 << 64) - 1)
    except (TypeError, ValueError, OverflowError):
        return 0


def _parsed(text: Optional[str]) -> Any:
    return None if text is None else _json.loads(text)


def execute(body: Callable[[Call], Any], given: Any) -> Any:
    """Runs the plugin. Gives its answer, or raises the failure as the host takes it."""
    try:
        call = Call(
            given.message,
            given.prompt,
            _parsed(given.input),
            _parsed(given.schema),
            _parsed(given.options),
            given.model,
            given.session,
            [(exchange.said, exchange.answered) for exchange in given.history],
            given.key,
            given.run,
            given.step,
            given.attempt,
            _parsed(given.heartbeat),
        )
        reply = body(call)
        if not isinstance(reply, Reply):
            reply = Reply(reply)
        output = _json.dumps(reply.output, ensure_ascii=False, allow_nan=False)
        return _types.Reply(output, reply.session, reply.model, _usage(reply.usage))
    except Exception as error:
        failure = error if isinstance(error, Failure) else None
        details = failure.details if failure else {"traceback": "".join(_traceback.format_exception(error))}
        kind = (failure.kind if failure else "failed").upper().replace("-", "_")
        message = failure.message if failure else f"{type(error).__name__}: {error}"
        record = _types.Failure(
            _types.FailureKind[kind],
            message,
            None if details is None else _json.dumps(details),
            bool(failure and failure.auth),
            _whole(failure.retry_after, _math.ceil) if failure and failure.retry_after is not None else None,
            _usage(failure.usage) if failure else None,
        )
        raise Err(record) from None
