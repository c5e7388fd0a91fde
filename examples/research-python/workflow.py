"""The example `research` in Python: a report by several agents. An outline, its
sections written side by side, a review of at most three rounds, and the
approval of a person."""

import asyncio
from dataclasses import dataclass
from typing import Optional

from wfhost import Failure, agent, log, phase, publish, signal

ROUNDS = 3


@dataclass
class Input:
    topic: str
    sections: int = 3
    approval_timeout_s: float = 7 * 24 * 3600


@dataclass
class Approval:
    ok: bool
    note: Optional[str] = None


@dataclass
class Report:
    topic: str
    outline: str
    sections: list[str]
    rounds: int
    approval: Optional[Approval]


async def run(input: Input) -> Report:
    topic = input.topic

    phase("outline")
    outline = await agent(f"outline {topic} in {input.sections} sections", label="outline")

    phase("sections")
    sections = await write(topic, outline, input.sections)

    rounds = 0
    while rounds < ROUNDS:
        rounds += 1
        phase(f"review {rounds}")
        draft = "\n\n".join(sections)
        review = await agent(f"review round {rounds} of {topic}:\n{draft}", label=f"review {rounds}")
        if review.lstrip().lower().startswith(("ok", "approved")):
            log(f"accepted in round {rounds}")
            break
        if rounds < ROUNDS:
            sections = await write(topic, review, input.sections)
    publish("draft", sections)

    phase("approval")
    return Report(topic, outline, sections, rounds, await approval(input.approval_timeout_s))


async def write(topic: str, guidance: str, count: int) -> list[str]:
    """Has all sections written side by side, following an outline or a review."""
    return await asyncio.gather(*(
        agent(f"write section {number} of {topic}:\n{guidance}", label=f"section {number}")
        for number in range(1, count + 1)
    ))


async def approval(timeout: float) -> Optional[Approval]:
    """None if nobody answers in time."""
    try:
        return await signal("approve", timeout=timeout, returns=Approval)
    except Failure as failure:
        if failure.kind == "timed-out":
            return None
        raise
