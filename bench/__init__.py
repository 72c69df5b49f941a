"""Speed: requests per second, and the CPU time each request costs the proxy."""
