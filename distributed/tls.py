"""TLS on sockets: the surface of a plain socket, so that those who carry bytes need not know of it.

Only who has the credential imports this module, and with it ssl. Here are the rules of OpenSSL that differ from the
kernel's: what it has decrypted no selector sees, a write that did not fit must be repeated with the same bytes, and its
errors need translation. Whoever moves bytes by the descriptor itself (`is_encrypted`) must not do so here.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import ssl
import threading
from collections.abc import Sequence
from typing import Any

from distributed.errors import AuthenticationFailed, ConnectionFailed
from distributed.wire.credential import Credential
from distributed.wire.security import MAGIC

RECORD_BYTES = 1 << 14  # of content, at most, in one record
CLOSE_S = 1.0
GONE_EARLY = "it closed the connection before the handshake was over"
HANDSHAKE_RECORD = b"\x16"
FATAL_ALERT = b"\x15\x03\x03\x00\x02\x02\x46"  # what a server says that finds no protocol in common
NO_TLS = {"WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG", "BAD_RECORD_TYPE", "RECORD_LAYER_FAILURE", "HTTP_REQUEST"}
OTHER_CERTIFICATE = {
    "CERTIFICATE_VERIFY_FAILED",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE",
    "SSLV3_ALERT_BAD_CERTIFICATE",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED",
    "TLSV1_ALERT_DECRYPT_ERROR",
    "TLSV1_ALERT_UNKNOWN_CA",
}
OLD_TLS = {"UNSUPPORTED_PROTOCOL", "TLSV1_ALERT_PROTOCOL_VERSION", "VERSION_TOO_LOW", "NO_SUITABLE_SIGNATURE_ALGORITHM"}
UNTIMELY = {9, 10}  # X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED


class Refused(ConnectionAbortedError):
    """The peer and we do not take each other for members, for the reason that it says."""

    is_refusal = True


class TlsSocket(ssl.SSLSocket):
    """An encrypted socket, blocking or not, with as much of a socket's surface as is used in this package.

    One thread reads and writes at a time; any may close it or shut it down. Unlike its base it never goes on in
    plaintext after that. A record is read whole: with a buffer of `RECORD_BYTES` or more nothing stays behind in
    OpenSSL, where no selector would see it. The smaller reads of a handshake fit what was written, so neither do they.
    """

    is_encrypted = True
    _sslobj: Any  # of the base
    _guard: Any = contextlib.nullcontext()  # until it is wrapped: the base reads from a socket that lost its peer
    _pid = 0
    _ahead = b""  # looked at, and not received yet

    def recv(self, nbytes: int = 1024, flags: int = 0) -> bytes:
        """What is there, or as much as is asked for; at least a byte, or b'' at the end."""
        if flags & socket.MSG_PEEK:
            return self._look(nbytes, flags)
        if self._ahead:
            data, self._ahead = self._ahead[:nbytes], self._ahead[nbytes:]
            return data
        data = self._read(min(nbytes, RECORD_BYTES))
        if self.gettimeout() != 0.0 or not data:
            return data
        pieces, room = [data], nbytes - len(data)
        while room >= RECORD_BYTES:
            try:
                data = self._read(RECORD_BYTES)
            except BlockingIOError:
                break
            if not data:  # the next call says so again
                break
            pieces.append(data)
            room -= len(data)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def recv_into(self, buffer: Any, nbytes: int | None = None, flags: int = 0) -> int:
        """The same into a buffer; with MSG_WAITALL, on a blocking socket, until it is full."""
        view = memoryview(buffer).cast("B")[: nbytes or None]
        if self._ahead:
            count = min(len(view), len(self._ahead))
            view[:count], self._ahead = self._ahead[:count], self._ahead[count:]
            return count
        if self.gettimeout() != 0.0:
            return self._fill(view) if flags & socket.MSG_WAITALL else self._read_into(view)
        filled, size = self._read_into(view), len(view)
        while filled and size - filled >= RECORD_BYTES:
            try:
                more = self._read_into(view[filled:])
            except BlockingIOError:
                break
            if not more:
                break
            filled += more
        return filled

    def _fill(self, view: memoryview) -> int:
        """Until it is full, or at the end; every call here is one for each record of a large value."""
        filled, size = 0, len(view)
        with self._guard:
            read = self._tls().read
            try:
                while filled < size:
                    count = read(size - filled, view[filled:])
                    if not count:
                        break
                    filled += count
            except ssl.SSLError as error:
                if not is_end(error):
                    raise translated(error) from error
        return filled

    def _look(self, nbytes: int, flags: int) -> bytes:
        """What the next `recv` begins with."""
        if not self._ahead:
            timeout_s = self.gettimeout()
            if flags & socket.MSG_DONTWAIT:
                self.settimeout(0.0)
            try:
                self._ahead = self._read(min(nbytes, RECORD_BYTES))
            finally:
                if flags & socket.MSG_DONTWAIT:
                    self.settimeout(timeout_s)
        return self._ahead[:nbytes]

    def _read(self, nbytes: int) -> bytes:
        with self._guard:
            try:
                data: bytes = self._tls().read(nbytes)
                return data
            except ssl.SSLError as error:
                if is_end(error):
                    return b""
                raise translated(error) from error

    def _read_into(self, view: memoryview) -> int:
        with self._guard:
            try:
                count: int = self._tls().read(len(view), view)
                return count
            except ssl.SSLError as error:
                if is_end(error):
                    return 0
                raise translated(error) from error

    def send(self, data: Any, flags: int = 0) -> int:
        """A record at most. After BlockingIOError the next call must begin with the same bytes, as in a queue."""
        with self._guard:
            try:
                count: int = self._tls().write(data)
                return count
            except ssl.SSLError as error:
                raise translated(error) from error

    def sendall(self, data: Any, flags: int = 0) -> None:
        view = memoryview(data).cast("B")
        sent, size = 0, len(view)
        with self._guard:
            write = self._tls().write
            try:
                while sent < size:
                    sent += write(view[sent:])
            except ssl.SSLError as error:
                raise translated(error) from error

    def sendmsg(self, buffers: Sequence[Any], *_: Any) -> int:  # type: ignore[override]
        """One record out of the first of them; on a blocking socket, all of them in few records."""
        if self.gettimeout() == 0.0:
            return self.send(_record(buffers, 0, 0)[0])
        at = offset = total = 0
        while at < len(buffers):
            record, at, offset = _record(buffers, at, offset)
            self.sendall(record)
            total += len(record)
        return total

    def _tls(self) -> Any:
        if self._sslobj is None:  # closed; or its peer was gone before it was wrapped, which the base wants to hear
            raise OSError(errno.EBADF if self.fileno() < 0 else errno.ENOTCONN, "closed on this side")
        return self._sslobj

    def shutdown(self, how: int) -> None:
        socket.socket.shutdown(self, how)  # the base's own would let other threads go on in plaintext

    def close(self) -> None:
        """Close it when nobody is in the midst of using it, whose descriptor might be another socket's by then."""
        if self._pid != os.getpid():  # in a fork it is the parent's, and so may the guard be
            super().close()
            return
        is_free = self._guard.acquire(blocking=False)
        if not is_free:
            try:
                self.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            is_free = self._guard.acquire(timeout=CLOSE_S)
        try:
            super().close()
        finally:
            if is_free:
                self._guard.release()


