"""Upstreams: connections to servers, shared by many sessions.

An upstream's output buffer is its retry log: the bytes of a request stay in it until the reply has
come. A request that a redirection answers, or whose connection broke before it had wholly left, or
that only reads, is parked with its bytes and sent again. What was sent, may change something and
was not answered is answered with an error that says that its outcome is unknown: nothing is ever
executed twice because of us.
"""

from libc.stdint cimport int64_t, uint16_t, uint64_t
from libc.stdio cimport snprintf
from libc.string cimport memchr, memcmp, memcpy, memset, strlen

from proxy.buffers cimport Buffer, append, length, release_if_empty
from proxy.model cimport (
    AGAIN, BLOCKING, DIALING, DIRTY, EXEC, IDLE, IN_FLIGHT, INTERNAL, LATER, NO_COMMAND_ID, NO_SLOT,
    OPEN, READONLY, READY, REFRESH_CONNECTION, REFRESH_REDIRECTED, REFRESH_SERVER_STATE,
    REFRESH_UNSERVED, RESTING, SLOW_BYTES, SLOW_ENTRIES, SPLIT, STREAMED, WATCH, Cluster,
    Core, Request, Server, Session, SlowEntry, Upstream,
)
from proxy.peers cimport write_peer
from proxy.pins cimport give_back
from proxy.reactor cimport close_conn, push_conn, watch, will_write
from proxy.replies cimport OK, null_array
from proxy.requests cimport free_request_node, hold_reply, new_request
from proxy.resp cimport SCAN_ERROR, SCAN_MORE, ScanStatus, read_number, scan_reply
from proxy.servers cimport server_named, set_owner, upstream_for, want_refresh
from proxy.sessions cimport deliver, fail, finish, forget_reply, park
from proxy.stats cimport observe, refuse

cdef enum:
    ERROR_LENGTH = 65536            # the longest error reply a server may send
    BIG_READ = 65536
    IMMEDIATE_HOPS = 3              # redirections followed at once; further ones wait a little
    MOST_HOPS = 250
    MESSAGE = 512

cdef int64_t RETRY_DELAY = 10_000_000           # ns
cdef int64_t FIRST_REST = 50_000_000            # ns
cdef int64_t LONGEST_REST = 1_000_000_000       # ns

cdef const char *NOT_RESP = b"sent what is not RESP"
cdef const char *ASKING = b"*1\r\n$6\r\nASKING\r\n"
cdef const char *UNWATCH = b"*1\r\n$7\r\nUNWATCH\r\n"


# --- sending ---------------------------------------------------------------------------------

cdef Buffer *begin_request(Core *core, Upstream *upstream, Request *request) noexcept nogil:
    """Where to append the request's bytes; ``end_request`` must follow."""
    cdef Buffer *output = &upstream.conn.output
    request.position = output.origin + output.end
    return output


cdef void end_request(Core *core, Upstream *upstream, Request *request) noexcept nogil:
    cdef Buffer *output = &upstream.conn.output
    cdef Session *session = request.session
    request.size = <unsigned int>(output.origin + output.end - request.position)
    request.state = IN_FLIGHT
    request.upstream = upstream
    request.awaiting = NULL
    request.sent = core.now
    if upstream.tail == NULL:
        upstream.head = request
    else:
        upstream.tail.awaiting = request
    upstream.tail = request
    upstream.server.awaited += 1
    if session != NULL:
        session.outstanding += 1
        session.request_bytes += request.size
    if upstream.state == OPEN:
        will_write(core, &upstream.conn)
    else:
        want_dial(core, upstream)


cdef void give(
        Core *core, Upstream *upstream, Request *leaf, const char *data, size_t size) noexcept nogil:
    """Sends a leaf on an upstream; without one it is parked."""
    if upstream != NULL:
        append(begin_request(core, upstream, leaf), &core.pool, data, size)
        end_request(core, upstream, leaf)
    else:
        want_refresh(leaf.session.cluster, REFRESH_UNSERVED)
        park(core, leaf, data, size)


cdef void want_dial(Core *core, Upstream *upstream) noexcept nogil:
    if upstream.state != DIALING:
        upstream.state = DIALING
        push_conn(&core.dials, &upstream.conn)


