"""Where a request goes: which server, and which connection to it."""

from libc.stdint cimport uint16_t, uint32_t

from proxy.memory cimport is_too_far_behind
from proxy.model cimport (
    BLOCKING, FROM_MASTER, FROM_NEAREST, FROM_PREFERRED_REPLICA, FROM_REPLICA, NO_SERVER, NO_SLOT,
    REPLICA, Cluster, Core, Request, Server, Session, Upstream,
)
from proxy.pins cimport give_back, lease
from proxy.servers cimport upstream_for, usable


cdef Server *owner_of(Session *session, uint16_t slot) noexcept nogil:
    """The master of the slot; for a request without key, the same one for a session."""
    cdef Cluster *cluster = session.cluster
    cdef uint16_t owner
    cdef uint32_t tried = 0
    if slot != NO_SLOT:
        owner = cluster.owners[slot]
        return NULL if owner == NO_SERVER else cluster.servers[owner]
    while tried < cluster.server_count:
        owner = <uint16_t>((session.id + tried) % cluster.server_count)
        if cluster.servers[owner].owns and not cluster.servers[owner].ejected:
            return cluster.servers[owner]
        tried += 1
    return NULL


cdef Server *_reader(Core *core, Session *session, Server *master, uint32_t hops) noexcept nogil:
    """Who of a shard answers a session's reads: the same one as long as it can."""
    cdef Cluster *cluster = session.cluster
    cdef Server *server
    cdef bint nearest = cluster.read_from == FROM_NEAREST
    cdef uint32_t candidates = master.replica_count + (1 if nearest else 0)
    cdef uint32_t i, n
    cdef int far
    if cluster.read_from == FROM_PREFERRED_REPLICA and hops > 1:
        return master
    for far in range(2):
        for i in range(candidates):
            n = <uint32_t>((session.id + hops + i) % candidates)
            server = master if n == master.replica_count else cluster.servers[master.replicas[n]]
            if (far or server.near or not nearest) and usable(
                    core, upstream_for(server, session.protocol, session.id)):
                return server
    return NULL if cluster.read_from == FROM_REPLICA else master


cdef Server *server_for(Core *core, Session *session, const Request *leaf) noexcept nogil:
    """The server that a leaf is for by the present topology; NULL if there is none."""
    cdef Server *server = owner_of(session, leaf.slot)
    if server != NULL and leaf.flags & REPLICA and session.cluster.read_from != FROM_MASTER:
        return _reader(core, session, server, leaf.hops)
    return server


cdef Upstream *route(Core *core, Session *session, Request *leaf) noexcept nogil:
    """The upstream that a leaf can be given to now; NULL if there is none.

    What watches keys on a connection of its own has all it asks of that server on it, so that it
    is executed in order.
    """
    cdef Server *server = leaf.hint if leaf.hint != NULL else server_for(core, session, leaf)
    cdef Upstream *upstream
    if server == NULL:
        return NULL
    if leaf.flags & BLOCKING:
        upstream = lease(server, session)
        if not usable(core, upstream):
            give_back(upstream)
            return NULL
        return upstream
    if session.pin != NULL and session.pin.server == server:
        return session.pin
    upstream = upstream_for(server, session.protocol, session.id)
    return upstream if usable(core, upstream) and not is_too_far_behind(core, upstream) else NULL