def _record(buffers: Sequence[Any], at: int, offset: int) -> tuple[Any, int, int]:
    """What goes into the next record, small buffers together and large ones as they are; and where to go on.

    >>> _record([b'ab', b'cd'], 0, 1)
    (b'bcd', 2, 0)
    """
    first = memoryview(buffers[at]).cast("B")[offset:]
    if len(first) >= RECORD_BYTES or at + 1 == len(buffers):
        return (first if offset or not isinstance(buffers[at], bytes) else buffers[at]), at + 1, 0
    pieces, room = [first], RECORD_BYTES - len(first)
    at += 1
    while at < len(buffers):
        piece = memoryview(buffers[at]).cast("B")
        if len(piece) > room:
            if room:
                pieces.append(piece[:room])
            return b"".join(pieces), at, room
        pieces.append(piece)
        room -= len(piece)
        at += 1
    return b"".join(pieces), at, 0


def is_end(error: ssl.SSLError) -> bool:
    """Whether this is how a peer's end looks: none here says goodbye in TLS, for a frame tells whether it is whole."""
    return (
        isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError)) or error.reason == "UNEXPECTED_EOF_WHILE_READING"
    )


def translated(error: ssl.SSLError, path: object = "the credential") -> OSError:
    """The same as an error of a plain socket, in words for people; `path` is where this side has the credential."""
    if isinstance(error, (ssl.SSLWantReadError, ssl.SSLWantWriteError)):
        return BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    if is_end(error):
        return ConnectionResetError("the peer closed the connection")
    reason = error.reason or ""
    if getattr(error, "verify_code", 0) in UNTIMELY or reason.endswith("CERTIFICATE_EXPIRED"):
        return Refused(
            "the certificate of the TLS credential is not valid at this time: look at its dates and the clocks"
        )
    if reason in OTHER_CERTIFICATE:
        return Refused(
            "the two sides present different certificates, or one presents none: copy the center's tls.pem to the "
            "other machines, or name it in DISTRIBUTED_TLS_FILE"
        )
    if reason in OLD_TLS:
        return Refused("it does not offer TLS 1.3, and nothing older is spoken here")
    if reason in NO_TLS:
        return Refused(without_tls(path))
    return ConnectionAbortedError(f"TLS broke, as it does when bytes are changed on the way ({reason.lower()})")


