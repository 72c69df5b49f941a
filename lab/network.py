"""A network of its own on this machine, which leads nowhere else: a bridge and namespaces that hang on it."""

import ipaddress
import json
import re
import subprocess
from dataclasses import dataclass

from lab.processes import Started


@dataclass(frozen=True)
class Namespace:
    """A network namespace whose eth0 is one end of a veth pair; the other end is a port of the bridge."""

    name: str
    address: str
    bridge: str
    """The namespace where the bridge is."""
    port: str

    @property
    def prefix(self) -> tuple[str, ...]:
        """What to put before a command to run it inside."""
        return ("ip", "netns", "exec", self.name)

    def cut(self) -> None:
        """Makes it unreachable. Raises RuntimeError."""
        _ip("-n", self.bridge, "link", "set", self.port, "down")

    def mend(self) -> None:
        """Undoes ``cut``. Raises RuntimeError."""
        _ip("-n", self.bridge, "link", "set", self.port, "up")


class Network(Started):
    """A bridge, this machine's own link to it, which has the address .1, and namespaces.

    The bridge is in a namespace too, so that this machine's firewall, such as Docker's, has no say in what
    passes between the others.
    """

    def __init__(self, name: str = "rplab", subnet: str = "10.98.0.0/24") -> None:
        """``name`` is the link's too. Raises ValueError when it can't be, or ``subnet`` is none."""
        if not re.fullmatch(r"[a-z0-9]{1,15}", name):
            raise ValueError(f"not 1 to 15 of a-z and 0-9: {name!r}")
        self.name = name
        self._subnet = ipaddress.IPv4Network(subnet)
        self._bridge = f"{name}-bridge"
        self.address = self._address(1)

    def _address(self, last: int) -> str:
        return str(self._subnet[last])

    def _with_bits(self, address: str) -> str:
        return f"{address}/{self._subnet.prefixlen}"

    def start(self) -> None:
        """Makes the bridge, after removing what is left of one with the same name. Raises RuntimeError."""
        self.stop()
        _ip("netns", "add", self._bridge)
        _ip("-n", self._bridge, "link", "add", "br0", "type", "bridge", "forward_delay", "0")
        _ip("-n", self._bridge, "link", "set", "br0", "up")
        _ip("link", "add", self.name, "type", "veth", "peer", "name", "port1", "netns", self._bridge)
        _ip("-n", self._bridge, "link", "set", "port1", "master", "br0", "up")
        _ip("address", "add", self._with_bits(self.address), "dev", self.name)
        _ip("link", "set", self.name, "up")

    def namespace(self, name: str, last: int) -> Namespace:
        """A new namespace; ``last``, from 2, is the last number of its address. Raises RuntimeError."""
        made = Namespace(f"{self.name}-{name}", self._address(last), self._bridge, f"port{last}")
        # The same each time, so that neighbours who knew an earlier one find this one at once.
        hardware = "02:00:" + ipaddress.IPv4Address(made.address).packed.hex(":")
        veth = ("type", "veth", "peer", made.port, "netns", self._bridge)
        _ip("netns", "add", made.name)
        _ip("-n", made.name, "link", "add", "eth0", "address", hardware, *veth)
        _ip("-n", self._bridge, "link", "set", made.port, "master", "br0", "up")
        _ip("-n", made.name, "address", "add", self._with_bits(made.address), "dev", "eth0")
        _ip("-n", made.name, "link", "set", "lo", "up")
        _ip("-n", made.name, "link", "set", "eth0", "up")
        return made

    def stop(self) -> None:
        """Removes the bridge and all namespaces and links of it. Raises RuntimeError."""
        # The kernel takes its time with the links of a namespace, and a next start needs this name.
        if self.name in _names("ifname", "link", "show"):
            _ip("link", "delete", self.name)
        for namespace in _names("name", "netns", "list"):
            if namespace.startswith(f"{self.name}-"):
                _ip("netns", "delete", namespace)


def _ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def _names(key: str, *arguments: str) -> list[str]:
    return [entry[key] for entry in json.loads(_ip("-json", *arguments) or "[]")]
