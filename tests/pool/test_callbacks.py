"""The thread that runs callbacks."""

import threading
import weakref

from distributed.pool.callbacks import CallbackThread


class Something:
    """What a callback is given, in the place of a handle."""


def test_what_a_callback_was_given_does_not_outlive_it():
    callbacks, gone = CallbackThread(), threading.Event()
    given = Something()
    weakref.finalize(given, gone.set)
    callbacks.put(lambda _: None, given)
    del given
    try:
        assert gone.wait(10), "the idle thread holds it until the next callback"
    finally:
        callbacks.close(10)
    assert gone.is_set()
