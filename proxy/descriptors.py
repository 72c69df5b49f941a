"""File descriptors: how many there may be, and those that clients must leave to us.

Servers, the topology, pings and the stat server need some at any time; were clients let in until none
is left, nothing could be connected to any more, and the proxy would serve nobody.
"""

import logging
import os
import resource

log = logging.getLogger("proxy.descriptors")

MOST_RESERVED = 1024
"""Descriptors kept from clients; of a lower limit, a quarter."""


class Descriptors:
    """What this process may have open."""

    def __init__(self) -> None:
        """Takes as many as the system allows."""
        self.limit = _raise_limit()
        self._reserved = min(MOST_RESERVED, self.limit // 4)

    def leaves_enough(self, newest: int) -> bool:
        """Whether only those that clients may have are taken.

        ``newest`` is a descriptor opened just now: the kernel gives the lowest that is free.
        """
        return newest < self.limit - self._reserved

    @property
    def scarce(self) -> bool:
        """Whether none is left now but those that clients may not have."""
        try:
            probe = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return True
        try:
            return not self.leaves_enough(probe)
        finally:
            os.close(probe)


def _raise_limit() -> int:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError) as error:
            log.warning("descriptors stay limited to %d: %s", soft, error)
            return soft
    return hard
