"""The HTTP side: the pages at the ``stat`` address (/metrics, /readyz, …) and at ``pprof``."""

import gc
import json
import logging
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler
from socket import AF_INET, AF_INET6
from socketserver import ThreadingTCPServer
from typing import Any

from proxy.address import Address

log = logging.getLogger("proxy.stat")

Page = Callable[[], tuple[int, str, bytes]]
"""Status, content type and body."""

SLOW_READER = 10.0
"""Seconds after which a client of ours that neither sends nor takes anything is dropped."""


MOST_READERS = 64
"""Clients at once; more are turned away. What asks here is a load balancer, Prometheus and some people."""


def json_page(status: int, value: object) -> tuple[int, str, bytes]:
    return status, "application/json", json.dumps(value).encode() + b"\n"


def thread_stacks() -> tuple[int, str, bytes]:
    """Where every thread is now. A worker in its data plane shows the line that entered it."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    text = []
    for ident, frame in sys._current_frames().items():
        text.append(f"thread {names.get(ident, '?')} ({ident})\n")
        text.extend(traceback.format_stack(frame))
        text.append("\n")
    return 200, "text/plain; charset=utf-8", "".join(text).encode()


def object_counts() -> tuple[int, str, bytes]:
    """How many blocks of memory Python holds, and how many objects of each type that its collector knows."""
    gc.collect()
    counts = Counter(f"{type(one).__module__}.{type(one).__qualname__}" for one in gc.get_objects())
    lines = [(sys.getallocatedblocks(), "blocks of memory")]
    lines += [(count, name) for name, count in counts.most_common()]
    return 200, "text/plain; charset=utf-8", "".join(f"{count} {name}\n" for count, name in lines).encode()


def stack_of(thread: threading.Thread) -> str:
    """Where a thread is now."""
    frame = sys._current_frames().get(thread.ident or 0)
    return "".join(traceback.format_stack(frame)).rstrip() if frame else "its end"


class StatServer:
    """One listener and its pages, by path."""

    def __init__(self, address: Address, pages: Mapping[str, Page]) -> None:
        """Binds at once; raises OSError when it can't."""

        class Handler(BaseHTTPRequestHandler):
            timeout = SLOW_READER
            server_version = "redis-proxy"
            sys_version = ""
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                page = pages.get(self.path.partition("?")[0])
                if page is None:
                    known = "".join(f"{path}\n" for path in pages)
                    status, kind, body = 404, "text/plain", f"no such page; there are:\n{known}".encode()
                else:
                    try:
                        status, kind, body = page()
                    except Exception:
                        log.exception("page=%s", self.path)
                        status, kind, body = 500, "text/plain", b"failed; the log says more\n"
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_HEAD = do_GET  # noqa: N815

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                log.debug("client=%s " + format, self.client_address[0], *args)

        class Server(ThreadingTCPServer):  # HTTPServer would ask DNS for our own name
            address_family = AF_INET6 if ":" in address.host else AF_INET
            allow_reuse_address = True
            daemon_threads = True
            block_on_close = False
            request_queue_size = 128
            readers = threading.BoundedSemaphore(MOST_READERS)

            def process_request(self, request: Any, client_address: Any) -> None:
                if self.readers.acquire(blocking=False):
                    super().process_request(request, client_address)
                else:
                    log.warning("client=%s turned away: %d are here", client_address[0], MOST_READERS)
                    self.shutdown_request(request)

            def process_request_thread(self, request: Any, client_address: Any) -> None:
                try:
                    super().process_request_thread(request, client_address)
                finally:
                    self.readers.release()

            def handle_error(self, request: object, client_address: object) -> None:
                """A client that has gone, as health checks do once they have the status, is no error."""
                gone = isinstance(sys.exception(), OSError)
                log.log(
                    logging.DEBUG if gone else logging.ERROR, "client=%s", client_address, exc_info=not gone
                )

        self._server = Server((address.host, address.port), Handler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, name=f"stat-{address}", daemon=True
        )

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        if self._thread.is_alive():
            self._server.shutdown()
        self._server.server_close()
