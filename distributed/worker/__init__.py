"""A worker: one agent process that holds values and never runs user code, and executors that do.

The mind is pure: `state` (events in, instructions out; `events` lists both) made of `tasks` (what was asked for),
`queue` (whose turn it is), `fetches` (what to get from whom), `dispatch` (what each executor has), `store` (what is
here), `rooms` (who may write how much), `reports` (what the center is told) and `describe` (for people and tests). The
arms touch the world: `files` (tmpfs and spill directory), `fetch` and `doorway` (values to and from others), `errands`
(what may block), `machine` (cores, memory), `forkserver` and `supervise` (executors: start, kill, autopsy), `executor`
(the loop in the child). The body, `server`, carries the mind's instructions out with the arms, and decides nothing.
"""
