"""HTTP on loopback: read a request, send its reply, or let a fault befall it on the way."""

from __future__ import annotations

import os
import socket
import socketserver
import ssl
import struct
import sys
import threading
from collections.abc import Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from .exchange import Exchange, Reply
from .faults import Fault
from .request_log import Headers, LoggedRequest

_SLICES = 20


class Server(ThreadingHTTPServer):
    """One port; a thread for each connection."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 256  # fifty clients connect at once
    allow_reuse_address = os.name == "posix"  # on Windows it would share a port in use

    def __init__(
        self, port: int, exchange: Exchange, ssl_context: ssl.SSLContext | None = None
    ) -> None:
        self.exchange = exchange
        self.scheme = "https" if ssl_context else "http"
        self._open: set[socket.socket] = set()
        self._open_lock = threading.Lock()
        super().__init__(("127.0.0.1", port), Handler)
        if ssl_context:
            # The handshake is the connection's thread's business, not the listener's.
            self.socket = ssl_context.wrap_socket(
                self.socket, server_side=True, do_handshake_on_connect=False
            )

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
        """A client that went away is no news; anything else is a bug and is shown."""
        if not isinstance(sys.exception(), (ConnectionError, TimeoutError, ssl.SSLError)):
            super().handle_error(request, client_address)

    def drop_connections(self) -> None:
        with self._open_lock:
            connections = list(self._open)
        for connection in connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # it went away by itself


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
        exchange = self.server.exchange
        headers = Headers(list(self.headers.items()))
        body = self.rfile.read(int(headers.get("Content-Length", "0")))
        request = exchange.begin(self.command, self.path, headers)
        try:
            reply = exchange.reply(request, body, self._origin(headers))
            self._send(request, reply)
        finally:
            exchange.end(request)

    def _origin(self, headers: Headers) -> str:
        port = self.server.server_port
        name = "localhost" if headers.get("Host") == f"localhost:{port}" else "127.0.0.1"
        return f"{self.server.scheme}://{name}:{port}"

    def _send(self, request: LoggedRequest, reply: Reply) -> None:
        kind = reply.fault.kind if reply.fault else None
        whole = self._head(reply, kind) + self._framed(reply.body, kind)
        half = len(whole) - len(reply.body) // 2 - 1
        if kind == "reset":
            self._finish(request, b"")
            self._reset()
        elif kind == "reset_in_body":
            self.wfile.write(whole[:half])
            self._finish(request, b"")
            self._reset()
        elif kind in {"truncate", "truncate_chunked", "truncate_close"}:
            self._finish(request, whole[:half])
            self.close_connection = True
        elif reply.fault and kind in {"stall_in_body", "slow_body"}:
            self._send_slowly(request, reply.fault, whole, half)
        else:
            self._finish(request, whole)

    def _send_slowly(self, request: LoggedRequest, fault: Fault, whole: bytes, half: int) -> None:
        seconds = fault.details.get("seconds", 1.0)
        parts = [whole[:half], whole[half:]]
        if fault.kind == "slow_body":
            parts = list(_sliced(whole))
        for part in parts[:-1]:
            self.wfile.write(part)
            self.server.exchange.stopping.wait(seconds / (len(parts) - 1))
        self._finish(request, parts[-1])

    def _finish(self, request: LoggedRequest, rest: bytes) -> None:
        self.server.exchange.end(request)
        self.wfile.write(rest)

    def _head(self, reply: Reply, kind: str | None) -> bytes:
        headers = list(reply.headers)
        if kind == "truncate_chunked":
            headers.append(("Transfer-Encoding", "chunked"))
        elif kind == "truncate_close":
            headers.append(("Connection", "close"))
        else:
            headers.append(("Content-Length", str(len(reply.body))))
        try:
            phrase = HTTPStatus(reply.status).phrase
        except ValueError:
            phrase = "Unknown"
        lines = [f"HTTP/1.1 {reply.status} {phrase}", *(f"{n}: {v}" for n, v in headers), "", ""]
        return "\r\n".join(lines).encode("latin-1", "replace")

    def _framed(self, body: bytes, kind: str | None) -> bytes:
        if kind != "truncate_chunked":
            return body
        return b"%x\r\n" % len(body) + body + b"\r\n"

    def _reset(self) -> None:
        """Close so that the peer gets a reset; the base class must find nothing to shut down."""
        linger = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.rfile.close()  # it holds the socket open too
        self.connection.close()
        self.close_connection = True


def _sliced(whole: bytes) -> Iterator[bytes]:
    size = -(-len(whole) // _SLICES)
    for start in range(0, len(whole), size):
        yield whole[start : start + size]
