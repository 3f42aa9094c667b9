"""Seconds from nothing: `import distributed`, and from `Pool(2)` to its first result.

Each in a fresh process, the import beside the start of a bare Python; the bytecode is compiled before.
"""

import subprocess
import sys

IMPORT = """
import time; began_s = time.perf_counter()
import distributed
print(time.perf_counter() - began_s)
"""
FIRST_RESULT = """
import time
from distributed import Pool
began_s = time.perf_counter()
with Pool(2) as pool:
    assert pool.submit(int, "42").get() == 42
    elapsed_s = time.perf_counter() - began_s
    began_s = time.perf_counter()
print(elapsed_s, time.perf_counter() - began_s)
"""


def printed(program):
    """The numbers that a fresh Python prints when it runs this program."""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    return [float(word) for word in done.stdout.split()]


def run(options):
    printed(IMPORT)
    yield "import distributed", printed(IMPORT)[0], "s"
    first_result_s, close_s = printed(FIRST_RESULT)
    yield "Pool(2) to its first result", first_result_s, "s"
    yield "close()", close_s, "s"
