"""Who is at the other end of a connection."""

from libc.stdint cimport uint16_t
from libc.stdio cimport snprintf
from libc.string cimport strlen

cdef extern from "sys/socket.h" nogil:
    enum:
        AF_INET
        AF_INET6
    ctypedef unsigned int socklen_t
    cdef struct sockaddr:
        uint16_t sa_family
    cdef struct sockaddr_storage:
        uint16_t ss_family
    int getpeername(int fd, sockaddr *address, socklen_t *size)

cdef extern from "netinet/in.h" nogil:
    cdef struct in_addr:
        pass
    cdef struct in6_addr:
        pass
    cdef struct sockaddr_in:
        uint16_t sin_port
        in_addr sin_addr
    cdef struct sockaddr_in6:
        uint16_t sin6_port
        in6_addr sin6_addr

cdef extern from "arpa/inet.h" nogil:
    const char *inet_ntop(int family, const void *address, char *text, socklen_t size)
    uint16_t ntohs(uint16_t number)


cdef void write_peer(int fd, char *text) noexcept nogil:
    """Writes the peer's address as Redis does, host:port; "" for one that has gone, or at a unix socket."""
    cdef sockaddr_storage address
    cdef socklen_t size = sizeof(address)
    cdef const void *host
    cdef uint16_t port
    text[0] = 0
    if getpeername(fd, <sockaddr *>&address, &size) != 0:
        return
    if address.ss_family == AF_INET:
        host, port = &(<sockaddr_in *>&address).sin_addr, (<sockaddr_in *>&address).sin_port
    elif address.ss_family == AF_INET6:
        host, port = &(<sockaddr_in6 *>&address).sin6_addr, (<sockaddr_in6 *>&address).sin6_port
    else:
        return
    if inet_ntop(address.ss_family, host, text, PEER_BYTES) != NULL:
        snprintf(text + strlen(text), PEER_BYTES - strlen(text), b":%u", <unsigned int>ntohs(port))
