"""A plugin in Python that reads feeds: the prompt is the address of one (RSS or Atom), the answer its newest entries.

[providers.feeds]
kind = "plugin"
plugin = "feeds-python.wasm"
http = [{ url = "https://blog.rust-lang.org/", methods = ["GET"] }]
"""

import xml.etree.ElementTree as ElementTree

from wfhost.plugin import Call, Failure, Reply, heartbeat, http, line

ATOM = "{http://www.w3.org/2005/Atom}"


def run(call: Call) -> Reply:
    url = call.prompt.strip()
    most = (call.options or {}).get("most", 10)
    heartbeat({"asked": url})
    line(f"reads {url}")
    response = http("GET", url, headers={"accept": "application/atom+xml, application/rss+xml, application/xml"})
    if response.status >= 500 or response.status == 429:
        raise Failure("unavailable", f"the feed answered {response.status}")
    if response.status != 200:
        raise Failure("rejected", f"the feed answered {response.status}")
    try:
        feed = ElementTree.fromstring(response.body)
    except ElementTree.ParseError as error:
        raise Failure("invalid-output", f"this is no feed: {error}") from error
    entries = [entry_of(entry) for entry in [*feed.iter("item"), *feed.iter(f"{ATOM}entry")]]
    return Reply(entries[:most])


def entry_of(entry: ElementTree.Element) -> dict[str, str | None]:
    """What RSS and Atom say of an entry."""

    def text(*names: str) -> str | None:
        return next((found.strip() for name in names if (found := entry.findtext(name))), None)

    link = entry.find(f"{ATOM}link")
    return {
        "title": text("title", f"{ATOM}title"),
        "link": link.get("href") if link is not None else text("link"),
        "date": text("pubDate", f"{ATOM}updated", f"{ATOM}published"),
    }
