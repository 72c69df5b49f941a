"""What each request of a session becomes: forwarded whole, split, answered here, or refused.

This is the deciding half of a turn for sessions. It runs without the GIL; only commands answered
by Python code (``proxy.answers``) and error texts that quote the request take it.
"""

from cpython.ref cimport Py_INCREF
from libc.stdint cimport int64_t, uint16_t
from libc.stdio cimport snprintf
from libc.stdlib cimport free
from libc.string cimport memset, strlen

from proxy.buffers cimport BLOCK_SIZE, Buffer, append, length, release, resize, take_over
from proxy.command_table cimport (
    LOCAL_DISCARD, LOCAL_ECHO, LOCAL_EXEC, LOCAL_MULTI, LOCAL_PING, LOCAL_PUBLISH, LOCAL_QUIT,
    LOCAL_RESET, LOCAL_SUBSCRIBE, LOCAL_UNPAUSE, LOCAL_UNSUBSCRIBE, LOCAL_WATCH, NO_COMMAND, PLAN_ANY,
    PLAN_FANOUT, PLAN_LOCAL, PLAN_PIN, PLAN_REFUSE, PLAN_SPLIT, PLAN_TRANSACTION, CommandEntry, CommandIndex,
    fill_index, find_command, is_word,
)
from proxy.memory cimport count_kept, count_scan, has_room
from proxy.model cimport (
    AWAITED, BLOCKING, CLOSING, ENDED, FAILED, LEAVING, LINGERING, NO_COMMAND_ID, NO_SLOT, PAUSED,
    READONLY, REPLICA, REPLIES_ON, REPLIES_SKIP, Core, Request, Server, Session, Upstream,
)
from proxy.pins cimport has_pins_left
from proxy.reactor cimport resume_reading
from proxy.replies cimport CROSSSLOT, OK, TOO_MANY_PINS
from proxy.requests cimport new_request
from proxy.resp cimport (
    SCAN_DONE, SCAN_ERROR, SCAN_INLINE, SCAN_MORE, RequestScan, ScanStatus, Span,
    free_request, read_number, reset_request, scan_request,
)
from proxy.routing cimport owner_of, route
from proxy.sessions cimport (
    answered, close_session, end_transaction, enqueue, respond, say_goodbye, unread,
    waits_no_more,
)
from proxy.slots cimport key_slot
from proxy.split cimport (
    add_part, begin_split, new_split, scatter_close, scatter_keys, scatter_open, write_part,
)
from proxy.transactions cimport (
    add_to_transaction, begin_transaction, discard_transaction, execute_transaction, reject, watch_keys,
)
from proxy.upstreams cimport begin_request, end_request, give, unwatch

import logging

from functools import partial

from proxy.fanout import Fanout
from proxy.pubsub import SUBSCRIPTION_SIZE
from proxy.reply import INTERNAL_ERROR, error
from proxy.resp import fault_text, split_inline

log = logging.getLogger("proxy.dispatch")

# A browser that was tricked into talking to us says these. As in Redis, what follows is not looked at.
HTTP_WORDS = (b"post", b"host:")

cdef enum:
    QUOTED_ARGS = 44            # of a refused request, for the error's text
    QUOTED_BYTES = 128
    LARGE_REQUEST = 262144      # bytes from which a request is handed on without copying, if it can be
    PUBSUB_SLOT = 0             # whose server all channels and patterns are at; see proxy.pubsub
    IDLE_ARGS = 16              # arguments that an idle session keeps room for

cdef size_t SUBSCRIPTION = SUBSCRIPTION_SIZE

