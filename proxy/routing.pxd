from libc.stdint cimport uint16_t

from proxy.model cimport Core, Request, Server, Session, Upstream

cdef Server *server_for(Core *core, Session *session, const Request *leaf) noexcept nogil
cdef Server *owner_of(Session *session, uint16_t slot) noexcept nogil
cdef Upstream *route(Core *core, Session *session, Request *leaf) noexcept nogil
