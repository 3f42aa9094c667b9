"""How the documentation is built: ``sphinx-build -W docs docs/_build/html``."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from distributed.version import __version__  # noqa: E402 - found through the line above

project = "distributed"
author = "the distributed developers"
copyright = "2026, the distributed developers"
version = release = __version__
extensions = ["sphinx.ext.autodoc", "from_source"]
exclude_patterns = ["_build"]
default_role = "literal"  # `name` in docstrings is a name in code
autodoc_typehints = "none"
html_theme = "alabaster"
html_theme_options = {
    "description": "Functions run where their data is",
    "fixed_sidebar": True,
    "page_width": "1100px",
}
html_show_sphinx = False
