"""Chaos: servers and proxies fail at random under load, and everything clients were told is checked.

    history     what clients asked and were told
    sessions    the clients
    nemesis     what goes wrong
    evidence    what the servers executed, by their append-only files
    checker     whether the one fits the other

`python -m tests.chaos` runs it.
"""
