"""A machine with one file, as a scripted hub tells of it."""

import hashlib
import os
from contextlib import contextmanager
from urllib.parse import parse_qs

from tests.sdk.kinds import Client
from tests.sdk.scripted_hub import Answer, answer, scripted_hub

KEY = "cmdop_apikey_0123456789"
BROKEN = Answer(b"", close=True)
STOPPING = answer({"code": "unavailable", "message": "the link is lost"}, status=503)
LARGE = os.urandom(3 * 64 * 1024 + 7)  # see conftest
SMALL = b"small\x00\xff"


def not_active(status):
    error = {"code": "session_not_active", "message": "-", "details": {"current_status": status}}
    return answer(error, status=409)


def refusal_of(code, status, **details):
    return answer({"code": code, "message": code, "details": details}, status=status)


def sha256_of(data):
    return hashlib.sha256(data).hexdigest()


class Machine:
    """What the hub answers of one machine with one file; a fault stands for the next answer."""

    def __init__(self, content=b"", etag='"v1"'):
        self.content = content
        self.etag = etag
        self.mode = "0640"
        self.is_there = bool(content)
        self.uploads = {}
        self.faults = []  # of a transfer: (bytes of it that arrive, the answer then)

    def __call__(self, asked):
        query = {name: values[0] for name, values in parse_qs(asked.query).items()}
        match asked.method, asked.path.rpartition("/files/")[2]:
            case "PUT", "upload":
                return self._put(query, asked.body)
            case "GET", "upload":
                return answer({"offset": len(self.uploads.get(query["upload_id"], b""))})
            case "GET", "download":
                return self._get(asked.headers)
            case "GET", "stat":
                return self._stat(query)
        raise AssertionError(asked)

    def _put(self, query, body):
        arrives, fault = self.faults.pop(0) if self.faults else (len(body), None)
        if "upload_id" not in query:
            kept = body[:arrives]
        else:
            offset = int(query["offset"])
            kept = self.uploads.get(query["upload_id"], b"")
            assert offset <= len(kept), "a gap"
            kept = self.uploads[query["upload_id"]] = kept[:offset] + body[:arrives]
        is_whole = query.get("sha256") == sha256_of(kept)
        if is_whole:
            self.content, self.is_there = kept, True
            self.uploads.pop(query.get("upload_id"), None)
        if fault is not None:
            return fault
        if "sha256" not in query:
            return answer({"offset": len(kept), "complete": False})
        if not is_whole:
            return refusal_of("checksum_mismatch", 400)
        record = {"path": "/f", "size": len(kept), "sha256": sha256_of(kept), "created": True}
        return answer({**record, "complete": True})

    def _get(self, headers):
        arrives, fault = self.faults.pop(0) if self.faults else (len(self.content), None)
        if callable(fault):
            fault()
        elif fault is not None:
            return fault
        first, status = 0, 200
        if "range" in headers and headers["if-range"] == self.etag:
            first, status = int(headers["range"][len("bytes=") : -1]), 206
            if first >= len(self.content):
                return refusal_of("range_not_satisfiable", 416)
        body = self.content[first:]
        lines = [f"HTTP/1.1 {status} X", f"ETag: {self.etag}", f"Content-Length: {len(body)}"]
        if status == 206:
            size = len(self.content)
            lines.append(f"Content-Range: bytes {first}-{size - 1}/{size}")
        head = "\r\n".join([*lines, "", ""]).encode()
        return Answer(head + body[:arrives], close=arrives < len(body))

    def _stat(self, query):
        if not self.is_there:
            return refusal_of("file_not_found", 404)
        record = {"path": "/f", "type": "file", "size": len(self.content), "mode": self.mode}
        checksum = sha256_of(self.content) if query.get("checksum") == "true" else None
        return answer({**record, "sha256": checksum})


@contextmanager
def client_of(script, timeout_s=60.0):
    """A client, and the hub that answers it as the script says."""
    with scripted_hub(script) as hub, Client(hub.url, KEY, timeout_s=timeout_s) as client:
        yield client, hub


def requests_to(hub):
    """(method, last part of the path, bytes of the body) of each."""
    return [(asked.method, asked.path.rpartition("/")[2], len(asked.body)) for asked in hub.asked]
