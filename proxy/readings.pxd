from libc.stdint cimport uint64_t

from proxy.model cimport Cluster, Core

cdef dict snapshot_of(Cluster *c)
cdef dict totals_of(Core *core)
cdef list upstream_rows(Cluster *c)
cdef list slow_entries_of(Cluster *c, uint64_t after)
