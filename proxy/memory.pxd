from libc.stddef cimport size_t

from proxy.buffers cimport BLOCK_SIZE
from proxy.model cimport Core, Session, Upstream

cdef enum:
    ALLOWED = 16 * BLOCK_SIZE       # bytes that a session may hold while others hold too much

cdef void count_kept(Core *core, Session *session, size_t bytes) noexcept nogil
cdef void count_scan(Core *core, Session *session) noexcept nogil
cdef bint has_room(const Core *core, size_t bytes) noexcept nogil
cdef bint is_too_far_behind(const Core *core, const Upstream *upstream) noexcept nogil
cdef bint too_much_waits(const Core *core) noexcept nogil
