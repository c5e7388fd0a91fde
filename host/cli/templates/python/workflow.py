"""A durable workflow: whatever happens to the machine, no completed step is executed twice."""

from dataclasses import dataclass

from wfhost import agent, log, sleep


@dataclass
class Input:
    name: str = "world"


@dataclass
class Output:
    greeting: str


async def run(input: Input) -> Output:
    greeting = await agent(f"greet {input.name}")
    # The deadline survives crashes.
    await sleep(1)
    log("greeted", name=input.name)
    return Output(greeting)
