# SPDX-License-Identifier: Apache-2.0
"""Figures as Prometheus reads them beside containerd's, spans as a collector gets them, and the debug socket."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from concurrent import futures
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span
from prometheus_client.parser import text_string_to_metric_families
from tests.integration.isolation.test_isolated_plugins import children
from tests.support.ctr import Ctr, eventually
from tests.support.daemon import CONTAINERD, ORLOPD, Daemon
from tests.support.fuzzing import GrpcSender
from tests.support.image import Image, write_archive
from tests.support.place import short_directory

TIMEOUT = 30.0
IMAGE = "example.com/busy:1"
#: Of Go and of a library's HTTP server, and of CRI, which is switched off here.
OTHERS = re.compile(r"go_|promhttp_|containerd_cri_|process_virtual_memory_max_bytes")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def get(base: Path, path: str) -> str:
    """A page of the debug socket."""
    done = subprocess.run(
        ["curl", "--silent", "--fail", "--unix-socket", str(base / "d.sock"), f"http://localhost{path}"],
        check=True,
        capture_output=True,
        timeout=TIMEOUT,
    )
    return done.stdout.decode()


# ---- figures ---------------------------------------------------------------------------------------------------------

Figures = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(port: int) -> Figures:
    """All samples by name and labels, read by Prometheus' own parser."""
    url = f"http://127.0.0.1:{port}/v1/metrics"
    done = subprocess.run(["curl", "--silent", "--fail", url], check=True, capture_output=True, timeout=TIMEOUT)
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(done.stdout.decode())
        for sample in family.samples
    }


def run_container(daemon: Daemon) -> Ctr:
    ctr = daemon.ctr(f"figures-{uuid.uuid4().hex[:8]}")
    ctr.ok("images", "import", str(write_archive(daemon.base / "busy.tar", {IMAGE: Image()})))
    ctr.ok("run", "-d", "--null-io", "--memory-limit", "50000000", IMAGE, "x", "sleep", "1000")
    ctr.run("images", "label", "none", "a=b")
    return ctr


