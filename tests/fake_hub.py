"""The part of a model hub that uploads and downloads need, on this machine, with faults on demand.

Repositories, branches and commits are kept in memory. What `huggingface_hub` asks was read from its source: who the
token belongs to, creation of repositories and branches, which files are large, the LFS batch, the commit as lines of
JSON, and for downloads the listing and the files.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from urllib.parse import unquote, urlsplit

from http_serving import serving

USER = "ada"
TOKEN = "hf_only_for_this_test"


@dataclass
class Fault:
    """What happens instead of an answer.

    Attributes:
        where: part of the path; the method and a space may stand before it.
        status: the answer's status; 0 drops the connection, -1 says nothing until the hub is closed.
        times: how often, before all is well again.
    """

    where: str
    status: int
    times: int = 1_000_000


@dataclass
class FakeHub:
    """A hub with one user.

    Attributes:
        branches: repository -> branch -> path -> contents.
        commits: (repository, branch, message), oldest first.
        requests: "METHOD path" of all that was asked.
        private: of each repository, as it was asked for.
    """

    url: str = ""
    branches: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    commits: list[tuple[str, str, str]] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    private: dict[str, bool] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    closing: threading.Event = field(default_factory=threading.Event)
    lock: threading.RLock = field(default_factory=threading.RLock)
    delay_s: float = 0.0

    def fail(self, where: str, status: int, times: int = 1_000_000) -> None:
        """Lets requests whose "METHOD path" contains ``where`` fail."""
        self.faults.append(Fault(where, status, times))

    def heal(self) -> None:
        """From now on all is well."""
        self.faults.clear()

    def files(self, repository: str = f"{USER}/run", branch: str = "main") -> dict[str, bytes]:
        """What lies in a branch."""
        return self.branches[repository][branch]

    @property
    def environment(self) -> dict[str, str]:
        """Variables that lead `huggingface_hub` here, in a process that starts with them."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_TOKEN": TOKEN,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
        }


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """A hub that listens on a free port of this machine."""
    hub = FakeHub()
    with serving(_Handler, hub=hub) as hub.url:
        try:
            yield hub
        finally:
            hub.closing.set()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub

    def do_GET(self) -> None:
        self._answer("GET")

    def do_HEAD(self) -> None:
        self._answer("HEAD")

    def do_POST(self) -> None:
        self._answer("POST")

    def do_PUT(self) -> None:
        self._answer("PUT")

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(self, method: str) -> None:
        path = unquote(urlsplit(self.path).path)
        with self.hub.lock:
            self.hub.requests.append(f"{method} {path}")
            fault = next((f for f in self.hub.faults if f.times and f.where in f"{method} {path}"), None)
            if fault:
                fault.times -= 1
        if fault and fault.status == 0:
            self.close_connection = True
            self.connection.close()
            return
        if fault and fault.status < 0:
            self.hub.closing.wait(60)
            self.close_connection = True
            return
        body = self._body()
        if fault:
            self._send(fault.status, {"error": "made up for a test"})
        elif method == "PUT":
            time.sleep(self.hub.delay_s)
            self.hub.large[path.removeprefix("/large/")] = body
            self._send(200, {})
        elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._send(401, {"error": "Invalid credentials"})
        else:
            with self.hub.lock:
                self._route(method, path, body)

    def _send(self, status: int, value: object, headers: dict[str, str] | None = None) -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in (headers or {}).items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _route(self, method: str, path: str, body: bytes) -> None:
        parts = path.strip("/").split("/")
        if path == "/api/whoami-v2":
            self._send(200, {"name": USER, "type": "user", "auth": {"type": "access_token"}, "orgs": []})
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":
            self._send(200, {"errors": [], "warnings": []})
        elif path.endswith(".git/info/lfs/objects/batch"):
            self._batch(json.loads(body))
        elif parts[:2] == ["api", "models"]:
            self._of_repository("/".join(parts[2:4]), parts[4:], body)
        elif len(parts) > 3 and parts[2] == "resolve":
            self._resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        else:
            self._send(404, {"error": f"no such place: {method} {path}"})

    def _create(self, asked: dict) -> None:
        name = f"{asked.get('organization') or USER}/{asked['name']}"
        if not name.startswith(f"{USER}/"):
            self._send(403, {"error": "you may not"}, {"X-Error-Message": "you may not"})
            return
        known = name in self.hub.branches
        if not known:
            self.hub.branches[name] = {"main": {}}
            self.hub.private[name] = asked.get("visibility") == "private" or bool(asked.get("private"))
        self._send(409 if known else 200, {"url": f"{self.hub.url}/{name}"})

    def _batch(self, asked: dict) -> None:
        objects = []
        for item in asked["objects"]:
            href = f"{self.hub.url}/large/{item['oid']}"
            known = item["oid"] in self.hub.large
            objects.append(item if known else item | {"actions": {"upload": {"href": href}}})
        self._send(200, {"transfer": "basic", "objects": objects})

    def _of_repository(self, name: str, parts: list[str], body: bytes) -> None:
        branches = self.hub.branches.get(name)
        action = parts[0] if parts else "revision"
        if branches is None:
            self._send(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        elif action == "branch":
            known = parts[1] in branches
            branches.setdefault(parts[1], dict(branches["main"]))
            self._send(409 if known else 200, {})
        elif action == "refs":
            refs = [{"name": branch, "ref": f"refs/heads/{branch}", "targetCommit": "0" * 40} for branch in branches]
            self._send(200, {"branches": refs, "tags": [], "converts": []})
        elif (branch := parts[1] if len(parts) > 1 else "main") not in branches and branch != _sha(name, branches):
            self._send(404, {"error": "Invalid rev"}, {"X-Error-Code": "RevisionNotFound"})
        elif action == "preupload":
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith((".safetensors", ".pt")) else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            self._send(200, {"files": files})
        elif action == "commit":
            self._commit(name, branch, [json.loads(line) for line in body.splitlines()])
        elif action == "tree":
            files = self._branch(name, branch)
            self._send(
                200, [{"type": "file", "path": p, "size": len(b), "oid": _git_hash(b)} for p, b in files.items()]
            )
        else:
            siblings = [{"rfilename": path} for path in self._branch(name, branch)]
            self._send(
                200, {"id": name, "modelId": name, "sha": _sha(name, branches), "siblings": siblings, "tags": []}
            )

    def _branch(self, name: str, revision: str) -> dict[str, bytes]:
        branches = self.hub.branches[name]
        return branches.get(revision, branches["main"])

    def _commit(self, name: str, branch: str, lines: list[dict]) -> None:
        files = dict(self.hub.branches[name][branch])
        for line in lines:
            key, value = line["key"], line["value"]
            if key == "header":
                message = value["summary"]
            elif key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
            elif key == "deletedFile":
                del files[value["path"]]
        self.hub.branches[name][branch] = files
        self.hub.commits.append((name, branch, message))
        oid = f"{len(self.hub.commits):040x}"
        self._send(200, {"commitUrl": f"{self.hub.url}/{name}/commit/{oid}", "commitOid": oid})

    def _resolve(self, name: str, revision: str, path: str) -> None:
        body = self._branch(name, revision).get(path)
        if body is None:
            self._send(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
            return
        commit = _sha(name, self.hub.branches[name])
        self._send(200, body, {"ETag": f'"{hashlib.sha256(body).hexdigest()}"', "X-Repo-Commit": commit})


def _sha(name: str, branches: dict[str, dict[str, bytes]]) -> str:
    return hashlib.sha1(f"{name}{sorted(branches)}".encode()).hexdigest()


def _git_hash(body: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()
