"""Run a script as ``python guarded_run.py SCRIPT ARGUMENTS...`` where no connection leaves this machine."""

from __future__ import annotations

import runpy
import sys

LOCAL = ("127.0.0.1", "::1", "localhost", "")


def guard(event: str, arguments: tuple) -> None:
    """Refuses what Python's sockets would do outside: an audit hook, which nothing takes off again."""
    if event == "socket.connect" and isinstance(arguments[1], tuple) and arguments[1][0] not in LOCAL:
        raise ConnectionRefusedError(f"NETWORK: a connection to {arguments[1]}")
    if event == "socket.getaddrinfo" and arguments[0] not in (*LOCAL, None):
        raise ConnectionRefusedError(f"NETWORK: the address of {arguments[0]}")


if __name__ == "__main__":
    sys.addaudithook(guard)
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
