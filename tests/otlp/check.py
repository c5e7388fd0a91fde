"""What `wfhost serve` sends to a collector, decoded by OpenTelemetry's own types and taken by a real collector.

Usage: check.py WFHOST PROBE.wasm. Wants `pip install opentelemetry-proto==1.45.2 rotel==0.0.1a15`, and for the backend
Phoenix the variable PHOENIX, the path of `phoenix` (`pip install arize-phoenix`, best in an environment of its own).
"""

import datetime
import json
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse

WFHOST, PROBE = sys.argv[1], sys.argv[2]
chance = random.Random(7)


class Collector:
    """Takes spans as Protocol Buffers or JSON, and refuses some."""

    def __init__(self):
        self.spans, self.times, self.resources, self.away = {}, {}, [], False
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                assert self.path == "/v1/traces", self.path
                request = ExportTraceServiceRequest()
                if self.headers["content-type"] == "application/x-protobuf":
                    request.ParseFromString(body)
                    assert len(request.resource_spans) == 1
                else:
                    # Ids are hexadecimal in OTLP's JSON, and Base64 in the one of Protocol Buffers.
                    told = json.loads(body)
                    for of_resource in told["resourceSpans"]:
                        for scope in of_resource["scopeSpans"]:
                            for span in scope["spans"]:
                                for one in [span, *span.get("links", [])]:
                                    for name in ("traceId", "spanId", "parentSpanId"):
                                        if name in one:
                                            import base64
                                            one[name] = base64.b64encode(bytes.fromhex(one[name])).decode()
                    json_format.ParseDict(told, request)
                refused = collector.away or chance.random() < 0.2
                # What was refused may have been taken all the same.
                if not refused or chance.random() < 0.3:
                    collector.take(request)
                self.send_response(503 if refused else 200)
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def take(self, request):
        for of_resource in request.resource_spans:
            self.resources.append({a.key: a.value.string_value for a in of_resource.resource.attributes})
            for scope in of_resource.scope_spans:
                for span in scope.spans:
                    key = (span.trace_id.hex(), span.span_id.hex())
                    known = self.spans.setdefault(key, span)
                    assert known == span, ("what comes again is the same", known, span)
                    self.times[key] = self.times.get(key, 0) + 1


def place():
    root = pathlib.Path(tempfile.mkdtemp())
    env = {
        "PATH": os.environ["PATH"], "HOME": str(root), "WFHOST_DB": str(root / "wfhost.db"), "WFHOST_AGENT": "echo",
        "WFHOST_CACHE": os.environ.get("WFHOST_CACHE", str(root / "cache")), "XDG_STATE_HOME": str(root / "state"),
        "WFHOST_LEASE_MS": "300",
    }
    subprocess.run([WFHOST, "add", PROBE], env=env, check=True, stdout=subprocess.DEVNULL)
    return root, env


def serve(env, **more):
    return subprocess.Popen([WFHOST, "serve", "--listen", "off"], env={**env, **more}, stderr=subprocess.DEVNULL)


def value(any_value):
    kind = any_value.WhichOneof("value")
    return getattr(any_value, kind) if kind else None


def plain(span):
    """A decoded span as plain values."""
    return {
        "name": span.name, "kind": span.kind, "parent": span.parent_span_id.hex(),
        "from": span.start_time_unix_nano, "to": span.end_time_unix_nano,
        "attributes": {a.key: value(a.value) for a in span.attributes},
        "links": sorted((l.trace_id.hex(), l.span_id.hex(), value(l.attributes[0].value)) for l in span.links),
        "failed": span.status.code == 2,
    }


def told(env, run):
    """The spans of a run as `wfhost trace` has them."""
    out = subprocess.run([WFHOST, "trace", run, "-o", "json"], env=env, check=True, capture_output=True).stdout
    def attribute(one):
        (kind, value), = one["value"].items()
        return int(value) if kind == "intValue" else value
    spans = {}
    for span in json.loads(out)["resourceSpans"][0]["scopeSpans"][0]["spans"]:
        spans[(span["traceId"], span["spanId"])] = {
            "name": span["name"], "kind": span["kind"], "parent": span.get("parentSpanId", ""),
            "from": int(span["startTimeUnixNano"]), "to": int(span["endTimeUnixNano"]),
            "attributes": {a["key"]: attribute(a) for a in span["attributes"]},
            "links": sorted((l["traceId"], l["spanId"], attribute(l["attributes"][0])) for l in span["links"]),
            "failed": span["status"].get("code") == 2,
        }
    return spans