def without_tls(path: object) -> str:
    """In words that are right on either side, whichever of the two is the center."""
    return (
        f"it does not speak TLS, which this side does because it found {path}: copy that file to the same place there, "
        "beside its secret, and start it again"
    )


# --------------------------------------------------------------------------------------------------------- handshakes


def wrapped(sock: socket.socket, credential: Credential, *, is_server: bool) -> TlsSocket:
    """This connected socket, before its handshake; the original is empty from now on."""
    context = credential.server if is_server else credential.client
    context.sslsocket_class = TlsSocket
    encrypted = context.wrap_socket(sock, server_side=is_server, do_handshake_on_connect=False)
    assert isinstance(encrypted, TlsSocket)
    encrypted._guard, encrypted._pid = threading.RLock(), os.getpid()
    return encrypted


def shake_hands(sock: TlsSocket, credential: Credential) -> str:
    """As far as the socket's timeout allows: 'read' or 'write' is what has to be waited for, then call it again.

    At '' it is over, and the peer has proved that it has the credential. But a client learns only from the next bytes
    that its own was taken.
    """
    try:
        sock.do_handshake()
    except ssl.SSLWantReadError:
        return "read"
    except ssl.SSLWantWriteError:
        return "write"
    except ssl.SSLError as error:
        if is_end(error):
            raise ConnectionResetError(GONE_EARLY) from error
        raise translated(error, credential.path) from error
    except OSError as error:
        if error.errno == errno.ENOTCONN:  # it was gone before it was wrapped
            raise ConnectionResetError(GONE_EARLY) from error
        raise
    if not credential.is_presented(sock.getpeercert(binary_form=True)):
        raise Refused("the peer's certificate is another than this side's")
    return ""


def require_tls(first: bytes, address: str, path: object) -> ConnectionFailed | None:
    """What is wrong with a client whose first byte is this."""
    if first == HANDSHAKE_RECORD:
        return None
    if first == MAGIC[:1]:
        return AuthenticationFailed(address, without_tls(path))
    return ConnectionFailed(address, "what connects there is not distributed (its first bytes are something else)")
