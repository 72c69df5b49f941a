"""Sessions: what each client has asked, in order, and what it is still owed.

A session's queue holds its requests in the order they came. Replies come from several servers in
any order; each is held with its request until those before it are out, except that the reply of
the oldest request goes straight into the session's output as it arrives.

A leaf is what can be in flight or parked: a request, or a part of a split one.
"""

from cpython.dict cimport PyDict_DelItem
from cpython.ref cimport Py_DECREF
from libc.stdint cimport uint16_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memset, strlen

from proxy.buffers cimport append, length, release, resize
from proxy.memory cimport too_much_waits
from proxy.model cimport (
    ANSWERED, AWAITED, BLOCKING, CLOSED, CLOSING, FAILED, IN_FLIGHT, LEAVING,
    LINGERING, MUTED, NO_COMMAND_ID, NO_SLOT, OVERDUE, PARKED, PAUSED, REFUSED, SESSION, SPLIT,
    STREAMED, Cluster, Core, Request, Session,
)
from proxy.pins cimport drop_pin
from proxy.reactor cimport (
    close_conn, note_ready, push_conn, resume_reading, watch, will_write,
)
from proxy.requests cimport drop_saved, free_request_node, hold_reply, new_request, save_bytes
from proxy.resp cimport free_request
from proxy.split cimport drop_split, merge_parts
from proxy.stats cimport code_of, observe, observe_width, refuse

cdef extern from "sys/socket.h" nogil:
    enum: SHUT_WR
    int shutdown(int fd, int how)

cdef Session *open_session(Core *core, Cluster *cluster, int fd, uint64_t id) noexcept nogil:
    cdef Session *session = <Session *>resize(NULL, sizeof(Session))
    memset(session, 0, sizeof(Session))
    session.conn.fd = fd
    session.conn.kind = SESSION
    session.id = id
    session.cluster = cluster
    session.protocol = 2
    session.authenticated = not cluster.protected
    session.opened = core.now
    session.next = core.sessions
    if core.sessions != NULL:
        core.sessions.previous = session
    core.sessions = session
    cluster.sessions += 1
    if not watch(core, &session.conn):
        kill_session(core, session)
    return session


cdef void close_session(Core *core, Session *session) noexcept nogil:
    """Ends a session. What it has in flight is answered into the void."""
    cdef Request *request = session.head
    cdef Request *after
    if session.conn.flags & CLOSED:
        return
    while request != NULL:
        after = request.next
        if request.state == SPLIT:
            _abandon(core, request.split.parts)
            drop_split(request)
            free_request_node(core, request)
        else:
            request.next = NULL
            _abandon(core, request)
        request = after
    session.head = session.tail = session.blocked = NULL
    waits_no_more(session)
    if session.pin != NULL:
        drop_pin(core, session.pin)
        session.pin = NULL
    end_transaction(core, session)
    leave_settling(core, session)
    free_request(&session.scan)
    core.pool.held -= session.scanned + session.kept
    if session.previous != NULL:
        session.previous.next = session.next
    else:
        core.sessions = session.next
    if session.next != NULL:
        session.next.previous = session.previous
    core.sessions_closed += 1
    session.cluster.sessions -= 1
    session.cluster.parked -= session.parked
    if session.client != NULL:
        _forget_client(core, session)
    close_conn(core, &session.conn)
    push_conn(&core.dead, &session.conn)


cdef void waits_no_more(Session *session) noexcept nogil:
    """Takes a session out of the count of those that wait, into which ``sweep`` takes them."""
    if session.counted:
        session.counted = False
        session.cluster.blocked -= 1


cdef void end_transaction(Core *core, Session *session) noexcept nogil:
    """Forgets what is queued in a transaction, if there is one."""
    if session.transaction != NULL:
        release(&session.transaction.bytes, &core.pool)
        free(session.transaction)
        session.transaction = NULL


cdef void _forget_client(Core *core, Session *session) noexcept with gil:
    client = <object>session.client
    PyDict_DelItem(<dict>core.clients, client.id)
    if client.subscriptions:
        (<list>core.unsubscribed).append((session.cluster.index, client.id))
        core.mail = True
    session.client = NULL
    Py_DECREF(client)


cdef void _abandon(Core *core, Request *leaf) noexcept nogil:
    cdef Request *after
    while leaf != NULL:
        after = leaf.next
        if leaf.state == IN_FLIGHT:
            leaf.session = NULL     # its upstream frees it when the reply has come
            leaf.whole = NULL
            if leaf.flags & BLOCKING:
                drop_pin(core, leaf.upstream)
        elif leaf.state == AWAITED:
            _forget_awaited(core, leaf)
            free_request_node(core, leaf)
        else:
            free_request_node(core, leaf)
        leaf = after


cdef void _forget_awaited(Core *core, Request *request) noexcept with gil:
    PyDict_DelItem(<dict>core.awaited, request.position)


