"""What one worker's data plane is made of. Each worker has its own of everything here: no locks.

Sessions, upstreams and requests are C structures, not Python objects, so that a whole turn runs
without the GIL. Their lives are simple: a session owns its queue of requests; an upstream only
refers to the requests whose replies it awaits, and a request outlives a session that ends before
the reply comes.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from proxy.buffers cimport Buffer, Pool
from proxy.peers cimport PEER_BYTES
from proxy.resp cimport ReplyScan, RequestLimits, RequestScan
from proxy.slots cimport SLOTS

cdef enum:
    NO_SLOT = 0xffff        # the slot of a request that has no key
    NO_SERVER = 0xffff      # the owner of a slot that nobody serves
    NO_COMMAND_ID = 0       # of our own requests, which are not counted
    LATENCY_BUCKETS = 16
    WIDTH_BUCKETS = 8
    ERROR_CODES = 24
    SLOW_ENTRIES = 1024     # slow requests remembered by each worker for each cluster
    SLOW_BYTES = 256        # of a slow request's bytes
    MAX_COMMANDS = 1024

# --- connections -----------------------------------------------------------------------------

cdef enum ConnKind:
    MAILBOX             # the eventfd by which other threads wake the worker
    SESSION
    UPSTREAM
    SUBSCRIBER          # an upstream that only carries subscriptions: what comes is asked for by nobody

cdef enum ConnFlag:
    ENDED = 1           # the peer will send no more
    FAILED = 2          # reading or writing failed; Conn.error says how
    BLOCKED = 4         # the kernel takes no more bytes: waiting for EPOLLOUT
    DIRTY = 8           # on the list of those that have something to write
    READY = 16          # on the list of those that something happened to
    PAUSED = 32         # must not be read now
    DEAF = 64           # its interest in reading is off in epoll
    CLOSING = 128       # to be closed when all is answered and written
    CLOSED = 256        # closed; freed at the end of the turn
    LEAVING = 512       # draining: a reply has gone out, so now is the time to close
    LINGERING = 1024    # we have said that we send no more; what still comes is thrown away

cdef struct Conn:
    int fd
    int error               # errno
    uint16_t flags
    uint8_t kind
    Buffer input
    Buffer output
    uint64_t sent           # stream position in output up to which the kernel has taken it
    uint32_t wanted         # bytes known to be on their way
    int64_t heard           # when it last read anything, ns on the monotonic clock
    int64_t wrote           # when it last wrote anything, or began to have something to write

cdef struct ConnList:
    Conn **items
    size_t count
    size_t capacity

# --- requests --------------------------------------------------------------------------------

cdef enum RequestState:
    IN_FLIGHT           # its bytes are in an upstream's output, its reply is awaited
    PARKED              # it waits, with its bytes, to be sent again
    ANSWERED            # its reply is whole
    SPLIT               # its parts are on their way
    AWAITED             # answered by Python code, later

cdef enum RequestFlag:
    READONLY = 1        # may be sent again even if it may have been executed
    STREAMED = 2        # a part of its reply has gone into the session's output
    INTERNAL = 4        # our own (ASKING): nobody wants its reply
    REFUSED = 8         # its reply is an error
    MUTED = 16          # nobody wants its reply: CLIENT REPLY
    BLOCKING = 32       # on a connection of its own, for as long as it takes
    WATCH = 64          # on the session's pin; cannot be sent again elsewhere
    EXEC = 128          # a whole transaction, from MULTI to EXEC
    AGAIN = 256         # something before its reply says that it was not executed and may be sent again
    LATER = 512         # with AGAIN: after a little while
    REPLICA = 1024      # may be answered by a replica
    OVERDUE = 2048      # parked: answered at once, since too much waits already

cdef struct Request:
    Request *next           # in its session's queue, or among the parts of one command
    Request *awaiting       # in its upstream's queue
    Session *session        # NULL once the session has gone
    Upstream *upstream
    Request *whole          # the split command that this is a part of
    Split *split            # of a split command: its parts
    Server *hint            # parked: the server a redirection named
    char *reply             # held until the session's earlier replies are out
    size_t reply_size
    size_t reply_capacity
    char *saved             # parked: its bytes
    uint64_t position       # of its bytes in the upstream's output stream
    uint32_t size
    uint32_t preface        # replies that come before its own, to commands sent along with it
    uint32_t prefaced       # of them, those that have come
    int64_t started         # when it was read from the client, ns
    int64_t sent            # when it was given to its upstream, ns
    uint16_t command
    uint16_t slot
    uint16_t flags
    uint8_t state
    uint8_t hops            # redirections and retries so far
    uint8_t asking          # parked: to be sent behind ASKING
    uint8_t code            # refused: which of the error codes, see proxy.stats

cdef struct Split:
    Request *parts
    Request *last_part
    uint32_t pending        # parts without a reply
    uint32_t count          # parts
    uint32_t keys
    uint8_t merge           # a MergeKind
    void *combine           # a Python callable that makes one reply of the parts'; NULL: see merge
    uint16_t *order         # the part each key went into, in the order of the keys; NULL if no need

# --- sessions --------------------------------------------------------------------------------

cdef enum Replies:
    REPLIES_ON          # kept in step with proxy.answers.registry
    REPLIES_OFF
    REPLIES_SKIP        # of the next command

cdef struct Transaction:
    Buffer bytes            # from MULTI on, as they will be sent
    uint32_t count          # commands queued
    uint16_t slot           # of their keys
    uint8_t aborted         # a command could not be queued
    uint8_t writes          # something in it may change something

cdef struct Session:
    Conn conn
    uint64_t id
    Cluster *cluster
    RequestScan scan
    Request *head           # the oldest request whose reply is not wholly out
    Request *tail
    uint32_t queued         # requests in the queue
    uint32_t outstanding    # requests, or parts of them, that are in flight
    uint32_t parked         # requests, or parts of them, that are parked
    size_t request_bytes    # of what is in flight or parked
    size_t held             # reply bytes that wait for earlier replies
    uint64_t epoch          # the routing epoch of what is queued; 0: to be settled first
    int64_t retry_at        # parked: not before this, ns
    Request *blocked        # nothing more is done before this is answered
    Transaction *transaction    # NULL outside of MULTI
    Upstream *pin           # a connection of its own, on which it watches keys
    int64_t opened          # ns
    uint16_t command        # its last
    uint16_t watched        # the slot of the keys it watches
    uint8_t watch_lost      # they can't be watched any more: EXEC will tell
    uint8_t authenticated
    uint8_t subscribed      # RESP2 allows it little else then
    uint8_t replies         # a Replies
    uint8_t counted         # among those that wait
    uint8_t postponed       # its next request waits for the end of CLIENT PAUSE
    uint8_t muted           # the present command gets no reply
    uint32_t scanned        # bytes of the scan's table of arguments, once it is large
    size_t kept             # bytes of what the client's names and subscriptions take
    void *client            # a Python object: what CLIENT commands know of it; NULL until one came
    uint8_t protocol        # 2 or 3
    uint8_t settling        # on the list of those with parked requests
    uint8_t woken           # on the list of those to be served again this turn
    Session *previous       # all sessions
    Session *next
    Session *previous_settling
    Session *next_settling

# --- servers ---------------------------------------------------------------------------------

cdef enum UpstreamState:
    IDLE                # no connection, none wanted yet
    DIALING             # a dialer is at work; requests gather meanwhile
    OPEN
    RESTING             # dialing failed: not tried again before retry_at

cdef struct Upstream:
    Conn conn               # its output is the retry log: bytes stay until the reply has come
    Server *server
    ReplyScan scan
    Request *head           # the oldest request whose reply is awaited
    Request *tail
    Session *session        # pinned: whose it is now; NULL if nobody's
    Upstream *next_free     # pinned: nobody's, of the same protocol
    uint64_t peer_id        # pinned: what the server calls the connection
    size_t framed           # subscriber: bytes of the message that has not come wholly
    uint16_t number         # its place among its server's
    uint8_t pinned
    uint8_t protocol
    uint8_t state
    uint8_t pushing         # the reply being read is a push, asked for by nobody
    int32_t failures        # dials and connections lost in a row
    int64_t retry_at        # ns

cdef struct Histogram:
    uint64_t count
    uint64_t nanoseconds
    uint64_t buckets[LATENCY_BUCKETS]

cdef struct Server:
    Cluster *cluster
    char *name              # host:port
    # Shared ones of protocol 2, then of protocol 3, one for subscriptions, then those pinned.
    Upstream **upstreams
    uint16_t upstream_count
    uint16_t upstream_capacity
    uint16_t pins           # pinned ones that are somebody's
    Upstream *free_pins[2]  # by protocol
    uint16_t *replicas      # their indices
    uint16_t replica_count
    uint8_t near            # in our own availability zone
    uint16_t index
    uint8_t listed          # in the present topology
    uint8_t ejected         # failed its pings: not to be used
    uint8_t owns            # slots, in the present topology
    int64_t succeeded_at    # when a replica took over its slots, ns; 0: none did
    uint64_t lost           # connections lost
    uint64_t refused        # connections that could not be made
    uint32_t awaited        # requests given to it and not answered yet
    Histogram latency

cdef struct SlowEntry:
    uint64_t sequence       # from 1; 0 while it is being written
    uint64_t session
    int64_t ended           # ns on the monotonic clock
    int64_t total           # ns
    int64_t waiting         # of it, from sending to the reply, ns
    uint16_t server
    char client[PEER_BYTES]
    uint32_t size           # of the request; shown: min(size, SLOW_BYTES)
    char shown[SLOW_BYTES]

cdef struct CommandStats:
    uint64_t errors
    Histogram latency

cdef struct Cluster:
    Core *core
    uint16_t index
    uint16_t connections    # per server, protocol and worker
    uint16_t most_pins      # per server and worker
    uint8_t read_from       # a ReadFrom
    const char *subscribed  # not 0: somebody of this process is subscribed to something
    uint8_t protected       # clients must authenticate
    uint8_t writes_paused
    uint8_t paused
    int64_t paused_until    # ns
    uint8_t denied[MAX_COMMANDS]    # by id: clients may not use it
    uint16_t owners[SLOTS]
    uint64_t epoch          # goes up whenever a slot gets another owner
    uint8_t known           # a topology has come
    Server **servers
    uint32_t server_count
    uint32_t server_capacity
    uint8_t refresh         # a RefreshReason, for the topology thread
    int64_t refresh_at      # not asked for before this, ns
    int64_t read_timeout    # ns; 0: no limit
    int64_t write_timeout
    int64_t slower_than     # ns; 0: no slow log
    SlowEntry *slow
    uint64_t slow_count
    CommandStats *commands  # MAX_COMMANDS of them
    uint64_t errors[ERROR_CODES]    # error replies to clients, by code
    uint64_t widths[WIDTH_BUCKETS]  # commands of several parts, by how many
    uint64_t parts                  # of them all
    uint32_t parked
    uint64_t sessions
    uint64_t blocked            # of them, those that wait for data or the end of a pause
    uint64_t moved
    uint64_t asked
    uint64_t retried
    uint64_t timeouts
    uint64_t unknown_outcomes
    uint64_t output_overflows
    uint64_t evicted
    uint64_t turned_away        # requests refused because of the limit on memory
    uint64_t protocol_errors

cdef enum ReadFrom:         # kept in step with proxy.dataplane
    FROM_MASTER
    FROM_PREFERRED_REPLICA
    FROM_REPLICA
    FROM_NEAREST

cdef enum RefreshReason:
    NO_REFRESH
    REFRESH_REDIRECTED
    REFRESH_CONNECTION
    REFRESH_SERVER_STATE
    REFRESH_UNSERVED
    REFRESH_SILENCE

# --- the worker ------------------------------------------------------------------------------

cdef struct Limits:
    RequestLimits request
    uint32_t pipeline           # requests queued in a session
    size_t pipeline_bytes       # bytes of them
    size_t output_pause         # reply bytes unread by the client: stop reading from it
    size_t output_limit         # ditto: close it
    size_t memory               # bytes of buffers and requests: see proxy.memory
    int64_t read_timeout        # ns without a word from a client; 0: no limit
    int64_t write_timeout       # ns without a client taking what is written to it

cdef struct Core:
    int epoll
    int64_t now                 # ns on the monotonic clock, read once a turn
    Limits limits
    Pool pool
    size_t saved                # bytes of parked requests
    uint8_t full                # the limit on memory has been reached
    ConnList dirty
    ConnList ready
    ConnList woken
    ConnList dials              # upstreams that want a connection
    ConnList dead
    void *clients               # a Python dict: session id -> address, of those that have a client
    void *unsubscribed          # a Python list: cluster and id of sessions that ended with subscriptions
    void *further               # a Python list: token and fan-out of commands that go on
    uint8_t goes_on             # it has something
    void *awaited               # a Python dict: token -> address of a request
    uint64_t tokens
    Request *free_requests
    uint32_t free_count
    Session *sessions
    Session *settling
    int64_t settle_at           # when parked requests are looked at again, ns
    int64_t sweep_at            # when time limits are looked at again, ns
    Cluster **clusters
    uint32_t cluster_count
    uint8_t mail                # the mailbox has something
    uint8_t draining
    int64_t drain_until         # draining: when sessions without a request are closed too, ns
    uint8_t stopped
    uint64_t sessions_closed
    uint64_t turns
    uint64_t client_in          # bytes read from clients
    uint64_t client_out         # bytes written to them
    uint64_t server_in
    uint64_t server_out
    int64_t waiting             # ns in which nothing was to be done
    int64_t transferring        # ns of reading and writing
    int64_t deciding            # ns of all else
    int64_t decided_from        # when the last decision began, ns
