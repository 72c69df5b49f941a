from libc.stdint cimport int64_t

from proxy.model cimport Cluster, Core

cdef void settle(Core *core) noexcept nogil
cdef void pause(Core *core, Cluster *cluster, int64_t duration, bint writes) noexcept nogil
cdef void sweep(Core *core) noexcept nogil
cdef int next_timeout(const Core *core) noexcept nogil
