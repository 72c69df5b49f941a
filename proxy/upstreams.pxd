from libc.stddef cimport size_t
from libc.stdint cimport uint16_t

from proxy.buffers cimport Buffer
from proxy.model cimport Cluster, Core, RefreshReason, Request, Server, Upstream

cdef Server *server_named(Cluster *cluster, const char *name, size_t size) noexcept nogil
cdef void free_server(Core *core, Server *server) noexcept nogil
cdef Upstream *upstream_for(
    Server *server, unsigned char protocol, unsigned long long session) noexcept nogil
cdef bint usable(Core *core, Upstream *upstream) noexcept nogil
cdef Buffer *begin_request(Core *core, Upstream *upstream, Request *request) noexcept nogil
cdef void end_request(Core *core, Upstream *upstream, Request *request) noexcept nogil
cdef void send_asking(Core *core, Upstream *upstream) noexcept nogil
cdef void upstream_opened(Core *core, Upstream *upstream, int fd) noexcept nogil
cdef void upstream_refused(Core *core, Upstream *upstream, const char *why) noexcept nogil
cdef void read_replies(Core *core, Upstream *upstream) noexcept nogil
cdef void break_upstream(Core *core, Upstream *upstream, const char *why) noexcept nogil
cdef void shed(Core *core, Upstream *upstream) noexcept nogil
cdef void close_idle(Core *core, Upstream *upstream) noexcept nogil
cdef void want_refresh(Cluster *cluster, RefreshReason reason) noexcept nogil
cdef void set_owner(Cluster *cluster, uint16_t slot, uint16_t server) noexcept nogil
