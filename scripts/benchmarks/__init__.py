"""What `scripts/bench` measures: workloads, each defined once, run on this product and beside it on its peers.

Read it in this order: `systems/base.py` (the few verbs that a workload needs of a system), any file in `systems/` (how
one system does them, in the way that its documentation recommends), any file in `workloads/` (what is measured),
`sample.py` (one workload on one system, in a process and an environment of its own, which prints one line of JSON),
`rounds.py` (A B C A B C: so that a slow minute of the machine hits everybody) and `report.py`.
"""
