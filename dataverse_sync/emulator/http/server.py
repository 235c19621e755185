"""Serve HTTP on loopback; connections are reset and bodies truncated here."""

from __future__ import annotations

import os
import socket
import socketserver
import struct
import sys
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from .exchange import Exchange, Reply
from .request_log import LoggedRequest


class Server(ThreadingHTTPServer):
    """One port; a thread for each connection."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 256  # fifty clients connect at once
    allow_reuse_address = os.name == "posix"  # on Windows it would share a port in use

    def __init__(self, port: int, exchange: Exchange) -> None:
        self.exchange = exchange
        self._open: set[socket.socket] = set()
        self._open_lock = threading.Lock()
        super().__init__(("127.0.0.1", port), Handler)

    def server_bind(self) -> None:
        # The base class asks DNS for this machine's name, which can take seconds.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[0:2]  # type: ignore[assignment]

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._open_lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._open_lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a client that went away; anything else is a bug and is shown."""
        if not isinstance(sys.exception(), (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)

    def drop_connections(self) -> None:
        with self._open_lock:
            connections = list(self._open)
        for connection in connections:
            with suppress(OSError):  # it went away by itself
                connection.shutdown(socket.SHUT_RDWR)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __getattr__(self, name: str) -> Any:
        # http.server looks for do_GET, do_POST and so on: all methods are handled alike.
        if name.startswith("do_"):
            return self._serve
        raise AttributeError(name)

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet: the emulator has a log of its own."""

    def _serve(self) -> None:
        exchange, port = self.server.exchange, self.server.server_port
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        request = exchange.begin(self.command, self.path, self.headers)
        name = "localhost" if self.headers.get("Host") == f"localhost:{port}" else "127.0.0.1"
        try:
            self._send(request, exchange.reply(request, body, f"http://{name}:{port}"))
        finally:
            exchange.end(request)

    def _send(self, request: LoggedRequest, reply: Reply) -> None:
        kind = reply.fault.kind if reply.fault else None
        whole = self._head(reply) + reply.body
        self.server.exchange.end(request)
        if kind == "reset":
            self._reset()
        elif kind == "truncate":
            self.wfile.write(whole[: len(whole) - len(reply.body) // 2 - 1])
            self.close_connection = True
        else:
            self.wfile.write(whole)

    def _head(self, reply: Reply) -> bytes:
        phrase = self.responses.get(reply.status, ("Unknown",))[0]
        headers = [*reply.headers, ("Content-Length", str(len(reply.body)))]
        lines = [f"HTTP/1.1 {reply.status} {phrase}", *(f"{n}: {v}" for n, v in headers), "", ""]
        return "\r\n".join(lines).encode("latin-1", "replace")

    def _reset(self) -> None:
        """Close so that the peer gets a reset; the base class must find nothing to shut down."""
        linger = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.rfile.close()  # it holds the socket open too
        self.connection.close()
        self.close_connection = True
