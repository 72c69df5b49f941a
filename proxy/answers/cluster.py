"""CLUSTER: the proxy as the one node of a cluster, so that clients that know clusters work through it."""

import hashlib
import ipaddress
from dataclasses import dataclass
from typing import Final

from proxy.answers.registry import (
    NOT_AN_INTEGER,
    Client,
    Context,
    answers,
    clip,
    help_of,
    integer_of,
)
from proxy.answers.servers import request
from proxy.fanout import Answer, Fanout, Part
from proxy.reply import array, bulk, error, integer, mapping, verbatim
from proxy.slots import slot_of
from proxy.topology import SLOTS

BUS: Final = 10000
"""How far above its port a node's bus has its own."""


@dataclass(frozen=True, slots=True)
class _Node:
    """Where clients find the proxy: the address that is announced, or that this client has connected to."""

    host: str  # "": a Unix socket; the client is to stay where it is
    port: int

    @property
    def id(self) -> str:
        """40 hexadecimal digits that follow from the address: proxies with the same one are one node."""
        return _id(f"{self.host}:{self.port}")

    @property
    def shard(self) -> str:
        return _id(f"shard {self.host}:{self.port}")

    @property
    def hostname(self) -> str:
        """The host, if it is a name and no IP address."""
        try:
            return "" if not self.host or ipaddress.ip_address(self.host) else self.host
        except ValueError:
            return self.host


def _id(text: str) -> str:
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def _node(client: Client, context: Context) -> _Node:
    announced = context.config.announce_addr
    if announced is not None:
        return _Node(announced.host, announced.port)
    host, _, port = client.listener.rpartition(":")
    return _Node("", 0) if "/" in host else _Node(host, int(port))


@answers("cluster|slots", 2)
def _slots(client: Client, context: Context, _args: list[bytes]) -> bytes:
    node = _node(client, context)
    owner = [bulk(node.host), integer(node.port), bulk(node.id), mapping([], client.protocol)]
    return array([array([integer(0), integer(SLOTS - 1), array(owner)])])


@answers("cluster|shards", 2)
def _shards(client: Client, context: Context, _args: list[bytes]) -> bytes:
    node = _node(client, context)
    fields = [
        (bulk("id"), bulk(node.id)),
        (bulk("port"), integer(node.port)),
        (bulk("ip"), bulk(node.host)),
        (bulk("endpoint"), bulk(node.host)),
    ]
    if node.hostname:
        fields.append((bulk("hostname"), bulk(node.hostname)))
    fields += [
        (bulk("role"), bulk("master")),
        (bulk("replication-offset"), integer(0)),
        (bulk("health"), bulk("online")),
    ]
    shard = [
        (bulk("slots"), array([integer(0), integer(SLOTS - 1)])),
        (bulk("nodes"), array([mapping(fields, client.protocol)])),
    ]
    return array([mapping(shard, client.protocol)])


@answers("cluster|nodes", 2)
def _nodes(client: Client, context: Context, _args: list[bytes]) -> bytes:
    node = _node(client, context)
    name = f",{node.hostname}" if node.hostname else ""
    address = f"{node.host}:{node.port}@{node.port + BUS if node.port else 0}{name}"
    return verbatim(
        f"{node.id} {address} myself,master - 0 0 1 connected 0-{SLOTS - 1}\n",
        client.protocol,
    )


@answers("cluster|info", 2)
def _info(client: Client, context: Context, _args: list[bytes]) -> bytes:
    topology = context.topology
    covered = topology.slots_covered if topology else 0
    fields: dict[str, object] = {
        "cluster_state": "ok" if topology and topology.covered else "fail",
        "cluster_slots_assigned": SLOTS,
        "cluster_slots_ok": covered,
        "cluster_slots_pfail": 0,
        "cluster_slots_fail": SLOTS - covered,
        "cluster_known_nodes": 1,
        "cluster_size": 1,
        "cluster_current_epoch": 1,
        "cluster_my_epoch": 1,
        "cluster_stats_messages_sent": 0,
        "cluster_stats_messages_received": 0,
        "total_cluster_links_buffer_limit_exceeded": 0,
    }
    return verbatim("".join(f"{name}:{value}\r\n" for name, value in fields.items()), client.protocol)


@answers("cluster|keyslot", 3)
def _keyslot(_client: Client, _context: Context, args: list[bytes]) -> bytes:
    return integer(slot_of(args[2]))


@answers("cluster|myid", 2)
def _myid(client: Client, context: Context, _args: list[bytes]) -> bytes:
    return bulk(_node(client, context).id)


@answers("cluster|myshardid", 2)
def _myshardid(client: Client, context: Context, _args: list[bytes]) -> bytes:
    return bulk(_node(client, context).shard)


@answers("cluster|countkeysinslot", 3)
def _countkeysinslot(_client: Client, _context: Context, args: list[bytes]) -> Answer:
    slot = integer_of(args[2])
    if slot is None:
        return NOT_AN_INTEGER
    return _ask_owner(slot, args) if 0 <= slot < SLOTS else error("Invalid slot")


@answers("cluster|getkeysinslot", 4)
def _getkeysinslot(_client: Client, _context: Context, args: list[bytes]) -> Answer:
    slot, most = integer_of(args[2]), integer_of(args[3])
    if slot is None or most is None:
        return NOT_AN_INTEGER
    if not 0 <= slot < SLOTS or most < 0:
        return error("Invalid slot or number of keys")
    return _ask_owner(slot, args)


def _ask_owner(slot: int, args: list[bytes]) -> Fanout:
    return Fanout([Part(slot, request(args))], lambda replies: replies[0].reply, readonly=True)


@answers("cluster|replicas", 3)
@answers("cluster|slaves", 3)
def _replicas(client: Client, context: Context, args: list[bytes]) -> bytes:
    return array([]) if _is_me(client, context, args[2]) else _unknown_node(args[2])


@answers("cluster|count-failure-reports", 3)
def _count_failure_reports(client: Client, context: Context, args: list[bytes]) -> bytes:
    return integer(0) if _is_me(client, context, args[2]) else _unknown_node(args[2])


def _is_me(client: Client, context: Context, node: bytes) -> bool:
    return node == _node(client, context).id.encode()


def _unknown_node(node: bytes) -> bytes:
    return error(b"Unknown node %b" % clip(node, len(node)).rstrip(b"\r\n"))


@answers("cluster|links", 2)
def _links(_client: Client, _context: Context, _args: list[bytes]) -> bytes:
    return array([])


@answers("cluster|help", 2)
def _help(_client: Client, _context: Context, _args: list[bytes]) -> bytes:
    return help_of(
        "CLUSTER",
        {
            "COUNT-FAILURE-REPORTS <node-id>": "0.",
            "COUNTKEYSINSLOT <slot>": "How many keys the server of a slot has in it.",
            "GETKEYSINSLOT <slot> <count>": "Some of them.",
            "INFO": "The proxy as a cluster of one node; its state is that of the cluster behind it.",
            "KEYSLOT <key>": "A key's slot.",
            "LINKS": "None.",
            "MYID": "The proxy's id as a node.",
            "MYSHARDID": "Its id as a shard.",
            "NODES": "The proxy as the only node.",
            "REPLICAS <node-id>": "None.",
            "SHARDS": "The proxy as the only shard.",
            "SLAVES <node-id>": "None.",
            "SLOTS": "The proxy as the owner of all slots.",
        },
    )
