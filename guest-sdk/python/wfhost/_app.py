"""What `wfhost build` makes a component of: the program's `run` as its export."""

import workflow  # type: ignore[import-not-found]

from wfhost._entry import execute


class WitWorld:
    def run(self, input: str) -> str:
        return execute(workflow.run, input)
