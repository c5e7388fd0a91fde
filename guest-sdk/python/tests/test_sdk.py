"""The SDK over a host of its own: `python -m unittest discover tests`."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
import enum
import json
import pathlib
import sys
import types
import typing
import unittest
import unittest.mock
from typing import Annotated, Any, Literal, Optional

sys.path[:0] = [str(pathlib.Path(__file__).parent), str(pathlib.Path(__file__).parent.parent)]

import host
import wfhost
from wfhost import (
    Done, Failure, Limits, Retry, agent, agent_json, agent_reply, budget, child, first_ok, info, log, parallel_map,
    quorum, race, retry, rounds, saga, send, signal, sleep,
)
from wfhost import _schema, plugin
from wfhost._entry import execute


def run(body: Any, given: Any = None, input: Any = None) -> Any:
    host.reset(given)
    return json.loads(execute(body, json.dumps(input)))


def failure(body: Any, given: Any = None, input: Any = None) -> Any:
    """The failure of a run, as the host gets it, its details read."""
    host.reset(given)
    try:
        execute(body, json.dumps(input))
    except host.Err as error:
        record = error.value
        details = None if record.details is None else json.loads(record.details)
        return record.kind.name.lower().replace("_", "-"), record.message, details
    raise AssertionError("it did not fail")


@dataclasses.dataclass
class Review:
    """What a reviewer says."""

    accepted: bool
    notes: Annotated[list[str], "what has to be changed"] = dataclasses.field(default_factory=list)
    score: Optional[float] = None


class Programs(unittest.TestCase):
    def test_a_coroutine_gives_its_result_and_its_exception_fails_the_run(self) -> None:
        async def body(input: Any) -> Any:
            greeting = await agent(f"greet {input['name']}")
            await sleep(1)
            return {"greeting": greeting}

        self.assertEqual(run(body, input={"name": "Ada"}), {"greeting": "greet Ada"})
        self.assertEqual(host.story, ["start agent greet Ada", "start sleep 1000"])

        async def broken() -> Any:
            await sleep(0.001)
            raise KeyError("not like this")

        kind, message, details = failure(broken)
        self.assertEqual((kind, message), ("failed", "KeyError: 'not like this'"))
        self.assertIn("raise KeyError", details["traceback"])

    def test_a_program_may_be_an_ordinary_function(self) -> None:
        self.assertEqual(run(lambda: 7), 7)
        self.assertEqual(run(lambda: agent("a")), "a")
        self.assertEqual(run(lambda: agent("a").get() + agent("b").get()), "ab")
        self.assertEqual(failure(lambda: {"big": object()})[0], "rejected")

    def test_input_has_the_type_that_the_function_names(self) -> None:
        async def body(review: Review) -> Any:
            return review

        given = {"accepted": True, "notes": ["a"]}
        self.assertEqual(run(body, input=given), {**given, "score": None})
        kind, message, _ = failure(body, input={"accepted": 1})
        self.assertEqual((kind, message), ("rejected", "the input does not fit: accepted: boolean was expected, not 1"))

    def test_failures_keep_everything_on_the_way_from_the_host_and_back(self) -> None:
        given = {"a": {"fail": ("budget-exceeded", "spent", '{"tokens": 7}')}}

        async def body() -> Any:
            await agent("a")

        self.assertEqual(failure(body, given), ("budget-exceeded", "spent", {"tokens": 7}))

        async def caught() -> Any:
            try:
                await agent("a")
            except Failure as error:
                return [error.kind, error.details, error.attempts, error.is_outcome_unknown]

        self.assertEqual(run(caught, given), ["budget-exceeded", {"tokens": 7}, 1, False])
        self.assertTrue(Failure("failed", "x", {"reason": "unknown-outcome"}).is_outcome_unknown)


class Concurrency(unittest.TestCase):
    def test_steps_are_futures_of_asyncio(self) -> None:
        given = {"slow": {"at": 50}, "fast": {"at": 5}, "bad": {"at": 2, "fail": ("failed", "no")}}

        async def body() -> Any:
            gathered = await asyncio.gather(agent("slow"), agent("fast"))
            settled = await asyncio.gather(agent("bad"), agent("fast"), return_exceptions=True)
            done, pending = await asyncio.wait([agent("slow"), agent("fast")], return_when="FIRST_COMPLETED")
            first = [step.result() for step in done]
            rest = [await step for step in pending]
            ordered = [await step for step in asyncio.as_completed([agent("slow"), agent("fast")])]
            return [gathered, [type(one).__name__ for one in settled], first, rest, ordered]

        expected = [["slow", "fast"], ["Failure", "str"], ["fast"], ["slow"], ["fast", "slow"]]
        self.assertEqual(run(body, given), expected)

    def test_pipelines_go_on_beside_each_other(self) -> None:
        async def pipeline(name: str) -> None:
            await agent(f"{name}1")
            await agent(f"{name}2")

        async def body() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(pipeline("a"))
                group.create_task(pipeline("b"))

        run(body, {"a1": {"at": 10}, "b1": {"at": 1}})
        self.assertEqual(host.story, [f"start agent {name}" for name in ("a1", "b1", "b2", "a2")])

    def test_asyncio_sleeps_and_time_limits_are_durable(self) -> None:
        async def body() -> Any:
            await asyncio.sleep(2)
            try:
                async with asyncio.timeout(0.005):
                    await agent("slow")
            except TimeoutError:
                pass
            await asyncio.wait_for(agent("fast"), 1)
            async with asyncio.timeout(0.005):
                await signal("never")

        self.assertEqual(failure(body, {"slow": {"at": 50}})[0], "timed-out")
        self.assertEqual(host.story[:4], ["start sleep 2000", "start sleep 5", "start agent slow", "cancel agent slow"])
        self.assertIn("cancel sleep 1000", host.story)

    def test_queues_and_semaphores_work(self) -> None:
        async def body() -> Any:
            queue: asyncio.Queue[str] = asyncio.Queue()
            turns = asyncio.Semaphore(1)

            async def produce(name: str) -> None:
                async with turns:
                    await queue.put(await agent(name))

            await asyncio.gather(*(produce(name) for name in "abc"))
            return [queue.get_nowait() for _ in range(3)]

        self.assertEqual(run(body, {"a": {"at": 9}}), ["a", "b", "c"])

    def test_a_step_that_is_cancelled_fails_and_its_host_is_told(self) -> None:
        async def body() -> Any:
            step = sleep(1)
            seen = [step.id, step.cancel(), step.cancel()]
            try:
                await step
            except asyncio.CancelledError:
                return seen

        self.assertEqual(run(body), [1, True, False])
        self.assertEqual(host.story, ["start sleep 1000", "cancel sleep 1000"])

    def test_cancelling_a_task_cancels_what_it_awaits(self) -> None:
        async def body() -> Any:
            task = asyncio.create_task(agent_and_sleep())
            await sleep(0.005)
            task.cancel()
            await asyncio.wait([task])
            return task.cancelled()

        async def agent_and_sleep() -> None:
            await asyncio.gather(agent("slow"), sleep(7))

        self.assertTrue(run(body, {"slow": {"at": 50}}))
        self.assertEqual(host.story[3:], ["cancel agent slow", "cancel sleep 7000"])

    def test_the_first_to_end_wins_the_race(self) -> None:
        async def body() -> Any:
            async def slow() -> str:
                await sleep(1)
                return await agent("never asked")

            return await race(slow(), agent("fast"), signal("never"))

        self.assertEqual(run(body), [1, "fast"])
        self.assertEqual(sorted(host.story[3:]), ["cancel signal never", "cancel sleep 1000"])

    def test_failures_do_not_count_while_there_is_hope(self) -> None:
        given = {"a": {"at": 1, "fail": ("failed", "x")}, "b": {"at": 3}, "c": {"at": 2},
                 "d": {"at": 9, "fail": ("failed", "y")}}

        async def first() -> Any:
            return await first_ok(*map(agent, "abcd"))

        async def two(names: str = "abcd") -> Any:
            return await quorum(2, *map(agent, names))

        self.assertEqual(run(first, given), "c")
        self.assertEqual(run(lambda: two(), given), [[2, "c"], [1, "b"]])
        kind, message, details = failure(lambda: two("abd"), given)
        self.assertEqual(message, "2 of 3 tries failed, 2 have to succeed: y")
        self.assertEqual(details["failures"][0], {"index": 0, "kind": "failed", "message": "x"})
        self.assertEqual(failure(lambda: quorum(1))[0], "rejected")

    def test_no_more_run_than_allowed_and_results_are_in_the_order_of_the_items(self) -> None:
        given: dict[str, Any] = {"0": {"at": 30}}

        async def double(item: int) -> int:
            return int(await agent(str(item))) * 2

        self.assertEqual(run(lambda: parallel_map(range(4), 2, double), given), [0, 2, 4, 6])
        self.assertEqual(run(lambda: parallel_map([], 2, double)), [])
        given["1"] = {"fail": ("failed", "no")}
        self.assertEqual(failure(lambda: parallel_map(range(4), 2, double), given)[1], "no")
        self.assertEqual(host.story, ["start agent 0", "start agent 1", "cancel agent 0"])


class Patterns(unittest.TestCase):
    def test_a_block_is_tried_again_unless_the_failure_would_come_again(self) -> None:
        given = {"flaky": {"fail": ("failed", "no")}, "bad": {"fail": ("rejected", "no")}}

        async def flaky(attempt: int) -> str:
            return await agent("flaky")

        self.assertEqual(failure(lambda: retry(flaky, Retry(attempts=3)), given)[1], "no")
        sleeps = [line for line in host.story if line.startswith("start sleep")]
        self.assertEqual(sleeps, ["start sleep 1000", "start sleep 2000"])
        failure(lambda: retry(lambda _: agent("bad")), given)
        self.assertEqual(host.story, ["start agent bad"])

    def test_delays_are_those_of_the_host(self) -> None:
        policy = Retry(initial=1, factor=3, jitter=0)
        delays = [policy.delay(attempt, 0.5) for attempt in (1, 2, 3, 4, 5, 2000)]
        self.assertEqual(delays, [1, 3, 9, 27, 60, 60])
        self.assertEqual(Retry(jitter=0.5).delay(1, 0), 0.5)
        self.assertEqual(Retry(initial=0, factor=float("inf")).delay(3, 0.5), 0)
        self.assertFalse(Retry(fatal=["Closed"]).allows_another(1, Failure("failed", "x", {"reason": "closed"})))

    def test_rounds_continue_as_new_after_so_many_steps(self) -> None:
        async def one(state: int) -> Any:
            await sleep(0.001)
            return Done(state) if state == 5 else state + 1

        self.assertEqual(run(lambda: rounds(2, 5, one)), 5)
        with self.assertRaises(BaseException):
            run(lambda: rounds(2, 1, one))
        self.assertEqual(host.story[-1], "again 3")

    def test_what_was_done_is_undone_in_the_reverse_order_and_the_failure_says_so(self) -> None:
        async def body() -> None:
            async with saga() as trip:
                await trip.step("flight", agent("book flight"), lambda booking: agent(f"cancel {booking}"))
                trip.undo("hotel", lambda: 1 / 0)
                raise Failure("failed", "no car", {"own": 1})

        kind, message, details = failure(body)
        self.assertEqual((kind, message, details["own"]), ("failed", "no car", 1))
        not_undone = [{"step": "hotel", "kind": "failed", "message": "ZeroDivisionError: division by zero"}]
        self.assertEqual(details["saga"], {"undone": ["flight"], "not_undone": not_undone})
        self.assertIn("start agent cancel book flight", host.story)

    def test_a_compensation_that_is_cancelled_leaves_the_others(self) -> None:
        async def body() -> None:
            async with saga() as trip:
                trip.undo("flight", lambda: agent("cancel the flight"))

                async def give_up() -> None:
                    step = sleep(1)
                    step.cancel()
                    await step

                trip.undo("hotel", give_up)
                raise Failure("failed", "no car")

        kind, message, details = failure(body)
        self.assertEqual((kind, message), ("failed", "no car"))
        self.assertEqual(details["saga"]["undone"], ["flight"])
        (not_undone,) = details["saga"]["not_undone"]
        self.assertEqual((not_undone["step"], not_undone["kind"]), ("hotel", "cancelled"))
        self.assertIn("start agent cancel the flight", host.story)

    def test_what_lost_a_race_is_undone_to_its_end(self) -> None:
        async def trip() -> None:
            async with saga() as trip:
                async def undo(_: str) -> None:
                    await sleep(0.05)
                    await agent("undo")

                await trip.step("a", agent("do"), undo)
                await sleep(1)

        async def body() -> Any:
            index, _ = await race(trip(), sleep(0.01))
            return index

        self.assertEqual(run(body), 1)
        self.assertEqual(host.story[-1], "start agent undo")

    def test_a_saga_that_still_waits_when_the_workflow_ends_is_cancelled_and_undone(self) -> None:
        async def trip() -> None:
            async with saga() as trip:
                await trip.step("hotel", agent("book hotel"), lambda _: undo())
                await signal("never")

        async def undo() -> None:
            # Tasks of a compensation go on as well.
            await asyncio.gather(in_two_steps("hotel"), in_two_steps("taxi"))

        async def in_two_steps(name: str) -> None:
            await sleep(0.05)
            await agent(f"cancel {name}")

        async def gathered() -> None:
            await asyncio.gather(trip(), agent("broken"))

        given = {"broken": {"at": 10, "fail": ("failed", "no")}}
        self.assertEqual(failure(gathered, given)[:2], ("failed", "no"))
        ending = ["cancel signal never", "start sleep 50", "start sleep 50", "start agent cancel hotel", "start agent cancel taxi"]
        self.assertEqual(host.story[-5:], ending)

        async def forgotten() -> str:
            asyncio.ensure_future(trip())
            await sleep(0.01)
            return "done"

        self.assertEqual(run(forgotten), "done")
        self.assertEqual(host.story[-5:], ending)

    def test_a_step_that_is_done_after_its_saga_has_failed_is_undone_as_well(self) -> None:
        async def body() -> None:
            with contextlib.suppress(Failure):
                async with saga() as trip:
                    await asyncio.gather(
                        trip.step("car", agent("slow"), lambda _: agent("cancel car")),
                        trip.step("hotel", agent("hotel"), lambda _: agent("cancel hotel")),
                        trip.step("flight", agent("broken"), lambda _: None),
                    )
            await sleep(1)

        run(body, {"slow": {"at": 100}, "broken": {"at": 10, "fail": ("failed", "no")}})
        self.assertEqual(host.story[3:], ["start agent cancel hotel", "start sleep 1000", "start agent cancel car"])

    def test_tasks_that_still_run_when_the_workflow_ends_are_cancelled_as_elsewhere(self) -> None:
        async def clean_up(name: str) -> None:
            try:
                await signal("never")
            finally:
                # What it begins now is not cancelled.
                async with asyncio.TaskGroup() as group:
                    group.create_task(in_turn(f"{name}1"))

        async def in_turn(name: str) -> None:
            await agent(name)

        async def body() -> str:
            for name in "ab":
                asyncio.ensure_future(clean_up(name))
            await sleep(0.01)
            return "done"

        self.assertEqual(run(body), "done")
        started = [line for line in host.story if line.startswith("start agent")]
        self.assertEqual(started, ["start agent a1", "start agent b1"])

    def test_a_task_of_a_compensation_that_nobody_awaits_is_cancelled_at_the_end(self) -> None:
        async def forgotten() -> None:
            await signal("never")

        async def body() -> None:
            async with saga() as trip:
                trip.undo("a", lambda: asyncio.ensure_future(forgotten()) and None)
                raise Failure("failed", "no")

        self.assertEqual(failure(body)[1], "no")
        self.assertIn("cancel signal never", host.story)

    def test_a_contestant_that_is_cancelled_is_one_that_failed(self) -> None:
        async def cancelled() -> str:
            step = sleep(1)
            step.cancel()
            await step
            return "never"

        async def body() -> Any:
            return [await first_ok(cancelled(), agent("a")), await quorum(1, cancelled(), agent("b"))]

        self.assertEqual(run(body), ["a", [[1, "b"]]])
        kind, _, details = failure(lambda: first_ok(cancelled()))
        self.assertEqual((kind, details["failures"][0]["kind"]), ("cancelled", "cancelled"))

    def test_a_step_that_is_refused_is_cancelled_if_it_has_begun(self) -> None:
        async def book() -> str:
            return await agent("b")

        async def body(begin: Any) -> None:
            async with saga() as trip:
                host.state["stop"] = True
                action = begin()
                await asyncio.sleep(0)
                await trip.step("a", action, lambda _: None)

        self.assertEqual(failure(lambda: body(lambda: agent("b")))[0], "cancelled")
        self.assertEqual(host.story, ["start agent b", "cancel agent b"])
        self.assertEqual(failure(lambda: body(lambda: asyncio.ensure_future(book())))[0], "cancelled")
        self.assertEqual(host.story, ["start agent b", "cancel agent b"])

    def test_details_of_any_shape_are_no_obstacle_to_a_compensation(self) -> None:
        for details in (None, [1], {"saga": None}, {"saga": "own"}, {"saga": {"undone": 7}}):
            async def body() -> None:
                async with saga() as trip:
                    trip.undo("a", lambda: None)
                    raise Failure("failed", "no", details)

            _, message, told = failure(body)
            self.assertEqual((message, told["saga"]["undone"]), ("no", ["a"]))

    def test_nothing_new_is_done_when_the_run_was_asked_to_stop(self) -> None:
        async def never() -> None:
            await agent("a")

        async def body() -> None:
            async with saga() as trip:
                host.state["stop"] = True
                await trip.step("a", never(), lambda _: None)

        self.assertEqual(failure(body)[0], "cancelled")
        self.assertEqual(host.story, [])


class Calls(unittest.TestCase):
    def test_a_request_has_everything_that_was_said(self) -> None:
        limits = Limits(total=datetime.timedelta(milliseconds=1.5))
        run(lambda: agent(
            "p", input={"a": 1}, provider="x", model="m", session="s", label="l", group="g", workspace="w",
            retry=Retry(attempts=5), limits=limits, cache=wfhost.Cache("v1", 9), options={"t": 0},
        ))
        request = host.last["request"]
        self.assertEqual((request.input, request.providers, request.options), ('{"a": 1}', ["x"], '{"t": 0}'))
        retry = request.retry
        self.assertEqual((retry.max_attempts, retry.initial, retry.max), (5, 1_000, 60_000))
        self.assertEqual((request.limits.total, request.limits.attempt, request.cache.ttl), (2, None, 9_000))
        run(lambda: agent("p", once=True, retry=Retry(attempts=5), fork="s"))
        request = host.last["request"]
        self.assertEqual((request.retry.max_attempts, request.retry.fatal), (1, ["unknown-outcome"]))
        self.assertEqual((request.session, request.options), ("s", '{"fork": true}'))
        with self.assertRaises(host.Err):
            run(lambda: agent("p", modle="m"))  # type: ignore[call-overload]

    def test_a_reply_has_its_session_and_its_usage(self) -> None:
        usage = {"input_tokens": 3, "output_tokens": 4, "new": 1}
        given = {"a": {"whole": {"session": "s1", "model": "m", "provider": "p", "usage": usage}}}
        reply = run(lambda: agent_reply("a"), given)
        self.assertEqual((reply["output"], reply["session"], reply["provider"]), ("a", "s1", "p"))
        self.assertEqual(reply["usage"]["input_tokens"], 3)

    def test_answers_are_text_or_data_or_of_a_type(self) -> None:
        given = {"data": {"reply": {"accepted": True}}, "text": {"reply": ' {"accepted": false}'}, "words": {"reply": "sorry"}}
        self.assertEqual(run(lambda: agent("data"), given), '{"accepted": true}')
        self.assertEqual(run(lambda: agent_json("text"), given), {"accepted": False})
        self.assertEqual(run(lambda: agent("text", returns=Review), given)["accepted"], False)
        self.assertEqual(run(lambda: agent("words", returns=str), given), "sorry")
        kind, message, _ = failure(lambda: agent("words", returns=Review), given)
        self.assertEqual(kind, "invalid-output")
        self.assertTrue(message.endswith("it was: sorry"), message)
        self.assertEqual(failure(lambda: agent_json("words"), given)[0], "invalid-output")

    def test_the_host_has_read_what_a_schema_wants_as_data(self) -> None:
        given = {"number": {"reply": "5"}}
        text = {"type": "string"}
        self.assertEqual(run(lambda: agent_json("number"), given), 5)
        self.assertEqual(run(lambda: agent_json("number", schema=text), given), "5")
        for kind in (str, typing.Union[int, str], Any, text):
            self.assertEqual(run(lambda: agent("number", returns=kind), given), "5")
            self.assertEqual(run(lambda: agent_reply("number", returns=kind), given)["output"], "5")

    def test_children_have_their_options(self) -> None:
        given = {"crawl": {"reply": [1]}}
        body = lambda: child("crawl", {"a": 1}, id="c", on_close="abandon", labels={"k": "v"}, returns=list[int])
        self.assertEqual(run(body, given), [1])
        options = host.last["child"]
        self.assertEqual((options.id, options.on_close.name, options.labels), ("c", "ABANDON", [("k", "v")]))
        self.assertEqual(failure(body, {"crawl": {"reply": ["x"]}})[0], "invalid-output")

    def test_what_is_no_length_of_time_is_refused(self) -> None:
        for length in (-1, float("nan"), 1e15):
            self.assertEqual(failure(lambda: sleep(length))[0], "rejected")
        run(lambda: sleep(0.0002))
        self.assertEqual(host.story, ["start sleep 1"])

    def test_log_lines_have_fields(self) -> None:
        def body() -> Any:
            log("careful", "warn", step=3, who="Ada")
            send("other", "go", {"a": 1})
            return [info().labels, budget().remaining]

        self.assertEqual(run(body), [{"a": "b"}, 7])
        self.assertEqual(host.story, ["warn careful [('step', '3'), ('who', 'Ada')]", 'send other go {"a": 1}'])


class Plugins(unittest.TestCase):
    def test_an_answer_is_not_lost_over_a_number_that_is_none_of_the_hosts(self) -> None:
        given = types.SimpleNamespace(
            message="m", prompt="p", input=None, schema=None, options=None, model=None, session=None, history=[],
            key="k", run="r", step=1, attempt=1, heartbeat=None,
        )
        usage = plugin.Usage(185.1, 12, float("nan"), -3)  # type: ignore[arg-type]
        kinds = enum.Enum("FailureKind", "FAILED UNAVAILABLE")
        records = {name: lambda *members: members for name in ("Usage", "Reply", "Failure")}
        with unittest.mock.patch.object(plugin, "_types", types.SimpleNamespace(FailureKind=kinds, **records)):
            reply = plugin.execute(lambda _: plugin.Reply("fine", usage=usage), given)
            self.assertEqual(reply, ('"fine"', None, None, (185, 12, 0, 0)))

            def later(_: Any) -> None:
                raise plugin.Failure("unavailable", "later", retry_after=1500.2, usage=usage)  # type: ignore[arg-type]

            with self.assertRaises(host.Err) as caught:
                plugin.execute(later, given)
            self.assertEqual(caught.exception.value[-2:], (1501, (185, 12, 0, 0)))


class Colour(enum.Enum):
    RED = "red"
    GREEN = "green"


class Point(typing.TypedDict):
    x: int
    y: typing.NotRequired[int]


class Pair(typing.NamedTuple):
    left: int
    right: str = "r"


@dataclasses.dataclass
class Tree:
    value: Literal["leaf", 7]
    children: list[Tree]


@dataclasses.dataclass
class Line:
    ends: list[Pair]
    at: dict[str, Pair]


class Inner:
    @dataclasses.dataclass
    class Tree:
        """Another one."""

        trees: list[Inner.Tree]


def model(name: str, schema: Any, versions: Any = (1, 2)) -> list[Any]:
    """A stand-in for a model of pydantic, of each version: what it gives as its schema. `{}` stands for the
    place of definitions."""
    made: list[Any] = []
    for version in versions:
        place = "$defs" if version == 2 else "definitions"
        text = json.dumps(schema).replace("{}", place)
        whole = json.loads(text.replace(f"#/{place}/", "#/$defs/"))
        members: dict[str, Any] = {"model_json_schema": lambda whole=whole: json.loads(json.dumps(whole)), "model_validate": None}
        if version == 1:
            # It keeps what it has made.
            members = {"__fields__": {}, "parse_obj": None, "schema": lambda whole=whole, **_: whole}
        methods = {key: staticmethod(value) if callable(value) else value for key, value in members.items()}
        made.append(type(name, (), methods))
    return made


class Schemas(unittest.TestCase):
    def test_schemas_are_those_of_the_types(self) -> None:
        self.assertEqual(_schema.schema_of(list[int]), {"type": "array", "items": {"type": "integer"}})
        self.assertEqual(_schema.schema_of(Colour), {"enum": ["red", "green"]})
        review = _schema.schema_of(Review)["$defs"]["Review"]
        self.assertEqual(review["required"], ["accepted"])
        self.assertEqual(review["description"], "What a reviewer says.")
        notes = {"type": "array", "items": {"type": "string"}, "description": "what has to be changed"}
        self.assertEqual(review["properties"]["notes"], notes)
        self.assertEqual(review["properties"]["score"], {"anyOf": [{"type": "number"}, {"type": "null"}]})
        tree = _schema.schema_of(Tree)
        self.assertEqual(tree["$ref"], "#/$defs/Tree")
        self.assertEqual(tree["$defs"]["Tree"]["properties"]["children"]["items"], {"$ref": "#/$defs/Tree"})
        self.assertEqual(_schema.schema_of(Point)["$defs"]["Point"]["required"], ["x"])
        self.assertEqual(_schema.schema_of({"type": "string"}), {"type": "string"})
        with self.assertRaises(TypeError):
            _schema.schema_of(complex)

    def test_values_are_read_as_their_types_and_written_again(self) -> None:
        for kind, value in (
            (Colour, Colour.RED), (Pair, Pair(1)), (dict[str, list[float]], {"a": [1.0]}),
            (tuple[int, str], (1, "a")), (Optional[Review], None), (set[int], {1, 2}),
            (datetime.datetime, datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc)),
            (Tree, Tree("leaf", [Tree(7, [])])), (Point, {"x": 1}), (list[Pair], [Pair(1), Pair(2, "s")]),
            (Line, Line([Pair(1)], {"b": Pair(3)})),
        ):
            text = wfhost._host.dump(value)
            self.assertEqual(_schema.decode(kind, json.loads(text)), value)
        self.assertEqual(wfhost._host.dump((Pair(1), {"a": (2, [Pair(3)])})), '[{"left": 1, "right": "r"}, {"a": [2, [{"left": 3, "right": "r"}]]}]')
        # As it was written before it was an object.
        self.assertEqual(_schema.decode(Pair, [1, "x"]), Pair(1, "x"))

    def test_a_state_that_is_a_named_tuple_survives_its_rounds(self) -> None:
        async def one(state: Pair) -> Any:
            await sleep(0.001)
            return Pair(state.left + 1, state.right)

        async def body(state: Pair) -> Any:
            return await rounds(2, state, one)

        with self.assertRaises(BaseException):
            run(body, input={"left": 1})
        self.assertEqual(host.story[-1], 'again {"left": 3, "right": "r"}')

    def test_what_contains_itself_is_no_json(self) -> None:
        endless: list[Any] = []
        endless.append(endless)
        self.assertEqual(failure(lambda: agent("a", input=endless))[0], "rejected")
        log("x", field=endless)

    def test_types_of_one_name_have_schemas_of_their_own(self) -> None:
        schema = _schema.schema_of(tuple[Tree, Inner.Tree, Tree])
        references = [item["$ref"] for item in schema["prefixItems"]]
        self.assertEqual(references, ["#/$defs/Tree", "#/$defs/Tree2", "#/$defs/Tree"])
        self.assertEqual(schema["$defs"]["Tree"]["properties"]["children"]["items"], {"$ref": "#/$defs/Tree"})
        self.assertEqual(schema["$defs"]["Tree2"]["properties"]["trees"]["items"], {"$ref": "#/$defs/Tree2"})

    def test_models_that_contain_themselves_keep_their_schema(self) -> None:
        node = {"type": "object", "properties": {"next": {"$ref": "#/{}/Node"}}}
        for kind in model("Node", {"$ref": "#/{}/Node", "{}": {"Node": node}}):
            schema = _schema.schema_of(list[kind])
            self.assertEqual(schema["items"], {"$ref": "#/$defs/Node"})
            expected = {"type": "object", "properties": {"next": {"$ref": "#/$defs/Node"}}}
            self.assertEqual(schema["$defs"], {"Node": expected})

    def test_models_and_their_parts_are_not_mistaken_for_each_other(self) -> None:
        def order(part: str) -> Any:
            return {
                "type": "object",
                "properties": {"item": {"$ref": "#/{}/Item"}},
                "{}": {"Item": {"title": part}},
            }

        for one, other, same in zip(model("Order", order("a")), model("Order", order("b")), model("Same", order("a"))):
            schema = _schema.schema_of(tuple[one, other, one, same])
            references = [item["$ref"].rpartition("/")[2] for item in schema["prefixItems"]]
            self.assertEqual(references, ["Order", "Order2", "Order", "Same"])
            parts = [schema["$defs"][name]["properties"]["item"]["$ref"].rpartition("/")[2] for name in references]
            self.assertEqual([schema["$defs"][part]["title"] for part in parts], ["a", "b", "a", "a"])
            # A second time it is the same.
            self.assertEqual(_schema.schema_of(tuple[one, other, one, same]), schema)
        # A model is a part of another one, and a type of an answer as well.
        (item,) = model("Item", {"title": "a"}, (2,))
        (whole,) = model("Order", order("a"), (2,))
        for kinds in (tuple[item, whole], tuple[whole, item]):
            self.assertEqual(sorted(_schema.schema_of(kinds)["$defs"]), ["Item", "Order"])

    def test_what_does_not_fit_says_where(self) -> None:
        for kind, value, problem in (
            (list[int], ["a"], "0: integer was expected, not a"),
            (Review, {}, "`accepted` is missing"),
            (Tree, {"value": "leaf", "children": [{"value": 8, "children": []}]}, "children.0.value: one of 'leaf', 7"),
            (Optional[int], "x", "integer was expected, not x"),
            (bool, 1, "boolean was expected, not 1"),
            (int, True, "integer was expected, not true"),
            (tuple[int, int], [1], "an array of 2 was expected"),
            (Colour, "blue", "one of 'red', 'green' was expected, not blue"),
        ):
            with self.assertRaises(_schema.Misfit) as caught:
                _schema.decode(kind, value)
            self.assertTrue(str(caught.exception).startswith(problem), str(caught.exception))

    def test_models_of_pydantic_are_known(self) -> None:
        try:
            import pydantic
        except ImportError:
            self.skipTest("pydantic is not installed")

        class Verdict(pydantic.BaseModel):
            ok: bool
            reasons: list[str] = []

        schema = _schema.schema_of(list[Verdict])
        self.assertEqual(schema["$defs"]["Verdict"]["required"], ["ok"])
        (verdict,) = _schema.decode(list[Verdict], [{"ok": True}])
        self.assertEqual(verdict, Verdict(ok=True))
        self.assertEqual(json.loads(json.dumps(verdict, default=_schema.encode)), {"ok": True, "reasons": []})
        with self.assertRaises(_schema.Misfit):
            _schema.decode(Verdict, {"ok": "perhaps"})

    def test_models_of_pydantic_1_are_types_of_answers(self) -> None:
        try:
            import pydantic.v1 as pydantic
        except ImportError:
            try:
                import pydantic
            except ImportError:
                self.skipTest("pydantic is not installed")
        if not hasattr(pydantic.BaseModel, "__fields__") or hasattr(pydantic.BaseModel, "model_validate"):
            self.skipTest("there is no pydantic 1")

        class Vote(pydantic.BaseModel):  # type: ignore[misc, name-defined]
            ok: bool
            reasons: typing.List[str] = []

        schema = _schema.schema_of(list[Vote])
        self.assertEqual(schema["$defs"]["Vote"]["required"], ["ok"])
        (vote,) = _schema.decode(list[Vote], [{"ok": True}])
        self.assertEqual(json.loads(json.dumps(vote, default=_schema.encode)), {"ok": True, "reasons": []})
        with self.assertRaises(_schema.Misfit):
            _schema.decode(Vote, {"ok": "perhaps"})


if __name__ == "__main__":
    unittest.main()
