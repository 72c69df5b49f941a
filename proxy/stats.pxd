from libc.stdint cimport int64_t, uint8_t, uint32_t

from proxy.model cimport Cluster, Histogram, Request

cdef void observe(Histogram *histogram, int64_t elapsed) noexcept nogil
cdef void observe_width(Cluster *cluster, uint32_t parts) noexcept nogil
cdef uint8_t code_of(const char *reply, size_t size) noexcept nogil
cdef void refuse(Request *request, const char *reply, size_t size) noexcept nogil
