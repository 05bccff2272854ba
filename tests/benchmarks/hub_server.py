"""A hub with one data set, as the `datasets` library asks it: enough of its routes to find and fetch files.

    python tests/benchmarks/hub_server.py      prints its address

`acme/sums` has one commit, two JSONL files in `data/`, and nothing else.
"""

import hashlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee00" * 5
NAME = "acme/sums"
FILES = {
    "data/train.jsonl": b'{"question": "1 + 1?", "answer": "2\\n#### 2"}\n',
    "data/test.jsonl": b'{"question": "2 + 3?", "answer": "5\\n#### 5"}\n{"question": "3 + 4?", "answer": "7\\n#### 7"}\n',
}


def oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


class Hub(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        found = [self.entry(path) for path in asked.get("paths", []) if path in FILES]
        self.tell(200, json.dumps(found).encode(), "application/json")

    def entry(self, path: str) -> dict[str, object]:
        return {"type": "file", "oid": oid(FILES[path]), "size": len(FILES[path]), "path": path}

    def answer(self, *, with_body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        if path in (f"/api/datasets/{NAME}", f"/api/datasets/{NAME}/revision/{COMMIT}"):
            told = {"id": NAME, "sha": COMMIT, "private": False, "gated": False, "downloads": 0, "tags": [],
                    "siblings": [{"rfilename": one} for one in FILES]}  # fmt: skip
            self.tell(200, json.dumps(told).encode(), "application/json", with_body)
        elif path.startswith(f"/api/datasets/{NAME}/tree/{COMMIT}"):
            below = path.removeprefix(f"/api/datasets/{NAME}/tree/{COMMIT}").strip("/")
            inside = [one for one in FILES if not below or one.startswith(f"{below}/")]
            found: list[dict[str, object]] = [self.entry(one) for one in inside]
            if not below:
                found.append({"type": "directory", "oid": "0" * 40, "size": 0, "path": "data"})
            self.tell(200, json.dumps(found).encode(), "application/json", with_body)
        elif (file := path.removeprefix(f"/datasets/{NAME}/resolve/{COMMIT}/")) in FILES:
            self.tell(200, FILES[file], "application/octet-stream", with_body, oid(FILES[file]))
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound" if NAME in path else "RepoNotFound")
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", "0")
            self.end_headers()

    def tell(self, status: int, body: bytes, kind: str, with_body: bool = True, etag: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Repo-Commit", COMMIT)
        if etag:
            self.send_header("ETag", f'"{etag}"')
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
    server.serve_forever()
