#!/usr/bin/env python3
"""A model server for tests with real coding agents. It speaks as much of the
Anthropic messages, OpenAI responses and chat completions, and Gemini APIs as
Claude Code, codex, opencode and gemini need. It listens on a free port of this
machine and prints its number.

A prompt `run: COMMAND` makes the model ask for that shell command once, and
answer `done` afterwards. Lines `use: TOOL JSON` make it use those tools, one
after the other (Anthropic's API only), and answer with what they gave. Every
other prompt is answered with `answer: PROMPT`.
The key `wrong` is refused with 401. Each model request is a line of the file
named by the first argument."""
import json
import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

log = open(sys.argv[1], "a", buffering=1) if len(sys.argv) > 1 else sys.stderr


def texts(value):
    """All text that was said by the user, in order."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        return [text for item in value for text in texts(item)]
    if isinstance(value, dict):
        for key in ("text", "content", "parts"):
            if key in value:
                return texts(value[key])
    return []


def plan(user, has_result, tools):
    """What the model says: text, or a command for a tool of the agent."""
    prompt = user[-1] if user else ""
    command = None
    for text in user:
        found = re.search(r"run: (.*)", text)
        command = found.group(1).strip().strip('"') if found else command
    if command and not has_result and tools:
        return None, command
    return ("done" if command else "answer: " + prompt.strip()), None


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def reply(self, status, body, kind="application/json"):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def send_events(self, events, named=False):
        out = ""
        for event in events:
            if named:
                out += "event: " + event["type"] + "\n"
            out += "data: " + (event if isinstance(event, str) else json.dumps(event)) + "\n\n"
        self.reply(200, out.encode(), "text/event-stream")

    def do_GET(self):
        self.reply(200, {"data": [], "models": [], "object": "list"})

    def do_POST(self):
        raw = self.rfile.read(int(self.headers.get("content-length") or 0))
        try:
            body = json.loads(raw or b"{}")
        except ValueError:
            body = {}
        path = self.path.split("?")[0]
        key = self.headers.get("x-api-key") or self.headers.get("x-goog-api-key") or (
            self.headers.get("authorization", "").removeprefix("Bearer "))
        log.write(json.dumps({"path": self.path, "key": key, "model": body.get("model")}) + "\n")
        if path.endswith("/messages"):
            self.anthropic(body, key)
        elif path.endswith("/responses"):
            self.openai_responses(body, key)
        elif path.endswith("/chat/completions"):
            self.openai_chat(body, key)
        elif "generateContent" in path or "GenerateContent" in path:
            self.google(body, key, path)
        elif path.endswith("countTokens"):
            self.reply(200, {"totalTokens": 10})
        elif path.endswith("/count_tokens"):
            self.reply(200, {"input_tokens": 10})
        else:
            self.reply(200, {})

    def anthropic(self, body, key):
        if key == "wrong":
            return self.reply(401, {"type": "error", "error": {"type": "authentication_error", "message": "invalid x-api-key"}})
        messages = body.get("messages", [])
        blocks = [b for m in messages if m["role"] == "user" and isinstance(m["content"], list) for b in m["content"]]
        has_result = any(b.get("type") == "tool_result" for b in blocks)
        user = [t for m in messages if m["role"] == "user" for t in texts(m["content"]) if "<system-reminder>" not in t]
        tools = {t["name"]: t for t in body.get("tools", []) if t.get("name")}
        tool = next((n for n in ("Bash", "bash") if n in tools), None)
        text, command = plan(user, has_result, tool)
        call = {"command": command, "description": "a command", "timeout": 600000}
        uses = [use for t in user for use in re.findall(r"^use: (\S+) (.*)$", t, re.M)]
        results = [b for b in blocks if b.get("type") == "tool_result"]
        if uses and tools:
            text = "\n".join(t for b in results for t in texts(b.get("content"))) if len(results) >= len(uses) else None
            if text is None:
                tool, call = uses[len(results)][0], json.loads(uses[len(results)][1])
        usage = {"input_tokens": 100, "output_tokens": 10, "cache_read_input_tokens": 0, "cache_creation_input_tokens": 0}
        block = {"type": "text", "text": ""} if text is not None else {
            "type": "tool_use", "id": f"toolu_{len(results) + 1}", "name": tool, "input": {}}
        delta = {"type": "text_delta", "text": text} if text is not None else {
            "type": "input_json_delta", "partial_json": json.dumps(call)}
        stop = "end_turn" if text is not None else "tool_use"
        if not body.get("stream"):
            content = [{"type": "text", "text": text}] if text is not None else [{**block, "input": call}]
            return self.reply(200, {"id": "msg_1", "type": "message", "role": "assistant", "model": body.get("model"),
                                    "content": content, "stop_reason": stop, "stop_sequence": None, "usage": usage})
        self.send_events([
            {"type": "message_start", "message": {"id": "msg_1", "type": "message", "role": "assistant", "model": body.get("model"),
                                                  "content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}},
            {"type": "content_block_start", "index": 0, "content_block": block},
            {"type": "content_block_delta", "index": 0, "delta": delta},
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": stop, "stop_sequence": None}, "usage": {"output_tokens": 10}},
            {"type": "message_stop"},
        ], named=True)

    def openai_responses(self, body, key):
        if key == "wrong":
            return self.reply(401, {"error": {"message": "Incorrect API key provided: wrong.", "type": "invalid_request_error", "code": "invalid_api_key"}})
        items = body.get("input", [])
        items = items if isinstance(items, list) else [{"role": "user", "content": items}]
        has_result = any(str(i.get("type", "")).endswith("_output") for i in items)
        user = [t for i in items if i.get("role") == "user" for t in texts(i.get("content")) if not t.lstrip().startswith("<")]
        names = [t.get("name") or t.get("type") for t in body.get("tools", [])]
        tool = next((n for n in ("exec_command", "shell_command", "shell", "local_shell") if n in names), None)
        text, command = plan(user, has_result, tool)
        if text is not None:
            item = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
                    "content": [{"type": "output_text", "text": text, "annotations": []}]}
        else:
            arguments = {"exec_command": {"cmd": command, "yield_time_ms": 30000}, "shell_command": {"command": command}}.get(
                tool, {"command": ["bash", "-c", command]})
            item = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": tool, "arguments": json.dumps(arguments), "status": "completed"}
        usage = {"input_tokens": 100, "output_tokens": 10, "total_tokens": 110, "input_tokens_details": {"cached_tokens": 0},
                 "output_tokens_details": {"reasoning_tokens": 0}}
        response = {"id": "resp_1", "object": "response", "status": "completed", "model": body.get("model"), "output": [item], "usage": usage}
        if not body.get("stream"):
            return self.reply(200, response)
        self.send_events([
            {"type": "response.created", "response": {**response, "status": "in_progress", "output": []}},
            {"type": "response.output_item.added", "output_index": 0, "item": item},
            {"type": "response.output_item.done", "output_index": 0, "item": item},
            {"type": "response.completed", "response": response},
        ], named=True)

    def openai_chat(self, body, key):
        if key == "wrong":
            return self.reply(401, {"error": {"message": "Incorrect API key provided: wrong.", "type": "invalid_request_error", "code": "invalid_api_key"}})
        messages = body.get("messages", [])
        has_result = any(m["role"] == "tool" for m in messages)
        user = [t for m in messages if m["role"] == "user" for t in texts(m["content"])]
        names = [t["function"]["name"] for t in body.get("tools", [])]
        tool = next((n for n in ("bash", "shell") if n in names), None)
        text, command = plan(user, has_result, tool)
        usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
        head = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": body.get("model")}
        if text is not None:
            delta, finish = {"role": "assistant", "content": text}, "stop"
        else:
            call = {"index": 0, "id": "call_1", "type": "function",
                    "function": {"name": tool, "arguments": json.dumps({"command": command, "description": "a command", "timeout": 600000})}}
            delta, finish = {"role": "assistant", "tool_calls": [call]}, "tool_calls"
        if not body.get("stream"):
            return self.reply(200, {**head, "object": "chat.completion", "usage": usage,
                                    "choices": [{"index": 0, "message": delta, "finish_reason": finish}]})
        self.send_events([
            {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]},
            {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]},
            {**head, "choices": [], "usage": usage},
            "[DONE]",
        ])

    def google(self, body, key, path):
        if key == "wrong":
            return self.reply(400, {"error": {"code": 400, "message": "API key not valid. Please pass a valid API key.", "status": "INVALID_ARGUMENT",
                                              "details": [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}]}})
        contents = body.get("contents", [])
        has_result = any("functionResponse" in p for c in contents for p in c.get("parts", []))
        user = [t for c in contents if c.get("role") == "user" for t in texts(c.get("parts")) if "<session_context>" not in t]
        names = [d["name"] for t in body.get("tools", []) for d in t.get("functionDeclarations", [])]
        tool = next((n for n in ("run_shell_command",) if n in names), None)
        text, command = plan(user, has_result, tool)
        part = {"text": text} if text is not None else {"functionCall": {"name": tool, "args": {"command": command, "description": "a command"}}}
        answer = {"candidates": [{"index": 0, "content": {"role": "model", "parts": [part]}, "finishReason": "STOP"}],
                  "usageMetadata": {"promptTokenCount": 100, "candidatesTokenCount": 10, "totalTokenCount": 110}, "modelVersion": "fake"}
        if "stream" in path:
            return self.send_events([answer])
        self.reply(200, answer)


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