def of_container(figures: Figures, namespace: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """The figures of the container ``x``, without the namespace in their labels."""
    mine = {("container_id", "x"), ("namespace", namespace)}
    return {(name, labels - mine): value for (name, labels), value in figures.items() if mine <= labels}


@pytest.mark.timeout(200)
def test_figures_have_containerds_names_and_labels() -> None:
    sides = []
    for program in (CONTAINERD, ORLOPD):
        port = free_port()
        table = f'[metrics]\naddress = "127.0.0.1:{port}"\ngrpc_histogram = true\n'
        with short_directory() as base, Daemon(base, program, tables=table) as daemon:
            ctr = run_container(daemon)
            found: Figures = {}

            def complete(port: int = port, namespace: str = ctr.namespace, found: Figures = found) -> bool:
                found.clear()
                found.update(scrape(port))
                return bool(of_container(found, namespace))

            eventually(complete, "figures of the container")
            sides.append((found, of_container(found, ctr.namespace)))
    (theirs, their_container), (ours, our_container) = sides
    names = {name for name, _ in theirs if not OTHERS.match(name)}
    assert names - {name for name, _ in ours} == set()
    assert len(names) > 60
    assert their_container.keys() - our_container.keys() == set()
    limit = ("container_memory_usage_limit_bytes", frozenset({("runtime", "io.containerd.runc.v2")}))
    assert our_container[limit] == their_container[limit] == 49999872
    # Theirs has a zero for what was never called.
    called = {key: value for key, value in theirs.items() if key[0] == "grpc_server_handled_total" and value}
    assert len(called) > 15
    assert called.keys() - ours.keys() == set()
    seconds = {key for key in theirs if key[0] == "grpc_server_handling_seconds_count" and theirs[key]}
    assert seconds - ours.keys() == set()


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def daemon(port: int) -> Iterator[Daemon]:
    table = f'[metrics]\naddress = "127.0.0.1:{port}"\n[debug]\naddress = "{{base}}/d.sock"\n'
    with short_directory() as base, Daemon(base, ORLOPD, tables=table.format(base=base)) as daemon:
        yield daemon


def value(figures: Figures, name: str, **labels: str) -> float:
    return figures.get((name, frozenset(labels.items())), 0.0)


def test_figures_count_calls_collections_and_plugins(daemon: Daemon, port: int) -> None:
    labels = {"grpc_service": "containerd.services.images.v1.Images", "grpc_method": "Get", "grpc_type": "unary"}
    sender = GrpcSender(str(daemon.address))
    before = scrape(port)
    for _ in range(3):
        sender.call("/containerd.services.images.v1.Images/Get", [b"\n\x01x"], TIMEOUT, [("containerd-namespace", "n")])
    sender.close()
    after = scrape(port)

    def grown(name: str, **labels: str) -> float:
        return value(after, name, **labels) - value(before, name, **labels)

    assert grown("grpc_server_started_total", **labels) == 3
    assert grown("grpc_server_msg_received_total", **labels) == 3
    assert grown("grpc_server_msg_sent_total", **labels) == 0
    assert grown("grpc_server_handled_total", **labels, grpc_code="NotFound") == 3
    assert not any(name.startswith("grpc_server_handling_seconds") for name, _ in after), "nobody asked for histograms"
    eventually(
        lambda: value(scrape(port), "containerd_gc_collections_total", status="success") > 0, "a collection was counted"
    )
    assert value(scrape(port), "containerd_gc_gc_seconds_count") > 0
    overlayfs = "io.containerd.snapshotter.v1.overlayfs"
    assert value(after, "orlop_plugin_state", plugin=overlayfs, state="ok") == 1
    assert value(after, "orlop_plugin_init_seconds", plugin=overlayfs) > 0
    assert value(after, "process_resident_memory_bytes") > 1e6


def test_figures_count_restarts_of_isolated_plugins(port: int) -> None:
    native = "io.containerd.snapshotter.v1.native"
    tables = f'[metrics]\naddress = "127.0.0.1:{port}"\n[plugins."{native}"]\nisolated = true\n'
    with short_directory() as base, Daemon(base, ORLOPD, tables=tables) as daemon:
        assert ("orlop_plugin_restarts_total", frozenset({("plugin", native)})) in scrape(port)
        (child,) = children(daemon)
        os.kill(child, signal.SIGKILL)
        eventually(
            lambda: value(scrape(port), "orlop_plugin_restarts_total", plugin=native) == 1, "the restart is counted"
        )


# ---- the debug socket ------------------------------------------------------------------------------------------------


def test_the_debug_socket_shows_what_the_daemon_does(daemon: Daemon) -> None:
    base = daemon.base
    status = (base / "d.sock").stat()
    assert (status.st_mode & 0o777, status.st_uid, status.st_gid) == (0o660, 0, 0)
    shown = json.loads(get(base, "/debug/vars"))
    assert shown["memory"]["VmRSS"] > 1e6
    assert shown["descriptors"] > 5
    assert shown["tasks"] > 1
    assert shown["plugins"]["ok"] > 20
    assert "io.containerd.snapshotter.v1.overlayfs ok" in get(base, "/debug/plugins")
    assert str(daemon.config) in get(base, "/debug/pprof/cmdline").split("\0")
    assert re.match(r"\d+ types, \d+ objects", get(base, "/debug/pprof/heap"))
    done = subprocess.run(
        ["ctr", "pprof", "--debug-socket", str(base / "d.sock"), "goroutines"],
        check=True,
        capture_output=True,
        timeout=TIMEOUT,
    )
    assert b'thread "MainThread":' in done.stdout
    assert b"<Task " in done.stdout


# ---- traces ----------------------------------------------------------------------------------------------------------


class Collector:
    """Receives spans by OTLP, over HTTP and over gRPC."""

    def __init__(self) -> None:
        self.resources: list[ResourceSpans] = []
        self.headers: list[Mapping[str, str]] = []

    def take(self, data: bytes, headers: Mapping[str, str]) -> bytes:
        """One request."""
        self.resources += ExportTraceServiceRequest.FromString(data).resource_spans
        self.headers.append(headers)
        return ExportTraceServiceResponse().SerializeToString()

    def spans(self) -> dict[str, Span]:
        """The spans so far, by name."""
        return {
            span.name: span for resource in self.resources for scope in resource.scope_spans for span in scope.spans
        }

    @contextmanager
    def over_http(self) -> Iterator[str]:
        """Serve, and give the endpoint."""
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    data = gzip.decompress(data)
                answer = collector.take(data, {"path": self.path, **dict(self.headers)})
                self.send_response(200)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: Any) -> None:
                return

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
            server.server_close()

    @contextmanager
    def over_grpc(self) -> Iterator[str]:
        """Serve, and give the endpoint."""

        def export(data: bytes, context: Any) -> bytes:
            return self.take(data, dict(context.invocation_metadata()))

        service = "opentelemetry.proto.collector.trace.v1.TraceService"
        handlers: Any = {"Export": grpc.unary_unary_rpc_method_handler(export)}
        server = grpc.server(futures.ThreadPoolExecutor(2))
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.stop(0).wait(TIMEOUT)


