"""The part of the Hugging Face hub from which data sets are read, on this machine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import unquote, urlsplit

from http_serving import serving


@dataclass
class FakeDatasetHub:
    """A hub with one data set.

    Attributes:
        files: path -> contents, at the only commit.
        commit: its hash.
        requests: "METHOD path" of all that was asked.
        broken: paths that the hub fails to send.
    """

    name: str = "ada/traces-v1.5"
    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    commit: str = "c" * 40
    requests: list[str] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)

    def environment(self, home: Path) -> dict[str, str]:
        """Variables that lead a process to this hub, with its caches in ``home``."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home / "hf"),
            "OPEN_R1_CACHE": str(home / "open_r1"),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
        }

    def downloads(self) -> list[str]:
        """Data files of which the contents were sent or asked for, in order."""
        base = f"GET /datasets/{self.name}/resolve/{self.commit}/"
        return [asked.removeprefix(base) for asked in self.requests if asked.startswith(base) and "parquet" in asked]


@contextmanager
def fake_dataset_hub() -> Iterator[FakeDatasetHub]:
    """A hub that listens on a free port of this machine."""
    hub = FakeDatasetHub()
    with serving(_Handler, hub=hub) as hub.url:
        yield hub


class _Handler(BaseHTTPRequestHandler):
    hub: FakeDatasetHub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        api, files = f"/api/datasets/{self.hub.name}", f"/datasets/{self.hub.name}/resolve/"
        if path.startswith(files):
            self._file(path.removeprefix(files).partition("/")[2])
        elif path.startswith(f"{api}/tree/"):
            self._send(200, [_entry(name, data) for name, data in self.hub.files.items()] + self._folders())
        elif path.startswith(f"{api}/paths-info/"):
            asked = json.loads(body)["paths"]
            self._send(200, [_entry(name, self.hub.files[name]) for name in asked if name in self.hub.files])
        elif path == api or path.startswith(f"{api}/revision/"):
            siblings = [{"rfilename": name} for name in self.hub.files]
            self._send(200, {"id": self.hub.name, "sha": self.hub.commit, "siblings": siblings, "tags": []})
        else:
            self._send(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})

    def _folders(self) -> list[dict[str, str]]:
        names = {name.rpartition("/")[0] for name in self.hub.files} - {""}
        return [{"type": "directory", "path": name, "oid": "d" * 40} for name in sorted(names)]

    def _file(self, name: str) -> None:
        data = self.hub.files.get(name)
        if data is None:
            self._send(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
        elif name in self.hub.broken:
            self._send(500, {"error": "made up for a test"})
        else:
            self._send(200, data, {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": self.hub.commit})

    def _send(self, status: int, value: object, headers: dict[str, str] | None = None) -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in (headers or {}).items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _entry(name: str, data: bytes) -> dict[str, object]:
    return {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
