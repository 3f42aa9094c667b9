"""One workload on one system, once: run as ``python -m benchmarks.sample SYSTEM WORKLOAD``, prints one line of JSON.

It runs in the environment of that system, in a fresh process. Standard output is for that line alone: what a system
prints goes to standard error.
"""

import argparse
import atexit
import functools
import importlib.metadata
import json
import os
import resource
import sys
import time

from benchmarks import systems, workloads


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sample")
    parser.add_argument("system")
    parser.add_argument("workload")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--loop", type=float, default=0.0, help="repeat for this many seconds, for a profile")
    options = parser.parse_args()
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    json.dump(measure(options), answer)
    answer.write("\n")
    answer.close()


def measure(options):
    """What the sample says: the figures, or in one sentence why there are none."""
    from benchmarks.systems.base import Unsupported

    workload = workloads.load(options.workload)
    try:
        open_system, version = opener(options.system)
        if options.loop:
            open_system = kept_open(open_system)
        until = time.monotonic() + options.loop
        figures = workload.run(open_system, options.scale, options.seed)
        while time.monotonic() < until:
            figures = workload.run(open_system, options.scale, options.seed)
    except Unsupported as reason:
        return {"unsupported": str(reason)}
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"figures": figures, "version": version(), "client_peak_bytes": peak_bytes}


def opener(name):
    """(what starts the system, what tells its version); the system is imported when it is started first."""
    if name == systems.BOUND:
        return None, lambda: ""

    def open_system(workers=2, **how):
        return load()(workers, **how)

    load = functools.cache(lambda: systems.load(name))
    open_system.load, open_system.name = load, name

    def version():
        return importlib.metadata.version(load().distribution) if load().distribution else sys.version.split()[0]

    return open_system, version


def kept_open(open_system):
    """The same system each time it is opened, so that its processes can be looked at for a while."""

    @functools.cache
    def open_once(*args, **how):
        system = open_system(*args, **how)
        atexit.register(system.close)
        system.close = lambda: None
        return system

    open_once.load, open_once.name = open_system.load, open_system.name
    return open_once


if __name__ == "__main__":
    main()
