"""Real servers on loopback, for trying the proxy out, for its tests and for its benchmarks."""
