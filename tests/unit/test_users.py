"""Who clients may authenticate as."""

import pytest

from proxy.config import ClusterConfig
from proxy.users import Users
from tests.unit.context import cluster_config, user


@pytest.mark.parametrize(
    ("config", "required"),
    [
        (cluster_config(), False),
        (cluster_config(client_password="secret"), True),
        (cluster_config(client_users=(user("bob", "builder"),)), True),
    ],
)
def test_whether_clients_must_authenticate(config: ClusterConfig, required: bool) -> None:
    assert Users(config).required is required


def test_passwords() -> None:
    users = Users(cluster_config(client_password="é", client_users=(user("bob", "builder"),)))
    assert users.authenticate(b"default", "é".encode())
    assert users.authenticate(b"bob", b"builder")
    for name, password in (
        (b"default", b""),
        (b"default", b"builder"),
        (b"bob", b""),
        (b"bob", b"builder\0"),
        (b"BOB", b"builder"),
        (b"", b""),
        (b"eve", b"builder"),
    ):
        assert not users.authenticate(name, password), (name, password)


def test_the_default_user() -> None:
    anybody, only_bob = Users(cluster_config()), Users(cluster_config(client_users=(user("bob", "x"),)))
    assert anybody.authenticate(b"default", b"whatever")
    assert not anybody.authenticate(b"bob", b"whatever")
    assert not only_bob.authenticate(b"default", b"")
    assert [name in anybody for name in (b"default", b"bob")] == [True, False]
    assert [name in only_bob for name in (b"default", b"bob")] == [False, True]
