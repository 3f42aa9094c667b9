"""Imported as `sitecustomize` by every Python that a test starts; a daemon writes down what it must not do.

The daemons carry pickles and never load one, and import no module of a user's. `conftest.py` puts a copy of this file
where processes find it before anything else, and fails the test whose daemons wrote something down. Executors and
clients do both all the time, and are not watched. The product knows nothing of this.
"""

import os
import sys

RECORD = os.path.join(os.path.dirname(os.path.abspath(__file__)), "record")
OURS = {"distributed", "msgpack", "cloudpickle", "toolz", "tlz", "tornado", "cryptography", "_cffi_backend", "uvloop"}
OURS |= {"sitecustomize", "usercustomize", "_distutils_hack", "__main__", *sys.stdlib_module_names}
OURS |= {"org", "colorama", "pycurl", "bcrypt", "_wmi"}  # what they and the library try to import, there or not


def write(line):
    descriptor = os.open(RECORD, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(descriptor, f"{line}\n".encode(errors="replace"))
    os.close(descriptor)


def is_daemon(words):
    """Whether a command line is that of a center, of an agent, or of both in one process.

    >>> is_daemon(["python", "-P", "-m", "distributed", "embedded"]), is_daemon(["python", "/bin/dworker", "alice:1"])
    (True, True)
    >>> is_daemon(["python", "-m", "distributed.worker.forkserver"]), is_daemon(["python", "-c", "import distributed"])
    (False, False)
    """
    module = words[words.index("-m") + 1] if "-m" in words[:-1] else ""
    return module == "distributed" or any(os.path.basename(word) in ("dcenter", "dworker") for word in words[:3])


def hook(event, arguments):
    if event == "pickle.find_class":
        tell(f"looked for {arguments[0]}.{arguments[1]} for a pickle")
    elif event == "import" and arguments[0].partition(".")[0] not in OURS:
        tell(f"imported {arguments[0]}")


def tell(deed):
    write(f"{os.getpid()} {' '.join(sys.orig_argv[1:6])}: {deed}")


def told(name, function):
    def call(*arguments, **options):
        tell(f"called pickle.{name}")
        return function(*arguments, **options)

    return call


def watch():
    import pickle

    class Unpickler(pickle.Unpickler):
        def load(self):
            tell("called pickle.Unpickler")
            return super().load()

    pickle.load, pickle.loads, pickle.Unpickler = told("load", pickle.load), told("loads", pickle.loads), Unpickler
    write(f"{os.getpid()} begins")
    sys.addaudithook(hook)


if __name__ == "sitecustomize" and is_daemon(sys.orig_argv):
    watch()
