"""How to install this package.

The distribution is called ``distributed``, as dask's scheduler is, because the import name is the same: pip then
replaces the one by the other, and never mixes the files of both in one folder.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (HERE / "distributed/version.py").read_text(), re.MULTILINE)[1]

# Lower bounds are tested (`scripts/test --oldest`), and have no advisory against them that was known when they were set
# (`scripts/audit`): msgpack before 1.2.3 leaks what it refuses, tornado's last security release so far is 6.5.8.
REQUIRED = ["cloudpickle>=3.0.0", "msgpack>=1.2.3", "toolz>=0.12.0", "tornado>=6.5.8"]
PROGRESS = ["tqdm>=4.66.3"]
DEFER = ["wrapt>=2.0.0"]
TLS = ["cryptography>=48.0.1"]  # only to create a certificate
DILL = ["dill>=0.3.8"]  # the first that knows Python 3.12
UVLOOP = ["uvloop>=0.21.0"]  # the first that knows Python 3.13
MPI = ["mpi4py>=4.1.0"]  # the first with wheels; it finds the MPI library when it is imported
DOCS = ["sphinx>=7.4"]
TEST = [
    "hypothesis",
    "import-linter>=2.1",
    "msgpack-types",
    "mypy>=1.14",
    "numpy",
    "pytest>=8.2",
    "pytest-timeout>=2.3",
    "ruff==0.17.*",  # another version may lay the same code out differently
]

setup(
    name="distributed",
    version=VERSION,
    description="Functions run where their data is: data-local task pools over the cores of one or many machines",
    long_description=(HERE / "README.rst").read_text(),
    long_description_content_type="text/x-rst",
    license="BSD-3-Clause",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(include=["distributed", "distributed.*"]),
    package_data={"distributed": ["py.typed", "web/*.html", "web/*.css", "web/*.js", "web/*.svg"]},
    install_requires=REQUIRED,
    extras_require={
        "progress": PROGRESS,
        "defer": DEFER,
        "tls": TLS,
        "mpi": MPI,
        "dill": DILL,
        "uvloop": UVLOOP,
        "docs": DOCS,
        "test": TEST + PROGRESS + DEFER + TLS + MPI + DILL + UVLOOP,
    },
    entry_points={
        "console_scripts": ["dcenter = distributed.__main__:dcenter", "dworker = distributed.__main__:dworker"]
    },
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: System :: Distributed Computing",
    ],
)
