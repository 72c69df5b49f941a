"""Transactions: what MULTI begins is gathered here and sent whole at EXEC.

MULTI, the queued commands and EXEC go to the server as one request, in one stretch of a
connection's bytes, so no other session's command can come between them and no connection is taken
up meanwhile. If the server refuses to queue one of them, it discards the transaction: nothing of it
has been executed, and it may be sent again elsewhere. Only WATCH needs a connection of its own; when that
is lost, or its keys have moved, EXEC fails as if they had been changed.
Source: https://redis.io/docs/latest/develop/using-commands/transactions/
"""

from libc.stdint cimport uint16_t
from libc.string cimport memset, strlen

from proxy.buffers cimport append, length, resize
from proxy.command_table cimport PLAN_LOCAL, CommandEntry
from proxy.model cimport (
    EXEC, NO_SLOT, READONLY, WATCH, Core, Request, Server, Session, Transaction,
)
from proxy.pins cimport has_pins_left, lease
from proxy.replies cimport CROSSSLOT, OK, TOO_MANY_PINS, null_array
from proxy.requests cimport new_request
from proxy.routing cimport owner_of, route
from proxy.servers cimport usable
from proxy.sessions cimport end_transaction, enqueue, respond
from proxy.upstreams cimport give, unwatch

cdef const char *MULTI = b"*1\r\n$5\r\nMULTI\r\n"
cdef const char *EXEC_REQUEST = b"*1\r\n$4\r\nEXEC\r\n"

cdef const char *QUEUED = b"+QUEUED\r\n"
cdef const char *EMPTY = b"*0\r\n"
cdef const char *NESTED = b"-ERR MULTI calls can not be nested\r\n"
cdef const char *EXEC_WITHOUT_MULTI = b"-ERR EXEC without MULTI\r\n"
cdef const char *DISCARD_WITHOUT_MULTI = b"-ERR DISCARD without MULTI\r\n"
cdef const char *WATCH_IN_MULTI = b"-ERR WATCH inside MULTI is not allowed\r\n"
cdef const char *NOT_IN_MULTI = b"-ERR Command not allowed inside a transaction\r\n"
cdef const char *ABORTED = b"-EXECABORT Transaction discarded because of previous errors.\r\n"
cdef const char *TOO_BIG = (
    b"-ERR the transaction is larger than query_limit allows a request to be\r\n")


cdef inline void _say(Core *core, Session *session, uint16_t id, const char *reply) noexcept nogil:
    respond(core, session, id, reply, strlen(reply))


cdef void reject(Core *core, Session *session, uint16_t id, const char *why) noexcept nogil:
    """Answers with an error; a transaction that is being queued can only be discarded then."""
    if session.transaction != NULL:
        session.transaction.aborted = True
    _say(core, session, id, why)


cdef void begin_transaction(Core *core, Session *session, uint16_t id) noexcept nogil:
    """MULTI."""
    cdef Transaction *transaction
    if session.transaction != NULL:
        _say(core, session, id, NESTED)
        return
    transaction = <Transaction *>resize(NULL, sizeof(Transaction))
    memset(transaction, 0, sizeof(Transaction))
    transaction.slot = NO_SLOT
    append(&transaction.bytes, &core.pool, MULTI, strlen(MULTI))
    session.transaction = transaction
    _say(core, session, id, OK)


cdef void discard_transaction(Core *core, Session *session, uint16_t id) noexcept nogil:
    """DISCARD. Nothing may be in flight on the session's pin."""
    if session.transaction == NULL:
        _say(core, session, id, DISCARD_WITHOUT_MULTI)
        return
    end_transaction(core, session)
    unwatch(core, session)
    _say(core, session, id, OK)


cdef void add_to_transaction(
        Core *core, Session *session, uint16_t id, const CommandEntry *entry, int slot,
        const char *data, size_t size) noexcept nogil:
    """Queues a command, if it can be part of the transaction; its keys' slot is -1 if they have several."""
    cdef Transaction *transaction = session.transaction
    if not entry.queueable:
        reject(core, session, id, NOT_IN_MULTI)
    elif slot < 0 or slot != NO_SLOT and (
            transaction.slot != NO_SLOT and slot != transaction.slot
            or session.pin != NULL and slot != session.watched):
        reject(core, session, id, CROSSSLOT)
    elif length(&transaction.bytes) + size > core.limits.request.query_length:
        reject(core, session, id, TOO_BIG)
    else:
        append(&transaction.bytes, &core.pool, data, size)
        transaction.count += 1
        if slot != NO_SLOT:
            transaction.slot = <uint16_t>slot
        if not entry.readonly and (entry.may_replicate or entry.plan != PLAN_LOCAL):
            transaction.writes = True
        _say(core, session, id, QUEUED)


cdef void execute_transaction(Core *core, Session *session, uint16_t id) noexcept nogil:
    """EXEC: sends it as one request, on the connection that watches its keys if there is one.

    Nothing else may be in flight on that.
    """
    cdef Transaction *transaction = session.transaction
    cdef Request *request
    if transaction == NULL:
        _say(core, session, id, EXEC_WITHOUT_MULTI)
        return
    if transaction.aborted or session.watch_lost or transaction.count == 0 and session.pin == NULL:
        if transaction.aborted:
            _say(core, session, id, ABORTED)
        elif session.watch_lost:
            _say(core, session, id, null_array(session.protocol))
        else:
            _say(core, session, id, EMPTY)
        end_transaction(core, session)
        unwatch(core, session)
        return
    append(&transaction.bytes, &core.pool, EXEC_REQUEST, strlen(EXEC_REQUEST))
    request = new_request(core, session, id)
    request.flags |= EXEC
    request.preface = transaction.count + 1
    request.slot = transaction.slot
    if not transaction.writes:
        request.flags |= READONLY
    enqueue(session, request)
    if session.pin != NULL:
        request.slot = session.watched
        give(core, session.pin, request, transaction.bytes.data, length(&transaction.bytes))
        session.epoch = 0           # nothing new before the pin is given back
    else:
        give(core, route(core, session, request), request,
             transaction.bytes.data, length(&transaction.bytes))
    end_transaction(core, session)


cdef void watch_keys(
        Core *core, Session *session, uint16_t id, int slot, const char *data, size_t size) noexcept nogil:
    """WATCH. Nothing of the session may be in flight."""
    cdef Server *server
    cdef Request *request
    if session.transaction != NULL:
        _say(core, session, id, WATCH_IN_MULTI)
        return
    if slot < 0 or session.pin != NULL and slot != session.watched:
        _say(core, session, id, CROSSSLOT)
        return
    if session.pin == NULL and not session.watch_lost:
        server = owner_of(session, <uint16_t>slot)
        if server != NULL and not has_pins_left(server):
            _say(core, session, id, TOO_MANY_PINS)
            return
        if server != NULL:
            session.pin = lease(server, session)
            session.watched = <uint16_t>slot
    if session.pin == NULL or not usable(core, session.pin):
        session.watch_lost = True
        _say(core, session, id, OK)
        return
    request = new_request(core, session, id)
    request.slot = <uint16_t>slot
    request.flags |= WATCH
    enqueue(session, request)
    give(core, session.pin, request, data, size)
