"""The center: who is in the cluster, and which worker holds which key.

`state` decides (pure: events in, instructions out), with `borrowing` for keys that other clients wait for; `server`
carries the instructions out over sockets. The center is on nobody's hot path, holds no values, runs no user code and
unpickles nothing. All it knows, somebody else knew first: after a restart everyone registers again and work goes on.
"""
