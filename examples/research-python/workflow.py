"""The example `research` in Python: a report by several agents. An outline, its
sections written side by side, a review of at most three rounds, and the
approval of a person."""

from wfhost import Failure, agent, all_of, log, phase, publish, signal, start_agent

ROUNDS = 3
WEEK = 7 * 24 * 3600


def run(input):
    topic, count = input["topic"], input.get("sections", 3)

    phase("outline")
    outline = agent(f"outline {topic} in {count} sections", label="outline")

    phase("sections")
    sections = write(topic, outline, count)

    rounds = 0
    while rounds < ROUNDS:
        rounds += 1
        phase(f"review {rounds}")
        draft = "\n\n".join(sections)
        review = agent(f"review round {rounds} of {topic}:\n{draft}", label=f"review {rounds}")
        if review.lstrip().lower().startswith(("ok", "approved")):
            log(f"accepted in round {rounds}")
            break
        if rounds < ROUNDS:
            sections = write(topic, review, count)
    publish("draft", sections)

    phase("approval")
    answer = approval(input.get("approval_timeout_s", WEEK))
    return {"topic": topic, "outline": outline, "sections": sections, "rounds": rounds, "approval": answer}


def write(topic, guidance, count):
    """Has all sections written side by side, following an outline or a review."""
    return all_of([
        start_agent(f"write section {number} of {topic}:\n{guidance}", label=f"section {number}")
        for number in range(1, count + 1)
    ])


def approval(timeout):
    """None if nobody answers in time."""
    try:
        answer = signal("approve", timeout=timeout)
    except Failure as failure:
        if failure.kind == "timed-out":
            return None
        raise
    return {"ok": answer["ok"], "note": answer.get("note")}
