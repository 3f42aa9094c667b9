"""What travels between processes, as bytes: nothing in this folder but the transports holds a socket.

`frames` cuts a stream of bytes into frames, `messages` is the vocabulary that frames carry, `values` is how an object
becomes a packed value and back (`pickles` decides how it is pickled, `exceptions` and `functions` are the two kinds of
object with needs of their own, `unpicklable` finds the part that refuses). The daemons use frames and messages and
treat packed values as opaque: only clients and executors unpickle.
"""