cdef void kill_session(Core *core, Session *session) noexcept nogil:
    """Ends a session at the next decision, from wherever it cannot be done at once."""
    session.conn.flags |= FAILED
    note_ready(core, &session.conn)


cdef void say_goodbye(Core *core, Session *session) noexcept nogil:
    """Tells the client that all has been sent; it is closed when the client has closed too, or by sweep.

    Were it closed at once, what the client still sends would have it reset, and the last replies
    might be lost on their way: of a pipeline, nobody would know what was executed.
    """
    session.conn.flags |= LINGERING
    session.conn.wrote = core.now
    shutdown(session.conn.fd, SHUT_WR)
    resume_reading(core, &session.conn)


cdef void wake(Core *core, Session *session) noexcept nogil:
    """Has the session served again this turn: it may be able to go on, or to end."""
    if not session.woken:
        session.woken = True
        push_conn(&core.woken, &session.conn)


cdef size_t unread(const Session *session) noexcept nogil:
    """Reply bytes that the client has not taken yet."""
    return length(&session.conn.output) + session.held


cdef void enqueue(Session *session, Request *request) noexcept nogil:
    if session.tail == NULL:
        session.head = request
    else:
        session.tail.next = request
    session.tail = request
    session.queued += 1
    if session.muted:
        request.flags |= MUTED


cdef inline void _write(Core *core, Session *session, const char *data, size_t size) noexcept nogil:
    append(&session.conn.output, &core.pool, data, size)
    will_write(core, &session.conn)


cdef void _check_output(Core *core, Session *session) noexcept nogil:
    if unread(session) > core.limits.output_limit and not session.conn.flags & FAILED:
        session.cluster.output_overflows += 1
        kill_session(core, session)


cdef void respond(
        Core *core, Session *session, uint16_t command, const char *reply, size_t size) noexcept nogil:
    """Answers here, in its turn, a request that goes to no server."""
    cdef Request *request
    observe(&session.cluster.commands[command].latency, 0)
    if size and reply[0] == c'-':
        session.cluster.commands[command].errors += 1
        session.cluster.errors[code_of(reply, size)] += 1
    if session.muted:
        return
    if session.head == NULL:
        _write(core, session, reply, size)
        if core.draining:
            session.conn.flags |= LEAVING
        return
    request = new_request(core, session, command)
    request.state = ANSWERED
    hold_reply(core, request, reply, size)
    session.held += size
    enqueue(session, request)


cdef void answered(Core *core, Request *request, const char *reply, size_t size) noexcept nogil:
    """Takes the reply to a request that Python code answers later."""
    cdef Session *session = request.session
    hold_reply(core, request, reply, size)
    session.held += size
    request.state = ANSWERED
    observe(&session.cluster.commands[request.command].latency, core.now - request.started)
    if size and reply[0] == c'-':
        session.cluster.commands[request.command].errors += 1
        session.cluster.errors[code_of(reply, size)] += 1
    if request == session.head:
        _advance(core, session)
    _check_output(core, session)


cdef void push(Core *core, Session *session, const char *data, size_t size) noexcept nogil:
    """Gives a client what it has not asked for, behind what it has, unless that may take for ever."""
    cdef Request *request
    if session.conn.flags & (CLOSING | LINGERING | FAILED | CLOSED):
        return
    if session.head == NULL or session.head == session.blocked and not session.head.flags & STREAMED:
        _write(core, session, data, size)
    else:
        request = new_request(core, session, NO_COMMAND_ID)
        request.state = ANSWERED
        hold_reply(core, request, data, size)
        session.held += size
        enqueue(session, request)
        request.flags &= ~MUTED
    _check_output(core, session)


cdef void deliver(Core *core, Request *request, const char *data, size_t size) noexcept nogil:
    """Takes some bytes of a leaf's reply."""
    cdef Session *session = request.session
    if session == NULL or request.flags & MUTED:
        return
    if request == session.head:
        request.flags |= STREAMED
        _write(core, session, data, size)
    else:
        hold_reply(core, request, data, size)
        session.held += size
    _check_output(core, session)


cdef void finish(Core *core, Request *request) noexcept nogil:
    """Takes note that a leaf's reply is whole; sends what can now go out."""
    cdef Session *session = request.session
    cdef Request *whole = request.whole
    cdef Request *part
    if session == NULL:
        free_request_node(core, request)
        return
    if request.state == PARKED:
        session.parked -= 1
        session.cluster.parked -= 1
        drop_saved(core, request)
    else:
        if session.parked and request.slot != NO_SLOT:
            _give_up_before(core, session, request)
        session.outstanding -= 1
    session.request_bytes -= request.size
    request.state = ANSWERED
    if session.parked and session.outstanding == 0:
        core.settle_at = 0
    if whole != NULL:
        whole.split.pending -= 1
        if whole.split.pending:
            return
        part = whole.split.parts
        while part != NULL:
            session.held -= part.reply_size
            part = part.next
        if whole.split.count > 1:
            observe_width(session.cluster, whole.split.count)
        merge_parts(core, whole)
        if whole.state == AWAITED:
            return
        session.held += whole.reply_size
        whole.state = ANSWERED
        request = whole
    if request.flags & REFUSED:
        session.cluster.commands[request.command].errors += 1
        session.cluster.errors[request.code] += 1
    # Those who wait for data are not slow.
    observe(
        &session.cluster.commands[request.command].latency,
        0 if request.flags & BLOCKING else core.now - request.started)
    if request == session.blocked:
        session.blocked = NULL
        waits_no_more(session)
        wake(core, session)
    if request == session.head:
        _advance(core, session)


