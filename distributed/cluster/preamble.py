"""The first lines of what runs at the far end of an ssh connection, sent there as text, whatever Python is there.

It says in one line why there can be no worker: this Python is too old, or has not the same version of this package.
If there can be one it goes on in that package, in :mod:`distributed.cluster.far_end`. So nothing here is newer than
Python 2.7, and nothing of the package is imported before it is known to be there.
"""

import importlib
import json
import os
import sys

OLDEST = (3, 11)
PROGRAM = "distributed.cluster.far_end"
LEAVE = b"leave\n"  # is said to the far end: have the worker hand over what it holds, and end
MARK = "distributed: "  # before what is said here: a login shell may print lines of its own


def begin(plan):
    """Run a worker by this plan, or say why not."""
    os.environ.pop("PYTHONSAFEPATH", None)  # was for this program alone: its path is not that of tasks
    os.environ.update(plan["environment"])
    why = why_not(plan["version"], plan["python"])
    if not (why or os.path.exists(plan["socket"])):
        why = (
            "the sshd there forwards no Unix sockets: it needs AllowStreamLocalForwarding yes in its sshd_config, "
            "and a /tmp in which the user may write"
        )
    if why:
        sys.stdout.write(MARK + json.dumps({"error": why}) + "\n")
        sys.stdout.flush()
        sys.exit(1)
    importlib.import_module(PROGRAM).run(plan)


def why_not(version, python):
    """What is wrong with this Python or with the package that it finds; empty if nothing is."""
    where = "%s there is Python %s" % (sys.executable, "%d.%d.%d" % tuple(sys.version_info[:3]))
    if sys.version_info < OLDEST:
        return "%s, and distributed needs %d.%d or newer: name another one with ?python=PATH" % ((where,) + OLDEST)
    if not sys.platform.startswith("linux"):
        return "the machine there runs %s, and remote workers need Linux" % sys.platform
    if python != "%d.%d" % tuple(sys.version_info[:2]):
        return "%s, and Python %s here: functions travel only between the same; name one with ?python=PATH" % (
            where,
            python,
        )
    install = "install distributed %s for it, or name another Python with ?python=PATH" % version
    try:
        there = getattr(importlib.import_module("distributed"), "__version__", "of an unknown version")
        if there != version:
            return "distributed %s is installed there, for %s, and %s here: install the same version on both sides" % (
                there,
                sys.executable,
                version,
            )
        importlib.import_module(PROGRAM)
    except Exception as error:  # noqa: BLE001 - whatever is installed there under this name
        if isinstance(error, ImportError) and getattr(error, "name", "") == "distributed":
            return "%s, without the package distributed: %s" % (where, install)
        told = (where, type(error).__name__, error, install)
        return "%s, whose package distributed cannot be imported (%s: %s): %s" % told
    return ""
