"""What `wfhost build` makes a component of: the program's `run` as its export."""

import wfhost
import workflow


class WitWorld:
    def run(self, input: str) -> str:
        return wfhost._entry(workflow.run, input)
