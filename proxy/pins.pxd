from proxy.model cimport Core, Server, Session, Upstream

cdef bint has_pins_left(const Server *server) noexcept nogil
cdef Upstream *lease(Server *server, Session *session) noexcept nogil
cdef void give_back(Upstream *upstream) noexcept nogil
cdef void drop_pin(Core *core, Upstream *upstream) noexcept nogil
