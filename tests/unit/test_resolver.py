"""Names that change, that are not known, and name servers that do not answer."""

import threading

import pytest

from proxy import resolver
from proxy.address import Address
from proxy.resolver import Resolver

NAME = Address("endpoint.test", 6379)


class Names:
    """A name server."""

    def __init__(self) -> None:
        self.answer: list[Address] | OSError = []
        self.answers = threading.Event()
        self.answers.set()
        self.asked = 0

    def __call__(self, address: Address) -> list[Address]:
        self.asked += 1
        self.answers.wait(10)
        if isinstance(self.answer, OSError):
            raise self.answer
        return self.answer


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    made = Names()
    monkeypatch.setattr(resolver, "addresses_of", made)
    return made


def test_a_name_is_looked_up_each_time(names: Names) -> None:
    looked_up = Resolver("test")
    for host in ("10.0.0.1", "10.0.0.2"):
        names.answer = [Address(host, 6379)]
        assert looked_up.addresses(NAME) == names.answer


def test_a_number_needs_no_look_up(names: Names) -> None:
    for host in ("10.0.0.1", "::1"):
        assert Resolver("test").addresses(Address(host, 1)) == [Address(host, 1)]
    assert names.asked == 0


def test_the_last_addresses_serve_while_there_is_no_answer(
    names: Names, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(resolver, "PATIENCE", 0.01)
    looked_up = Resolver("test")
    names.answer = first = [Address("10.0.0.1", 6379)]
    assert looked_up.addresses(NAME) == first
    names.answers.clear()
    names.answer = second = [Address("10.0.0.2", 6379)]
    assert looked_up.addresses(NAME) == looked_up.addresses(NAME) == first
    assert names.asked == 2  # it is not asked again before it has answered
    names.answers.set()
    monkeypatch.setattr(resolver, "PATIENCE", 10)
    assert looked_up.addresses(NAME) == second
    names.answer = OSError(22, "endpoint.test:6379: no such name")
    assert looked_up.addresses(NAME) == looked_up.addresses(NAME) == second
    assert caplog.text.count("no such name; its last addresses are used") == 1


def test_a_name_that_was_never_known_is_an_error(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up = Resolver("test")
    names.answer = OSError(22, "no such name")
    with pytest.raises(OSError, match="no such name"):
        looked_up.addresses(NAME)
    monkeypatch.setattr(resolver, "FIRST_PATIENCE", 0.01)
    names.answers.clear()
    with pytest.raises(OSError, match=r"endpoint\.test:6379: no answer from a name server in time"):
        looked_up.addresses(NAME)
    names.answers.set()
