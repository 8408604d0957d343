"""W&B without a network: reading its offline files back, and a server on the loopback address."""

import gzip
import json
import os
import socket
import struct
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

BLOCK, HEADER = 32768, 7


def messages(path: Path) -> Iterator[Any]:
    """The records of a ``.wandb`` file: a LevelDB log (crc32, length, kind; then the bytes) of protobuf messages."""
    from wandb.proto import wandb_internal_pb2

    data = path.read_bytes()
    assert data.startswith(b":W&B")
    at, whole = HEADER, b""
    while at + HEADER <= len(data):
        if BLOCK - at % BLOCK < HEADER:
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + HEADER])
        whole += data[at + HEADER : at + HEADER + length]
        at += HEADER + length
        if kind in (1, 4):  # full, last
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            whole = b""
            yield record


class Offline:
    """What one offline part of a W&B run holds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (file,) = folder.glob("*.wandb")
        self.records = list(messages(file))
        self.exit_codes = [record.exit.exit_code for record in self.of("exit")]

    def of(self, kind: str) -> list[Any]:
        return [record for record in self.records if record.WhichOneof("record_type") == kind]

    @property
    def run(self) -> Any:
        (record,) = self.of("run")
        return record.run

    @property
    def config(self) -> dict[str, Any]:
        return {item.key: json.loads(item.value_json) for item in self.run.config.update}

    @property
    def summary(self) -> dict[str, Any]:
        items = [item for record in self.of("summary") for item in record.summary.update]
        return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}

    @property
    def history(self) -> list[dict[str, Any]]:
        return [
            {"/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            for record in self.of("history")
        ]

    def table(self) -> dict[str, Any]:
        (file,) = self.folder.glob("files/media/table/results*.json")
        value: dict[str, Any] = json.loads(file.read_text())
        return value


@pytest.fixture
def offline_parts():
    """The offline parts in a run's folder, oldest first."""
    return lambda folder: [Offline(path) for path in sorted(folder.glob("wandb/offline-run-*"))]


@pytest.fixture(autouse=True, scope="module")
def _alone(tmp_path_factory):
    """No account and no setting of the user's takes part."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            patch.delenv(name)
        nowhere = tmp_path_factory.mktemp("wandb")
        patch.setenv("NETRC", str(nowhere / "netrc"))
        patch.setenv("WANDB_CONFIG_DIR", str(nowhere))
        yield


class Stub(ThreadingHTTPServer):
    """As much of the W&B server as a run needs: it keeps what it is sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.runs: dict[str, dict[str, Any]] = {}
        self.refused: set[str] = set()  # ids of runs that it does not take
        self.order: list[str] = []

    def handle_error(self, *_: Any) -> None:
        """A client that goes away is no news."""

    def answer(self, query: str, values: dict[str, Any]) -> dict[str, Any]:
        if "upsertBucket" in query:
            return self.upsert(values)
        if "RunResumeStatus" in query:
            return self.resume(values)
        if "createRunFiles" in query:
            files = [{"name": name, "uploadUrl": f"{self.url}/upload/{name}"} for name in values["files"]]
            return {"createRunFiles": {"runID": values["run"], "uploadHeaders": [], "files": files}}
        if "createArtifact(" in query:
            return {"createArtifact": {"artifact": {"id": "a", "state": "COMMITTED", "artifactSequence": {"id": "s"}}}}
        if "viewer" in query:
            teams: dict[str, Any] = {"edges": []}
            return {"viewer": {"id": "u", "entity": "me", "username": "me", "email": "", "flags": "{}", "teams": teams}}
        return {"serverInfo": {"features": []}, "project": None}

    def project(self) -> dict[str, Any]:
        return {"id": "p", "name": "trust_exp", "entity": {"id": "e", "name": "me"}}

    def upsert(self, values: dict[str, Any]) -> dict[str, Any]:
        name = values["name"]
        if name in self.refused:
            raise ValueError("this run is refused")
        run = self.runs.setdefault(name, {"history": [], "media": set(), "config": {}, "exit": []})
        run["given"] = {**run.get("given", {}), **{key: value for key, value in values.items() if value is not None}}
        run["config"] |= json.loads(values.get("config") or "{}")
        if name not in self.order:
            self.order.append(name)
        bucket = {"id": name, "name": name, "displayName": name, "config": "{}", "project": self.project()}
        return {"upsertBucket": {"bucket": {**bucket, "historyLineCount": len(run["history"])}, "inserted": True}}

    def resume(self, values: dict[str, Any]) -> dict[str, Any]:
        run, bucket = self.runs.get(values["name"]), None
        if run is not None:
            bucket = {
                "id": values["name"],
                "name": values["name"],
                "summaryMetrics": "{}",
                "displayName": values["name"],
                "logLineCount": 0,
                "historyLineCount": len(run["history"]),
                "eventsLineCount": 0,
                "historyTail": json.dumps([json.dumps(line) for line in run["history"][-1:]]),
                "eventsTail": "[]",
                "config": json.dumps(run["config"]),
                "tags": [],
                "wandbConfig": json.dumps({"t": 1}),
            }
        return {"model": {**self.project(), "bucket": bucket}}

    def stream(self, name: str, sent: dict[str, Any]) -> None:
        run = self.runs[name]
        if chunk := sent.get("files", {}).get("wandb-history.jsonl"):
            run["history"][chunk["offset"] :] = [json.loads(line) for line in chunk["content"]]
        if sent.get("complete"):
            run["exit"].append(sent["exitcode"])
            run["preempting"] = sent.get("preempting", False)


class Handler(BaseHTTPRequestHandler):
    """HTTP for the stub."""

    protocol_version = "HTTP/1.1"
    server: Stub

    def log_message(self, *_: Any) -> None:
        """Silent."""

    def body(self) -> bytes:
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(data) if self.headers.get("Content-Encoding") == "gzip" else data

    def reply(self, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_POST(self) -> None:
        body = json.loads(self.body())
        if not self.path.startswith("/graphql"):
            self.server.stream(self.path.split("/")[4], body)
            self.reply({})
            return
        try:
            self.reply({"data": self.server.answer(body["query"], body.get("variables") or {})})
        except ValueError as error:
            self.reply({"data": None, "errors": [{"message": str(error)}]})

    def do_PUT(self) -> None:
        self.body()
        self.reply({})


@pytest.fixture
def server() -> Iterator[Stub]:
    """A W&B server on the loopback address."""
    with Stub() as stub:
        thread = threading.Thread(target=stub.serve_forever, daemon=True)
        thread.start()
        yield stub
        stub.shutdown()


@pytest.fixture
def silent_server() -> Iterator[str]:
    """The address of a server that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