cdef void send_internal(Core *core, Upstream *upstream, const char *data, size_t size) noexcept nogil:
    """Sends a request of our own, whose reply nobody wants."""
    cdef Request *request = new_request(core, NULL, NO_COMMAND_ID)
    request.flags = INTERNAL
    append(begin_request(core, upstream, request), &core.pool, data, size)
    end_request(core, upstream, request)


cdef void send_asking(Core *core, Upstream *upstream) noexcept nogil:
    """Lets the next request, or transaction, through to a slot that is being imported."""
    send_internal(core, upstream, ASKING, strlen(ASKING))


cdef void unwatch(Core *core, Session *session) noexcept nogil:
    """Has a session watch nothing any more. Nothing of it may be in flight on its pin."""
    session.watch_lost = False
    if session.pin != NULL:
        send_internal(core, session.pin, UNWATCH, strlen(UNWATCH))
        give_back(session.pin)
        session.pin = NULL
        session.epoch = 0


cdef bint unblock(Core *core, Session *session, bint with_error) noexcept nogil:
    """Has the servers let a session go that waits; whether it did. The reply comes from them."""
    cdef Request *leaf
    cdef Upstream *pin
    cdef char text[128]
    cdef int size
    cdef bint found = False
    if session.blocked == NULL:
        return False
    leaf = session.blocked.split.parts if session.blocked.state == SPLIT else session.blocked
    while leaf != NULL:
        if leaf.state == IN_FLIGHT and leaf.upstream.state == OPEN and leaf.upstream.peer_id:
            pin = leaf.upstream
            size = snprintf(text, sizeof(text), b"CLIENT UNBLOCK %llu %s\r\n",
                            <unsigned long long>pin.peer_id, b"ERROR" if with_error else b"TIMEOUT")
            send_internal(core, upstream_for(pin.server, 2, session.id), text, size)
            found = True
        leaf = leaf.next if leaf.whole != NULL else NULL
    return found


# --- connecting ------------------------------------------------------------------------------

cdef void upstream_opened(Core *core, Upstream *upstream, int fd, uint64_t peer_id) noexcept nogil:
    """Takes a connection that a dialer has made and greeted."""
    upstream.conn.fd = fd
    upstream.peer_id = peer_id
    upstream.conn.flags &= DIRTY | READY        # it may stand on these lists from before
    upstream.conn.error = 0
    upstream.conn.wanted = 0
    upstream.conn.sent = upstream.conn.output.origin + upstream.conn.output.start
    upstream.pushing = False
    upstream.framed = 0
    memset(&upstream.scan, 0, sizeof(upstream.scan))
    upstream.state = OPEN
    if not watch(core, &upstream.conn):
        break_upstream(core, upstream, b"epoll refused the connection")
    elif length(&upstream.conn.output):
        will_write(core, &upstream.conn)


cdef void _rest(Core *core, Upstream *upstream, bint at_once) noexcept nogil:
    """Decides when the connection may be tried again: ever more slowly while it fails."""
    cdef int64_t delay = FIRST_REST << (upstream.failures if upstream.failures < 6 else 6)
    if upstream.failures < 100:
        upstream.failures += 1
    if at_once and upstream.failures == 1:
        upstream.state = IDLE
        return
    upstream.state = RESTING
    upstream.retry_at = core.now + (delay if delay < LONGEST_REST else LONGEST_REST)


cdef void upstream_refused(Core *core, Upstream *upstream, const char *why) noexcept nogil:
    """Takes note that a dialer could not make the connection."""
    upstream.server.refused += 1
    _empty(core, upstream, why)
    _rest(core, upstream, False)
    want_refresh(upstream.server.cluster, REFRESH_CONNECTION)


cdef void break_upstream(Core *core, Upstream *upstream, const char *why) noexcept nogil:
    """Gives the connection up; parks or answers everything it still owed."""
    upstream.server.lost += 1
    _empty(core, upstream, why)
    close_conn(core, &upstream.conn)
    _rest(core, upstream, True)
    want_refresh(upstream.server.cluster, REFRESH_CONNECTION)


cdef void shed(Core *core, Upstream *upstream) noexcept nogil:
    """Parks what waits for a connection that is still being made: it may have somewhere else to go."""
    if upstream.state == DIALING and upstream.head != NULL:
        _empty(core, upstream, b"could not be connected to in time")


cdef void try_again(Core *core, Upstream *upstream) noexcept nogil:
    """Lets a connection be tried at once that could not be made before."""
    if upstream.state == RESTING:
        upstream.retry_at = core.now


