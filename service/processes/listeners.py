"""The sockets that front ends listen on: one each, all on one port."""

import socket

from service.server import in_url

_BACKLOG = 2048


def open_listeners(host: str, port: int, number: int) -> tuple[list[socket.socket], str]:
    """Bound and listening, so that connections wait while a front end is being restarted.

    Args:
        port: 0: any free one.

    Returns:
        the sockets, and the URL they serve.

    Raises:
        OSError: the address is not to be had.
    """
    family, _, _, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    # sockets that share a port would also share it with a stranger's: ask for it alone first
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
        address = probe.getsockname()
    listeners: list[socket.socket] = []
    try:
        for _ in range(number):
            listener = socket.socket(family)
            listeners.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind(address)
            listener.listen(_BACKLOG)
    except OSError:
        for listener in listeners:
            listener.close()
        raise
    return listeners, f"http://{in_url(host)}:{address[1]}"
