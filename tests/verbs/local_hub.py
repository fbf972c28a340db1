"""A hub of models on this machine, which the hub's own client pushes to over HTTP.

It answers as much of the hub's protocol as one commit needs: make a repository, check the card, ask how each file goes
up, upload large ones (Git LFS, basic transfer), commit the rest. ``python -m tests.verbs.local_hub RUN`` measures
``detour push`` against it: everything but the connection.
"""

import base64
import contextlib
import hashlib
import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LARGE = (".safetensors", ".png")
"""Endings of the files that the hub's own settings send through Git LFS."""


@dataclass
class LocalHub:
    """What was pushed.

    Attributes:
        token: that every request has to bring, but for uploads.
        url: of the hub.
        files: name in the repository → content, of the last commit.
        private: whether the repository is.
        objects: SHA-256 → content, of what went up through Git LFS.
    """

    token: str = "a-token-of-nobody"
    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    private: bool | None = None
    objects: dict[str, bytes] = field(default_factory=dict)

    def answer(self, method: str, path: str, body: bytes) -> Any:
        """What the hub says to one request, as JSON; ``None`` for one that it does not know."""
        last = path.split("?")[0].rstrip("/").split("/")
        if method == "PUT":
            return self._stored(last[-1], body)
        if path == "/api/repos/create":
            self.private = json.loads(body)["visibility"] == "private"
            return {"url": f"{self.url}/ada/style", "name": "ada/style", "id": "1"}
        if path == "/api/validate-yaml":
            return {"errors": [], "warnings": []}
        if "preupload" in last:
            return {"files": [self._way_of(one) for one in json.loads(body)["files"]]}
        if path.endswith("/info/lfs/objects/batch"):
            wanted = json.loads(body)["objects"]
            return {"transfer": "basic", "objects": [self._place_of(one) for one in wanted]}
        if "commit" in last:
            self.files = dict(self._file(json.loads(line)) for line in body.splitlines()[1:])
            return {"commitUrl": f"{self.url}/ada/style/commit/1", "commitOid": "1"}
        if method == "GET" and path.startswith("/api/models/"):
            return {"id": "ada/style", "private": self.private, "siblings": [], "tags": []}
        return None

    def _way_of(self, one: Any) -> dict[str, Any]:
        mode = "lfs" if one["path"].endswith(LARGE) else "regular"
        return {"path": one["path"], "uploadMode": mode, "shouldIgnore": False}

    def _place_of(self, one: Any) -> dict[str, Any]:
        upload = {"href": f"{self.url}/objects/{one['oid']}", "header": {}}
        return {"oid": one["oid"], "size": one["size"], "authenticated": True, "actions": {"upload": upload}}

    def _stored(self, oid: str, body: bytes) -> dict[str, Any] | None:
        if hashlib.sha256(body).hexdigest() != oid:
            return None
        self.objects[oid] = body
        return {}

    def _file(self, line: Any) -> tuple[str, bytes]:
        value = line["value"]
        large = line["key"] == "lfsFile"
        return value["path"], self.objects[value["oid"]] if large else base64.b64decode(value["content"])


@contextlib.contextmanager
def local_hub() -> Iterator[LocalHub]:
    """A hub that answers while the block runs."""
    hub = LocalHub()

    class Answer(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            said = hub.answer(self.command, self.path, body)
            # An upload goes to an address of its own, which holds the permission; all else needs the login.
            known = self.command == "PUT" or self.headers.get("Authorization") == f"Bearer {hub.token}"
            data = json.dumps(said).encode()
            self.send_response(401 if not known else 404 if said is None else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = do  # as http.server calls them

        def log_message(self, format: str, *args: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def main(run: str) -> int:
    """Push a run as a user does, in a process of its own, and print what it took."""
    with local_hub() as hub:
        login = {"HF_ENDPOINT": hub.url, "HF_TOKEN": hub.token, "HF_HUB_OFFLINE": "0", "OMP_NUM_THREADS": "1"}
        begun = time.perf_counter()
        command = [sys.executable, "-m", "detour", "push", run, "ada/style"]
        pushed = subprocess.run(command, env={**os.environ, **login}, check=False)
        seconds = time.perf_counter() - begun
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    size = sum(map(len, hub.files.values()))
    print(
        f"{len(hub.files)} files, {size / 2**20:.1f} MiB, in {seconds:.1f} s on the clock, of which "
        f"{used.ru_utime + used.ru_stime:.1f} s of a core"
    )
    return pushed.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