cdef const char *UNBALANCED = b"-ERR Protocol error: unbalanced quotes in request\r\n"
cdef const char *PONG = b"+PONG\r\n"
cdef const char *NOAUTH = b"-NOAUTH Authentication required.\r\n"
cdef const char *FULL = b"-OOM command not allowed: the proxy has reached its memory_limit\r\n"
cdef const char *PING_FIRST = b"*1\r\n$4\r\nPING\r\n"


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

    cdef str command_name(self, uint16_t id):
        return self.commands.entries[id].name[:self.commands.entries[id].name_length].decode()

    cdef bint _may_go_on(self, Session *session) noexcept nogil:
        """Whether a session's next request may be looked at.

        Not while anything of it waits to be sent again, and not before all that was routed by an
        older topology has been answered: so its commands on a key are executed in their order.
        """
        cdef Core *core = &self.core
        if session.parked or session.blocked != NULL or unread(session) >= core.limits.output_pause:
            return False
        return session.queued == 0 or (
            session.epoch == session.cluster.epoch
            and session.queued < core.limits.pipeline
            and session.request_bytes < core.limits.pipeline_bytes)

    cdef bint _is_over(self, Session *session) noexcept nogil:
        """Whether the drain ends a session now: all that has come is answered, and just now if may be."""
        cdef Core *core = &self.core
        cdef bint midway = session.transaction != NULL or session.pin != NULL
        return core.draining and session.queued == 0 and not session.conn.flags & PAUSED \
            and (session.conn.flags & LEAVING and not midway or core.now >= core.drain_until)

    cdef void serve(self, Session *session) noexcept nogil:
        """Takes every request that has come and may be taken; ends the session if it is over."""
        cdef Core *core = &self.core
        cdef Buffer *input = &session.conn.input
        if session.conn.flags & FAILED or session.conn.flags & ENDED and (
                session.conn.flags & LINGERING or session.blocked != NULL):
            close_session(core, session)
            return
        if session.conn.flags & LINGERING:
            release(input, &core.pool)
            return
        while length(input) and not session.conn.flags & CLOSING:
            if not self._may_go_on(session):
                # A client that blocks is still listened to, so that its end is noticed.
                if session.blocked == NULL or length(input) >= BLOCK_SIZE:
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
                count_scan(core, session)
            if session.conn.flags & PAUSED:
                resume_reading(core, &session.conn)

    cdef bint _next(self, Session *session) noexcept nogil:
        """Takes one request off the input; False when there is none that can be taken now."""
        cdef Core *core = &self.core
        cdef Buffer *input = &session.conn.input
        cdef const char *data = input.data + input.start
        cdef RequestScan *scan = &session.scan
        cdef ScanStatus status
        cdef bint skipped = session.replies == REPLIES_SKIP
        session.muted = session.replies != REPLIES_ON
        if session.queued == 0:
            session.epoch = session.cluster.epoch
        status = scan_request(scan, data, length(input), &core.limits.request)
        if scan.capacity > IDLE_ARGS:
            count_scan(core, session)
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
        if skipped and session.replies == REPLIES_SKIP and status in (SCAN_DONE, SCAN_INLINE):
            session.replies = REPLIES_ON
        input.start += scan.position
        reset_request(scan)
        if session.scanned:
            count_scan(core, session)
        return True

    cdef void _malformed(self, Session *session) noexcept with gil:
        session.cluster.protocol_errors += 1
        session.conn.flags |= CLOSING
        text = error(b"Protocol error: " + fault_text(
            session.scan.fault, bytes([<unsigned char>session.scan.offender])))
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
            elif entry.plan != PLAN_LOCAL and entry.plan != PLAN_FANOUT and entry.plan != PLAN_ANY:
                self._refuse(session, id, UNKNOWN_SUBCOMMAND, data, scan)
                return True
        if entry.plan != PLAN_REFUSE and (
                (scan.count != entry.arity) if entry.arity >= 0 else (scan.count < -entry.arity)):
            self._refuse(session, id, WRONG_ARITY, data, scan)
            return True
        if not session.authenticated and session.cluster.protected and not entry.without_auth:
            reject(&self.core, session, id, NOAUTH)
            return True
        if session.cluster.denied[id]:
            self._refuse(session, id, DENIED, data, scan)
            return True
        if self.core.full and entry.plan != PLAN_LOCAL and entry.plan != PLAN_TRANSACTION:
            session.cluster.turned_away += 1
            reject(&self.core, session, id, FULL)
            return True
        if session.cluster.paused and self._is_held(session, entry):
            session.postponed = True
            return False
        if session.postponed:
            session.postponed = False
            waits_no_more(session)
        if session.subscribed and session.protocol == 2 and not entry.in_subscription:
            self._refuse(session, id, SUBSCRIBED, data, scan)
            return True
        session.command = id
        if entry.plan == PLAN_TRANSACTION:
            return self._transact(session, id, data, scan)
        if entry.plan == PLAN_REFUSE:
            self._refuse(session, id, NOT_SUPPORTED, data, scan)
        elif session.transaction != NULL and entry.local != LOCAL_RESET and entry.local != LOCAL_QUIT:
            add_to_transaction(
                &self.core, session, id, entry, self._slot(id, data, scan), data, scan.position)
        elif entry.plan == PLAN_LOCAL or entry.plan == PLAN_FANOUT:
            return self._local(session, id, data, scan)
        elif entry.plan == PLAN_SPLIT:
            self._split(session, id, data, scan)
        elif entry.plan == PLAN_ANY:
            self._whole(session, id, NO_SLOT, data, scan)
        elif entry.plan == PLAN_PIN:
            return self._block(session, id, data, scan)
        else:
            self._forward(session, id, data, scan)
        return True

    cdef bint _is_held(self, Session *session, const CommandEntry *entry) noexcept nogil:
        """Whether CLIENT PAUSE has this command wait."""
        if entry.local == LOCAL_UNPAUSE:
            return False
        return not session.cluster.writes_paused or entry.may_replicate or (
            entry.local == LOCAL_EXEC and session.transaction != NULL and session.transaction.writes)

    cdef bint _local(
            self, Session *session, uint16_t id, const char *data, RequestScan *scan) noexcept nogil:
        cdef const CommandEntry *entry = &self.commands.entries[id]
        cdef char header[32]
        cdef Buffer reply
        if entry.waits and session.queued:
            return False
        if entry.local == LOCAL_SUBSCRIBE and not has_room(&self.core, scan.count * SUBSCRIPTION):
            session.cluster.turned_away += 1
            reject(&self.core, session, id, FULL)
        elif entry.local == LOCAL_PUBLISH and not session.cluster.subscribed[0]:
            self._whole(
                session, id, key_slot(data + scan.args[1].offset, scan.args[1].size)
                if entry.first else <uint16_t>PUBSUB_SLOT, data, scan)
        elif entry.local == LOCAL_PING and session.subscribed:
            self._answer(session, id, data, scan)
        elif entry.local == LOCAL_PING and scan.count == 1:
            respond(&self.core, session, id, PONG, strlen(PONG))
        elif (entry.local == LOCAL_PING or entry.local == LOCAL_ECHO) and scan.count == 2:
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
        cdef Core *core = &self.core
        cdef int i
        try:
            client = self.client_of(session)
            client.replies = session.replies
            answer = self.owner.answer(client, session.cluster.index, [
                data[scan.args[i].offset:scan.args[i].offset + scan.args[i].size]
                for i in range(scan.count)])
            session.protocol = client.protocol
            session.authenticated = client.authenticated
            session.replies = client.replies
            session.muted = session.replies != REPLIES_ON \
                and self.commands.entries[id].local != LOCAL_SUBSCRIBE \
                and self.commands.entries[id].local != LOCAL_UNSUBSCRIBE
            if client.closing:
                session.conn.flags |= CLOSING
            if self.commands.entries[id].local == LOCAL_RESET:
                end_transaction(core, session)
                unwatch(core, session)
            if isinstance(answer, bytes):
                if answer:
                    respond(core, session, id, answer, len(answer))
            elif isinstance(answer, Fanout):
                if answer.blocking and not self._may_pin(session, answer):
                    respond(core, session, id, TOO_MANY_PINS, strlen(TOO_MANY_PINS))
                else:
                    self._fan_out(session, id, answer)
            else:
                self._await(session, id, answer)
            session.subscribed = client.subscriptions > 0
            count_kept(core, session, client.kept)
        except Exception:
            log.exception("a command answered here failed")
            respond(core, session, id, INTERNAL_ERROR, len(INTERNAL_ERROR))

    cdef object client_of(self, Session *session):
        """What Python code knows of a session; made when it is first needed."""
        if session.client == NULL:
            client = self.owner.client(
                session.id, session.conn.fd, session.cluster.index, session.opened / 1e9)
            client.authenticated = session.authenticated
            Py_INCREF(client)
            session.client = <void *>client
            (<dict>self.core.clients)[session.id] = <size_t>session
        return <object>session.client

    cdef void _await(self, Session *session, uint16_t id, object pending):
        """Keeps the command's place among the replies until Python code answers it."""
        cdef Core *core = &self.core
        cdef Request *request = new_request(core, session, id)
        request.state = AWAITED
        core.tokens += 1
        request.position = core.tokens
        (<dict>core.awaited)[request.position] = <size_t>request
        enqueue(session, request)
        pending.start(partial(self.complete, request.position))

    def complete(self, token, bytes reply) -> None:
        """Answers a command that was left open; one whose client has gone is forgotten."""
        cdef Session *session
        address = (<dict>self.core.awaited).pop(token, None)
        if address is not None:
            session = (<Request *><size_t>address).session
            client = self.client_of(session)
            session.subscribed = client.subscriptions > 0
            count_kept(&self.core, session, client.kept)
            answered(&self.core, <Request *><size_t>address, reply, len(reply))

    cdef bint _may_pin(self, Session *session, object fanout):
        """Whether every part can have a connection of its own."""
        cdef Server *server
        for slot, _ in fanout.parts:
            server = owner_of(session, slot)
            if server != NULL and not has_pins_left(server):
                return False
        return True

    cdef void _fan_out(self, Session *session, uint16_t id, object fanout):
        """Sends a command's parts to the owners of their slots."""
        cdef Request *whole = new_request(&self.core, session, id)
        enqueue(session, whole)
        self._send_parts(whole, fanout)

    cdef void _send_parts(self, Request *whole, object fanout):
        cdef Core *core = &self.core
        cdef Session *session = whole.session
        cdef Request *part
        cdef bint blocking = fanout.blocking
        new_split(whole)
        Py_INCREF(fanout.merge)
        whole.split.combine = <void *>fanout.merge
        if blocking:
            whole.flags |= BLOCKING
            session.blocked = whole
        for slot, request in fanout.parts:
            part = new_request(core, session, whole.command)
            part.slot = slot
            if fanout.readonly:
                part.flags |= READONLY
            if blocking:
                # What a server waits for is what it knows of by the last command of the connection.
                part.flags |= BLOCKING
                part.preface = 1
                request = PING_FIRST + request
            add_part(whole, part)
            give(core, route(core, session, part), part, request, len(request))

    cdef void _go_on(self) noexcept with gil:
        """Sends the next parts of commands whose last ones have led to more."""
        further = <list>self.core.further
        while further:
            token, fanout = further.pop()
            address = (<dict>self.core.awaited).pop(token, None)
            if address is not None:
                self._send_parts(<Request *><size_t>address, fanout)

    cdef void _refuse(
            self, Session *session, uint16_t id, Verdict verdict, const char *data,
            RequestScan *scan) noexcept with gil:
        """Answers with an error that quotes the request."""
        cdef int i
        cdef size_t size
        if session.transaction != NULL:
            session.transaction.aborted = True
            if self.commands.entries[id].local == LOCAL_EXEC:
                end_transaction(&self.core, session)
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
            reply = INTERNAL_ERROR
        respond(&self.core, session, id, reply, len(reply))

    # --- by the slot of its keys -------------------------------------------------------------

    cdef int _slot(self, uint16_t id, const char *data, RequestScan *scan) noexcept nogil:
        """The slot of a command's keys; NO_SLOT if it has none, -1 if they lie in several."""
        cdef const CommandEntry *entry = &self.commands.entries[id]
        cdef const Span *args = scan.args
        cdef int first = entry.first, last = entry.last, step = entry.step, i
        cdef int slot = NO_SLOT
        cdef int64_t keys
        cdef bint valid = False
        if entry.keyword_length:
            i = entry.start
            while i < scan.count and not is_word(
                    data + args[i].offset, args[i].size, entry.keyword, entry.keyword_length):
                i += 1
            first = i + 1
            last = i + (scan.count - 1 - i) // 2
            step = 1
        elif entry.keynum and entry.keynum < scan.count:
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
                return -1
            i += step
        return slot

    cdef void _forward(
            self, Session *session, uint16_t id, const char *data, RequestScan *scan) noexcept nogil:
        """Sends a command to the server of its keys, which must all lie in one slot."""
        cdef int slot = self._slot(id, data, scan)
        if slot < 0:
            respond(&self.core, session, id, CROSSSLOT, strlen(CROSSSLOT))
        else:
            self._whole(session, id, <uint16_t>slot, data, scan)

    cdef void _whole(
            self, Session *session, uint16_t id, uint16_t slot, const char *data,
            RequestScan *scan) noexcept nogil:
        """Sends a request as it is."""
        cdef Core *core = &self.core
        cdef Request *request = new_request(core, session, id)
        cdef Upstream *upstream
        cdef Buffer *input = &session.conn.input
        cdef Buffer *output
        request.slot = slot
        if self.commands.entries[id].readonly:
            request.flags |= READONLY
            if slot != NO_SLOT:
                request.flags |= REPLICA
        enqueue(session, request)
        upstream = route(core, session, request)
        if upstream != NULL:
            output = begin_request(core, upstream, request)
            if scan.position >= LARGE_REQUEST and output.data == NULL \
                    and data == input.data + input.start and scan.position == length(input):
                take_over(output, input)
                scan.position = 0       # nothing of it is left in the input
            else:
                append(output, &core.pool, data, scan.position)
            end_request(core, upstream, request)
        else:
            give(core, NULL, request, data, scan.position)

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
        begin_split(whole, entry.merge, &self.scatter, keys)
        enqueue(session, whole)
        memset(&loose, 0, sizeof(loose))
        for i in range(parts):
            part = new_request(core, session, id)
            part.slot = self.scatter.slot[i]
            if entry.readonly:
                part.flags |= READONLY | REPLICA
            add_part(whole, part)
            upstream = route(core, session, part)
            if upstream != NULL:
                write_part(
                    &self.scatter, i, begin_request(core, upstream, part), &core.pool,
                    data, scan.args, first, step)
                end_request(core, upstream, part)
            else:
                write_part(&self.scatter, i, &loose, &core.pool, data, scan.args, first, step)
                give(core, NULL, part, loose.data, length(&loose))
                loose.end = loose.start
        release(&loose, &core.pool)

    # --- on a connection of the session's own ------------------------------------------------

    cdef bint _block(
            self, Session *session, uint16_t id, const char *data, RequestScan *scan) noexcept nogil:
        """Sends a command that may wait; nothing else of the session is done meanwhile."""
        cdef Core *core = &self.core
        cdef const CommandEntry *entry = &self.commands.entries[id]
        cdef const Span *args = scan.args
        cdef int i = entry.start, slot
        cdef Request *request
        cdef Server *server
        if entry.keyword_length:
            # XREAD waits only when it is asked to.
            while i < scan.count and not is_word(data + args[i].offset, args[i].size, b"BLOCK", 5):
                if is_word(data + args[i].offset, args[i].size, entry.keyword, entry.keyword_length):
                    i = scan.count
                i += 1
            if i >= scan.count:
                self._forward(session, id, data, scan)
                return True
        if session.queued:
            return False
        slot = self._slot(id, data, scan)
        if slot < 0:
            respond(core, session, id, CROSSSLOT, strlen(CROSSSLOT))
            return True
        server = owner_of(session, <uint16_t>slot)
        if server != NULL and not has_pins_left(server):
            respond(core, session, id, TOO_MANY_PINS, strlen(TOO_MANY_PINS))
            return True
        request = new_request(core, session, id)
        request.slot = <uint16_t>slot
        request.flags |= BLOCKING
        if entry.readonly:
            request.flags |= READONLY
        enqueue(session, request)
        session.blocked = request
        give(core, route(core, session, request), request, data, scan.position)
        return True

    # --- transactions ------------------------------------------------------------------------

    cdef bint _transact(
            self, Session *session, uint16_t id, const char *data, RequestScan *scan) noexcept nogil:
        """MULTI, EXEC, DISCARD, WATCH and UNWATCH; False if it must wait for what came before."""
        cdef Core *core = &self.core
        cdef const CommandEntry *entry = &self.commands.entries[id]
        # A pin must be free before others may have it, and what is watched is watched before it is read.
        if session.queued and (session.pin != NULL or entry.local == LOCAL_WATCH):
            return False
        if entry.local == LOCAL_MULTI:
            begin_transaction(core, session, id)
        elif entry.local == LOCAL_EXEC:
            execute_transaction(core, session, id)
        elif entry.local == LOCAL_DISCARD:
            discard_transaction(core, session, id)
        elif entry.local == LOCAL_WATCH:
            watch_keys(core, session, id, self._slot(id, data, scan), data, scan.position)
        elif session.transaction != NULL:
            add_to_transaction(core, session, id, entry, NO_SLOT, data, scan.position)
        else:
            unwatch(core, session)
            respond(core, session, id, OK, strlen(OK))
        return True
