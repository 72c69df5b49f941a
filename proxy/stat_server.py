"""The HTTP side: the pages at the ``stat`` address (/metrics, /readyz, …) and at ``pprof``."""

import json
import logging
import sys
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler
from socket import AF_INET, AF_INET6
from socketserver import ThreadingTCPServer
from typing import Any
from urllib.parse import parse_qsl

from proxy.address import Address

log = logging.getLogger("proxy.stat")

Query = Mapping[str, str]
Reply = tuple[int, str, bytes]
"""Status, content type and body."""
Page = Callable[[Query], Reply]

SLOW_READER = 10.0
"""Seconds after which a client of ours that neither sends nor takes anything is dropped."""

MOST_READERS = 64
"""Clients at once; more are turned away. What asks here is a load balancer, Prometheus and some people."""


class Refusal(Exception):  # noqa: N818
    """A page that can't be had: the status, and what whoever asked is told."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


def json_page(status: int, value: object) -> Reply:
    return status, "application/json", json.dumps(value).encode() + b"\n"


def text_page(status: int, text: str) -> Reply:
    return status, "text/plain; charset=utf-8", text.encode()


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
                path, _, query = self.path.partition("?")
                page = pages.get(path)
                if page is None:
                    known = "".join(f"{path}\n" for path in pages)
                    status, kind, body = text_page(404, f"no such page; there are:\n{known}")
                else:
                    try:
                        status, kind, body = page(dict(parse_qsl(query, keep_blank_values=True)))
                    except Refusal as refusal:
                        status, kind, body = text_page(refusal.status, f"{str(refusal).rstrip()}\n")
                    except Exception:
                        log.exception("page=%s", self.path)
                        status, kind, body = text_page(500, "failed; the log says more\n")
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
