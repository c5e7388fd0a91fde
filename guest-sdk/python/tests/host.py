"""A host for tests of the SDK: steps end at times of a clock that goes on when the program waits."""

from __future__ import annotations

import dataclasses
import enum
import json
import sys
import types as _modules
from typing import Any

story: list[str] = []
answers: dict[str, Any] = {}
randoms: list[int] = []
last: dict[str, Any] = {}
state: dict[str, Any] = {"clock": 0, "steps": 0, "stop": False}


def reset(given: dict[str, Any] | None = None, numbers: list[int] | None = None) -> None:
    """Begins anew. `given` are answers of agents by their prompts: `at`, and `reply` or `fail`."""
    story.clear()
    last.clear()
    answers.clear()
    answers.update(given or {})
    randoms[:] = numbers or []
    state.update(clock=0, steps=0, stop=False)


@dataclasses.dataclass
class Err(Exception):
    value: Any


class FailureKind(enum.Enum):
    FAILED = 0
    TIMED_OUT = 1
    CANCELLED = 2
    INVALID_OUTPUT = 3
    BUDGET_EXCEEDED = 4
    UNAVAILABLE = 5
    REJECTED = 6


@dataclasses.dataclass
class Failure:
    kind: FailureKind
    message: str
    details: str | None
    attempts: int


def fail(kind: str, message: str, details: str | None = None) -> Err:
    return Err(Failure(FailureKind[kind.upper().replace("-", "_")], message, details, 1))


class Step:
    def __init__(self, name: str, after: float, outcome: dict[str, Any]) -> None:
        state["steps"] += 1
        self.number, self.name, self.outcome = state["steps"], name, outcome
        self.at, self.dropped = state["clock"] + after, False
        story.append(f"start {name}")

    def id(self) -> int:
        return int(self.number)

    def get(self) -> str:
        assert not self.dropped, self.name
        state["clock"] = max(state["clock"], self.at)
        if "fail" in self.outcome:
            raise fail(*self.outcome["fail"])
        return json.dumps(self.outcome.get("reply"))

    def __exit__(self, *_: Any) -> None:
        assert not self.dropped, self.name
        self.dropped = True
        if self.at > state["clock"]:
            story.append(f"cancel {self.name}")


class WaitSet:
    def __init__(self) -> None:
        self.members: dict[int, Step] = {}

    def add(self, step: Step, tag: int) -> None:
        self.members[tag] = step

    def remove(self, tag: int) -> None:
        self.members.pop(tag, None)

    def next(self) -> int:
        assert self.members, "deadlock"
        tag, first = min(self.members.items(), key=lambda member: (member[1].at, member[1].number))
        state["clock"] = max(state["clock"], first.at)
        del self.members[tag]
        return tag


def _start_agent(request: Any) -> Step:
    last["request"] = request
    given = answers.get(request.prompt, {})
    whole = {"output": given.get("reply", request.prompt), "provider": "test", **given.get("whole", {})}
    outcome = {"fail": given["fail"]} if "fail" in given else {"reply": whole}
    return Step(f"agent {request.prompt}", given.get("at", 1), outcome)


def _start_signal(name: str, timeout: int | None) -> Step:
    given = answers.get(f"signal {name}")
    if given is not None:
        return Step(f"signal {name}", given.get("at", 1), given)
    at = float("inf") if timeout is None else timeout
    return Step(f"signal {name}", at, {"fail": ("timed-out", "no signal")})


def _start_for(length: int) -> Step:
    if length > 100 * 366 * 24 * 3600 * 1000:
        raise fail("rejected", "too long")
    return Step(f"sleep {length}", length, {})


def _start_child(module: str, input: str, options: Any) -> Step:
    last["child"] = options
    return Step(f"child {module} {input}", 1, answers.get(module, {}))


def _continue_as_new(input: str) -> None:
    story.append(f"again {input}")
    raise SystemExit


def _record(name: str, *members: str) -> Any:
    return dataclasses.make_dataclass(name, members)


class _Level(enum.Enum):
    TRACE, DEBUG, INFO, WARN, ERROR = range(5)


class _Close(enum.Enum):
    CANCEL, ABANDON = range(2)


def _module(name: str, **members: Any) -> _modules.ModuleType:
    module = _modules.ModuleType(name)
    vars(module).update(members)
    sys.modules[name] = module
    return module


_request = ("prompt", "input", "providers", "model", "schema", "session", "workspace", "label", "group", "retry",
            "limits", "cache", "options")
_info = _modules.SimpleNamespace(
    run="r", workflow="w", digest="d", parent=None, started=7, attempt=1, labels=[("a", "b")]
)
_module("componentize_py_types", Err=Err)
_module("wit_world")
_module(
    "wit_world.imports",
    types=_modules.SimpleNamespace(FailureKind=FailureKind, Failure=Failure, WaitSet=WaitSet),
    agent=_modules.SimpleNamespace(
        Request=_record("Request", *_request),
        Retry=_record("Retry", "max_attempts", "initial", "factor", "max", "jitter", "fatal"),
        Limits=_record("Limits", "attempt", "total", "heartbeat"),
        Caching=_record("Caching", "version", "ttl"),
        start=_start_agent,
    ),
    sleep=_modules.SimpleNamespace(
        start_for=_start_for, start=lambda at: Step(f"sleep until {at}", at - state["clock"], {})
    ),
    signal=_modules.SimpleNamespace(
        start=_start_signal,
        Question=_record("Question", "prompt", "schema", "choices", "details"),
        start_ask=lambda question, timeout: Step(f"ask {question.prompt}", 1, answers.get(question.prompt, {})),
        send=lambda run, name, payload: story.append(f"send {run} {name} {payload}"),
        post=lambda name, payload: story.append(f"post {name} {payload}"),
    ),
    child=_modules.SimpleNamespace(Options=_record("Options", "id", "on_close", "labels"), OnParentClose=_Close, start=_start_child),
    context=_modules.SimpleNamespace(
        now=lambda: int(state["clock"]),
        random=lambda: randoms.pop(0) if randoms else 1 << 63,
        info=lambda: _info,
        budget=lambda: _modules.SimpleNamespace(total=10, spent=3),
        patched=lambda id: True,
        cancelled=lambda: state["stop"],
        phase=lambda title: story.append(f"phase {title}"),
        publish=lambda key, value: story.append(f"publish {key} {value}"),
        continue_as_new=_continue_as_new,
    ),
    log=_modules.SimpleNamespace(
        Level=_Level, write=lambda level, message, fields: story.append(f"{level.name.lower()} {message} {fields}")
    ),
)
