"""Availability zones: in which one we are, and which servers share it.

Ours is configured, or EC2's instance metadata tells it. A server's is told by the configuration, by its
address, or by the server itself: Valkey's INFO has its availability_zone.
Source: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-retrieval.html
"""

import ipaddress
import logging
import os
import urllib.error
import urllib.request
from collections.abc import Iterable

from proxy.address import Address
from proxy.config import ClusterConfig
from proxy.control import Connection, ReplyError, addresses_of
from proxy.topology import field_of

log = logging.getLogger("proxy.zones")

METADATA = "http://169.254.169.254"
METADATA_TIMEOUT = 1.0  # seconds
ASK_TIMEOUT = 1.0  # seconds


def metadata_zone() -> str:
    """The availability zone that EC2's instance metadata (IMDSv2) tells; "" where there is none."""
    endpoint = os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", METADATA).rstrip("/")
    try:
        token = _fetch(f"{endpoint}/latest/api/token", "PUT", {"X-aws-ec2-metadata-token-ttl-seconds": "60"})
        return _fetch(
            f"{endpoint}/latest/meta-data/placement/availability-zone",
            "GET",
            {"X-aws-ec2-metadata-token": token},
        )
    except (OSError, ValueError) as error:
        log.warning("zone: not configured, and instance metadata has none: %s", error)
        return ""


def _fetch(url: str, method: str, headers: dict[str, str]) -> str:
    request = urllib.request.Request(url, method=method, headers=headers)
    with urllib.request.urlopen(request, timeout=METADATA_TIMEOUT) as reply:
        text: bytes = reply.read(1024)
    return text.decode().strip()


class Zones:
    """What one cluster's servers have in common with us. For one thread: it asks servers, and waits."""

    def __init__(self, config: ClusterConfig) -> None:
        self._config = config
        self._own: str | None = config.zone or None
        self._known: dict[Address, str] = {}

    def near(self, servers: Iterable[Address]) -> frozenset[Address]:
        """Those in our own zone; none if it is not known, or if reads do not go to the nearest."""
        if self._config.read_from != "nearest":
            return frozenset()
        if self._own is None:
            self._own = metadata_zone()
        if not self._own:
            return frozenset()
        return frozenset(server for server in servers if self._zone(server) == self._own)

    def _zone(self, server: Address) -> str:
        if server not in self._known:
            try:
                self._known[server] = self._configured(server) or self._told(server)
            except (OSError, ReplyError, ValueError) as error:
                log.debug("cluster=%s server=%s zone: %s", self._config.name, server, error)
                return ""  # it is asked again with the next topology
        return self._known[server]

    def _configured(self, server: Address) -> str:
        hosts = [ipaddress.ip_address(address.host) for address in addresses_of(server)]
        return next(
            (zone for network, zone in self._config.server_zones if any(host in network for host in hosts)),
            "",
        )

    def _told(self, server: Address) -> str:
        with Connection.to(self._config, server, ASK_TIMEOUT) as connection:
            return field_of(connection.call("INFO", "server"), b"availability_zone")