@contextmanager
def traced(**variables: str) -> Iterator[Daemon]:
    settings = {"OTEL_BSP_SCHEDULE_DELAY": "100", **variables}
    with short_directory() as base, Daemon(base, ORLOPD, env=settings) as daemon:
        yield daemon


TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"


def call(daemon: Daemon, *metadata: tuple[str, str]) -> None:
    sender = GrpcSender(str(daemon.address))
    for path, request in (("images.v1.Images/Get", b"\n\x01x"), ("version.v1.Version/Version", b"")):
        sender.call(f"/containerd.services.{path}", [request], TIMEOUT, [("containerd-namespace", "n"), *metadata])
    sender.close()


GET = "containerd.services.images.v1.Images/Get"
VERSION = "containerd.services.version.v1.Version/Version"


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_spans_reach_a_collector_within_the_clients_trace(protocol: str) -> None:
    collector = Collector()
    serving = collector.over_grpc() if protocol == "grpc" else collector.over_http()
    variables = {"OTEL_EXPORTER_OTLP_PROTOCOL": protocol, "OTEL_EXPORTER_OTLP_HEADERS": "x-who=me"}
    with serving as endpoint, traced(OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, **variables) as daemon:
        # Servers notice observers within a second; and a client that names no trace gets one.
        call(daemon)
        call(daemon, ("traceparent", f"00-{TRACE}-{PARENT}-01"))
        eventually(
            lambda: GET in (spans := collector.spans()) and spans[GET].trace_id.hex() == TRACE,
            lambda: f"a span of the call; there are {collector.spans()}\n{daemon.tail()}",
        )
        span = collector.spans()[GET]
        assert span.parent_span_id.hex() == PARENT
        assert span.kind == Span.SPAN_KIND_SERVER
        attributes = {each.key: each.value for each in span.attributes}
        assert attributes["rpc.method"].string_value == "Get"
        assert attributes["rpc.grpc.status_code"].int_value == 5
        assert attributes["containerd.namespace"].string_value == "n"
        assert span.end_time_unix_nano > span.start_time_unix_nano > (time.time() - 600) * 1e9
        resource = {each.key: each.value.string_value for each in collector.resources[0].resource.attributes}
        assert resource["service.name"] == "orlopd"
        assert {name.lower(): text for name, text in collector.headers[0].items()}["x-who"] == "me"


#: A transfer from nowhere to nowhere.
NOTHING = b"\n\x05\n\x03a/b\x12\x05\n\x03c/d"
CREATE = "containerd.services.tasks.v1.Tasks/Create"
START = "containerd.services.tasks.v1.Tasks/Start"
SHIM_START = "containerd.task.v3.Task/Start"


@contextmanager
def sent(daemon: Daemon) -> Iterator[Path]:
    """The file with what the daemon writes to its sockets, for as long as the body runs."""
    log = daemon.base / "strace"
    calls = "trace=write,writev,sendto,sendmsg"
    command = ["strace", "-f", "-s", "4000", "-e", calls, "-o", str(log), "-p", str(daemon.pid)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) as tracer:
        assert tracer.stderr is not None
        try:
            assert b"attached" in tracer.stderr.readline()
            yield log
        finally:
            tracer.terminate()
            tracer.communicate(timeout=TIMEOUT)


