"""Upstreams: connections to servers, shared by many sessions.

An upstream's output buffer is its retry log: the bytes of a request stay in it until the reply has
come. A request that a redirection answers, or whose connection broke before it had wholly left, or
that only reads, is parked with its bytes and sent again. What was sent, may change something and
was not answered is answered with an error that says that its outcome is unknown: nothing is ever
executed twice because of us.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport free
from libc.string cimport memchr, memcmp, memcpy, memset, strlen

from proxy.buffers cimport Buffer, append, release_if_empty, resize
from proxy.model cimport (
    CLOSED, DIALING, DIRTY, IDLE, IN_FLIGHT, INTERNAL, NO_COMMAND_ID, NO_REFRESH, NO_SLOT, OPEN,
    READONLY, READY, REFRESH_CONNECTION, REFRESH_REDIRECTED, REFRESH_SERVER_STATE, REFUSED, RESTING,
    SLOTS, SLOW_BYTES, SLOW_ENTRIES, STREAMED, UPSTREAM, Cluster, Core, RefreshReason, Request, Server,
    Session, SlowEntry, Upstream,
)
from proxy.reactor cimport close_conn, push_conn, watch, will_write
from proxy.requests cimport free_request_node, hold_reply, new_request
from proxy.resp cimport SCAN_ERROR, SCAN_MORE, ScanStatus, read_number, scan_reply
from proxy.sessions cimport deliver, fail, finish, forget_reply, observe, park

cdef enum:
    ERROR_LENGTH = 65536            # the longest error reply a server may send
    BIG_READ = 65536
    IMMEDIATE_HOPS = 3              # redirections followed at once; further ones wait a little
    MOST_HOPS = 250
    MESSAGE = 512

cdef int64_t RETRY_DELAY = 10_000_000           # ns
cdef int64_t FIRST_REST = 50_000_000            # ns
cdef int64_t LONGEST_REST = 1_000_000_000       # ns

cdef const char *ASKING = b"*1\r\n$6\r\nASKING\r\n"


# --- servers ---------------------------------------------------------------------------------

cdef Server *server_named(Cluster *cluster, const char *name, size_t size) noexcept nogil:
    """The server of that name (host:port), made if there is none yet."""
    cdef Server *server
    cdef Upstream *upstream
    cdef uint16_t i
    for i in range(cluster.server_count):
        server = cluster.servers[i]
        if strlen(server.name) == size and memcmp(server.name, name, size) == 0:
            return server
    if cluster.server_count == cluster.server_capacity:
        cluster.server_capacity = cluster.server_capacity * 2 if cluster.server_capacity else 16
        cluster.servers = <Server **>resize(
            cluster.servers, cluster.server_capacity * sizeof(void *))
    server = <Server *>resize(NULL, sizeof(Server))
    memset(server, 0, sizeof(Server))
    server.cluster = cluster
    server.index = cluster.server_count
    server.listed = True        # until a topology says otherwise
    server.name = <char *>resize(NULL, size + 1)
    memcpy(server.name, name, size)
    server.name[size] = 0
    server.upstreams = <Upstream **>resize(NULL, 2 * cluster.connections * sizeof(void *))
    for i in range(2 * cluster.connections):
        upstream = <Upstream *>resize(NULL, sizeof(Upstream))
        memset(upstream, 0, sizeof(Upstream))
        upstream.conn.fd = -1
        upstream.conn.kind = UPSTREAM
        upstream.conn.flags = CLOSED
        upstream.server = server
        upstream.number = i % cluster.connections
        upstream.protocol = 2 if i < cluster.connections else 3
        upstream.state = IDLE
        server.upstreams[i] = upstream
    cluster.servers[cluster.server_count] = server
    cluster.server_count += 1
    return server


cdef void free_server(Core *core, Server *server) noexcept nogil:
    cdef Upstream *upstream
    cdef Request *request
    cdef uint16_t i
    for i in range(2 * server.cluster.connections):
        upstream = server.upstreams[i]
        while upstream.head != NULL:
            request = upstream.head
            upstream.head = request.awaiting
            free_request_node(core, request)
        close_conn(core, &upstream.conn)
        free(upstream)
    free(server.upstreams)
    free(server.name)
    free(server)


cdef Upstream *upstream_for(
        Server *server, uint8_t protocol, uint64_t session) noexcept nogil:
    """A session keeps to one upstream of a server: two could overtake each other."""
    cdef uint16_t connections = server.cluster.connections
    return server.upstreams[(connections if protocol == 3 else 0) + session % connections]


cdef void want_refresh(Cluster *cluster, RefreshReason reason) noexcept nogil:
    if cluster.refresh == NO_REFRESH:
        cluster.refresh = reason


cdef void set_owner(Cluster *cluster, uint16_t slot, uint16_t server) noexcept nogil:
    if cluster.owners[slot] != server:
        cluster.owners[slot] = server
        cluster.epoch += 1


# --- sending ---------------------------------------------------------------------------------

cdef bint usable(Core *core, Upstream *upstream) noexcept nogil:
    return not upstream.server.ejected and (
        upstream.state != RESTING or core.now >= upstream.retry_at)


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
    if session != NULL:
        session.outstanding += 1
        session.request_bytes += request.size
    if upstream.state == OPEN:
        will_write(core, &upstream.conn)
    elif upstream.state != DIALING:
        upstream.state = DIALING
        push_conn(&core.dials, &upstream.conn)


cdef void send_asking(Core *core, Upstream *upstream) noexcept nogil:
    """Lets the next request through to a slot that is being imported."""
    cdef Request *asking = new_request(core, NULL, NO_COMMAND_ID)
    asking.flags = INTERNAL
    append(begin_request(core, upstream, asking), &core.pool, ASKING, strlen(ASKING))
    end_request(core, upstream, asking)


# --- connecting ------------------------------------------------------------------------------

cdef void upstream_opened(Core *core, Upstream *upstream, int fd) noexcept nogil:
    """Takes a connection that a dialer has made and greeted."""
    upstream.conn.fd = fd
    upstream.conn.flags &= DIRTY | READY        # it may stand on these lists from before
    upstream.conn.error = 0
    upstream.conn.wanted = 0
    upstream.conn.sent = upstream.conn.output.origin + upstream.conn.output.start
    upstream.pushing = False
    memset(&upstream.scan, 0, sizeof(upstream.scan))
    upstream.state = OPEN
    if not watch(core, &upstream.conn):
        break_upstream(core, upstream, b"epoll refused the connection")
    elif upstream.head != NULL:
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
    upstream.head = upstream.tail = NULL
    while request != NULL:
        after = request.awaiting
        # A request whose last byte the kernel never took cannot have been executed.
        left = upstream.state == OPEN and request.position + request.size <= upstream.conn.sent
        if request.session == NULL:
            free_request_node(core, request)
        elif left and not request.flags & READONLY:
            cluster.unknown_outcomes += 1
            size = snprintf(
                message, MESSAGE,
                b"-ERR server %.300s: %.100s; the outcome of this command is unknown\r\n",
                upstream.server.name, why)
            fail(core, request, message, size)
        elif request.flags & STREAMED:
            fail(core, request, b"", 0)
        else:
            forget_reply(request)
            size = snprintf(
                message, MESSAGE, b"-ERR server %.300s: %.100s\r\n", upstream.server.name, why)
            _park(core, upstream, request, message, size)
        request = after
    output.start = output.end
    release_if_empty(output, &core.pool)


cdef void _park(
        Core *core, Upstream *upstream, Request *request, const char *why, size_t size) noexcept nogil:
    """Parks a request of this upstream; ``why`` is what its client is told if time runs out."""
    cdef Buffer *output = &upstream.conn.output
    hold_reply(request, why, size)
    request.session.held += size
    request.hops += 1
    request.asking = False
    request.hint = NULL
    if request.hops > IMMEDIATE_HOPS:
        request.session.retry_at = core.now + RETRY_DELAY
    upstream.server.cluster.retried += 1
    park(core, request, output.data + (request.position - output.origin), request.size)


# --- replies ---------------------------------------------------------------------------------

cdef inline bint _starts(const char *text, size_t size, const char *word) noexcept nogil:
    cdef size_t length = strlen(word)
    return size > length and memcmp(text, word, length) == 0


cdef Server *_redirection(
        Upstream *upstream, const char *text, size_t size, uint16_t *slot) noexcept nogil:
    """The slot and the server of ``slot host:port\\r\\n``; NULL when it can't be read."""
    cdef const char *space = <const char *>memchr(text, c' ', size)
    cdef const char *end = <const char *>memchr(text, c'\r', size)
    cdef const char *own
    cdef int64_t number
    cdef bint valid = False
    cdef char name[MESSAGE]
    cdef int length
    if space == NULL or end == NULL or end < space or end - space > 300:
        return NULL
    number = read_number(text, space - text, &valid)
    if not valid or number < 0 or number >= SLOTS:
        return NULL
    slot[0] = <uint16_t>number
    space += 1
    if space[0] == c':':
        # No host: the one that says so, at another port.
        own = upstream.server.name
        length = snprintf(
            name, MESSAGE, b"%.*s%.*s", <int>(_port_colon(own, strlen(own)) - own), own,
            <int>(end - space), space)
    elif memchr(space, c':', _port_colon(space, end - space) - space) != NULL and space[0] != c'[':
        # An IPv6 address, which Redis writes without brackets.
        own = _port_colon(space, end - space)
        length = snprintf(
            name, MESSAGE, b"[%.*s]%.*s", <int>(own - space), space, <int>(end - own), own)
    else:
        length = snprintf(name, MESSAGE, b"%.*s", <int>(end - space), space)
    return server_named(upstream.server.cluster, name, length)


