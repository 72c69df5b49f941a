from libc.stdint cimport uint16_t

cdef enum:
    SLOTS = 16384

cdef uint16_t key_slot(const char *key, size_t size) noexcept nogil
