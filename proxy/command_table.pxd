from libc.stddef cimport size_t
from libc.stdint cimport int16_t, uint8_t, uint16_t, uint64_t

from proxy.model cimport MAX_COMMANDS

cdef enum Plan:
    PLAN_FORWARD        # whole, to the server of its keys' slot
    PLAN_SPLIT          # in parts, one for each slot
    PLAN_LOCAL          # answered here
    PLAN_ANY            # whole, to any server
    PLAN_REFUSE
    PLAN_PIN            # as PLAN_FORWARD, on a connection of the session's own
    PLAN_FANOUT         # as PLAN_LOCAL
    PLAN_TRANSACTION    # MULTI and what belongs to it

cdef enum LocalKind:
    LOCAL_PYTHON        # answered by proxy.answers
    LOCAL_PING          # answered in the turn itself
    LOCAL_ECHO
    LOCAL_SUBSCRIBE     # its replies are pushes, which CLIENT REPLY does not hold back
    LOCAL_UNSUBSCRIBE   # the same
    LOCAL_PUBLISH       # forwarded when nobody of this process is subscribed to anything
    LOCAL_RESET
    LOCAL_QUIT
    LOCAL_UNPAUSE
    LOCAL_MULTI
    LOCAL_EXEC
    LOCAL_DISCARD
    LOCAL_WATCH
    LOCAL_UNWATCH

cdef enum:
    NAME_LENGTH = 48
    KEYWORD_LENGTH = 16
    BUCKETS = 4096
    NO_COMMAND = 0xffff

cdef struct CommandEntry:
    uint8_t name_length
    char name[NAME_LENGTH]      # lower case; a subcommand's is "container|subcommand"
    uint8_t plan
    uint8_t local               # a LocalKind
    uint8_t merge               # a split.MergeKind
    uint8_t readonly
    uint8_t container
    uint8_t waits               # LOCAL: only when nothing is in flight
    uint8_t queueable           # may be part of a transaction
    uint8_t in_subscription     # allowed to a RESP2 client that has subscriptions
    uint8_t without_auth        # allowed to a client that has not authenticated
    uint8_t may_replicate       # held by CLIENT PAUSE WRITE
    uint8_t start               # where the search for the keyword begins
    uint8_t keyword_length
    char keyword[KEYWORD_LENGTH]    # upper case: the keys are the first half of what follows it
    int16_t arity
    int16_t first
    int16_t last
    int16_t step
    int16_t keynum              # position of the argument that counts the keys; 0: none

cdef struct CommandIndex:
    uint16_t count
    CommandEntry entries[MAX_COMMANDS]
    uint16_t buckets[BUCKETS]

cdef bint is_word(const char *word, size_t size, const char *wanted, size_t wanted_size) noexcept nogil
cdef uint16_t find_command(
    const CommandIndex *index, const char *name, size_t size,
    const char *sub, size_t sub_size) noexcept nogil
cdef void fill_index(CommandIndex *index, object table) except *
