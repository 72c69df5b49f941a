"""Requests: taken from a free list and put back, with the bytes they own."""

from libc.stdlib cimport free
from libc.string cimport memcpy, memset

from proxy.buffers cimport resize
from proxy.model cimport NO_SLOT, Core, Request, Session

cdef enum:
    KEPT_REQUESTS = 16384
    LEAST_REPLY = 64        # bytes
    KEPT_REPLY = 512        # a reply's memory up to this size stays with its request


cdef Request *new_request(Core *core, Session *session, unsigned short command) noexcept nogil:
    cdef Request *request = core.free_requests
    cdef char *reply = NULL
    cdef size_t capacity = 0
    if request != NULL:
        core.free_requests = request.next
        core.free_count -= 1
        reply = request.reply
        capacity = request.reply_capacity
    else:
        request = <Request *>resize(NULL, sizeof(Request))
    core.pool.held += sizeof(Request)
    memset(request, 0, sizeof(Request))
    request.reply = reply
    request.reply_capacity = capacity
    request.session = session
    request.command = command
    request.slot = NO_SLOT
    request.started = core.now
    return request


cdef void free_request_node(Core *core, Request *request) noexcept nogil:
    core.pool.held -= sizeof(Request)
    drop_saved(core, request)
    if core.free_count >= KEPT_REQUESTS:
        drop_reply(core, request)
        free(request)
        return
    if request.reply_capacity > KEPT_REPLY:
        drop_reply(core, request)
    request.next = core.free_requests
    core.free_requests = request
    core.free_count += 1


cdef inline size_t _counted(const Request *request) noexcept nogil:
    """Bytes of its reply's memory; what stays with a request that nobody needs is not counted."""
    return request.reply_capacity if request.reply_capacity > KEPT_REPLY else 0


cdef void hold_reply(Core *core, Request *request, const char *data, size_t size) noexcept nogil:
    """Keeps a part of a reply until the replies before it are out."""
    cdef size_t wanted = request.reply_size + size
    if wanted > request.reply_capacity:
        if wanted < 2 * request.reply_capacity:
            wanted = 2 * request.reply_capacity
        if wanted < LEAST_REPLY:
            wanted = LEAST_REPLY
        core.pool.held -= _counted(request)
        request.reply = <char *>resize(request.reply, wanted)
        request.reply_capacity = wanted
        core.pool.held += _counted(request)
    memcpy(request.reply + request.reply_size, data, size)
    request.reply_size += size


cdef void drop_reply(Core *core, Request *request) noexcept nogil:
    core.pool.held -= _counted(request)
    free(request.reply)
    request.reply = NULL
    request.reply_size = 0
    request.reply_capacity = 0


cdef void save_bytes(Core *core, Request *request, const char *data, size_t size) noexcept nogil:
    """Keeps a request's own bytes while it is in no upstream's log."""
    request.saved = <char *>resize(NULL, size)
    memcpy(request.saved, data, size)
    request.size = <unsigned int>size
    core.pool.held += size
    core.saved += size


cdef void drop_saved(Core *core, Request *request) noexcept nogil:
    if request.saved != NULL:
        core.pool.held -= request.size
        core.saved -= request.size
        free(request.saved)
        request.saved = NULL
