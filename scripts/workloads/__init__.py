"""What `scripts/bench` can measure: one module a workload.

A workload is a module here with a docstring (its first line is shown by ``scripts/bench --help``), a function
``run(options)`` that yields ``(what, value, unit)``, and, if it takes options, ``add_arguments(parser)``. The runner
repeats it and prints the median and the range of every value: one figure of a shared machine says little.
"""