PROGRAM = {"do": [
    {"agent": "one"}, {"sleep": 50},
    {"parallel": [{"agent": "two"}, {"agent": "three"}, {"child": {"module": "probe", "input": {"do": [{"agent": "of the child"}, {"sleep": 20}]}}}]},
    {"wait": {"name": "go", "timeout_ms": 400}}, {"agent": "last"},
]}


def check(protocol):
    root, env = place()
    collector = Collector()
    more = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "OTEL_BSP_SCHEDULE_DELAY": "50", "OTEL_SERVICE_NAME": "checked", "OTEL_RESOURCE_ATTRIBUTES": "team=red",
    }
    host = serve(env, **more)
    # The cursor is there before the first run.
    time.sleep(1.5)
    runs = []
    for n in range(12):
        caller = f"00-{n + 1:032x}-{n + 1:016x}-01"
        runs.append(f"r{n}")
        subprocess.run([WFHOST, "-q", "run", "probe", "--detach", "--id", f"r{n}", "--traceparent", caller, "-i", json.dumps(PROGRAM)],
                       env=env, check=True, stdout=subprocess.DEVNULL)
        collector.away = n in (5, 6, 7)
        if n % 3 == 2:
            time.sleep(chance.random())
            host.send_signal(signal.SIGKILL)
            host.wait()
            host = serve(env, **more)
    collector.away = False
    runs += [f"r{n}.5" for n in range(12)]
    expected = {}
    for _ in range(600):
        states = json.loads(subprocess.run([WFHOST, "ps", "-o", "json", "-n", "100"], env=env, check=True, capture_output=True).stdout)["runs"]
        if all(run["state"] == "completed" for run in states) and len(states) == len(runs):
            expected = {key: span for run in [one["id"] for one in states] for key, span in told(env, run).items()}
            if expected.keys() <= collector.spans.keys():
                break
        time.sleep(0.2)
    else:
        sys.exit(f"{protocol}: {len(expected.keys() - collector.spans.keys())} of {len(expected)} spans did not come")
    host.terminate()
    host.wait()
    assert collector.spans.keys() == expected.keys(), "nothing else came"
    for key, span in expected.items():
        assert plain(collector.spans[key]) == span, (plain(collector.spans[key]), span)
        assert span["parent"] == "" or (key[0], span["parent"]) in expected, "its parent came"
        assert span["from"] <= span["to"]
    callers = [link for span in expected.values() for link in span["links"] if link[2] == "caller"]
    assert len(callers) == 12 and callers[0][0].strip("0"), callers
    kinds = {link[2] for span in expected.values() for link in span["links"]}
    assert kinds == {"caller", "parent", "child"}, kinds
    assert all(one["service.name"] == "checked" and one["team"] == "red" for one in collector.resources)
    again = sum(1 for times in collector.times.values() if times > 1)
    print(f"{protocol}: {len(expected)} spans of {len(runs)} runs, all of them as `wfhost trace` has them; {again} came again, the same; "
          f"4 hosts were killed")


def check_days():
    """A run that slept for days, in virtual time: a span of days, and no other one was held back by it."""
    root, env = place()
    collector = Collector()
    host = serve(env, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, OTEL_BSP_SCHEDULE_DELAY="50")
    time.sleep(1.5)
    days = 3 * 86_400_000
    program = {"do": [{"agent": "before"}, {"sleep": days}, {"agent": "after"}]}
    subprocess.run([WFHOST, "-q", "run", PROBE, "--virtual-time", "--id", "long", "-i", json.dumps(program)], env=env, check=True, stdout=subprocess.DEVNULL)
    expected = told(env, "long")
    for _ in range(300):
        if expected.keys() <= collector.spans.keys():
            break
        time.sleep(0.1)
    host.terminate()
    host.wait()
    assert expected.keys() == collector.spans.keys(), "all came"
    for key, span in expected.items():
        assert plain(collector.spans[key]) == span, (plain(collector.spans[key]), span)
    by_name = {span["name"]: span for span in expected.values()}
    length = lambda name: (by_name[name]["to"] - by_name[name]["from"]) // 1_000_000
    assert length("sleep") >= days and length("invoke_workflow probe") >= days, by_name
    assert length("start probe") == 0, "what is above all others was there at once"
    print(f"a run of three days: {len(expected)} spans, one of them of {length('sleep') / 86_400_000:.2f} days")


