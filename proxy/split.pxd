from libc.stdint cimport uint16_t

from proxy.buffers cimport Buffer, Pool
from proxy.model cimport Core, Request, Split
from proxy.resp cimport Span

cdef enum MergeKind:
    MERGE_NONE
    MERGE_ARRAY         # MGET: every key's value, in the order of the keys
    MERGE_SUM           # DEL, UNLINK, EXISTS, TOUCH: one number
    MERGE_STATUS        # MSET: OK if every part says so

cdef struct Scatter:
    # A worker's scratch: which keys of the command being split go together.
    int *part_of_slot       # by slot; -1 between commands
    uint16_t *part_of_key   # by key
    int *next_key           # by key: the next key of the same part; -1 at the end
    int *first_key          # by part
    int *last_key           # by part
    int *parts_keys         # by part: how many keys
    uint16_t *slot          # by part
    int capacity            # keys there is room for
    int parts

cdef void scatter_open(Scatter *scatter) noexcept nogil
cdef void scatter_close(Scatter *scatter) noexcept nogil
cdef int scatter_keys(
    Scatter *scatter, const char *data, const Span *args, int first, int count, int step) noexcept nogil
cdef void write_part(
    Scatter *scatter, int part, Buffer *target, Pool *pool,
    const char *data, const Span *args, int first, int step) noexcept nogil
cdef Split *new_split(Request *whole) noexcept nogil
cdef void begin_split(Request *whole, int merge, Scatter *scatter, int keys) noexcept nogil
cdef void add_part(Request *whole, Request *part) noexcept nogil
cdef void drop_split(Request *whole) noexcept nogil
cdef void merge_parts(Core *core, Request *whole) noexcept nogil
