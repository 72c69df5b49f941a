"""Slots and hash tags. Source: the Redis Cluster specification."""

import pytest

from proxy.slots import slot_of


@pytest.mark.parametrize(
    ("key", "slot"),
    [(b"123456789", 0x31C3), (b"", 0), (b"foo", 12182), (b"bar", 5061), (b"hello", 866)],
)
def test_slots_are_those_of_the_specification(key: bytes, slot: int) -> None:
    assert slot_of(key) == slot


@pytest.mark.parametrize(
    ("key", "hashed"),
    [
        (b"{user1000}.following", b"user1000"),
        (b"foo{{bar}}zap", b"{bar"),
        (b"foo{bar}{zap}", b"bar"),
    ],
)
def test_a_tag_is_hashed_alone(key: bytes, hashed: bytes) -> None:
    assert slot_of(key) == slot_of(hashed)


@pytest.mark.parametrize("key", [b"foo{}{bar}", b"{}x", b"a{b", b"a}b{"])
def test_without_a_whole_tag_the_whole_key_is_hashed(key: bytes) -> None:
    other = bytes(byte ^ 0x20 if byte not in b"{}" else byte for byte in key)
    assert slot_of(key) != slot_of(other)
    assert slot_of(key) == slot_of(key[:0] + key)
