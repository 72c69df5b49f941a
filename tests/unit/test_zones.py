"""Availability zones: our own from EC2's metadata, servers' by address."""

import dataclasses
import http.server
import ipaddress
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from proxy.address import Address
from proxy.config import ClusterConfig
from proxy.zones import Zones, metadata_zone

CONFIG = ClusterConfig(
    name="c",
    listen_addr=Address("127.0.0.1", 1),
    servers=(Address("127.0.0.1", 2),),
    read_from="nearest",
    zone="eu-west-1a",
    server_zones=(
        (ipaddress.ip_network("127.0.1.0/24"), "eu-west-1a"),
        (ipaddress.ip_network("127.0.2.0/24"), "eu-west-1b"),
        (ipaddress.ip_network("::1/128"), "eu-west-1a"),
    ),
)
HERE, THERE, SIX, UNKNOWN = (
    Address("127.0.1.7", 6379),
    Address("127.0.2.7", 6379),
    Address("::1", 6379),
    Address("127.0.3.7", 1),
)


class Metadata(http.server.BaseHTTPRequestHandler):
    """EC2's instance metadata, version 2: nothing without a token."""

    def _answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def do_PUT(self) -> None:
        wanted = self.path == "/latest/api/token" and self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
        self._answer(200 if wanted else 404, "secret" if wanted else "")

    def do_GET(self) -> None:
        if self.headers["X-aws-ec2-metadata-token"] != "secret":
            self._answer(401, "")
        elif self.path == "/latest/meta-data/placement/availability-zone":
            self._answer(200, "eu-west-1a")
        else:
            self._answer(404, "")

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def metadata(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"http://127.0.0.1:{server.server_port}/")
    yield
    server.shutdown()
    thread.join()
    server.server_close()


def test_servers_by_their_address() -> None:
    assert Zones(CONFIG).near([HERE, THERE, SIX, UNKNOWN]) == {HERE, SIX}


def test_nothing_is_near_unless_reads_go_there() -> None:
    assert Zones(dataclasses.replace(CONFIG, read_from="prefer_replica")).near([HERE]) == frozenset()


@pytest.mark.usefixtures("metadata")
def test_our_own_zone_from_the_metadata() -> None:
    assert metadata_zone() == "eu-west-1a"
    assert Zones(dataclasses.replace(CONFIG, zone="")).near([HERE, THERE]) == {HERE}


def test_no_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1")
    assert metadata_zone() == ""
    assert Zones(dataclasses.replace(CONFIG, zone="")).near([HERE]) == frozenset()
