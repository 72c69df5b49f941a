LATENCY_BOUNDS: tuple[int, ...]
WIDTH_BOUNDS: tuple[int, ...]
CODES: tuple[str, ...]
