"""Servers: what a worker knows of each, and the connections it has, or may have, to it."""

from libc.stdint cimport uint8_t, uint16_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcmp, memcpy, memset, strlen

from proxy.buffers cimport resize
from proxy.model cimport (
    CLOSED, IDLE, NO_REFRESH, RESTING, SUBSCRIBER, UPSTREAM, Cluster, Core, RefreshReason, Request,
    Server, Upstream,
)
from proxy.reactor cimport close_conn
from proxy.requests cimport free_request_node


cdef Server *server_named(Cluster *cluster, const char *name, size_t size) noexcept nogil:
    """The server of that name (host:port), made if there is none yet."""
    cdef Server *server
    cdef uint16_t i
    for i in range(cluster.server_count):
        server = cluster.servers[i]
        if strlen(server.name) == size and memcmp(server.name, name, size) == 0:
            return server
    if cluster.server_count == cluster.server_capacity:
        cluster.server_capacity = cluster.server_capacity * 2 if cluster.server_capacity else 16
        cluster.servers = <Server **>resize(
            cluster.servers, cluster.server_capacity * sizeof(void *))
    server = <Server *>resize(NULL, sizeof(Server))
    memset(server, 0, sizeof(Server))
    server.cluster = cluster
    server.index = cluster.server_count
    server.listed = True        # until a topology says otherwise
    server.name = <char *>resize(NULL, size + 1)
    memcpy(server.name, name, size)
    server.name[size] = 0
    for i in range(2 * cluster.connections):
        add_upstream(server, UPSTREAM, 2 if i < cluster.connections else 3)
    add_upstream(server, SUBSCRIBER, 2)
    cluster.servers[cluster.server_count] = server
    cluster.server_count += 1
    return server


cdef void free_server(Core *core, Server *server) noexcept nogil:
    cdef Upstream *upstream
    cdef Request *request
    cdef uint16_t i
    for i in range(server.upstream_count):
        upstream = server.upstreams[i]
        while upstream.head != NULL:
            request = upstream.head
            upstream.head = request.awaiting
            free_request_node(core, request)
        close_conn(core, &upstream.conn)
        free(upstream)
    free(server.upstreams)
    free(server.replicas)
    free(server.name)
    free(server)


cdef void set_replicas(Server *server, const uint16_t *replicas, uint16_t count) noexcept nogil:
    server.replicas = <uint16_t *>resize(server.replicas, (count + 1) * sizeof(uint16_t))
    memcpy(server.replicas, replicas, count * sizeof(uint16_t))
    server.replica_count = count


cdef Upstream *add_upstream(Server *server, uint8_t kind, uint8_t protocol) noexcept nogil:
    cdef Upstream *upstream = <Upstream *>resize(NULL, sizeof(Upstream))
    memset(upstream, 0, sizeof(Upstream))
    upstream.conn.fd = -1
    upstream.conn.kind = kind
    upstream.conn.flags = CLOSED
    upstream.server = server
    upstream.number = server.upstream_count
    upstream.protocol = protocol
    upstream.state = IDLE
    if server.upstream_count == server.upstream_capacity:
        server.upstream_capacity = server.upstream_capacity * 2 if server.upstream_capacity else 8
        server.upstreams = <Upstream **>resize(
            server.upstreams, server.upstream_capacity * sizeof(void *))
    server.upstreams[server.upstream_count] = upstream
    server.upstream_count += 1
    return upstream


cdef Upstream *upstream_for(
        Server *server, uint8_t protocol, uint64_t session) noexcept nogil:
    """A session keeps to one shared upstream of a server: two could overtake each other."""
    cdef uint16_t connections = server.cluster.connections
    return server.upstreams[(connections if protocol == 3 else 0) + session % connections]


cdef Upstream *subscriber_of(Server *server) noexcept nogil:
    return server.upstreams[2 * server.cluster.connections]


cdef bint usable(Core *core, Upstream *upstream) noexcept nogil:
    return not upstream.server.ejected and (
        upstream.state != RESTING or core.now >= upstream.retry_at)


cdef void want_refresh(Cluster *cluster, RefreshReason reason) noexcept nogil:
    if cluster.refresh == NO_REFRESH:
        cluster.refresh = reason


cdef void set_owner(Cluster *cluster, uint16_t slot, uint16_t server) noexcept nogil:
    if cluster.owners[slot] != server:
        cluster.owners[slot] = server
        cluster.epoch += 1
