from libc.stddef cimport size_t
from libc.stdint cimport uint16_t

from proxy.command_table cimport CommandEntry, CommandIndex
from proxy.model cimport Core, Request, Session
from proxy.resp cimport RequestScan
from proxy.split cimport Scatter

# Why a request gets no further; kept in step with proxy.worker.
cdef enum Verdict:
    UNKNOWN_COMMAND
    UNKNOWN_SUBCOMMAND
    WRONG_ARITY
    NOT_SUPPORTED
    SUBSCRIBED
    DENIED

cdef class Dispatcher:
    cdef Core core
    cdef CommandIndex *commands
    cdef Scatter scatter
    cdef object owner

    cdef str command_name(self, uint16_t id)
    cdef void serve(self, Session *session) noexcept nogil
    cdef bint _may_go_on(self, Session *session) noexcept nogil
    cdef bint _is_over(self, Session *session) noexcept nogil
    cdef bint _next(self, Session *session) noexcept nogil
    cdef void _malformed(self, Session *session) noexcept with gil
    cdef bint _inline(self, Session *session, const char *line, size_t size) noexcept with gil
    cdef bint _command(self, Session *session, const char *data, RequestScan *scan) noexcept nogil
    cdef bint _local(
        self, Session *session, uint16_t id, const char *data, RequestScan *scan) noexcept nogil
    cdef bint _is_held(self, Session *session, const CommandEntry *entry) noexcept nogil
    cdef void _answer(
        self, Session *session, uint16_t id, const char *data, RequestScan *scan) noexcept with gil
    cdef object client_of(self, Session *session)
    cdef void _await(self, Session *session, uint16_t id, object pending)
    cdef bint _may_pin(self, Session *session, object fanout)
    cdef void _fan_out(self, Session *session, uint16_t id, object fanout)
    cdef void _send_parts(self, Request *whole, object fanout)
    cdef void _go_on(self) noexcept with gil
    cdef void _refuse(
        self, Session *session, uint16_t id, Verdict verdict, const char *data,
        RequestScan *scan) noexcept with gil
    cdef int _slot(self, uint16_t id, const char *data, RequestScan *scan) noexcept nogil
    cdef void _forward(
        self, Session *session, uint16_t id, const char *data, RequestScan *scan) noexcept nogil
    cdef void _whole(
        self, Session *session, uint16_t id, uint16_t slot, const char *data,
        RequestScan *scan) noexcept nogil
    cdef void _split(
        self, Session *session, uint16_t id, const char *data, RequestScan *scan) noexcept nogil
    cdef bint _block(
        self, Session *session, uint16_t id, const char *data, RequestScan *scan) noexcept nogil
    cdef bint _transact(
        self, Session *session, uint16_t id, const char *data, RequestScan *scan) noexcept nogil
