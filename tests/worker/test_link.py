"""The executor's end of its socket to the agent."""

from __future__ import annotations

import os
import socket
import threading

from distributed.wire.messages import Outcomes
from distributed.worker.link import Link

LARGE = bytes(8 << 20)  # more than a socket takes at a time


def test_a_message_goes_out_whole_where_an_event_loop_made_the_socket_one_that_does_not_wait():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        os.set_blocking(ours.fileno(), False)  # as uvloop does, without a word to the socket object
        agent = Link(theirs)
        messages = [Outcomes([n], [LARGE], [len(LARGE)], [0], {}, {}, {}) for n in range(3)]

        def send() -> None:
            with ours:  # whoever receives does not wait for what could not be sent
                executor = Link(ours)
                for message in messages:
                    executor.send(message)

        sender = threading.Thread(target=send)
        sender.start()
        received = [agent.receive() for _ in messages]
        sender.join()
    assert received == messages


def test_what_is_sent_to_an_agent_that_is_gone_goes_nowhere():
    ours, theirs = socket.socketpair()
    with ours:
        os.set_blocking(ours.fileno(), False)
        theirs.close()
        link = Link(ours)
        link.send(Outcomes([1], [LARGE], [len(LARGE)], [0], {}, {}, {}))
        assert link.receive() is None
