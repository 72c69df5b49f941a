"""Which of the 16384 hash slots a key lies in.

Source: the Redis Cluster specification, "Key distribution model" and "Hash tags".
"""

from libc.stdint cimport uint16_t
from libc.string cimport memchr

cdef uint16_t CRC16[256]


cdef void _fill() noexcept:
    # CRC-16/XMODEM: polynomial 0x1021, most significant bit first, start value 0.
    cdef int byte, _bit
    cdef uint16_t crc
    for byte in range(256):
        crc = <uint16_t>(byte << 8)
        for _bit in range(8):
            crc = <uint16_t>((crc << 1) ^ 0x1021) if crc & 0x8000 else <uint16_t>(crc << 1)
        CRC16[byte] = crc


_fill()


cdef uint16_t key_slot(const char *key, size_t size) noexcept nogil:
    cdef uint16_t crc = 0
    cdef size_t i
    cdef const char *opening = <const char *>memchr(key, c'{', size)
    cdef const char *closing
    if opening != NULL:
        closing = <const char *>memchr(opening + 1, c'}', size - (opening - key) - 1)
        # An empty tag, "{}", is no tag: the whole key is hashed.
        if closing != NULL and closing != opening + 1:
            key = opening + 1
            size = closing - key
    for i in range(size):
        crc = <uint16_t>((crc << 8) ^ CRC16[((crc >> 8) ^ <unsigned char>key[i]) & 0xff])
    return crc & (SLOTS - 1)


def slot_of(bytes key: bytes) -> int:
    """The slot of a key, 0 to 16383."""
    return key_slot(key, len(key))
