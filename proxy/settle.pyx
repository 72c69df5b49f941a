"""What is waited for: parked requests that may be sent again, and limits on time."""

from libc.stdint cimport int64_t, uint16_t
from libc.stdio cimport snprintf
from libc.string cimport strlen

from proxy.buffers cimport append, length
from proxy.model cimport (
    BLOCKING, DIALING, IN_FLIGHT, LINGERING, OPEN, OVERDUE, PARKED, PAUSED, REFRESH_SILENCE, REFRESH_UNSERVED,
    SPLIT, SUBSCRIBER, Cluster, Core, Request, Server, Session, Upstream,
)
from proxy.requests cimport drop_saved
from proxy.routing cimport route, server_for
from proxy.servers cimport want_refresh
from proxy.sessions cimport (
    fail, finish, first_leaf, forget_reply, kill_session, leave_settling, next_leaf, wake,
)
from proxy.stats cimport refuse
from proxy.subscribers cimport check_subscriber
from proxy.upstreams cimport (
    begin_request, break_upstream, close_idle, end_request, send_asking, shed, unblock,
)

cdef int64_t SETTLE_INTERVAL = 10_000_000       # ns
cdef int64_t SWEEP_INTERVAL = 100_000_000       # ns
cdef int64_t IDLE_PIN = 30_000_000_000          # ns
cdef int64_t LINGER_TIME = 1_000_000_000        # ns that a client has to close, once we have
cdef int64_t SILENCE = 100_000_000              # ns without an answer after which the topology is asked for
cdef int64_t SUCCESSION = 50_000_000            # ns that a server has to answer once it has been replaced

cdef const char *SLOT_SERVER = b"a server of this slot"
cdef const char *REPLACED = b"does not answer, and has been replaced"
cdef const char *UNSERVED = b"-CLUSTERDOWN Hash slot not served\r\n"
cdef const char *UNKNOWN = (
    b"-CLUSTERDOWN no server of this cluster could be reached yet; the proxy keeps trying\r\n")


