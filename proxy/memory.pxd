from proxy.model cimport Core, Session, Upstream

cdef void count_scan(Core *core, Session *session) noexcept nogil
cdef bint is_too_far_behind(const Core *core, const Upstream *upstream) noexcept nogil
cdef bint too_much_waits(const Core *core) noexcept nogil
