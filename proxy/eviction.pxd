from proxy.model cimport Core

cdef void relieve(Core *core) noexcept nogil