def free():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def check_rotel():
    """A real collector."""
    import rotel
    agent = pathlib.Path(rotel.__file__).parent / "rotel-agent"
    root, env = place()
    http, grpc = free(), free()
    log = open(root / "rotel.log", "w+")
    collector = subprocess.Popen([agent, "start", "--otlp-http-endpoint", f"127.0.0.1:{http}", "--otlp-grpc-endpoint", f"127.0.0.1:{grpc}",
                                  "--exporter", "blackhole", "--debug-log", "traces", "--debug-log-verbosity", "detailed"], stdout=log, stderr=log)
    try:
        for protocol in ["http/protobuf", "http/json"]:
            host = serve(env, OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{http}", OTEL_EXPORTER_OTLP_PROTOCOL=protocol, OTEL_BSP_SCHEDULE_DELAY="50")
            time.sleep(1.5)
            run = protocol.replace("/", "-")
            subprocess.run([WFHOST, "-q", "run", "probe", "--detach", "--id", run, "-i", '{"do": [{"agent": "x"}]}'], env=env, check=True, stdout=subprocess.DEVNULL)
            for _ in range(200):
                text = (root / "rotel.log").read_text()
                if run in text and "invoke_workflow probe" in text:
                    break
                time.sleep(0.1)
            else:
                sys.exit(f"rotel did not get the spans by {protocol}: {text[-2000:]}")
            host.terminate()
            host.wait()
            print(f"rotel, {protocol}: ok")
    finally:
        collector.terminate()
        collector.wait()


def check_phoenix(program):
    """A backend with a database of its own: what comes twice is there once, below the same parents, at the same times."""
    root, env = place()
    http, grpc = free(), free()
    own = {"PHOENIX_WORKING_DIR": str(root / "phoenix"), "PHOENIX_HOST": "127.0.0.1", "PHOENIX_PORT": str(http), "PHOENIX_GRPC_PORT": str(grpc),
           "PHOENIX_TELEMETRY_ENABLED": "false"}
    (root / "phoenix").mkdir()
    log = open(root / "phoenix.log", "w+")
    backend = subprocess.Popen([program, "serve"], env={**os.environ, **own}, stdout=log, stderr=log)
    ask = lambda path: json.load(urllib.request.urlopen(f"http://127.0.0.1:{http}{path}", timeout=10))
    try:
        for _ in range(600):
            try:
                ask("/v1/projects")
                break
            except OSError:
                time.sleep(0.2)
        subprocess.run([WFHOST, "-q", "run", PROBE, "--id", "seen", "-i", json.dumps(PROGRAM)], env=env, check=True, stdout=subprocess.DEVNULL)
        for _ in range(2):
            subprocess.run([WFHOST, "-q", "trace", "seen", "--otlp", f"http://127.0.0.1:{http}"], env={**env, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"},
                           check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        expected = {span: one for (_, span), one in told(env, "seen").items()}
        for _ in range(100):
            found = {one["context"]["span_id"]: one for one in ask("/v1/projects/default/spans?limit=1000")["data"]}
            if found.keys() >= expected.keys():
                break
            time.sleep(0.2)
        count = len(ask("/v1/projects/default/spans?limit=1000")["data"])
        assert found.keys() == expected.keys() and count == len(expected), (count, len(expected))
        nanos = lambda text: round(datetime.datetime.fromisoformat(text).timestamp() * 1e6) * 1000
        for key, span in expected.items():
            one = found[key]
            assert (one["parent_id"] or "", one["name"]) == (span["parent"], span["name"]), (one, span)
            assert (nanos(one["start_time"]), nanos(one["end_time"])) == (span["from"], span["to"]), (one, span)
        agents = sum(one["span_kind"] == "AGENT" for one in found.values())
        assert agents >= 4, "it takes the calls of agents for what they are"
        print(f"Phoenix: {count} spans, sent twice and there once, {agents} of them agents")
    finally:
        backend.terminate()
        backend.wait()


check("http/protobuf")
check("http/json")
check_days()
if os.environ.get("PHOENIX"):
    check_phoenix(os.environ["PHOENIX"])
check_rotel()
