"""The turn's I/O in one stretch: scatter, wait, gather. No GIL, no decision, no protocol.

Whatever has something to write is written to, then epoll waits, then whatever is ready is read.
What happened is left in the connections' flags and in ``Core.ready``.
"""

from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int64_t, uint32_t
from libc.stdlib cimport free

from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec
from posix.unistd cimport close, read

from proxy.buffers cimport (
    BLOCK_SIZE, length, release, release_if_empty, reserve, resize,
)
from proxy.model cimport (
    BLOCKED, CLOSED, CLOSING, DEAF, DIRTY, ENDED, FAILED, MAILBOX, PAUSED, READY, SESSION, UPSTREAM,
    Conn, ConnList, Core,
)

cdef extern from "sys/epoll.h" nogil:
    enum:
        EPOLLIN
        EPOLLOUT
        EPOLLERR
        EPOLLHUP
        EPOLL_CTL_ADD
        EPOLL_CTL_MOD
        EPOLL_CLOEXEC
    ctypedef union epoll_data_t:
        void *ptr
    cdef struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags)
    int epoll_ctl(int epoll, int operation, int fd, epoll_event *event)
    int epoll_wait(int epoll, epoll_event *events, int size, int timeout)

cdef extern from "sys/socket.h" nogil:
    enum:
        MSG_MORE
        MSG_NOSIGNAL
    ssize_t send(int fd, const void *data, size_t size, int flags)
    ssize_t recv(int fd, void *data, size_t size, int flags)

cdef enum:
    EVENTS = 512                    # connections looked at in one turn
    LEAST_ROOM = 4096               # less free space than this is not worth a read
    MOST_ROOM = 1024 * 1024         # more than this is not read at once


cdef int64_t _clock() noexcept nogil:
    """ns on the monotonic clock."""
    cdef timespec time
    clock_gettime(CLOCK_MONOTONIC, &time)
    return time.tv_sec * 1000000000 + time.tv_nsec


cdef bint reactor_open(Core *core, int mailbox, Conn *mail) noexcept nogil:
    """Opens the epoll and watches the mailbox; False with errno set when it can't."""
    core.epoll = epoll_create1(EPOLL_CLOEXEC)
    if core.epoll < 0:
        return False
    core.now = core.decided_from = _clock()
    mail.fd = mailbox
    mail.kind = MAILBOX
    return watch(core, mail)


cdef void reactor_close(Core *core) noexcept nogil:
    close(core.epoll)
    free(core.dirty.items)
    free(core.ready.items)
    free(core.woken.items)
    free(core.dials.items)
    free(core.dead.items)


cdef bint _interest(Core *core, Conn *conn, int operation) noexcept nogil:
    cdef epoll_event event
    event.events = 0
    if not conn.flags & DEAF:
        event.events |= EPOLLIN
    if conn.flags & BLOCKED:
        event.events |= EPOLLOUT
    event.data.ptr = conn
    return epoll_ctl(core.epoll, operation, conn.fd, &event) == 0


cdef bint watch(Core *core, Conn *conn) noexcept nogil:
    """Begins to wait for what the connection's peer sends."""
    conn.heard = conn.wrote = core.now
    return _interest(core, conn, EPOLL_CTL_ADD)


cdef void push_conn(ConnList *connections, Conn *conn) noexcept nogil:
    if connections.count == connections.capacity:
        connections.capacity = connections.capacity * 2 if connections.capacity else 64
        connections.items = <Conn **>resize(
            connections.items, connections.capacity * sizeof(void *))
    connections.items[connections.count] = conn
    connections.count += 1


cdef void note_ready(Core *core, Conn *conn) noexcept nogil:
    if not conn.flags & READY:
        conn.flags |= READY
        push_conn(&core.ready, conn)


cdef void will_write(Core *core, Conn *conn) noexcept nogil:
    """Says that the connection's output has grown: it is written in the next scatter."""
    if not conn.flags & (DIRTY | BLOCKED):
        conn.flags |= DIRTY
        conn.wrote = core.now
        push_conn(&core.dirty, conn)


cdef void resume_reading(Core *core, Conn *conn) noexcept nogil:
    conn.flags &= ~PAUSED
    if conn.flags & DEAF:
        conn.flags &= ~DEAF
        _interest(core, conn, EPOLL_CTL_MOD)


cdef void close_conn(Core *core, Conn *conn) noexcept nogil:
    """Closes the socket at once; the structure around it is freed by its owner, after the turn."""
    if not conn.flags & CLOSED:
        conn.flags |= CLOSED
        close(conn.fd)
        release(&conn.input, &core.pool)
        release(&conn.output, &core.pool)