cdef void close_idle(Core *core, Upstream *upstream) noexcept nogil:
    """Closes a connection that nobody waits on and nobody will use."""
    close_conn(core, &upstream.conn)
    upstream.state = IDLE
    upstream.failures = 0


cdef void _empty(Core *core, Upstream *upstream, const char *why) noexcept nogil:
    cdef Request *request = upstream.head
    cdef Request *after
    cdef Cluster *cluster = upstream.server.cluster
    cdef Buffer *output = &upstream.conn.output
    cdef bint left
    cdef char message[MESSAGE]
    cdef int size
    cdef Session *session = upstream.session
    upstream.head = upstream.tail = NULL
    if session != NULL:
        # It is somebody else's from now on, but for what is parked or failed here.
        give_back(upstream)
        if session.pin == upstream:
            session.pin = NULL
            session.watch_lost = True
            session.epoch = 0
    while request != NULL:
        after = request.awaiting
        upstream.server.awaited -= 1
        # A request whose last byte the kernel never took cannot have been executed.
        left = upstream.state == OPEN and request.position + request.size <= upstream.conn.sent
        if request.session == NULL:
            free_request_node(core, request)
        elif request.flags & WATCH:
            _answer_watch(core, request)
        elif request.flags & STREAMED:
            fail(core, request, b"", 0)
        elif session != NULL and request.flags & EXEC and (request.flags & READONLY or not left):
            session.watch_lost = False
            _fail_exec(core, request)
        elif left and not request.flags & READONLY:
            cluster.unknown_outcomes += 1
            if request.flags & EXEC:
                request.session.watch_lost = False
            size = snprintf(
                message, MESSAGE,
                b"-ERR server %.300s: %.100s; the outcome of this command is unknown\r\n",
                upstream.server.name, why)
            fail(core, request, message, size)
        else:
            forget_reply(request)
            size = snprintf(
                message, MESSAGE, b"-ERR server %.300s: %.100s\r\n", upstream.server.name, why)
            request.hint = NULL
            request.asking = False
            _park(core, upstream, request, message, size)
        request = after
    output.start = output.end
    release_if_empty(output, &core.pool)


cdef void _park(
        Core *core, Upstream *upstream, Request *request, const char *why, size_t size) noexcept nogil:
    """Parks a request of this upstream; ``why`` is what its client is told if time runs out."""
    cdef Buffer *output = &upstream.conn.output
    hold_reply(core, request, why, size)
    request.session.held += size
    request.hops += 1
    request.prefaced = 0
    if request.flags & BLOCKING:
        request.started = core.now      # how long it has waited for others does not count
    if request.flags & LATER or request.hops > IMMEDIATE_HOPS:
        request.session.retry_at = core.now + RETRY_DELAY
    request.flags &= ~(AGAIN | LATER)
    upstream.server.cluster.retried += 1
    park(core, request, output.data + (request.position - output.origin), request.size)


# --- replies ---------------------------------------------------------------------------------

cdef inline bint _starts(const char *text, size_t size, const char *word) noexcept nogil:
    cdef size_t wanted = strlen(word)
    return size > wanted and memcmp(text, word, wanted) == 0


cdef Server *_redirection(
        Upstream *upstream, uint16_t slot, const char *text, size_t size) noexcept nogil:
    """The server of ``slot host:port\\r\\n``; NULL when it can't be read, or speaks of another slot."""
    cdef const char *space = <const char *>memchr(text, c' ', size)
    cdef const char *end = <const char *>memchr(text, c'\r', size)
    cdef const char *own
    cdef int64_t number
    cdef bint valid = False
    cdef char name[MESSAGE]
    cdef int written
    if space == NULL or end == NULL or end < space or end - space > 300:
        return NULL
    number = read_number(text, space - text, &valid)
    if not valid or number != slot:
        return NULL
    space += 1
    if space[0] == c':':
        # No host: the one that says so, at another port.
        own = upstream.server.name
        written = snprintf(
            name, MESSAGE, b"%.*s%.*s", <int>(_port_colon(own, strlen(own)) - own), own,
            <int>(end - space), space)
    elif memchr(space, c':', _port_colon(space, end - space) - space) != NULL and space[0] != c'[':
        # An IPv6 address, which Redis writes without brackets.
        own = _port_colon(space, end - space)
        written = snprintf(
            name, MESSAGE, b"[%.*s]%.*s", <int>(own - space), space, <int>(end - own), own)
    else:
        written = snprintf(name, MESSAGE, b"%.*s", <int>(end - space), space)
    if written >= MESSAGE or not _is_address(name, written):
        return NULL
    return server_named(upstream.server.cluster, name, written)


