"""A stand-in for the Hugging Face hub: the routes that its client takes, on this machine, in memory."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class Hub:
    """Repositories as {name: {branch: [commit, ...]}}, a commit as {path: bytes}; who asked with which token."""

    def __init__(self) -> None:
        self.branches: dict[str, dict[str, str]] = {}
        self.commits: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.fetched: list[str] = []
        self.unknown: list[str] = []

    def commit(self, name: str, branch: str, lines: list[dict]) -> str:
        """Apply a commit's lines to a branch's files."""
        files = dict(self.files(name, branch))
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        described = repr(sorted((path, hashlib.sha1(data).hexdigest()) for path, data in files.items()))
        revision = hashlib.sha1(described.encode()).hexdigest()
        self.commits[revision] = files
        self.branches[name][branch] = revision
        return revision

    def files(self, name: str, revision: str) -> dict[str, bytes]:
        """Return the files of a branch or a commit."""
        return self.commits[self.sha(name, revision)]

    def sha(self, name: str, revision: str) -> str:
        """Return the commit that a branch stands at, or the commit itself."""
        return self.branches[name].get(revision, revision)


class Handler(BaseHTTPRequestHandler):
    """Answers as the hub does."""

    hub: Hub

    def log_message(self, *_: object) -> None:  # noqa: D102
        pass

    def do_POST(self) -> None:  # noqa: N802, D102
        body = self.rfile.read(int(self.headers["Content-Length"]))
        path, hub = unquote(urlsplit(self.path).path), self.hub
        if self.headers.get("Authorization") != "Bearer hf_right":
            return self.answer(401, {"error": "Invalid username or password."})
        if path == "/api/repos/create":
            said = json.loads(body)
            name = f"{said['organization']}/{said['name']}"
            if name in hub.branches:
                said = {"error": "You already created this model repo", "url": f"{self.root()}/{name}"}
                return self.answer(409, said)
            hub.branches[name] = {"main": hashlib.sha1(b"").hexdigest()}
            hub.commits[hub.branches[name]["main"]] = {".gitattributes": b"*.safetensors filter=lfs\n"}
            hub.private |= {name} if said.get("private") or said.get("visibility") == "private" else set()
            return self.answer(200, {"url": f"{self.root()}/{name}"})
        if path == "/api/validate-yaml":
            return self.answer(200, {"errors": [], "warnings": []})
        if not (found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/(\w+)/(.+)", path)):
            return self.unknown()
        name, what, rest = found.groups()
        if what == "branch":
            hub.branches[name].setdefault(rest, hub.branches[name]["main"])
            return self.answer(200, {})
        if what == "preupload":
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            return self.answer(200, {"files": files})
        if what != "commit":
            return self.unknown()
        sha = hub.commit(name, rest, [line for line in map(json.loads, body.splitlines()) if line["key"] != "header"])
        self.answer(200, {"success": True, "commitOid": sha, "commitUrl": f"{self.root()}/{name}/commit/{sha}"})

    def do_GET(self) -> None:  # noqa: N802, D102
        path, hub = unquote(urlsplit(self.path).path), self.hub
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", path):
            name, revision = found[1], found[2] or "main"
            if name not in hub.branches or hub.sha(name, revision) not in hub.commits:
                kind = "RepoNotFound" if name not in hub.branches else "RevisionNotFound"
                return self.answer(404, {"error": kind}, {"X-Error-Code": kind})
            siblings = [{"rfilename": path} for path in hub.files(name, revision)]
            return self.answer(
                200, {"id": name, "sha": hub.sha(name, revision), "siblings": siblings, "private": False}
            )
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)/?", path):
            files = hub.files(found[1], found[2])
            tree = [
                {"type": "file", "path": p, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for p, data in files.items()
            ]
            return self.answer(200, tree)
        found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if not found or found[3] not in hub.files(found[1], found[2]):
            return self.unknown()
        name, revision, file = found.groups()
        data = hub.files(name, revision)[file]
        if self.command == "GET":
            hub.fetched.append(file)
        headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": hub.sha(name, revision)}
        self.answer(200, data, headers)

    do_HEAD = do_GET  # noqa: N815

    def unknown(self) -> None:
        """Say that there is no such thing, and keep what was asked for."""
        self.hub.unknown.append(f"{self.command} {self.path}")
        self.answer(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})

    def root(self) -> str:
        """Return this server's address."""
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def answer(self, status: int, said: object, headers: dict[str, str] | None = None) -> None:
        """Send bytes, or JSON."""
        data = said if isinstance(said, bytes) else json.dumps(said).encode()
        self.send_response(status)
        for key, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


@contextmanager
def standin() -> Iterator[tuple[Hub, str]]:
    """Give a hub and its address while the block runs."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub, f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
