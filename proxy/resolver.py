"""Names of configured servers, looked up anew each time, without waiting for a name server that hangs."""

import ipaddress
import logging
import threading
from functools import partial

from proxy.address import Address
from proxy.control import addresses_of
from proxy.pool import Pool

log = logging.getLogger("proxy.resolver")

PATIENCE = 0.2
"""Seconds a look-up may take when we know what an earlier one found."""
FIRST_PATIENCE = 5.0
"""Seconds the first one may take."""
MOST_AT_ONCE = 4


class Resolver:
    """What each name was found to mean last."""

    def __init__(self, name: str) -> None:
        self._pool = Pool(f"resolver-{name}", MOST_AT_ONCE)
        self._found: dict[Address, list[Address]] = {}
        self._errors: dict[Address, OSError] = {}
        self._underway: dict[Address, threading.Event] = {}

    def addresses(self, server: Address) -> list[Address]:
        """Every address of the server's name now, or by the last answer if none comes in time.

        Raises OSError when there has never been one.
        """
        if _is_number(server.host):
            return [server]
        looked_up = self._underway.get(server)
        if looked_up is None:
            looked_up = self._underway[server] = threading.Event()
            self._pool.submit(partial(self._look_up, server, looked_up))
        known = self._found.get(server)
        if not looked_up.wait(PATIENCE if known else FIRST_PATIENCE) and not known:
            raise TimeoutError(f"{server}: no answer from a name server in time")
        if found := self._found.get(server):
            return found
        raise self._errors[server]

    def close(self) -> None:
        self._pool.close()

    def _look_up(self, server: Address, looked_up: threading.Event) -> None:
        try:
            self._found[server] = addresses_of(server)
            self._errors.pop(server, None)
        except OSError as error:
            if server in self._found and server not in self._errors:
                log.warning("%s; its last addresses are used", error)
            self._errors[server] = error
        finally:
            del self._underway[server]
            looked_up.set()


def _is_number(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
