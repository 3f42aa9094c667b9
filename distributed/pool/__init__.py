"""The user's side: a pool owns the tasks it submits.

Read it in this order: :mod:`~distributed.pool.tasks` (what a pool knows of a task), :mod:`~distributed.pool.policy`
(where a task should run, as pure functions), :mod:`~distributed.pool.state` (every decision: events in, instructions
out), :mod:`~distributed.pool.driver` (sockets and threads, which decide nothing), :mod:`~distributed.pool.remote` (the
handle a user holds) and :mod:`~distributed.pool.pool` (the face). Nothing here imports the center or the worker.
"""
