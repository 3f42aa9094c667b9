"""Frames on a blocking socket with TLS: every byte passes through this process, for nobody else may see it in plain."""

from __future__ import annotations

import os
import socket

from distributed.bulk.stream import Stream
from distributed.config import SETTINGS

COPY_BYTES = 256 << 10  # stays in the processor's cache between file and OpenSSL


class EncryptedStream(Stream):
    """A `Stream` that leaves nothing to the kernel, which would move what is in the file as it is."""

    def _limit_silence(self) -> None:
        self.sock.settimeout(SETTINGS.client_lease_s)  # OpenSSL would wait on when the kernel's own limit is over

    def send_file(self, descriptor: int, nbytes: int) -> None:
        """The content of a file. It was copied when this returns, and the file may be filled again."""
        offset, buffer = 0, memoryview(bytearray(min(COPY_BYTES, nbytes)))
        while offset < nbytes:
            count = os.preadv(descriptor, [buffer[: nbytes - offset]], offset)
            if not count:
                raise ConnectionResetError("a file was cut short while it was sent")
            self.sock.sendall(buffer[:count])
            offset += count

    def _fill(self, descriptor: int, nbytes: int) -> None:
        """By way of a buffer: to map the file's pages one by one takes longer than to copy what is in the cache."""
        offset, buffer = 0, memoryview(bytearray(min(COPY_BYTES, nbytes)))
        while offset < nbytes:
            part = buffer[: nbytes - offset]
            self.receive_into(part)
            while part:
                count = os.pwrite(descriptor, part, offset)
                offset, part = offset + count, part[count:]


def stream_over(sock: socket.socket) -> Stream:
    """The stream that fits the socket."""
    return EncryptedStream(sock) if getattr(sock, "is_encrypted", False) else Stream(sock)