cdef void _advance(Core *core, Session *session) noexcept nogil:
    cdef Request *request = session.head
    while request != NULL and request.state == ANSWERED:
        if request.reply_size:
            if not request.flags & MUTED:
                _write(core, session, request.reply, request.reply_size)
            session.held -= request.reply_size
        session.head = request.next
        session.queued -= 1
        free_request_node(core, request)
        request = session.head
    if request == NULL:
        session.tail = NULL
    elif request.state == IN_FLIGHT and request.reply_size and not request.flags & MUTED:
        request.flags |= STREAMED
        _write(core, session, request.reply, request.reply_size)
        forget_reply(request)
    if core.draining:
        session.conn.flags |= LEAVING
    if session.conn.flags & (PAUSED | CLOSING | LEAVING):
        wake(core, session)


cdef void forget_reply(Request *request) noexcept nogil:
    request.session.held -= request.reply_size
    request.reply_size = 0


cdef void fail(Core *core, Request *request, const char *reply, size_t size) noexcept nogil:
    """Answers a leaf with an error of ours, whatever had come of its reply."""
    cdef Session *session = request.session
    if session != NULL:
        if request.flags & STREAMED:
            kill_session(core, session)     # half a reply is out: no error can follow it
        else:
            forget_reply(request)
            hold_reply(core, request, reply, size)
            session.held += size
        refuse(request, reply, size)
    finish(core, request)


cdef void park(Core *core, Request *request, const char *data, size_t size) noexcept nogil:
    """Sets a leaf aside, with its bytes, to be sent again.

    It must have left its upstream's queue, or never have been in one. Until a session has nothing
    parked, nothing new of it is sent: so its requests are executed in the order they came.
    """
    cdef Session *session = request.session
    if session == NULL:
        free_request_node(core, request)
        return
    if request.upstream != NULL:
        session.outstanding -= 1
        request.upstream = NULL
        session.request_bytes -= request.size
    request.state = PARKED
    if too_much_waits(core):
        request.flags |= OVERDUE
    save_bytes(core, request, data, size)
    session.request_bytes += size
    session.parked += 1
    session.cluster.parked += 1
    if not session.settling:
        session.settling = True
        session.next_settling = core.settling
        session.previous_settling = NULL
        if core.settling != NULL:
            core.settling.previous_settling = session
        core.settling = session
    core.settle_at = 0


cdef void leave_settling(Core *core, Session *session) noexcept nogil:
    if session.settling:
        session.settling = False
        if session.previous_settling != NULL:
            session.previous_settling.next_settling = session.next_settling
        else:
            core.settling = session.next_settling
        if session.next_settling != NULL:
            session.next_settling.previous_settling = session.previous_settling


cdef Request *first_leaf(Request *request) noexcept nogil:
    while request != NULL and request.state == SPLIT and request.split.parts == NULL:
        request = request.next
    return request.split.parts if request != NULL and request.state == SPLIT else request


cdef Request *next_leaf(Request *leaf) noexcept nogil:
    """The leaf behind this one in its session's order."""
    if leaf.whole != NULL:
        return leaf.next if leaf.next != NULL else first_leaf(leaf.whole.next)
    return first_leaf(leaf.next)


cdef const char *GIVEN_UP = b"-TRYAGAIN not sent: a later request on the same slot has been executed\r\n"


cdef void _give_up_before(Core *core, Session *session, Request *request) noexcept nogil:
    """A later request on the same slot has been executed: an earlier one must not be any more.

    One that was redirected still may. Its server has not got its key, so it has executed nothing
    else on that key either: what it executed was on another key of a slot that is being moved.
    """
    cdef Request *leaf = first_leaf(session.head)
    while leaf != request:
        if leaf.state == PARKED and leaf.slot == request.slot and leaf.hint == NULL:
            if leaf.reply_size == 0:
                hold_reply(core, leaf, GIVEN_UP, strlen(GIVEN_UP))
                session.held += leaf.reply_size
            refuse(leaf, leaf.reply, leaf.reply_size)
            finish(core, leaf)
            leaf = first_leaf(session.head)     # the queue may have moved on
        else:
            leaf = next_leaf(leaf)
