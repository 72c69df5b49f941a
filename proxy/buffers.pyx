"""Byte buffers of connections, and the pool of blocks they live in (see buffers.pxd)."""

from libc.stdio cimport fprintf, stderr
from libc.stdlib cimport abort, free, realloc
from libc.string cimport memcpy, memmove

cdef extern from "malloc.h" nogil:
    int mallopt(int param, int value)
    enum: M_MMAP_THRESHOLD
    enum: M_TRIM_THRESHOLD

cdef enum:
    POOLED_BLOCKS = 256

# glibc raises its mmap threshold to the largest block freed so far; then a burst of large values
# is never given back to the system. Setting it once keeps it where it is.
mallopt(M_MMAP_THRESHOLD, 256 * 1024)
mallopt(M_TRIM_THRESHOLD, 1024 * 1024)


cdef void *resize(void *memory, size_t size) noexcept nogil:
    """realloc that ends the process when there is no memory, as Redis does."""
    memory = realloc(memory, size)
    if memory == NULL:
        fprintf(stderr, b"redis-proxy: out of memory allocating %zu bytes\n", size)
        abort()
    return memory


cdef void _obtain(Buffer *buffer, Pool *pool, size_t size) noexcept nogil:
    if size <= BLOCK_SIZE:
        if pool.free_blocks != NULL:
            buffer.data = <char *>pool.free_blocks
            pool.free_blocks = (<void **>pool.free_blocks)[0]
            pool.free_count -= 1
        else:
            buffer.data = <char *>resize(NULL, BLOCK_SIZE)
        buffer.capacity = BLOCK_SIZE
    else:
        buffer.data = <char *>resize(NULL, size)
        buffer.capacity = size
    pool.held += buffer.capacity


cdef void _give_back(char *data, size_t capacity, Pool *pool) noexcept nogil:
    pool.held -= capacity
    if capacity == BLOCK_SIZE and pool.free_count < POOLED_BLOCKS:
        (<void **>data)[0] = pool.free_blocks
        pool.free_blocks = data
        pool.free_count += 1
    else:
        free(data)


cdef char *reserve(Buffer *buffer, Pool *pool, size_t size) noexcept nogil:
    """Makes room for ``size`` bytes behind the end and returns where they go."""
    cdef size_t live, wanted
    cdef char *block
    if buffer.data == NULL:
        _obtain(buffer, pool, size)
        return buffer.data
    if buffer.capacity - buffer.end >= size:
        return buffer.data + buffer.end
    live = buffer.end - buffer.start
    if buffer.start >= live and buffer.capacity - live >= size:
        # At least half of what is there has gone: moving costs no more than was already copied.
        memmove(buffer.data, buffer.data + buffer.start, live)
    else:
        wanted = live + size
        if wanted < 2 * live:
            wanted = 2 * live
        if buffer.capacity == BLOCK_SIZE:
            block = buffer.data
            _obtain(buffer, pool, wanted)
            memcpy(buffer.data, block + buffer.start, live)
            _give_back(block, BLOCK_SIZE, pool)
        else:
            # The kernel can grow a large block without copying it.
            memmove(buffer.data, buffer.data + buffer.start, live)
            buffer.data = <char *>resize(buffer.data, wanted)
            pool.held += wanted - buffer.capacity
            buffer.capacity = wanted
    buffer.origin += buffer.start
    buffer.start = 0
    buffer.end = live
    return buffer.data + live


cdef void append(Buffer *buffer, Pool *pool, const char *data, size_t size) noexcept nogil:
    memcpy(reserve(buffer, pool, size), data, size)
    buffer.end += size


cdef void take_over(Buffer *target, Buffer *source) noexcept nogil:
    """Gives an empty buffer what another holds, without copying; its stream goes on as it would."""
    target.data = source.data
    target.capacity = source.capacity
    target.origin += target.end - source.start      # modulo 2**64
    target.start = source.start
    target.end = source.end
    source.data = NULL
    source.origin += source.end
    source.capacity = source.start = source.end = 0


cdef void release(Buffer *buffer, Pool *pool) noexcept nogil:
    """Drops what the buffer holds and gives its memory back."""
    if buffer.data != NULL:
        _give_back(buffer.data, buffer.capacity, pool)
        buffer.data = NULL
        buffer.capacity = 0
    buffer.origin += buffer.end
    buffer.start = 0
    buffer.end = 0


cdef void release_if_empty(Buffer *buffer, Pool *pool) noexcept nogil:
    if buffer.start == buffer.end and buffer.data != NULL:
        release(buffer, pool)


cdef void clear_pool(Pool *pool) noexcept nogil:
    cdef void *block
    while pool.free_blocks != NULL:
        block = pool.free_blocks
        pool.free_blocks = (<void **>block)[0]
        free(block)
    pool.free_count = 0
