from proxy.model cimport Core

cdef void settle(Core *core) noexcept nogil
cdef void sweep(Core *core) noexcept nogil
cdef int next_timeout(const Core *core) noexcept nogil
