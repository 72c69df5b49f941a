LATENCY_BOUNDS: tuple[int, ...]
