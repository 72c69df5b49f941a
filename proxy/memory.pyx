"""What may be held in memory, and what waits: the limits of a worker, whose buffers and requests are counted.

``proxy.eviction`` acts on the limit as a whole. A server that takes nothing, and slots that nobody serves,
may use a part of it only, so that requests to others go on.
"""

from libc.stdint cimport uint32_t

from proxy.buffers cimport BLOCK_SIZE, length
from proxy.model cimport Core, Session, Upstream
from proxy.resp cimport Span

cdef enum:
    WAITING_PARTS = 4               # one of them for what waits for a server, or for any


cdef void count_scan(Core *core, Session *session) noexcept nogil:
    """Takes note of what the session's table of arguments takes."""
    cdef uint32_t bytes = session.scan.capacity * sizeof(Span)
    if bytes < BLOCK_SIZE:
        bytes = 0
    core.pool.held += bytes
    core.pool.held -= session.scanned
    session.scanned = bytes


cdef void count_kept(Core *core, Session *session, size_t bytes) noexcept nogil:
    """Takes note of what Python code keeps for the session."""
    core.pool.held += bytes
    core.pool.held -= session.kept
    session.kept = bytes


cdef bint has_room(const Core *core, size_t bytes) noexcept nogil:
    """Whether a request may make so much; for a little, others give way."""
    return not core.full and (bytes <= ALLOWED or core.pool.held + bytes <= core.limits.memory)


cdef bint is_too_far_behind(const Core *core, const Upstream *upstream) noexcept nogil:
    """Whether more waits for this server than may."""
    return length(&upstream.conn.output) > core.limits.memory // WAITING_PARTS


cdef bint too_much_waits(const Core *core) noexcept nogil:
    """Whether more requests wait for a server, whichever, than may."""
    return core.saved > core.limits.memory // WAITING_PARTS
