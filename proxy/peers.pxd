cdef enum:
    PEER_BYTES = 56     # of an address's text with its final zero

cdef void write_peer(int fd, char *text) noexcept nogil
