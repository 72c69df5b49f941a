"""CONFIG: the proxy's own settings, to read."""

import resource

from proxy.answers.registry import SYNTAX_ERROR, Client, Context, answers, clip, help_of, name_of
from proxy.config import ClusterConfig, ProxyConfig, keys
from proxy.glob import matches
from proxy.reply import bulk, error, mapping


def settings(context: Context) -> dict[str, str]:
    """All that CONFIG GET knows: some of Redis's parameters, and the keys of the files under their own names.

    Keys that both tables have are the cluster's; those of the process are ``proxy.KEY``. No secrets.
    """
    found = redis_settings(context)
    proxy = _keys(context.proxy_config)
    cluster = _keys(context.config)
    found |= {f"proxy.{name}" if name in cluster else name: value for name, value in proxy.items()}
    return found | cluster


def redis_settings(context: Context) -> dict[str, str]:
    """Parameters that clients ask any Redis for."""
    facts = context.facts
    most = facts.max_clients or resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return {
        "appendonly": "no",
        "cluster-enabled": "yes" if context.config.announce_addr else "no",
        "databases": "1",
        "maxclients": str(most),
        "maxmemory": "0",
        "maxmemory-policy": "noeviction",
        "notify-keyspace-events": "",
        "port": str(facts.tcp_port),
        "proto-max-bulk-len": str(facts.max_bulk_length),
        "save": "",
        "slowlog-log-slower-than": str(context.config.slowlog_slower_than or -1),
        "timeout": str(-(-facts.read_timeout // 1000)),
    }


def _keys(config: ProxyConfig | ClusterConfig) -> dict[str, str]:
    return {name: _shown(getattr(config, name)) for _, name, key in keys(type(config)) if not key.secret}


def _shown(value: object) -> str:
    """A value as Redis would write it in its file; what a key holds several of is parted by commas."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(" ".join(map(str, item)) if isinstance(item, tuple) else str(item) for item in value)
    return "" if value is None else str(value)


@answers("config|get", -3)
def _config_get(client: Client, context: Context, args: list[bytes]) -> bytes:
    config = settings(context)
    found: dict[str, tuple[bytes, str]] = {}  # by name: the name as asked for, the value
    for arg in args[2:]:
        pattern = clip(arg, len(arg))
        if any(special in pattern for special in (b"[", b"*", b"?")):
            for name, value in config.items():
                if matches(pattern, name.encode()):
                    found.setdefault(name, (name.encode(), value))
        elif (name := name_of(arg)) in config:
            found.setdefault(name, (arg, config[name]))
    return mapping([(bulk(asked), bulk(value)) for asked, value in found.values()], client.protocol)


@answers("config|set", -4)
def _config_set(_client: Client, context: Context, args: list[bytes]) -> bytes:
    if len(args) % 2:
        return SYNTAX_ERROR
    name = clip(args[2], len(args[2]))
    if name_of(args[2]) not in settings(context):
        return error(b"Unknown option or number of arguments for CONFIG SET - '%b'" % name)
    return error(b"CONFIG SET failed (possibly related to argument '%b') - can't set immutable config" % name)


@answers("config|resetstat", 2)
@answers("config|rewrite", 2)
def _config_refused(_client: Client, _context: Context, args: list[bytes]) -> bytes:
    return error(b"CONFIG %b is not supported by the proxy" % args[1].upper())


@answers("config|help", 2)
def _config_help(_client: Client, _context: Context, _args: list[bytes]) -> bytes:
    return help_of("CONFIG", {"GET <pattern>": "Parameters whose names match, and their values."})