cdef int next_timeout(const Core *core) noexcept nogil:
    """How long the next turn may wait, ms."""
    cdef int64_t due = core.sweep_at
    if core.settling != NULL and core.settle_at < due:
        due = core.settle_at
    if due <= core.now:
        return 0
    return <int>((due - core.now + 999_999) // 1_000_000)


cdef void settle(Core *core) noexcept nogil:
    """Sends parked requests again where that can be done now; answers those whose time is up."""
    cdef Session *session = core.settling
    cdef Session *after
    if session == NULL or core.now < core.settle_at:
        return
    core.settle_at = core.now + SETTLE_INTERVAL
    while session != NULL:
        after = session.next_settling
        _expire(core, session)
        if session.parked and session.outstanding == 0:
            if core.now >= session.retry_at:
                _send_again(core, session)
            elif session.retry_at < core.settle_at:
                core.settle_at = session.retry_at
        if session.parked == 0:
            leave_settling(core, session)
            wake(core, session)
        session = after


cdef void _expire(Core *core, Session *session) noexcept nogil:
    cdef int64_t limit = session.cluster.read_timeout
    cdef Request *leaf = first_leaf(session.head)
    if limit == 0 and core.saved == 0:
        return
    while leaf != NULL:
        if leaf.state == PARKED and (
                leaf.flags & OVERDUE or limit and core.now - leaf.started >= limit):
            session.cluster.timeouts += not leaf.flags & OVERDUE
            _tell_why(core, session, leaf)
            leaf = first_leaf(session.head)     # the queue may have moved on
        else:
            leaf = next_leaf(leaf)


cdef void _tell_why(Core *core, Session *session, Request *leaf) noexcept nogil:
    """Answers a parked request with what kept it from being executed."""
    cdef Server *server = server_for(core, session, leaf)
    cdef const char *name = SLOT_SERVER if server == NULL else server.name
    cdef char text[512]
    cdef int size
    if leaf.flags & OVERDUE:
        session.cluster.turned_away += 1
        size = snprintf(
            text, sizeof(text), b"-OOM too much waits for %.300s already: memory_limit bounds it\r\n", name)
        fail(core, leaf, text, size)
    elif leaf.reply_size:
        refuse(leaf, leaf.reply, leaf.reply_size)
        finish(core, leaf)
    elif not session.cluster.known:
        fail(core, leaf, UNKNOWN, strlen(UNKNOWN))
    elif server == NULL:
        fail(core, leaf, UNSERVED, strlen(UNSERVED))
    else:
        size = snprintf(
            text, sizeof(text), b"-ERR server %.300s: could not be connected to in time\r\n", server.name)
        fail(core, leaf, text, size)


cdef void _send_again(Core *core, Session *session) noexcept nogil:
    """Sends what is parked, in order, up to the first that has nowhere to go."""
    cdef Request *leaf = first_leaf(session.head)
    cdef Upstream *upstream
    while leaf != NULL:
        if leaf.state == PARKED:
            upstream = route(core, session, leaf)
            if upstream == NULL:
                want_refresh(session.cluster, REFRESH_UNSERVED)
                leaf.hint = NULL        # by the next time the topology may know better
                leaf.asking = False
                return
            if leaf.asking:
                send_asking(core, upstream)
            forget_reply(leaf)
            session.parked -= 1
            session.cluster.parked -= 1
            session.request_bytes -= leaf.size
            session.epoch = 0           # nothing new before this is answered
            append(begin_request(core, upstream, leaf), &core.pool, leaf.saved, leaf.size)
            drop_saved(core, leaf)
            leaf.hint = NULL
            leaf.asking = False
            end_request(core, upstream, leaf)
        leaf = next_leaf(leaf)


cdef void sweep(Core *core) noexcept nogil:
    """Looks at the limits on time of upstreams and sessions, ten times a second."""
    cdef Session *session = core.sessions
    cdef Cluster *cluster
    cdef Server *server
    cdef uint16_t c, i, n
    cdef int64_t limit
    if core.now < core.sweep_at:
        return
    core.sweep_at = core.now + SWEEP_INTERVAL
    for c in range(core.cluster_count):
        cluster = core.clusters[c]
        for i in range(cluster.server_count):
            server = cluster.servers[i]
            for n in range(server.upstream_count):
                if server.upstreams[n].conn.kind == SUBSCRIBER:
                    check_subscriber(core, server.upstreams[n])
                else:
                    _check_upstream(core, server, server.upstreams[n])
        if cluster.paused and core.now >= cluster.paused_until:
            cluster.paused = False
            _wake_all(core, cluster)
    limit = core.limits.read_timeout
    while session != NULL:
        if not session.counted and (
                session.postponed or session.blocked != NULL and _is_waiting(session.blocked)):
            session.counted = True
            session.cluster.blocked += 1
        if limit and core.now - session.conn.heard >= limit and session.queued == 0 \
                and not session.conn.flags & PAUSED:
            kill_session(core, session)
        elif core.limits.write_timeout and length(&session.conn.output) \
                and core.now - session.conn.wrote >= core.limits.write_timeout:
            kill_session(core, session)
        elif session.conn.flags & LINGERING and core.now - session.conn.wrote >= LINGER_TIME:
            kill_session(core, session)
        elif core.draining:
            if session.blocked != NULL and core.now >= core.drain_until:
                unblock(core, session, False)
            wake(core, session)
        session = session.next


cdef bint _is_waiting(const Request *request) noexcept nogil:
    """Whether a server has been told to have it wait."""
    cdef const Request *leaf = request.split.parts if request.state == SPLIT else request
    return leaf.state == IN_FLIGHT and leaf.upstream.state == OPEN \
        and leaf.position + leaf.size <= leaf.upstream.conn.sent


cdef void _wake_all(Core *core, Cluster *cluster) noexcept nogil:
    cdef Session *session = core.sessions
    while session != NULL:
        if session.cluster == cluster:
            wake(core, session)
        session = session.next


cdef void pause(Core *core, Cluster *cluster, int64_t duration, bint writes) noexcept nogil:
    """Has requests, or only those that write, wait for so long, in ns; 0 ends that."""
    cluster.paused = True
    cluster.writes_paused = writes
    cluster.paused_until = core.now + duration
    if cluster.paused_until < core.sweep_at:
        core.sweep_at = cluster.paused_until


cdef void _check_upstream(Core *core, Server *server, Upstream *upstream) noexcept nogil:
    cdef Cluster *cluster = server.cluster
    cdef int64_t since
    cdef char why[96]
    if upstream.state == DIALING and upstream.head != NULL:
        if cluster.read_timeout and core.now - upstream.head.started >= cluster.read_timeout:
            shed(core, upstream)
        elif core.now - upstream.head.started >= SILENCE:
            want_refresh(cluster, REFRESH_SILENCE)
    if upstream.state != OPEN:
        return
    if upstream.head == NULL:
        if upstream.session != NULL and server.succeeded_at:
            break_upstream(core, upstream, REPLACED)    # what it watches is elsewhere
        # The cluster has no such server any more, or nobody has wanted a connection of his own for a while.
        elif upstream.session == NULL and (
                not server.listed or upstream.pinned and core.now - upstream.conn.heard >= IDLE_PIN):
            close_idle(core, upstream)
        return
    since = upstream.conn.heard
    if upstream.head.sent > since:
        since = upstream.head.sent
    if upstream.head.flags & BLOCKING:
        # It waits for as long as it likes, but not for a server that has nothing more to give.
        if server.ejected or not server.owns:
            break_upstream(core, upstream, b"is no master any more")
    elif since <= server.succeeded_at and core.now >= server.succeeded_at + SUCCESSION:
        break_upstream(core, upstream, REPLACED)
    elif cluster.read_timeout and core.now - since >= cluster.read_timeout:
        cluster.timeouts += 1
        snprintf(
            why, sizeof(why), b"no answer within %lld ms",
            <long long>(cluster.read_timeout // 1_000_000))
        break_upstream(core, upstream, why)
    elif cluster.write_timeout and core.now - upstream.conn.wrote >= cluster.write_timeout \
            and upstream.conn.sent < upstream.conn.output.origin + upstream.conn.output.end:
        cluster.timeouts += 1
        snprintf(
            why, sizeof(why), b"took nothing for %lld ms",
            <long long>(cluster.write_timeout // 1_000_000))
        break_upstream(core, upstream, why)
    elif server.ejected:
        break_upstream(core, upstream, b"fails its pings")
    elif since <= server.succeeded_at:
        core.sweep_at = min(core.sweep_at, server.succeeded_at + SUCCESSION)
    elif core.now - since >= SILENCE:
        want_refresh(cluster, REFRESH_SILENCE)      # it may have been replaced