cdef bint _is_address(const char *name, size_t size) noexcept nogil:
    """Whether it is a host, which may be shown anywhere, and a port."""
    cdef const char *colon = _port_colon(name, size)
    cdef const char *at
    cdef bint valid = False
    cdef int64_t port = read_number(colon + 1, name + size - colon - 1, &valid) if colon > name else 0
    at = name
    while at < colon:
        if not c'!' <= at[0] <= c'~':
            return False
        at += 1
    return valid and 0 < port < 65536


cdef const char *_port_colon(const char *name, size_t size) noexcept nogil:
    cdef const char *at = name + size
    while at > name and at[0] != c':':
        at -= 1
    return at


cdef bint _may_go_again(Upstream *upstream, Request *request, const char *line, size_t size) noexcept nogil:
    """Whether this error means that the request was not executed and may yet be; notes where and when."""
    cdef Cluster *cluster = upstream.server.cluster
    cdef Server *target
    cdef size_t word
    if request.slot == NO_SLOT or request.hops >= MOST_HOPS:
        return False
    if _starts(line, size, b"-MOVED ") or _starts(line, size, b"-ASK "):
        request.asking = line[1] == c'A'
        word = strlen(b"-ASK ") if request.asking else strlen(b"-MOVED ")
        target = _redirection(upstream, request.slot, line + word, size - word)
        if target == NULL:
            return False
        request.hint = target
        if request.asking:
            cluster.asked += 1
        else:
            cluster.moved += 1
            set_owner(cluster, request.slot, target.index)
            want_refresh(cluster, REFRESH_REDIRECTED)
        return True
    if _starts(line, size, b"-TRYAGAIN"):
        pass
    elif request.flags & BLOCKING and _starts(line, size, b"-UNBLOCKED force"):
        want_refresh(cluster, REFRESH_SERVER_STATE)
    elif (_starts(line, size, b"-CLUSTERDOWN") or _starts(line, size, b"-LOADING")
            or _starts(line, size, b"-READONLY") or _starts(line, size, b"-MASTERDOWN")):
        want_refresh(cluster, REFRESH_SERVER_STATE)
    else:
        return False
    request.flags |= LATER
    request.hint = NULL
    request.asking = False
    return True


cdef bint _retry(
        Core *core, Upstream *upstream, Request *request, const char *line, size_t size) noexcept nogil:
    """Parks the request if this error means that it was not executed and may yet be."""
    if not (request.flags & AGAIN and _starts(line, size, b"-EXECABORT")) \
            and not _may_go_again(upstream, request, line, size):
        return False
    if request.session == NULL:
        free_request_node(core, request)
    elif request.flags & WATCH:
        _answer_watch(core, request)
    elif request.flags & EXEC and upstream.session != NULL:
        _fail_exec(core, request)
    else:
        _park(core, upstream, request, line, size)
    return True


cdef void _answer_watch(Core *core, Request *request) noexcept nogil:
    """The keys can't be watched where they were thought to be: the transaction will fail, as if changed."""
    request.session.watch_lost = True
    forget_reply(request)
    deliver(core, request, OK, strlen(OK))
    finish(core, request)


cdef void _fail_exec(Core *core, Request *request) noexcept nogil:
    """Nothing was executed, and what was watched may have changed meanwhile."""
    cdef const char *null = null_array(request.session.protocol)
    forget_reply(request)
    deliver(core, request, null, strlen(null))
    finish(core, request)


cdef void _end_lease(Upstream *upstream) noexcept nogil:
    """Takes a pinned upstream back after what it was wanted for."""
    cdef Session *session = upstream.session
    if session != NULL:
        if session.pin == upstream:
            session.pin = NULL
            session.watch_lost = False
        give_back(upstream)