def test_spans_reach_shims() -> None:
    collector = Collector()
    with collector.over_http() as endpoint, traced(OTEL_EXPORTER_OTLP_ENDPOINT=endpoint) as daemon:
        ctr = daemon.ctr(f"spans-{uuid.uuid4().hex[:8]}")
        ctr.ok("images", "import", str(write_archive(daemon.base / "busy.tar", {IMAGE: Image()})))
        ctr.ok("containers", "create", IMAGE, "x", "sleep", "1000")
        eventually(lambda: bool(collector.spans()), "the server has noticed that it is observed")
        with sent(daemon) as log:
            ctr.ok("tasks", "start", "-d", "x")
            eventually(
                lambda: {CREATE, START, SHIM_START} <= collector.spans().keys(),
                lambda: f"spans of calls to the shim; there are {sorted(collector.spans())}\n{daemon.tail()}",
                TIMEOUT,
            )
        spans = collector.spans()
        served, made = spans[START], spans[SHIM_START]
        assert made.kind == Span.SPAN_KIND_CLIENT
        assert (made.trace_id, made.parent_span_id) == (served.trace_id, served.span_id)
        attributes = {each.key: each.value for each in made.attributes}
        assert attributes["rpc.system"].string_value == "ttrpc"
        assert attributes["containerd.namespace"].string_value == ctr.namespace
        # The shim itself is told.
        parent = f"00-{made.trace_id.hex()}-{made.span_id.hex()}-"
        calls = [line for line in log.read_text().splitlines() if "containerd.task.v3.Task" in line]
        assert any(parent in line and "traceparent" in line for line in calls), calls
        assert spans[CREATE].trace_id != served.trace_id


def test_log_lines_say_which_trace_they_belong_to(short_tmp: Path) -> None:
    """The client's, also where nobody makes spans; and lines that belong to none say nothing."""
    table = '[debug]\nlevel = "debug"\nformat = "json"\nlog_trace_id = true\n'
    with Daemon(short_tmp, ORLOPD, tables=table) as daemon:
        sender = GrpcSender(str(daemon.address))
        metadata = [("containerd-namespace", "n"), ("traceparent", f"00-{TRACE}-{PARENT}-01")]
        sender.call("/containerd.services.transfer.v1.Transfer/Transfer", [NOTHING], TIMEOUT, metadata)
        sender.close()
        lines = [json.loads(line) for line in daemon.log.read_text().splitlines()]
        (line,) = (line for line in lines if line["msg"].startswith("transfer from"))
        assert (line["trace_id"], line["span_id"]) == (TRACE, PARENT)
        assert [line for line in lines if "trace_id" in line] == [line]


def test_the_environment_says_who_it_is_and_which_calls_count() -> None:
    collector = Collector()
    with collector.over_http() as endpoint:
        named = {"OTEL_SERVICE_NAME": "mine", "OTEL_TRACES_SAMPLER": "parentbased_always_off"}
        with traced(OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, **named) as daemon:
            call(daemon)
            # The client's own choice counts more.
            call(daemon, ("traceparent", f"00-{TRACE}-{PARENT}-01"))
            daemon.stop()
        # What was not sent yet is sent at the end.
        found = collector.spans()
        assert found.keys() == {GET, VERSION}
        assert {span.trace_id.hex() for span in found.values()} == {TRACE}
        resource = {each.key: each.value.string_value for each in collector.resources[0].resource.attributes}
        assert resource["service.name"] == "mine"


@pytest.mark.parametrize("variables", [{}, {"OTEL_SDK_DISABLED": "true"}, {"OTEL_TRACES_EXPORTER": "none"}])
def test_without_a_wish_there_are_no_traces(variables: dict[str, str]) -> None:
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"} if variables else {}
    with traced(**variables, **endpoint) as daemon:
        plugins = {line.split()[1]: line.split()[-1] for line in daemon.ctr("n").ok("plugins", "ls").splitlines()[1:]}
        assert {plugins[name] for name in ("otlp", "tracing", "grpc-otel", "metrics", "grpc-prometheus")} <= {
            "skip",
            "error",
        }
        assert "level=error" not in daemon.log.read_text()


def test_a_collector_that_is_not_there_delays_nothing_but_the_end() -> None:
    with traced(OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{free_port()}") as daemon:
        call(daemon)
        assert daemon.stop() == 0
