"""The scenarios of tests/guests/behaviours in Python."""

import asyncio
from dataclasses import dataclass
from typing import Any, Awaitable, Callable, Union

from wfhost import (
    Cache, Done, Failure, Limits, Retry, agent, agent_reply, ask, budget, cancelled, child, info, log, now, parallel_map,
    patched, phase, post, publish, quorum, race, retry, rounds, saga, send, signal, sleep, sleep_until,
)


@dataclass
class Input:
    scenario: str
    n: int = 0


@dataclass
class Review:
    accepted: bool
    notes: list[str]


async def kind(body: Union[Awaitable[Any], Callable[[], Any]]) -> str:
    try:
        if callable(body):
            body()
        else:
            await body
    except Failure as failure:
        return failure.kind
    return "none"


async def pipeline(name: str) -> str:
    draft = await agent(f"{name}1")
    return await agent(f"{name}2 {draft}")


def undo(booking: str) -> Any:
    return agent(f"undo {booking}")


class Scenarios:
    async def conversation(self, _: Input) -> Any:
        first = await agent_reply("first", session="s1")
        second = await agent_reply("second", session=first.session)
        usage = first.usage
        assert usage is not None
        return {
            "outputs": [first.text(), second.text()],
            "session": second.session,
            "usage": [usage.input_tokens, usage.output_tokens, usage.cached_tokens, usage.cost_micros],
            "provider": first.provider,
        }

    async def typed(self, _: Input) -> Any:
        review: Review = await agent("review", returns=Review)
        return {"review": review, "bad": await kind(agent("words", returns=Review, once=True))}

    async def once(self, _: Input) -> Any:
        return {"kind": await kind(agent("pay", once=True))}

    async def request(self, _: Input) -> Any:
        return await agent(
            "p", input={"a": 1}, label="l", group="g", retry=Retry(attempts=5, fatal=["unavailable"]),
            limits=Limits(attempt=60, total=90, heartbeat=30), options={"t": 0},
        )

    async def cache(self, _: Input) -> Any:
        return await agent("costly", cache=Cache("v1", age=3600))

    async def together(self, _: Input) -> Any:
        return await asyncio.gather(pipeline("a"), pipeline("b"))

    async def race(self, _: Input) -> Any:
        return await race(sleep(60), agent("b"), signal("never"))

    async def quorum(self, _: Input) -> Any:
        votes = await quorum(2, *map(agent, ["bad", "slow", "fast"]))
        try:
            await quorum(2, *map(agent, ["bad", "bad too", "fast"]))
        except Failure as failure:
            return {"votes": votes, "message": failure.message, "details": failure.details}

    async def map(self, _: Input) -> Any:
        async def write(item: int) -> str:
            draft = await agent(f"draft {item}")
            return await agent(f"polish {draft}")

        return await parallel_map(range(5), 2, write)

    async def timeout(self, _: Input) -> Any:
        try:
            await asyncio.wait_for(signal("never"), 0.005)
        except TimeoutError:
            return {"kind": "timed-out"}

    async def cancel(self, _: Input) -> Any:
        step = sleep(60)
        answer = await agent("meanwhile")
        step.cancel()
        return answer

    async def retry(self, _: Input) -> Any:
        policy = Retry(attempts=3, initial=0.001, jitter=0)
        return await retry(lambda attempt: agent(f"try {attempt}", retry=Retry(attempts=1)), policy)

    async def rounds(self, input: Input) -> Any:
        async def one(state: Input) -> Any:
            await agent(f"round {state.n}")
            return Done({"rounds": state.n}) if state.n == 4 else Input(state.scenario, state.n + 1)

        return await rounds(2, input, one)

    async def saga(self, _: Input) -> Any:
        def no_car() -> None:
            raise Failure("failed", "there is no car")

        async with saga() as trip:
            await trip.step("flight", agent("book flight"), undo)
            await trip.step("hotel", agent("book hotel"), undo)
            trip.undo("car", no_car)
            raise Failure("rejected", "no", {"own": 1})

    async def stopped(self, _: Input) -> Any:
        async with saga() as trip:
            await trip.step("flight", agent("book flight"), undo)
            return await signal("go")

    async def child(self, _: Input) -> Any:
        value = await child("behaviours", Input("echo", 7), id="kid", labels={"k": "v"})
        return {"value": value, "missing": await kind(child("no-such"))}

    async def echo(self, input: Input) -> Any:
        return {"n": input.n}

    async def budget(self, _: Input) -> Any:
        before = budget()
        await agent("first")
        after = budget()
        return {"before": [before.spent, before.remaining], "after": [after.spent, after.remaining]}

    async def facts(self, _: Input) -> Any:
        known = info()
        phase("looking")
        publish("progress", {"done": 3})
        post("chapter", {"title": "one"})
        log("careful", "warn", who="Ada", step=3)
        return {
            "run": known.run, "workflow": known.workflow, "labels": known.labels, "attempt": known.attempt,
            "parent": known.parent, "patched": patched("x"), "cancelled": cancelled(),
            "clock": now() >= known.started, "gone": await kind(lambda: send("no-such-run", "go", 1)),
        }

    async def ask(self, _: Input) -> Any:
        colour = await ask("which colour?", choices=["red", "green"], details={"why": 1}, returns=str)
        refused = await kind(ask("really?"))
        return {"colour": colour, "refused": refused, "late": await kind(ask("anybody?", timeout=0.001))}

    async def sleep(self, _: Input) -> Any:
        await sleep(0.002)
        await sleep_until(0.001)
        return {"long": await kind(sleep(2.0**40))}

    async def fail(self, _: Input) -> Any:
        raise Failure("unavailable", "nobody is there", {"why": [1]})

    async def broken(self, _: Input) -> Any:
        await agent("first")
        raise TypeError("not like this")


async def run(input: Input) -> Any:
    scenario = getattr(Scenarios(), input.scenario, None)
    if scenario is None:
        raise Failure("rejected", f"there is no scenario {input.scenario}")
    return await scenario(input)
