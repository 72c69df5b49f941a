"""A Redis Cluster proxy: plain Redis clients in front, a cluster behind."""

__version__ = "0.1.0"