cdef void _note_slow(Core *core, Upstream *upstream, Request *request) noexcept nogil:
    cdef Cluster *cluster = upstream.server.cluster
    cdef Buffer *output = &upstream.conn.output
    cdef SlowEntry *entry = &cluster.slow[cluster.slow_count % SLOW_ENTRIES]
    entry.sequence = 0      # whoever reads it now sees that it is being written
    __sync_synchronize()
    entry.session = request.session.id
    entry.ended = core.now
    entry.total = core.now - request.started
    entry.waiting = core.now - request.sent
    entry.server = upstream.server.index
    write_peer(request.session.conn.fd, entry.client)
    entry.size = request.size
    memcpy(
        entry.shown, output.data + (request.position - output.origin),
        request.size if request.size < SLOW_BYTES else SLOW_BYTES)
    cluster.slow_count += 1
    __sync_synchronize()
    entry.sequence = cluster.slow_count


cdef extern from *:
    void __sync_synchronize() nogil


cdef void read_replies(Core *core, Upstream *upstream) noexcept nogil:
    """Gives each reply that has come to the request that asked for it."""
    cdef Buffer *input = &upstream.conn.input
    cdef Buffer *output = &upstream.conn.output
    cdef Cluster *cluster = upstream.server.cluster
    cdef Request *request
    cdef const char *data
    cdef const char *end
    cdef size_t size, used = 0
    cdef ScanStatus status
    cdef uint64_t position
    cdef bint leased
    upstream.conn.wanted = BIG_READ if input.end == input.capacity else 0
    while input.start < input.end:
        data = input.data + input.start
        size = input.end - input.start
        if upstream.scan.elements == 0:
            upstream.pushing = data[0] == c'>'
        request = upstream.head
        if not upstream.pushing:
            # Of several commands the first may be answered before the last has been sent.
            if request == NULL or request.position + (
                    request.size if request.prefaced == request.preface else 1) > upstream.conn.sent:
                break_upstream(core, upstream, b"answered what was not asked")
                return
            if upstream.scan.elements == 0 and data[0] == c'-':
                end = <const char *>memchr(data, c'\n', size)
                if end == NULL:
                    if size > ERROR_LENGTH:
                        break_upstream(core, upstream, b"sent an endless error")
                        return
                    break
                used = end + 1 - data
                if (end - 1)[0] != c'\r':
                    break_upstream(core, upstream, NOT_RESP)
                    return
                input.start += used
                if request.prefaced < request.preface:
                    request.prefaced += 1
                    if not request.flags & AGAIN and _may_go_again(upstream, request, data, used):
                        request.flags |= AGAIN
                    continue
                leased = upstream.pinned and request.flags & (BLOCKING | EXEC)
                position = request.position + request.size
                upstream.head = request.awaiting
                upstream.server.awaited -= 1
                if upstream.head == NULL:
                    upstream.tail = NULL
                if not request.flags & BLOCKING:
                    observe(&upstream.server.latency, core.now - request.sent)
                if not _retry(core, upstream, request, data, used):
                    refuse(request, data, used)
                    deliver(core, request, data, used)
                    finish(core, request)
                output.start = <size_t>(position - output.origin)
                if leased:
                    _end_lease(upstream)
                continue
        status = scan_reply(&upstream.scan, data, size, &used)
        if status == SCAN_ERROR:
            break_upstream(core, upstream, NOT_RESP)
            return
        input.start += used
        if not upstream.pushing and used and request.prefaced == request.preface:
            deliver(core, request, data, used)
        if status == SCAN_MORE:
            if upstream.scan.bulk > BIG_READ:
                upstream.conn.wanted = <unsigned int>(
                    upstream.scan.bulk if upstream.scan.bulk < 0x7fffffff else 0x7fffffff)
            break
        if upstream.pushing:
            continue
        if request.prefaced < request.preface:
            request.prefaced += 1
            continue
        upstream.failures = 0
        leased = upstream.pinned and request.flags & (BLOCKING | EXEC)
        upstream.head = request.awaiting
        upstream.server.awaited -= 1
        if upstream.head == NULL:
            upstream.tail = NULL
        position = request.position + request.size
        if not request.flags & BLOCKING:
            observe(&upstream.server.latency, core.now - request.sent)
        if cluster.slower_than and not request.flags & BLOCKING and request.session != NULL \
                and core.now - request.started > cluster.slower_than:
            _note_slow(core, upstream, request)
        finish(core, request)
        output.start = <size_t>(position - output.origin)
        if leased:
            _end_lease(upstream)
    release_if_empty(input, &core.pool)
    release_if_empty(output, &core.pool)
