"""The command table as the data plane looks things up in it."""

from cpython.bytes cimport PyBytes_AsString
from libc.stdint cimport uint16_t, uint32_t
from libc.string cimport memchr, memcmp, memcpy

from proxy.model cimport MAX_COMMANDS
from proxy.split cimport MERGE_ARRAY, MERGE_NONE, MERGE_STATUS, MERGE_SUM

MERGES = {
    "mget": MERGE_ARRAY, "mset": MERGE_STATUS,
    "del": MERGE_SUM, "unlink": MERGE_SUM, "exists": MERGE_SUM, "touch": MERGE_SUM,
}
LOCALS = {
    "ping": LOCAL_PING, "echo": LOCAL_ECHO, "publish": LOCAL_PUBLISH, "spublish": LOCAL_PUBLISH,
    "subscribe": LOCAL_SUBSCRIBE, "psubscribe": LOCAL_SUBSCRIBE, "ssubscribe": LOCAL_SUBSCRIBE,
    "unsubscribe": LOCAL_UNSUBSCRIBE, "punsubscribe": LOCAL_UNSUBSCRIBE, "sunsubscribe": LOCAL_UNSUBSCRIBE,
    "reset": LOCAL_RESET, "quit": LOCAL_QUIT,
    "client|unpause": LOCAL_UNPAUSE, "multi": LOCAL_MULTI, "exec": LOCAL_EXEC, "discard": LOCAL_DISCARD,
    "watch": LOCAL_WATCH, "unwatch": LOCAL_UNWATCH,
}
# They change which upstreams the session's later requests go to, or ask what its earlier ones have done;
# or their replies are large and of little work, so that no more than one at a time may be on its way.
WAITS = {
    "client|list", "hello", "reset", "wait", "waitaof", "pubsub|channels", "pubsub|numsub", "pubsub|numpat",
    "pubsub|shardchannels", "pubsub|shardnumsub",
}


cdef inline uint32_t _hash(const char *name, size_t size) noexcept nogil:
    # FNV-1a, 32 bits
    cdef uint32_t value = 2166136261u
    cdef size_t i
    for i in range(size):
        value = (value ^ <unsigned char>name[i]) * <uint32_t>16777619
    return (value ^ (value >> 16)) % BUCKETS


cdef inline size_t _lower(char *target, const char *source, size_t size) noexcept nogil:
    cdef size_t i
    cdef char c
    for i in range(size):
        c = source[i]
        target[i] = c + 32 if c'A' <= c <= c'Z' else c
    return size


cdef bint is_word(const char *word, size_t size, const char *wanted, size_t wanted_size) noexcept nogil:
    """Whether an argument is this word, given in upper case, in any case."""
    cdef size_t i
    if size != wanted_size:
        return False
    for i in range(size):
        if (word[i] - 32 if c'a' <= word[i] <= c'z' else word[i]) != wanted[i]:
            return False
    return True


cdef uint16_t find_command(
        const CommandIndex *index, const char *name, size_t size,
        const char *sub, size_t sub_size) noexcept nogil:
    """The command of that name; with ``sub``, that subcommand of it. NO_COMMAND if there is none."""
    cdef char lowered[NAME_LENGTH]
    cdef uint32_t bucket
    cdef uint16_t id
    cdef const CommandEntry *entry
    # A subcommand has no name of its own: "OBJECT|ENCODING" in one word is no command.
    if size + 1 + sub_size > NAME_LENGTH or memchr(name, c'|', size) != NULL:
        return NO_COMMAND
    _lower(lowered, name, size)
    if sub != NULL:
        lowered[size] = c'|'
        size += 1 + _lower(lowered + size + 1, sub, sub_size)
    bucket = _hash(lowered, size)
    while True:
        id = index.buckets[bucket]
        if id == NO_COMMAND:
            return NO_COMMAND
        entry = &index.entries[id]
        if entry.name_length == size and memcmp(entry.name, lowered, size) == 0:
            return id
        bucket = (bucket + 1) % BUCKETS


cdef void fill_index(CommandIndex *index, object table) except *:
    """Compiles a ``proxy.commands.CommandTable``: entry n is the command whose id is n."""
    cdef CommandEntry *entry
    cdef uint32_t bucket
    cdef bytes name
    cdef size_t i
    for i in range(BUCKETS):
        index.buckets[i] = NO_COMMAND
    index.count = 0
    for command in table.commands[:MAX_COMMANDS]:
        name = command.name.encode()
        entry = &index.entries[index.count]
        if len(name) <= NAME_LENGTH and len(command.keyword) <= KEYWORD_LENGTH:
            entry.name_length = len(name)
            memcpy(entry.name, PyBytes_AsString(name), len(name))
            entry.plan = int(command.plan)
            entry.local = LOCALS.get(command.name, LOCAL_PYTHON)
            entry.merge = MERGES.get(command.name, MERGE_NONE)
            entry.readonly = command.readonly
            entry.container = command.container
            entry.waits = command.name in WAITS
            entry.queueable = command.queueable
            entry.in_subscription = command.in_subscription
            entry.without_auth = command.without_auth
            entry.may_replicate = command.may_replicate
            entry.start = max(1, command.start)
            keyword = command.keyword.upper().encode()
            entry.keyword_length = len(keyword)
            memcpy(entry.keyword, PyBytes_AsString(keyword), min(len(keyword), <size_t>KEYWORD_LENGTH))
            entry.arity = command.arity
            entry.first = command.first
            entry.last = command.last
            entry.step = command.step or 1
            entry.keynum = command.keynum
            bucket = _hash(entry.name, entry.name_length)
            while index.buckets[bucket] != NO_COMMAND:
                bucket = (bucket + 1) % BUCKETS
            index.buckets[bucket] = index.count
        index.count += 1
