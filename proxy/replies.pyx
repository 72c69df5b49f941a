"""Replies that more than one module of the data plane gives."""

from libc.stdint cimport uint8_t

cdef const char *OK = b"+OK\r\n"
cdef const char *CROSSSLOT = b"-CROSSSLOT Keys in request don't hash to the same slot\r\n"
cdef const char *TOO_MANY_PINS = (
    b"-ERR too many clients block or watch on this server; pinned_connections limits how many may\r\n")


cdef const char *null_array(uint8_t protocol) noexcept nogil:
    """What EXEC answers when a watched key has changed."""
    return b"_\r\n" if protocol == 3 else b"*-1\r\n"
