from libc.stdint cimport int16_t, uint8_t, uint16_t, uint64_t

from proxy.model cimport MAX_COMMANDS

cdef enum Plan:
    PLAN_FORWARD        # whole, to the server of its keys' slot
    PLAN_SPLIT          # in parts, one for each slot
    PLAN_LOCAL          # answered here
    PLAN_ANY            # whole, to any server
    PLAN_REFUSE

cdef enum LocalKind:
    LOCAL_PYTHON        # answered by proxy.answers
    LOCAL_PING          # answered in the turn itself
    LOCAL_ECHO

cdef enum:
    NAME_LENGTH = 48
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
    int16_t arity
    int16_t first
    int16_t last
    int16_t step
    int16_t keynum              # position of the argument that counts the keys; 0: none

cdef struct CommandIndex:
    uint16_t count
    CommandEntry entries[MAX_COMMANDS]
    uint16_t buckets[BUCKETS]

cdef uint16_t find_command(
    const CommandIndex *index, const char *name, size_t size,
    const char *sub, size_t sub_size) noexcept nogil
cdef void fill_index(CommandIndex *index, object table) except *
