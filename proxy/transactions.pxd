from libc.stddef cimport size_t
from libc.stdint cimport uint16_t

from proxy.command_table cimport CommandEntry
from proxy.model cimport Core, Session

cdef void begin_transaction(Core *core, Session *session, uint16_t id) noexcept nogil
cdef void discard_transaction(Core *core, Session *session, uint16_t id) noexcept nogil
cdef void add_to_transaction(
    Core *core, Session *session, uint16_t id, const CommandEntry *entry, int slot,
    const char *data, size_t size) noexcept nogil
cdef void reject(Core *core, Session *session, uint16_t id, const char *why) noexcept nogil
cdef void execute_transaction(Core *core, Session *session, uint16_t id) noexcept nogil
cdef void watch_keys(
    Core *core, Session *session, uint16_t id, int slot, const char *data, size_t size) noexcept nogil
