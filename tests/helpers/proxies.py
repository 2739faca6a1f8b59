"""A proxy on the loopback that does to requests what slow and faulty servers do."""

import contextlib
import http.client
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.helpers.processes import PATIENCE


@dataclass(frozen=True)
class Fault:
    """What happens to one request.

    Attributes:
        until: the server hears of it when this is set.
        status: what is answered in the server's place, which never hears of it.
        drop: "before" or "after" the server has heard of it the connection is closed without an answer.
        location: of a redirection.
        content: of the answer in the server's place.
    """

    until: threading.Event | None = None
    status: int | None = None
    drop: str = ""
    location: str = ""
    content: bytes = b"<html>trouble</html>"


Faults = Callable[[str, str], Fault | None]
"""Method and path of a request to what happens to it."""


@contextlib.contextmanager
def faulty_proxy(port: int, faults: Faults) -> Iterator[str]:
    """A proxy before the server at a port of the loopback; yields its address."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            fault = faults(self.command, self.path) or Fault()
            self.close_connection = True
            if fault.drop == "before":
                return
            if fault.status is not None:
                self._answer(fault.status, fault.content, {"Location": fault.location} if fault.location else {})
                return
            if fault.until is not None:
                fault.until.wait(PATIENCE)
            status, content, kind = self._forward(body)
            if fault.drop != "after":
                with contextlib.suppress(OSError):  # the client waits no longer
                    self._answer(status, content, {"Content-Type": kind})

        def _forward(self, body: bytes) -> tuple[int, bytes, str]:
            upstream = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
            headers = {
                name: value for name, value in self.headers.items() if name.lower() not in ("host", "connection")
            }
            upstream.request(self.command, self.path, body, headers)
            answer = upstream.getresponse()
            content = answer.read()
            upstream.close()
            return answer.status, content, answer.headers.get("Content-Type", "application/json")

        def _answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = _serve

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
