"""The users that clients of a cluster may authenticate as."""

import hashlib
import hmac
from typing import Final

from proxy.config import ClusterConfig

DEFAULT: Final = "default"
"""The user that every client is until it authenticates, and that AUTH with a password alone means."""
NOBODY: Final = bytes(32)
"""A SHA-256 of which nobody knows a password."""


class Users:
    """A cluster's users and the SHA-256 of their passwords."""

    def __init__(self, config: ClusterConfig) -> None:
        self._digests = {user.name.encode(): user.digest for user in config.client_users}
        if config.client_password:
            self._digests[DEFAULT.encode()] = hashlib.sha256(config.client_password.encode()).digest()

    @property
    def required(self) -> bool:
        """Whether clients must authenticate. Otherwise there is only the default user, without a password."""
        return bool(self._digests)

    def __contains__(self, name: bytes) -> bool:
        return name in self._digests or (not self.required and name == DEFAULT.encode())

    def authenticate(self, name: bytes, password: bytes) -> bool:
        """Whether there is such a user with that password; how long it takes tells neither.

        Without users the default one takes any password, as Redis's does.
        """
        if not self.required:
            return name == DEFAULT.encode()
        return hmac.compare_digest(hashlib.sha256(password).digest(), self._digests.get(name, NOBODY))
