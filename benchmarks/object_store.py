"""An object store on this machine, with faults on demand: for tests and benchmarks, nothing else.

    python -m pplfast.benchmarks.object_store --port 5555 --fail 0.1

moto's S3 in a process of its own, in memory, gone when it ends. GETs of objects, which moto answers slowly (a copy of
the whole object each time), are answered here from moto's objects; everything else is moto's. `/__counts__` gives the
counts as JSON; POST of JSON to `/__faults__` changes the faults.
"""

import argparse
import hashlib
import json
import logging
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any
from urllib.parse import unquote

from pplfast.errors import UserError

COUNTS, FAULTS = "/__counts__", "/__faults__"
START_LIMIT = 60.0  # seconds
# Of the client: any credentials will do, but without them it asks the network for some.
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "store", "AWS_DEFAULT_REGION": "us-east-1"}
BUCKET = "pplfast"

Environ = dict[str, Any]
Respond = Callable[[str, list[tuple[str, str]]], Any]


@dataclass(frozen=True)
class Faults:
    """Of requests for objects. Which ones fail depends on the seed, the object, the range and how often it was asked
    for, not on the order of the threads."""

    fail: float = 0.0  # share of the GETs: half of these get 503, half a torn body; of listings: 503
    fail_writes: float = 0.0  # share of PUTs and POSTs that get 503
    stall: float = 0.0  # share of the GETs that wait for `stall_seconds` first
    stall_seconds: float = 60.0
    gone: str = ""  # GETs and HEADs of keys that hold it get 404; they are still listed
    seed: int = 0


