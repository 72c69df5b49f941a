from libc.stddef cimport size_t

from proxy.model cimport Core, Upstream

cdef void send_to_subscriber(Core *core, Upstream *upstream, const char *data, size_t size) noexcept nogil
cdef void check_subscriber(Core *core, Upstream *upstream) noexcept nogil
cdef void break_subscriber(Core *core, Upstream *upstream) noexcept nogil
cdef size_t next_message(Core *core, Upstream *upstream) noexcept nogil
