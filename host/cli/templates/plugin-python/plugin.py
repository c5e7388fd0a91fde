"""A plugin: an agent that answers calls from workflows."""

from wfhost.plugin import Call, Failure, Reply, http, line


def run(call: Call) -> Reply:
    url = (call.options or {}).get("url", "https://example.com/")
    line(f"reads {url}")
    page = http("GET", url)
    if page.status != 200:
        raise Failure("unavailable", f"the service answered {page.status}")
    return Reply({"asked": call.prompt, "bytes": len(page.body)})
