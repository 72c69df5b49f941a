"""What gives way when a worker's buffers and requests take more memory than they may.

As with Redis's maxmemory-clients, the sessions that hold the most are closed first. Those that hold little
are spared, unless all sessions together hold much: then they are many. What is in flight can't be taken
back: if that alone is too much, requests are refused until there is room.
Source: https://redis.io/docs/latest/develop/reference/clients/#client-eviction
"""

from proxy.memory cimport ALLOWED
from proxy.model cimport CLOSED, FAILED, Core, Request, Session
from proxy.sessions cimport kill_session

cdef enum:
    SIZES = 64                      # classes of sizes: powers of two
    MUCH = 2                        # the part of the limit past which nobody is spared


cdef size_t _holds(const Session *session) noexcept nogil:
    """What would be free without the session, but for what it has in flight."""
    cdef size_t size = session.conn.input.capacity + session.conn.output.capacity + session.held \
        + session.scanned + session.kept + session.queued * sizeof(Request)
    if session.parked:
        size += session.request_bytes
    if session.transaction != NULL:
        size += session.transaction.bytes.capacity
    return size


cdef int _class_of(size_t size) noexcept nogil:
    cdef int found = 0
    while size > 1:
        size >>= 1
        found += 1
    return found


cdef size_t _spared(const Core *core) noexcept nogil:
    """How much a session may hold without being closed for it."""
    cdef const Session *session = core.sessions
    cdef size_t found = 0
    while session != NULL:
        found += _holds(session)
        session = session.next
    return 0 if found > core.limits.memory // MUCH else ALLOWED


cdef int _evictable(const Session *session, size_t spared) noexcept nogil:
    """Its class of size; -1 if it is not to be closed."""
    if session.conn.flags & (CLOSED | FAILED) or _holds(session) <= spared:
        return -1
    return _class_of(_holds(session))


cdef void relieve(Core *core) noexcept nogil:
    """Closes the largest sessions if the limit has been passed; ``Core.full`` says if that is not enough."""
    cdef size_t sizes[SIZES]
    cdef size_t excess, spared, found = 0
    cdef int least = SIZES
    cdef int size
    cdef Session *session = core.sessions
    core.full = False
    if core.pool.held <= core.limits.memory:
        return
    excess = core.pool.held - core.limits.memory
    spared = _spared(core)
    for size in range(SIZES):
        sizes[size] = 0
    while session != NULL:
        size = _evictable(session, spared)
        if size >= 0:
            sizes[size] += _holds(session)
        session = session.next
    while found < excess and least > 0:
        least -= 1
        found += sizes[least]
    core.full = found < excess
    found -= sizes[least]
    # All that are larger than the smallest class that has to go; of that one, as many as are needed.
    session = core.sessions
    while session != NULL:
        size = _evictable(session, spared)
        if size > least or size == least and found < excess:
            if size == least:
                found += _holds(session)
            session.cluster.evicted += 1
            kill_session(core, session)
        session = session.next