cdef const char *_port_colon(const char *name, size_t size) noexcept nogil:
    cdef const char *at = name + size
    while at > name and at[0] != c':':
        at -= 1
    return at


cdef bint _retry(
        Core *core, Upstream *upstream, Request *request, const char *line, size_t size) noexcept nogil:
    """Parks the request if this error means that it was not executed and may yet be."""
    cdef Cluster *cluster = upstream.server.cluster
    cdef Server *target = NULL
    cdef uint16_t slot = 0
    cdef bint asking = False
    cdef bint later = False
    if request.slot == NO_SLOT or request.hops >= MOST_HOPS:
        return False
    if _starts(line, size, b"-MOVED "):
        target = _redirection(upstream, line + 7, size - 7, &slot)
        if target == NULL:
            return False
        cluster.moved += 1
        set_owner(cluster, slot, target.index)
        want_refresh(cluster, REFRESH_REDIRECTED)
    elif _starts(line, size, b"-ASK "):
        target = _redirection(upstream, line + 5, size - 5, &slot)
        if target == NULL:
            return False
        cluster.asked += 1
        asking = True
    elif _starts(line, size, b"-TRYAGAIN"):
        later = True
    elif (_starts(line, size, b"-CLUSTERDOWN") or _starts(line, size, b"-LOADING")
            or _starts(line, size, b"-READONLY") or _starts(line, size, b"-MASTERDOWN")):
        later = True
        want_refresh(cluster, REFRESH_SERVER_STATE)
    else:
        return False
    if request.session == NULL:
        free_request_node(core, request)
        return True
    if later:
        request.session.retry_at = core.now + RETRY_DELAY
    _park(core, upstream, request, line, size)
    request.hint = target
    request.asking = asking
    return True


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
    upstream.conn.wanted = BIG_READ if input.end == input.capacity else 0
    while input.start < input.end:
        data = input.data + input.start
        size = input.end - input.start
        if upstream.scan.elements == 0:
            upstream.pushing = data[0] == c'>'
        request = upstream.head
        if not upstream.pushing:
            if request == NULL or request.position + request.size > upstream.conn.sent:
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
                input.start += used
                position = request.position + request.size
                upstream.head = request.awaiting
                if upstream.head == NULL:
                    upstream.tail = NULL
                observe(&upstream.server.latency, core.now - request.sent)
                if not _retry(core, upstream, request, data, used):
                    request.flags |= REFUSED
                    deliver(core, request, data, used)
                    finish(core, request)
                output.start = <size_t>(position - output.origin)
                continue
        status = scan_reply(&upstream.scan, data, size, &used)
        if status == SCAN_ERROR:
            break_upstream(core, upstream, b"sent what is not RESP")
            return
        input.start += used
        if not upstream.pushing and used:
            deliver(core, request, data, used)
        if status == SCAN_MORE:
            if upstream.scan.bulk > BIG_READ:
                upstream.conn.wanted = <unsigned int>(
                    upstream.scan.bulk if upstream.scan.bulk < 0x7fffffff else 0x7fffffff)
            break
        if upstream.pushing:
            continue
        upstream.failures = 0
        upstream.head = request.awaiting
        if upstream.head == NULL:
            upstream.tail = NULL
        position = request.position + request.size
        observe(&upstream.server.latency, core.now - request.sent)
        if cluster.slower_than and request.session != NULL \
                and core.now - request.started > cluster.slower_than:
            _note_slow(core, upstream, request)
        finish(core, request)
        output.start = <size_t>(position - output.origin)
    release_if_empty(input, &core.pool)
    release_if_empty(output, &core.pool)
