"""What the data plane counts beside plain numbers: durations, the width of fan-outs, errors by their code."""

from libc.string cimport memchr, memcmp, strlen

from proxy.model cimport ERROR_CODES, LATENCY_BUCKETS, REFUSED, WIDTH_BUCKETS, Cluster, Histogram, Request

# Upper bounds of the latency histogram's buckets, µs; the last bucket has none. Overlord's four
# (1, 2, 4 and 10 ms) are among them, so that its metric can be made of the same counts.
LATENCY_BOUNDS = (
    100, 250, 500, 1_000, 2_000, 4_000, 10_000, 25_000, 50_000, 100_000,
    250_000, 500_000, 1_000_000, 2_500_000, 10_000_000,
)

# Upper bounds of the buckets of how many servers' parts a command has; the last bucket has none.
WIDTH_BOUNDS = (1, 2, 4, 8, 16, 32, 64)

# The first words of error replies that are counted each for itself; the last stands for all others.
# Source: the errors Redis's src/server.c and src/cluster.c make, and INFO errorstats.
CODES = (
    "ERR", "ASK", "BUSY", "BUSYGROUP", "BUSYKEY", "CLUSTERDOWN", "CROSSSLOT", "EXECABORT", "LOADING",
    "MASTERDOWN", "MISCONF", "MOVED", "NOAUTH", "NOGROUP", "NOPERM", "NOREPLICAS", "NOSCRIPT", "OOM",
    "READONLY", "TRYAGAIN", "UNBLOCKED", "WRONGPASS", "WRONGTYPE", "other",
)

cdef int64_t BOUNDS[LATENCY_BUCKETS - 1]
for _i, _bound in enumerate(LATENCY_BOUNDS):
    BOUNDS[_i] = _bound * 1000

_ENCODED = [code.encode() for code in CODES]
cdef const char *WORDS[ERROR_CODES]
for _i, _code in enumerate(_ENCODED):
    WORDS[_i] = <bytes>_code


cdef void observe(Histogram *histogram, int64_t elapsed) noexcept nogil:
    """Counts a duration, in ns."""
    cdef int bucket = 0
    while bucket < LATENCY_BUCKETS - 1 and elapsed > BOUNDS[bucket]:
        bucket += 1
    histogram.buckets[bucket] += 1
    histogram.count += 1
    histogram.nanoseconds += elapsed


cdef void observe_width(Cluster *cluster, uint32_t parts) noexcept nogil:
    """Counts a command that so many servers' parts make."""
    cdef int bucket = 0
    while bucket < WIDTH_BUCKETS - 1 and parts > <uint32_t>1 << bucket:
        bucket += 1
    cluster.widths[bucket] += 1
    cluster.parts += parts


cdef uint8_t code_of(const char *reply, size_t size) noexcept nogil:
    """Which of the codes an error reply begins with."""
    cdef const char *end
    cdef size_t length
    cdef uint8_t i
    end = <const char *>memchr(reply, c' ', size) if size else NULL
    if end == NULL:
        return ERROR_CODES - 1
    length = end - reply - 1
    for i in range(ERROR_CODES - 1):
        if strlen(WORDS[i]) == length and memcmp(WORDS[i], reply + 1, length) == 0:
            return i
    return ERROR_CODES - 1


cdef void refuse(Request *request, const char *reply, size_t size) noexcept nogil:
    """Takes note that the request's reply is this error."""
    request.flags |= REFUSED
    request.code = code_of(reply, size)
