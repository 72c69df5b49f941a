"""What each request of a session becomes: forwarded whole, split, answered here, or refused.

This is the deciding half of a turn for sessions. It runs without the GIL; only commands answered
by Python code (``proxy.answers``) and error texts that quote the request take it.
"""

from cpython.ref cimport Py_INCREF
from libc.stdint cimport int64_t, uint16_t, uint32_t
from libc.stdio cimport snprintf
from libc.stdlib cimport free
from libc.string cimport memset, strlen

from proxy.buffers cimport Buffer, append, length, release, resize, take_over
from proxy.command_table cimport (
    LOCAL_PING, LOCAL_PYTHON, NO_COMMAND, PLAN_ANY, PLAN_FORWARD, PLAN_LOCAL,
    PLAN_REFUSE, PLAN_SPLIT, CommandEntry, CommandIndex, fill_index, find_command,
)
from proxy.model cimport (
    CLOSING, ENDED, FAILED, LEAVING, LINGERING, NO_COMMAND_ID, NO_SERVER, NO_SLOT, PAUSED, READONLY,
    REFRESH_UNSERVED, SPLIT, Cluster, Core, Request, Server, Session, Upstream,
)
from proxy.reactor cimport resume_reading
from proxy.requests cimport new_request
from proxy.resp cimport (
    SCAN_DONE, SCAN_ERROR, SCAN_INLINE, SCAN_MORE, RequestScan, ScanStatus, Span,
    free_request, read_number, reset_request, scan_request,
)
from proxy.sessions cimport close_session, enqueue, park, respond, say_goodbye, unread
from proxy.slots cimport key_slot
from proxy.split cimport (
    add_part, begin_split, scatter_close, scatter_keys, scatter_open, write_part,
)
from proxy.upstreams cimport begin_request, end_request, upstream_for, usable, want_refresh

import logging

from proxy.resp import fault_text, split_inline

log = logging.getLogger("proxy.dispatch")

# A browser that was tricked into talking to us says these. As in Redis, what follows is not looked at.
HTTP_WORDS = (b"post", b"host:")

cdef enum:
    QUOTED_ARGS = 44            # of a refused request, for the error's text
    QUOTED_BYTES = 128
    LARGE_REQUEST = 262144      # bytes from which a request is handed on without copying, if it can be
    IDLE_ARGS = 16              # arguments that an idle session keeps room for

cdef const char *CROSSSLOT = b"-CROSSSLOT Keys in request don't hash to the same slot\r\n"
cdef const char *UNBALANCED = b"-ERR Protocol error: unbalanced quotes in request\r\n"
cdef const char *PONG = b"+PONG\r\n"


cdef Server *server_for(Session *session, uint16_t slot) noexcept nogil:
    """The server that owns the slot; for a request without key, the same one for a session."""
    cdef Cluster *cluster = session.cluster
    cdef uint16_t owner
    cdef uint32_t tried = 0
    if slot != NO_SLOT:
        owner = cluster.owners[slot]
        return NULL if owner == NO_SERVER else cluster.servers[owner]
    while tried < cluster.server_count:
        owner = <uint16_t>((session.id + tried) % cluster.server_count)
        if cluster.servers[owner].owns and not cluster.servers[owner].ejected:
            return cluster.servers[owner]
        tried += 1
    return NULL


