"""The first moments of a connection on the event loop: TLS, if there is the credential, and then the handshake.

It turns a fresh non-blocking socket into one that is authenticated, reading not one byte too many, or raises.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from distributed.connect import is_local
from distributed.errors import AuthenticationFailed
from distributed.wire.security import ClientHandshake, Secret, ServerHandshake

GREETING_BYTES_MAX = 4096


def speaks_tls(sock: socket.socket, secret: Secret) -> bool:
    """Whether TLS belongs on this socket: on TCP, if there is the credential."""
    return not is_local(sock) and secret.credential is not None


async def encrypt(sock: socket.socket, secret: Secret, *, is_server: bool, address: str) -> socket.socket:
    """The same socket with TLS, shaken hands; whatever fails closes it."""
    from distributed import tls  # here: who has no credential need not load ssl

    credential = secret.credential
    assert credential is not None
    if is_server:
        failure = tls.require_tls(await _first_byte(sock), address, credential.path)
        if failure is not None:
            if isinstance(failure, AuthenticationFailed):
                await _receive(sock, GREETING_BYTES_MAX)  # what is left unread would cost it our answer
                await _send_all(sock, tls.FATAL_ALERT)
            raise failure
    encrypted = tls.wrapped(sock, credential, is_server=is_server)
    try:
        while waits_for := tls.shake_hands(encrypted, credential):
            loop = asyncio.get_running_loop()
            await _until_ready(encrypted, loop.add_reader if waits_for == "read" else loop.add_writer)
    except BaseException:
        encrypted.close()
        raise
    return encrypted


async def shake_hands(sock: socket.socket, handshake: ClientHandshake | ServerHandshake) -> None:
    """Prove to each other that both hold the secret."""
    await _send_all(sock, handshake.start())
    while handshake.wanted:
        data = b""
        while len(data) < handshake.wanted:
            part = await _receive(sock, handshake.wanted - len(data))
            if not part:
                raise ConnectionResetError("it closed the connection before the handshake was over")
            data += part
        await _send_all(sock, handshake.receive(data))
    if handshake.failure is not None:
        raise handshake.failure


async def _first_byte(sock: socket.socket) -> bytes:
    first = await _receive(sock, 1, socket.MSG_PEEK)
    if not first:
        raise ConnectionResetError("it closed the connection before the handshake was over")
    return first


async def _receive(sock: socket.socket, nbytes: int, *flags: int) -> bytes:
    """asyncio's own way takes no flags, and no TLS."""
    while True:
        try:
            return sock.recv(nbytes, *flags)
        except (BlockingIOError, InterruptedError):
            await _until_ready(sock, asyncio.get_running_loop().add_reader)


async def _send_all(sock: socket.socket, data: bytes) -> None:
    while data:
        try:
            data = data[sock.send(data) :]
        except (BlockingIOError, InterruptedError):
            await _until_ready(sock, asyncio.get_running_loop().add_writer)


async def _until_ready(sock: socket.socket, watch: Callable[..., Any]) -> None:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    descriptor = sock.fileno()
    watch(descriptor, _settle, ready)
    try:
        await ready
    finally:
        loop.remove_reader(descriptor)
        loop.remove_writer(descriptor)


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
