"""A durable workflow: whatever happens to the machine, no finished step is done twice."""

from wfhost import agent, log, sleep


def run(input):
    name = (input or {}).get("name", "world")
    greeting = agent(f"greet {name}")
    # The deadline survives crashes.
    sleep(1)
    log(f"greeted {name}")
    return {"greeting": greeting}