cdef class Dispatcher:
    """The deciding half of a worker for its sessions."""

    def __cinit__(self):
        self.commands = <CommandIndex *>resize(NULL, sizeof(CommandIndex))
        scatter_open(&self.scatter)

    def __dealloc__(self):
        free(self.commands)
        scatter_close(&self.scatter)

    def set_commands(self, table) -> None:
        """Takes a ``proxy.commands.CommandTable``; ids of commands never change."""
        fill_index(self.commands, table)

    cdef bint _may_go_on(self, Session *session) noexcept nogil:
        """Whether a session's next request may be looked at.

        Not while anything of it waits to be sent again, and not before all that was routed by an
        older topology has been answered: so its commands on a key are executed in their order.
        """
        cdef Core *core = &self.core
        if session.parked or unread(session) >= core.limits.output_pause:
            return False
        return session.queued == 0 or (
            session.epoch == session.cluster.epoch
            and session.queued < core.limits.pipeline
            and session.request_bytes < core.limits.pipeline_bytes)

    cdef bint _is_over(self, Session *session) noexcept nogil:
        """Whether the drain ends a session now: all that has come is answered, and just now if may be."""
        cdef Core *core = &self.core
        return core.draining and session.queued == 0 and not session.conn.flags & PAUSED \
            and (session.conn.flags & LEAVING or core.now >= core.drain_until)

    cdef void serve(self, Session *session) noexcept nogil:
        """Takes every request that has come and may be taken; ends the session if it is over."""
        cdef Core *core = &self.core
        cdef Buffer *input = &session.conn.input
        if session.conn.flags & FAILED or session.conn.flags & LINGERING and session.conn.flags & ENDED:
            close_session(core, session)
            return
        if session.conn.flags & LINGERING:
            release(input, &core.pool)
            return
        while length(input) and not session.conn.flags & CLOSING:
            if not self._may_go_on(session):
                session.conn.flags |= PAUSED
                break
            if not self._next(session):
                break
        if session.conn.flags & ENDED and length(input) == 0 or self._is_over(session):
            session.conn.flags |= CLOSING
        if session.conn.flags & CLOSING:
            release(input, &core.pool)
            session.conn.flags |= PAUSED
            if session.queued == 0 and length(&session.conn.output) == 0:
                if session.conn.flags & ENDED:
                    close_session(core, session)
                else:
                    say_goodbye(core, session)
        elif length(input) == 0:
            release(input, &core.pool)
            if session.scan.capacity > IDLE_ARGS:
                free_request(&session.scan)
            if session.conn.flags & PAUSED:
                resume_reading(core, &session.conn)

    cdef bint _next(self, Session *session) noexcept nogil:
        """Takes one request off the input; False when there is none that can be taken now."""
        cdef Core *core = &self.core
        cdef Buffer *input = &session.conn.input
        cdef const char *data = input.data + input.start
        cdef RequestScan *scan = &session.scan
        cdef ScanStatus status
        if session.queued == 0:
            session.epoch = session.cluster.epoch
        status = scan_request(scan, data, length(input), &core.limits.request)
        if status == SCAN_MORE:
            session.conn.wanted = scan.needed
            if session.conn.flags & ENDED:
                session.conn.flags |= CLOSING       # the rest of it will never come
            elif session.conn.flags & PAUSED:
                resume_reading(core, &session.conn)
            return False
        session.conn.wanted = 0
        if status == SCAN_ERROR:
            self._malformed(session)
            return False
        if status == SCAN_DONE:
            if not self._command(session, data, scan):
                session.conn.flags |= PAUSED
                return False
        elif status == SCAN_INLINE:
            if not self._inline(session, data, scan.position):
                session.conn.flags |= PAUSED
                return False
        input.start += scan.position
        reset_request(scan)
        return True

    cdef void _malformed(self, Session *session) noexcept with gil:
        session.cluster.protocol_errors += 1
        session.conn.flags |= CLOSING
        text = b"-ERR Protocol error: %b\r\n" % fault_text(
            session.scan.fault, bytes([<unsigned char>session.scan.offender]))
        respond(&self.core, session, NO_COMMAND_ID, text, len(text))

    cdef bint _inline(self, Session *session, const char *line, size_t size) noexcept with gil:
        """Makes an array of an inline command, and goes on with that."""
        cdef RequestScan scan
        cdef bint taken
        memset(&scan, 0, sizeof(scan))
        args = split_inline(line[:size])
        if args is None:
            session.cluster.protocol_errors += 1
            session.conn.flags |= CLOSING
            respond(&self.core, session, NO_COMMAND_ID, UNBALANCED, strlen(UNBALANCED))
            return True
        if not args:
            return True
        packed = b"*%d\r\n" % len(args) + b"".join(
            [b"$%d\r\n%b\r\n" % (len(arg), arg) for arg in args])
        scan_request(&scan, packed, len(packed), &self.core.limits.request)
        taken = self._command(session, packed, &scan)
        free_request(&scan)
        return taken

    cdef bint _command(self, Session *session, const char *data, RequestScan *scan) noexcept nogil:
        """Carries a request out by its plan; False if it must wait for those before it."""
        cdef const Span *args = scan.args
        cdef const CommandEntry *entry
        cdef uint16_t id, sub
        id = find_command(self.commands, data + args[0].offset, args[0].size, NULL, 0)
        if id == NO_COMMAND:
            self._refuse(session, NO_COMMAND_ID, UNKNOWN_COMMAND, data, scan)
            return True
        entry = &self.commands.entries[id]
        if entry.container and scan.count > 1:
            sub = find_command(
                self.commands, data + args[0].offset, args[0].size,
                data + args[1].offset, args[1].size)
            if sub != NO_COMMAND:
                id = sub
                entry = &self.commands.entries[id]
            elif entry.plan == PLAN_FORWARD or entry.plan == PLAN_REFUSE:
                self._refuse(session, id, UNKNOWN_SUBCOMMAND, data, scan)
                return True
        if entry.plan == PLAN_LOCAL:
            return self._local(session, id, data, scan)
        if entry.plan == PLAN_REFUSE:
            self._refuse(session, id, NOT_SUPPORTED, data, scan)
        elif (scan.count != entry.arity) if entry.arity >= 0 else (scan.count < -entry.arity):
            self._refuse(session, id, WRONG_ARITY, data, scan)
        elif entry.plan == PLAN_SPLIT:
            self._split(session, id, data, scan)
        elif entry.plan == PLAN_ANY:
            self._whole(session, id, NO_SLOT, data, scan)
        else:
            self._forward(session, id, data, scan)
        return True

    cdef bint _local(
            self, Session *session, uint16_t id, const char *data, RequestScan *scan) noexcept nogil:
        cdef const CommandEntry *entry = &self.commands.entries[id]
        cdef char header[32]
        cdef Buffer reply
        if entry.waits and session.queued:
            return False
        if entry.local == LOCAL_PING and scan.count == 1:
            respond(&self.core, session, id, PONG, strlen(PONG))
        elif entry.local != LOCAL_PYTHON and scan.count == 2:
            memset(&reply, 0, sizeof(reply))
            append(&reply, &self.core.pool, header, snprintf(
                header, sizeof(header), b"$%u\r\n", scan.args[1].size))
            append(&reply, &self.core.pool, data + scan.args[1].offset, scan.args[1].size + 2)
            respond(&self.core, session, id, reply.data, length(&reply))
            release(&reply, &self.core.pool)
        else:
            self._answer(session, id, data, scan)
        return True

    cdef void _answer(
            self, Session *session, uint16_t id, const char *data, RequestScan *scan) noexcept with gil:
        """Has Python answer; what it knows of the session is kept with the session."""
        cdef int i
        try:
            if session.client == NULL:
                client = self.owner.client(session.id, session.conn.fd, session.cluster.index)
                Py_INCREF(client)
                session.client = <void *>client
            client = <object>session.client
            reply = self.owner.answer(client, session.cluster.index, [
                data[scan.args[i].offset:scan.args[i].offset + scan.args[i].size]
                for i in range(scan.count)])
            session.protocol = client.protocol
            if client.closing:
                session.conn.flags |= CLOSING
        except Exception:
            log.exception("a command answered here failed")
            reply = b"-ERR internal error of the proxy; its log says more\r\n"
        respond(&self.core, session, id, reply, len(reply))

    cdef void _refuse(
            self, Session *session, uint16_t id, Verdict verdict, const char *data,
            RequestScan *scan) noexcept with gil:
        """Answers with an error that quotes the request."""
        cdef int i
        cdef size_t size
        args = []
        for i in range(scan.count if scan.count < QUOTED_ARGS else <int>QUOTED_ARGS):
            size = scan.args[i].size if scan.args[i].size < QUOTED_BYTES else QUOTED_BYTES
            args.append(data[scan.args[i].offset:scan.args[i].offset + size])
        if verdict == UNKNOWN_COMMAND and args[0].lower() in HTTP_WORDS:
            session.conn.flags |= CLOSING
            return
        try:
            reply = self.owner.refuse(<int>verdict, id, args)
        except Exception:
            log.exception("refusing a command failed")
            reply = b"-ERR internal error of the proxy; its log says more\r\n"
        respond(&self.core, session, id, reply, len(reply))

    cdef void _forward(
            self, Session *session, uint16_t id, const char *data, RequestScan *scan) noexcept nogil:
        """Sends a command to the server of its keys, which must all lie in one slot."""
        cdef const CommandEntry *entry = &self.commands.entries[id]
        cdef const Span *args = scan.args
        cdef int first = entry.first, last = entry.last, step = entry.step, i
        cdef uint16_t slot = NO_SLOT
        cdef int64_t keys
        cdef bint valid = False
        if entry.keynum and entry.keynum < scan.count:
            if 0 < first < entry.keynum:
                slot = key_slot(data + args[first].offset, args[first].size)
            keys = read_number(data + args[entry.keynum].offset, args[entry.keynum].size, &valid)
            first = entry.keynum + 1
            # A count that cannot be right is for the server to complain of.
            last = first - 1 + (<int>keys if valid and 0 < keys < scan.count - entry.keynum else 0)
            step = 1
        elif last < 0:
            last += scan.count
        if last >= scan.count:
            last = scan.count - 1
        i = first
        while 0 < i <= last:
            if slot == NO_SLOT:
                slot = key_slot(data + args[i].offset, args[i].size)
            elif slot != key_slot(data + args[i].offset, args[i].size):
                respond(&self.core, session, id, CROSSSLOT, strlen(CROSSSLOT))
                return
            i += step
        self._whole(session, id, slot, data, scan)

    cdef void _whole(
            self, Session *session, uint16_t id, uint16_t slot, const char *data,
            RequestScan *scan) noexcept nogil:
        """Sends a request as it is."""
        cdef Core *core = &self.core
        cdef Request *request = new_request(core, session, id)
        cdef Server *server = server_for(session, slot)
        cdef Upstream *upstream = NULL
        cdef Buffer *input = &session.conn.input
        cdef Buffer *output
        request.slot = slot
        if self.commands.entries[id].readonly:
            request.flags |= READONLY
        enqueue(session, request)
        if server != NULL:
            upstream = upstream_for(server, session.protocol, session.id)
        if upstream != NULL and usable(core, upstream):
            output = begin_request(core, upstream, request)
            if scan.position >= LARGE_REQUEST and output.data == NULL \
                    and data == input.data + input.start and scan.position == length(input):
                take_over(output, input)
                scan.position = 0       # nothing of it is left in the input
            else:
                append(output, &core.pool, data, scan.position)
            end_request(core, upstream, request)
        else:
            want_refresh(session.cluster, REFRESH_UNSERVED)
            park(core, request, data, scan.position)

    cdef void _split(
            self, Session *session, uint16_t id, const char *data, RequestScan *scan) noexcept nogil:
        """Sends a multi-key command in parts, one for each slot; whole if there is just one."""
        cdef Core *core = &self.core
        cdef const CommandEntry *entry = &self.commands.entries[id]
        cdef int first = entry.first, step = entry.step
        cdef int keys = (scan.count - first) // step
        cdef int parts, i
        cdef Request *whole
        cdef Request *part
        cdef Server *server
        cdef Upstream *upstream
        cdef Buffer loose
        if (scan.count - first) % step:
            self._refuse(session, id, WRONG_ARITY, data, scan)
            return
        parts = scatter_keys(&self.scatter, data, scan.args, first, keys, step)
        if parts == 1:
            self._whole(session, id, self.scatter.slot[0], data, scan)
            return
        whole = new_request(core, session, id)
        whole.state = SPLIT
        begin_split(whole, entry.merge, &self.scatter, keys)
        enqueue(session, whole)
        memset(&loose, 0, sizeof(loose))
        for i in range(parts):
            part = new_request(core, session, id)
            part.slot = self.scatter.slot[i]
            if entry.readonly:
                part.flags |= READONLY
            add_part(whole, part)
            server = server_for(session, part.slot)
            upstream = upstream_for(server, session.protocol, session.id) if server != NULL else NULL
            if upstream != NULL and usable(core, upstream):
                write_part(
                    &self.scatter, i, begin_request(core, upstream, part), &core.pool,
                    data, scan.args, first, step)
                end_request(core, upstream, part)
            else:
                want_refresh(session.cluster, REFRESH_UNSERVED)
                write_part(&self.scatter, i, &loose, &core.pool, data, scan.args, first, step)
                park(core, part, loose.data, length(&loose))
                loose.end = loose.start
        release(&loose, &core.pool)