cdef void _fail(Core *core, Conn *conn) noexcept nogil:
    conn.flags |= FAILED
    conn.error = errno
    note_ready(core, conn)


cdef void flush(Core *core, Conn *conn) noexcept nogil:
    cdef ssize_t sent
    cdef size_t size = <size_t>(conn.output.origin + conn.output.end - conn.sent)
    cdef int options = MSG_NOSIGNAL
    if size:
        if conn.kind == SESSION and conn.flags & CLOSING:
            options |= MSG_MORE     # the last reply and the end in one packet: the client sees both at once
        sent = send(conn.fd, conn.output.data + (conn.sent - conn.output.origin), size, options)
        if sent < 0:
            if errno != EAGAIN and errno != EINTR:
                _fail(core, conn)
                return
            sent = 0
        else:
            if conn.kind == SESSION:
                core.client_out += sent
            else:
                core.server_out += sent
            conn.sent += sent
            conn.wrote = core.now
        if <size_t>sent < size:
            if not conn.flags & BLOCKED:
                conn.flags |= BLOCKED
                _interest(core, conn, EPOLL_CTL_MOD)
        elif conn.flags & BLOCKED:
            conn.flags &= ~BLOCKED
            _interest(core, conn, EPOLL_CTL_MOD)
    if conn.kind != UPSTREAM:
        conn.output.start = <size_t>(conn.sent - conn.output.origin)
        release_if_empty(&conn.output, &core.pool)
        if conn.flags & (PAUSED | CLOSING):
            # Less is unread than before: its session may go on, or end.
            note_ready(core, conn)


cdef void _gather(Core *core, Conn *conn) noexcept nogil:
    cdef size_t room
    cdef char *target
    cdef ssize_t got
    if conn.flags & PAUSED:
        conn.flags |= DEAF
        _interest(core, conn, EPOLL_CTL_MOD)
        return
    room = conn.input.capacity - conn.input.end
    if conn.input.data == NULL or room < LEAST_ROOM or room < conn.wanted:
        room = conn.wanted if conn.wanted < MOST_ROOM else MOST_ROOM
        if room < LEAST_ROOM:
            room = BLOCK_SIZE if length(&conn.input) == 0 else LEAST_ROOM
        target = reserve(&conn.input, &core.pool, room)
        room = conn.input.capacity - conn.input.end
    else:
        target = conn.input.data + conn.input.end
    got = recv(conn.fd, target, room, 0)
    if got > 0:
        conn.input.end += got
        conn.heard = core.now
        if conn.kind == SESSION:
            core.client_in += got
        else:
            core.server_in += got
    elif got == 0:
        conn.flags |= ENDED | DEAF
        _interest(core, conn, EPOLL_CTL_MOD)
    elif errno == EAGAIN or errno == EINTR:
        return
    else:
        _fail(core, conn)
        return
    note_ready(core, conn)


cdef void turn(Core *core, int timeout) noexcept nogil:
    """Writes what is to be written, waits at most ``timeout`` ms (-1: for ever), reads what came."""
    cdef epoll_event events[EVENTS]
    cdef size_t i
    cdef int count, n
    cdef Conn *conn
    cdef char counter[8]
    cdef int64_t slept, began = _clock()
    core.deciding += began - core.decided_from
    for i in range(core.dirty.count):
        conn = core.dirty.items[i]
        conn.flags &= ~DIRTY
        if not conn.flags & (CLOSED | FAILED):
            flush(core, conn)
    core.dirty.count = 0
    for i in range(core.dead.count):
        free(core.dead.items[i])
    core.dead.count = 0
    if core.ready.count:
        timeout = 0
    slept = _clock()
    count = epoll_wait(core.epoll, events, EVENTS, timeout)
    core.now = _clock()
    core.waiting += core.now - slept
    core.turns += 1
    for n in range(count):
        conn = <Conn *>events[n].data.ptr
        if conn.kind == MAILBOX:
            read(conn.fd, counter, 8)
            core.mail = True
            continue
        if events[n].events & EPOLLOUT and not conn.flags & FAILED:
            flush(core, conn)
        if events[n].events & (EPOLLERR | EPOLLHUP) and conn.flags & (PAUSED | DEAF):
            # Nobody is there any more, and a paused connection would be reported for ever.
            _fail(core, conn)
        elif events[n].events & (EPOLLIN | EPOLLERR | EPOLLHUP) and not conn.flags & FAILED:
            _gather(core, conn)
    core.decided_from = _clock()
    core.transferring += slept - began + core.decided_from - core.now
