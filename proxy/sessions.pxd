from libc.stdint cimport int64_t, uint8_t, uint16_t, uint64_t

from proxy.model cimport Cluster, Core, Request, Session

cdef Session *open_session(Core *core, Cluster *cluster, int fd, uint64_t id) noexcept nogil
cdef void close_session(Core *core, Session *session) noexcept nogil
cdef void kill_session(Core *core, Session *session) noexcept nogil
cdef void say_goodbye(Core *core, Session *session) noexcept nogil
cdef void enqueue(Session *session, Request *request) noexcept nogil
cdef void respond(
    Core *core, Session *session, uint16_t command, const char *reply, size_t size) noexcept nogil
cdef void waits_no_more(Session *session) noexcept nogil
cdef void end_transaction(Core *core, Session *session) noexcept nogil
cdef void answered(Core *core, Request *request, const char *reply, size_t size) noexcept nogil
cdef void push(Core *core, Session *session, const char *data, size_t size) noexcept nogil
cdef void deliver(Core *core, Request *request, const char *data, size_t size) noexcept nogil
cdef void finish(Core *core, Request *request) noexcept nogil
cdef void fail(Core *core, Request *request, const char *reply, size_t size) noexcept nogil
cdef void park(Core *core, Request *request, const char *data, size_t size) noexcept nogil
cdef void forget_reply(Request *request) noexcept nogil
cdef Request *next_leaf(Request *leaf) noexcept nogil
cdef Request *first_leaf(Request *request) noexcept nogil
cdef void wake(Core *core, Session *session) noexcept nogil
cdef void leave_settling(Core *core, Session *session) noexcept nogil
cdef size_t unread(const Session *session) noexcept nogil
