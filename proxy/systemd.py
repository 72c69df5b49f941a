"""What systemd tells a service and wants to be told: sockets passed on, readiness, the watchdog.

All of it is by environment variables and one datagram socket; without them, as when the process was not
started by systemd, nothing happens.
Sources: sd_listen_fds(3), sd_notify(3), sd_watchdog_enabled(3).
"""

import os
import socket

FIRST_PASSED = 3
"""The first descriptor passed on (SD_LISTEN_FDS_START)."""


def passed_sockets() -> list[socket.socket]:
    """The listening sockets systemd holds for us and passes on. They are told of once.

    Raises OSError when one of them is not a socket.
    """
    pid, count = (os.environ.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS"))
    os.environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()):
        return []
    passed = [socket.socket(fileno=FIRST_PASSED + number) for number in range(int(count or 0))]
    for one in passed:
        one.set_inheritable(False)
    return passed


def notify(**state: str | int) -> bool:
    """Tells systemd, for instance ``READY=1``; whether there was somebody to tell.

    Raises OSError, of which BlockingIOError when nobody takes what we say: a service must not wait for that.
    """
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return False
    if path.startswith("@"):  # an abstract socket's name begins with a zero byte
        path = "\0" + path[1:]
    message = "".join(f"{name}={value}\n" for name, value in state.items())
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        channel.setblocking(False)
        channel.sendto(message.encode(), path)
    return True


def watchdog_interval() -> float | None:
    """Seconds within which ``WATCHDOG=1`` must be said again and again; None when nobody watches."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    microseconds = int(os.environ.get("WATCHDOG_USEC", "0"))
    return microseconds / 1e6 if microseconds else None
