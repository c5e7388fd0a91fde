"""What `wfhost build` makes a component of: the plugin's `run` as its export."""

import plugin  # type: ignore[import-not-found]

from wfhost.plugin import execute


class Agent:
    def run(self, call: object) -> object:
        return execute(plugin.run, call)
