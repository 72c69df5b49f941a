from libc.stddef cimport size_t

from proxy.model cimport Core, Request, Session

cdef Request *new_request(Core *core, Session *session, unsigned short command) noexcept nogil
cdef void free_request_node(Core *core, Request *request) noexcept nogil
cdef void hold_reply(Core *core, Request *request, const char *data, size_t size) noexcept nogil
cdef void save_bytes(Core *core, Request *request, const char *data, size_t size) noexcept nogil
cdef void drop_saved(Core *core, Request *request) noexcept nogil
cdef void drop_reply(Core *core, Request *request) noexcept nogil
