from libc.stdint cimport uint8_t

cdef const char *OK
cdef const char *CROSSSLOT
cdef const char *TOO_MANY_PINS
cdef const char *null_array(uint8_t protocol) noexcept nogil
