"""What a changed configuration asks for: which keys a reload applies, and which need a restart."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

from proxy.config import ClusterConfig, Config, ProxyConfig, keys

Part = ProxyConfig | ClusterConfig
T = TypeVar("T", ProxyConfig, ClusterConfig)


@dataclass(frozen=True, slots=True)
class Changes:
    """The keys that differ, as the files write them: ``[proxy] threads``, ``cluster NAME servers``."""

    reload: tuple[str, ...] = ()
    restart: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.restart:
            text = f"restart needed for {', '.join(self.restart)}"
            return f"{text}; a reload applies {', '.join(self.reload)}" if self.reload else text
        return f"reload applies {', '.join(self.reload)}" if self.reload else "nothing changes"


def compare(old: Config, new: Config) -> Changes:
    """What changes from one to the other. Clusters are the same when their names are."""
    found = list(_differences(old.proxy, new.proxy, ""))
    before, after = ({cluster.name: cluster for cluster in config.clusters} for config in (old, new))
    for name in [*before, *(name for name in after if name not in before)]:
        if name not in after or name not in before:
            found.append((f"cluster {name} ({'removed' if name in before else 'added'})", True))
        else:
            found.extend(_differences(before[name], after[name], f"cluster {name} "))
    return Changes(
        tuple(key for key, restart in found if not restart), tuple(key for key, restart in found if restart)
    )


def reloaded(running: Config, new: Config) -> Config:
    """The running configuration with all that a reload applies of the new one."""
    by_name = {cluster.name: cluster for cluster in new.clusters}
    return Config(
        _reloaded(running.proxy, new.proxy),
        tuple(_reloaded(cluster, by_name.get(cluster.name, cluster)) for cluster in running.clusters),
    )


def _differences(old: Part, new: Part, owner: str) -> Iterator[tuple[str, bool]]:
    """Keys with another value, and whether that needs a restart."""
    for table, name, key in keys(type(old)):
        if getattr(old, name) != getattr(new, name):
            place = owner or (f"[{table}] " if table else "")
            yield f"{place}{name}", key.restart


def _reloaded(old: T, new: T) -> T:
    values = {name: getattr(new, name) for _, name, key in keys(type(old)) if not key.restart}
    return replace(old, **values)
