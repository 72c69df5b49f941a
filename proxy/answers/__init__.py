"""The commands that the proxy answers itself, and the errors it answers others with.

Replies and error texts are byte for byte those of redis-server 7.0.15. They differ on purpose in:

- SELECT knows database 0 only: a cluster has no other.
- Users are those of the configuration; HELLO changes nothing unless all of it is right, as in Redis 7.2.
- CLIENT SETINFO, CLIENT NO-TOUCH and CLUSTER MYSHARDID are answered as Redis 7.2 does, CLIENT KILL
  MAXAGE as 7.4 does. CLIENT LIST and INFO have the fields of 7.4, without figures about memory (0) or
  the socket (fd=-1); subscriptions of every kind are in sub. NO-EVICT and NO-TOUCH change nothing.
- HELLO and INFO tell of the proxy: its run id, process, connections and memory, as of a master without
  replicas. They have fewer fields; INFO has no Modules, Errorstats, Commandstats and Latencystats.
  Keyspace, and what Stats has about keys, is summed over the masters; Servers and ``proxy_version`` are ours.
- CLUSTER tells of one node with all slots: ``announce_addr``, or where the client has connected to.
  READONLY, READWRITE and ASKING are accepted, and change nothing.
- CONFIG GET knows the proxy's settings, and a few of Redis's that clients ask for; CONFIG SET calls
  all of them immutable; RESETSTAT and REWRITE are refused.
- SLOWLOG and LATENCY HISTOGRAM tell of this proxy; there are no latency events.
- What HELP lists is what there is.
"""

from proxy.answers import (  # noqa: F401  # they register what they answer
    acl,
    clients,
    cluster,
    config,
    connection,
    info,
    keyspace,
    scan,
    scripts,
    slow,
    subscriptions,
)
from proxy.answers.clients import session_line
from proxy.answers.info import SECTIONS
from proxy.answers.registry import (
    HANDLERS,
    Client,
    Context,
    Facts,
    Plane,
    SessionRow,
    SlowRecord,
    answer,
    refused,
    unknown_command,
    unknown_subcommand,
    wrong_arity,
)
from proxy.answers.slow import slow_arguments
from proxy.fanout import Answer, Fanout, Part, PartReply, Pending

__all__ = [
    "HANDLERS",
    "SECTIONS",
    "Answer",
    "Client",
    "Context",
    "Facts",
    "Fanout",
    "Part",
    "PartReply",
    "Pending",
    "Plane",
    "SessionRow",
    "SlowRecord",
    "answer",
    "refused",
    "session_line",
    "slow_arguments",
    "unknown_command",
    "unknown_subcommand",
    "wrong_arity",
]
