from libc.stddef cimport size_t

from proxy.model cimport Conn, ConnList, Core

cdef bint reactor_open(Core *core, int mailbox, Conn *mail) noexcept nogil
cdef void reactor_close(Core *core) noexcept nogil
cdef bint watch(Core *core, Conn *conn) noexcept nogil
cdef void turn(Core *core, int timeout) noexcept nogil
cdef void flush(Core *core, Conn *conn) noexcept nogil
cdef void will_write(Core *core, Conn *conn) noexcept nogil
cdef void resume_reading(Core *core, Conn *conn) noexcept nogil
cdef void note_ready(Core *core, Conn *conn) noexcept nogil
cdef void push_conn(ConnList *connections, Conn *conn) noexcept nogil
cdef void close_conn(Core *core, Conn *conn) noexcept nogil
