"""The official Python client of the Model Context Protocol against `wfhost mcp` and `/mcp`.

Usage: client.py WFHOST PROBE.wasm. Wants `pip install mcp==2.3.0`.
"""

import asyncio
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import httpx2
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import ElicitResult

WFHOST, PROBE = sys.argv[1], sys.argv[2]
ASKS = {"do": [{"agent": "first"}, {"ask": {"prompt": "May I?", "choices": ["yes", "no"]}}, {"agent": "last"}]}


def ran(env, *args):
    subprocess.run([WFHOST, *args], env=env, check=True, stdout=subprocess.DEVNULL)


def place():
    root = pathlib.Path(tempfile.mkdtemp())
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(root),
        "WFHOST_DB": str(root / "wfhost.db"),
        "WFHOST_CACHE": os.environ.get("WFHOST_CACHE", str(root / "cache")),
        "XDG_STATE_HOME": str(root / "state"),
        "WFHOST_AGENT": "echo",
    }
    ran(env, "add", PROBE)
    return root, env


asked = []


async def says_yes(context, params):
    asked.append(params.message)
    return ElicitResult(action="accept", content={"answer": "yes"})


async def walk(open_client, modern, env, between=lambda: None):
    """A run is started, asks, is answered, ends; by clients that come and go. `between`: what happens to the server
    while no client is there."""
    async with open_client() as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert "run_start" in tools and "run_why" in tools, tools
        assert "run_answer" not in tools, "it was not granted"
        assert tools["run_show"].annotations.read_only_hint is True
        arguments = {"workflow": "probe", "id": "r", "key": "k", "input": ASKS}
        started = await client.call_tool("run_start", arguments)
        assert not started.is_error and started.structured_content["id"] == "r", started
        again = await client.call_tool("run_start", arguments)
        assert again.structured_content["id"] == "r"
        missing = await client.call_tool("run_show", {"run": "nobody"})
        assert missing.is_error and "WF0501" in missing.content[0].text, missing
        listed = await client.list_resources()
        assert any(str(resource.uri) == "wfhost://runs/r" for resource in listed.resources)
        read = await client.read_resource("wfhost://runs/r/journal")
        assert "started" in read.contents[0].text
        prompt = await client.get_prompt("debug_run", {"run": "r"})
        assert "run_why" in prompt.messages[0].content.text
    # The client and the server are gone. The next ones know the run.
    between()
    async with open_client() as client:
        if modern:
            waited = await client.call_tool("run_wait", {"run": "r", "seconds": 20})
            assert waited.structured_content["state"] == "completed", waited
            assert asked and "May I?" in asked[-1], asked
        else:
            # Of clients of older versions it is not known whether they can ask their user.
            waited = await client.call_tool("run_wait", {"run": "r", "seconds": 3})
            assert waited.structured_content["state"] == "waiting", waited
            question, = waited.structured_content["questions"]
            assert question["prompt"] == "May I?" and "wfhost answer r 2" in waited.content[1].text, waited
            why = await client.call_tool("run_why", {"run": "r"})
            assert not why.is_error, why
            ran(env, "answer", "r", "2", "-i", '"yes"')
            waited = await client.call_tool("run_wait", {"run": "r", "seconds": 20})
            assert waited.structured_content["state"] == "completed", waited
        assert waited.structured_content["output"] == ["first", "yes", "last"], waited
    between()
    async with open_client() as client:
        shown = await client.call_tool("run_show", {"run": "r"})
        assert shown.structured_content["output"] == ["first", "yes", "last"], shown


def check_stdio():
    for mode in ["auto", "legacy"]:
        root, env = place()

        def open_client():
            server = StdioServerParameters(command=WFHOST, args=["mcp"], env=env)
            return Client(stdio_client(server), mode=mode, elicitation_callback=says_yes)

        # Each client has a server of its own, which ends with it.
        asyncio.run(walk(open_client, mode == "auto", env))
        print(f"stdio {mode}: ok")


class Server:
    """`wfhost serve`, which is killed and started again."""

    def __init__(self, root, env):
        self.root, self.env, self.process = root, env, None
        self.start()

    def start(self):
        serve = [WFHOST, "serve", "--listen", "127.0.0.1:0", "--agent", "echo"]
        self.process = subprocess.Popen(serve, env=self.env, stderr=subprocess.DEVNULL)
        told = self.root / "state/wfhost/servers" / f"{self.process.pid}.json"
        for _ in range(400):
            if told.exists() and told.read_text():
                break
            time.sleep(0.05)
        told = json.loads(told.read_text())
        self.url, self.token = told["url"], told["token"]

    def kill(self):
        self.process.kill()
        self.process.wait()

    def restart(self):
        self.kill()
        self.start()


def check_http():
    for mode in ["auto", "legacy"]:
        root, env = place()
        server = Server(root, env)
        try:
            def open_client():
                http = httpx2.AsyncClient(headers={"Authorization": f"Bearer {server.token}"}, timeout=60)
                transport = streamable_http_client(server.url + "/mcp", http_client=http)
                return Client(transport, mode=mode, elicitation_callback=says_yes)

            asyncio.run(walk(open_client, mode == "auto", env, server.restart))
            print(f"http {mode}: ok, the server was killed twice")
        finally:
            server.kill()


check_stdio()
check_http()
