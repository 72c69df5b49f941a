from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint64_t

from proxy.model cimport Cluster, Core, RefreshReason, Server, Upstream

cdef Server *server_named(Cluster *cluster, const char *name, size_t size) noexcept nogil
cdef void free_server(Core *core, Server *server) noexcept nogil
cdef void set_replicas(Server *server, const uint16_t *replicas, uint16_t count) noexcept nogil
cdef Upstream *add_upstream(Server *server, uint8_t kind, uint8_t protocol) noexcept nogil
cdef Upstream *upstream_for(Server *server, uint8_t protocol, uint64_t session) noexcept nogil
cdef Upstream *subscriber_of(Server *server) noexcept nogil
cdef bint usable(Core *core, Upstream *upstream) noexcept nogil
cdef void want_refresh(Cluster *cluster, RefreshReason reason) noexcept nogil
cdef void set_owner(Cluster *cluster, uint16_t slot, uint16_t server) noexcept nogil
