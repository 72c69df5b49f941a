from libc.stddef cimport size_t
from libc.stdint cimport uint64_t

from proxy.buffers cimport Buffer
from proxy.model cimport Core, Request, Session, Upstream

cdef Buffer *begin_request(Core *core, Upstream *upstream, Request *request) noexcept nogil
cdef void end_request(Core *core, Upstream *upstream, Request *request) noexcept nogil
cdef void give(
    Core *core, Upstream *upstream, Request *leaf, const char *data, size_t size) noexcept nogil
cdef void want_dial(Core *core, Upstream *upstream) noexcept nogil
cdef void send_asking(Core *core, Upstream *upstream) noexcept nogil
cdef void unwatch(Core *core, Session *session) noexcept nogil
cdef bint unblock(Core *core, Session *session, bint with_error) noexcept nogil
cdef void upstream_opened(Core *core, Upstream *upstream, int fd, uint64_t peer_id) noexcept nogil
cdef void upstream_refused(Core *core, Upstream *upstream, const char *why) noexcept nogil
cdef void read_replies(Core *core, Upstream *upstream) noexcept nogil
cdef void break_upstream(Core *core, Upstream *upstream, const char *why) noexcept nogil
cdef void shed(Core *core, Upstream *upstream) noexcept nogil
cdef void try_again(Core *core, Upstream *upstream) noexcept nogil
cdef void close_idle(Core *core, Upstream *upstream) noexcept nogil