class Storefront:
    """The WSGI application in front of moto's."""

    def __init__(self, moto: Any, faults: Faults) -> None:
        self._moto, self._faults = moto, faults
        self._lock = threading.Lock()
        self._asked: Counter[str] = Counter()
        self._requests: Counter[str] = Counter()
        self._injected: Counter[str] = Counter()
        self._bytes = 0

    def __call__(self, environ: Environ, respond: Respond) -> Iterable[bytes]:
        path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
        if path == COUNTS:
            return self._counts(respond)
        if path == FAULTS:
            return self._change(environ, respond)
        is_object = bool(path.strip("/").partition("/")[2])
        with self._lock:
            self._requests[method if is_object else f"{method} bucket"] += 1
        faults = self._faults
        chance, torn = self._chance(environ, faults)
        if not is_object:
            if method == "GET" and chance < faults.fail:
                return self._refuse(respond, "unavailable", "503 Service Unavailable", "SlowDown")
            return self._pass_on(environ, respond)
        if faults.gone and faults.gone in unquote(path) and method in ("GET", "HEAD"):
            return self._refuse(respond, "gone", "404 Not Found", "NoSuchKey")
        if method in ("PUT", "POST") and chance < faults.fail_writes:
            return self._refuse(respond, "writes", "503 Service Unavailable", "SlowDown")
        if method != "GET" or environ.get("QUERY_STRING"):
            return self._pass_on(environ, respond)
        if chance < faults.fail and not torn:
            return self._refuse(respond, "unavailable", "503 Service Unavailable", "SlowDown")
        if faults.fail <= chance < faults.fail + faults.stall:
            self._count("stalled")
            time.sleep(faults.stall_seconds)
        return self._object(environ, respond, cut=chance < faults.fail)

    def _pass_on(self, environ: Environ, respond: Respond) -> Iterable[bytes]:
        answer: Iterable[bytes] = self._moto(environ, respond)
        return answer

    def _chance(self, environ: Environ, faults: Faults) -> tuple[float, bool]:
        """A number in [0, 1), and whether it is a fault of the second kind."""
        what = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']} {environ.get('HTTP_RANGE', '')}"
        with self._lock:
            self._asked[what] += 1
            number = self._asked[what]
        digest = hashlib.sha256(f"{faults.seed} {number} {what}".encode()).digest()
        return int.from_bytes(digest[:6]) / 2**48, digest[6] % 2 == 1

    def _count(self, fault: str) -> None:
        with self._lock:
            self._injected[fault] += 1

    def _refuse(self, respond: Respond, fault: str, status: str, code: str) -> Iterable[bytes]:
        self._count(fault)
        body = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{fault}</Message></Error>'
        respond(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
        return [body.encode()]

    def _object(self, environ: Environ, respond: Respond, cut: bool) -> Iterable[bytes]:
        from moto.core.exceptions import ServiceException
        from moto.core.models import DEFAULT_ACCOUNT_ID
        from moto.s3.models import s3_backends

        bucket, _, key = environ["PATH_INFO"].encode("latin-1").decode().strip("/").partition("/")
        try:
            found = s3_backends[DEFAULT_ACCOUNT_ID]["aws"].get_object(bucket, key)
        except ServiceException:
            found = None
        if found is None:
            return self._pass_on(environ, respond)  # moto knows the words
        span = _span(environ.get("HTTP_RANGE", ""), found.contentsize)
        if span is None:
            return self._pass_on(environ, respond)
        first, last = span
        with found.lock:
            found._value_buffer.seek(first)
            data: bytes = found._value_buffer.read(last - first)
        headers = [
            ("Content-Type", "binary/octet-stream"),
            ("Content-Length", str(len(data))),
            ("Accept-Ranges", "bytes"),
            ("ETag", found.etag),
            ("Last-Modified", found.last_modified_RFC1123),
        ]
        if environ.get("HTTP_RANGE"):
            headers.append(("Content-Range", f"bytes {first}-{last - 1}/{found.contentsize}"))
        respond("206 Partial Content" if environ.get("HTTP_RANGE") else "200 OK", headers)
        if cut:
            self._count("cut off")
            data = data[: len(data) // 2]
        with self._lock:
            self._bytes += len(data)
        return [data]

    def _counts(self, respond: Respond) -> Iterable[bytes]:
        with self._lock:
            counts = {"requests": dict(self._requests), "faults": dict(self._injected), "bytes": self._bytes}
        return _json(respond, counts)

    def _change(self, environ: Environ, respond: Respond) -> Iterable[bytes]:
        body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
        self._faults = Faults(**json.loads(body))
        return _json(respond, asdict(self._faults))


def _json(respond: Respond, value: Any) -> Iterable[bytes]:
    body = json.dumps(value).encode()
    respond("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


def _span(header: str, size: int) -> tuple[int, int] | None:
    """First byte and the one after the last of a Range header. None for one that only moto understands."""
    if not header:
        return 0, size
    first, _, last = header.removeprefix("bytes=").partition("-")
    if not first.isdecimal() or (last and not last.isdecimal()) or int(first) >= size:
        return None
    end = min(int(last) + 1, size) if last else size
    return (int(first), end) if int(first) < end else None


def serve(port: int, faults: Faults) -> None:
    """Until the process ends. Prints the port when it can be asked; 0: any that is free."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request
    front = Storefront(DomainDispatcherApplication(create_backend_app), faults)
    server = make_server("127.0.0.1", port, front, threaded=True, request_handler=MotoRequestHandler)
    print(server.server_port, flush=True)
    server.serve_forever()


@dataclass
class Store:
    """A running one. environment: for processes that use it; url: of the bucket that `make_bucket` makes."""

    endpoint: str
    faults: Faults
    url: str = f"s3://{BUCKET}"

    @property
    def environment(self) -> dict[str, str]:
        return {**CREDENTIALS, "AWS_ENDPOINT_URL": self.endpoint, "AWS_ENDPOINT_URL_S3": self.endpoint}

    def make_bucket(self) -> str:
        """The URL of the bucket."""
        self._ask(f"/{BUCKET}", b"", "PUT")
        return self.url

    def counts(self) -> dict[str, Any]:
        """requests by method, of objects and of buckets; faults by kind; bytes: of objects, sent."""
        found: dict[str, Any] = json.loads(self._ask(COUNTS))
        return found

    def set_faults(self, **changes: Any) -> None:
        """From now on; fields of `Faults`."""
        self.faults = replace(self.faults, **changes)
        self._ask(FAULTS, json.dumps(asdict(self.faults)).encode(), "POST")

    def _ask(self, path: str, data: bytes | None = None, method: str = "GET") -> bytes:
        request = urllib.request.Request(self.endpoint + path, data, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=START_LIMIT) as answer:
            found: bytes = answer.read()
        return found


@contextmanager
def local_store(fail: float = 0.0, gone: str = "", **faults: Any) -> Iterator[Store]:
    """A store with a bucket, for as long as the context lasts. faults: others of the fields of `Faults`.

    Set its `environment` in the processes that use it: `storage` reads it once, when the first URL is opened."""
    wanted = Faults(fail=fail, gone=gone, **faults)
    words = [word for name, value in asdict(wanted).items() for word in (f"--{name.replace('_', '-')}", str(value))]
    command = [sys.executable, "-m", "pplfast.benchmarks.object_store", "--port", "0", "--until-eof", *words]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        port = process.stdout.readline().strip()  # "" where it ended instead
        if not port:
            raise UserError("the local object store does not start; its last lines say why")
        store = Store(f"http://127.0.0.1:{port}", wanted)
        store.make_bucket()
        yield store
    finally:
        process.kill()
        process.wait()


def _end_with_stdin() -> None:
    while os.read(0, 4096):
        pass
    os._exit(0)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m pplfast.benchmarks.object_store",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    none = Faults()
    parser.add_argument("--port", type=int, default=0, help="0 (default): a free one, which is printed")
    parser.add_argument("--fail", type=float, default=none.fail, metavar="SHARE", help="of GETs: 503, or half the body")
    parser.add_argument("--fail-writes", type=float, default=none.fail_writes, metavar="SHARE", help="of PUTs: 503")
    parser.add_argument("--stall", type=float, default=none.stall, metavar="SHARE", help="of GETs: answered late")
    parser.add_argument("--stall-seconds", type=float, default=none.stall_seconds, help="(default: %(default)s)")
    parser.add_argument("--gone", default=none.gone, metavar="PART", help="keys that hold it are listed, but 404")
    parser.add_argument("--seed", type=int, default=none.seed, help="of the faults (default: %(default)s)")
    parser.add_argument("--until-eof", action="store_true", help="end when standard input does")
    values = vars(parser.parse_args(arguments))
    port, until_eof = values.pop("port"), values.pop("until_eof")
    if until_eof:
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    serve(port, Faults(**values))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
