from libc.stdint cimport uint16_t

from proxy.command_table cimport CommandEntry, CommandIndex
from proxy.model cimport Core, Request, Server, Session
from proxy.resp cimport RequestScan
from proxy.split cimport Scatter

# Why a request gets no further; kept in step with proxy.worker.
cdef enum Verdict:
    UNKNOWN_COMMAND
    UNKNOWN_SUBCOMMAND
    WRONG_ARITY
    NOT_SUPPORTED

cdef class Dispatcher:
    cdef Core core
    cdef CommandIndex *commands
    cdef Scatter scatter
    cdef object owner

    cdef void serve(self, Session *session) noexcept nogil
    cdef bint _may_go_on(self, Session *session) noexcept nogil
    cdef bint _is_over(self, Session *session) noexcept nogil
    cdef bint _next(self, Session *session) noexcept nogil
    cdef void _malformed(self, Session *session) noexcept with gil
    cdef bint _inline(self, Session *session, const char *line, size_t size) noexcept with gil
    cdef bint _command(self, Session *session, const char *data, RequestScan *scan) noexcept nogil
    cdef bint _local(
        self, Session *session, uint16_t id, const char *data, RequestScan *scan) noexcept nogil
    cdef void _answer(
        self, Session *session, uint16_t id, const char *data, RequestScan *scan) noexcept with gil
    cdef void _refuse(
        self, Session *session, uint16_t id, Verdict verdict, const char *data,
        RequestScan *scan) noexcept with gil
    cdef void _forward(
        self, Session *session, uint16_t id, const char *data, RequestScan *scan) noexcept nogil
    cdef void _whole(
        self, Session *session, uint16_t id, uint16_t slot, const char *data,
        RequestScan *scan) noexcept nogil
    cdef void _split(
        self, Session *session, uint16_t id, const char *data, RequestScan *scan) noexcept nogil

cdef Server *server_for(Session *session, uint16_t slot) noexcept nogil
