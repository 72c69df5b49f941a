"""Byte buffers of connections, and the pool of blocks they live in.

A buffer holds the bytes ``data[start:end]`` of a stream. ``origin`` is the stream position of
``data[0]``, so a position in the stream stays valid while the buffer moves its bytes about.
A buffer that holds nothing owns no memory: an idle connection costs none.
"""

from libc.stdint cimport uint64_t

cdef enum:
    BLOCK_SIZE = 16384

cdef struct Buffer:
    char *data
    size_t start
    size_t end
    size_t capacity
    uint64_t origin

cdef struct Pool:
    void *free_blocks
    size_t free_count
    size_t held             # bytes of buffers and requests in use; what waits to be used is not counted

cdef inline size_t length(const Buffer *buffer) noexcept nogil:
    return buffer.end - buffer.start

cdef char *reserve(Buffer *buffer, Pool *pool, size_t size) noexcept nogil
cdef void append(Buffer *buffer, Pool *pool, const char *data, size_t size) noexcept nogil
cdef void take_over(Buffer *target, Buffer *source) noexcept nogil
cdef void release(Buffer *buffer, Pool *pool) noexcept nogil
cdef void release_if_empty(Buffer *buffer, Pool *pool) noexcept nogil
cdef void clear_pool(Pool *pool) noexcept nogil
cdef void *resize(void *memory, size_t size) noexcept nogil
