"""Directives that write pages from the source, so that they cannot disagree with it.

``.. messages::`` lists the vocabulary of :mod:`distributed.wire.messages` with its groups; ``.. settings::`` lists
:mod:`distributed.config` with the comments that stand there. Both read the text of the module: the comments that group
classes and explain fields are not kept by Python.
"""

import ast
import inspect
import re

from sphinx.util.docutils import SphinxDirective

import distributed.config
import distributed.wire.messages
from distributed.wire.messages import Message

GROUP = re.compile(r"# -{5,} (.+)")


class FromSource(SphinxDirective):
    """The abstract edge: a directive whose content is reStructuredText that `lines` makes from a module's source."""

    def run(self):
        self.env.note_dependency(inspect.getsourcefile(self.module))
        text = "\n".join(self.lines(inspect.getsource(self.module)))
        return self.parse_text_to_nodes(text, allow_section_headings=True)


class Messages(FromSource):
    """Every message with its group, fields and docstring, in the order of the module."""

    module = distributed.wire.messages

    def lines(self, source):
        comments = [(number, GROUP.match(line)) for number, line in enumerate(source.splitlines(), 1)]
        groups = {number: match[1].strip() for number, match in comments if match}
        for statement in ast.parse(source).body:
            if not isinstance(statement, ast.ClassDef) or not is_message(statement.name):
                continue
            for number in sorted(number for number in groups if number < statement.lineno):
                title = groups.pop(number)
                title = title[0].upper() + title[1:]
                yield from [title, "-" * len(title), ""]
            yield from message_lines(statement)


def is_message(name):
    cls = getattr(distributed.wire.messages, name)
    return cls is distributed.wire.messages.Member or (issubclass(cls, Message) and cls is not Message)


def message_lines(statement):
    """A definition list item for one message: its name and operation, its fields, what its docstring says."""
    cls = getattr(distributed.wire.messages, statement.name)
    operation = getattr(cls, "operation", "not a message of its own: a part of others")
    yield f"**{statement.name}** (``{operation}``)"
    yield from [f"   {line}".rstrip() for line in inspect.getdoc(cls).splitlines()]
    yield ""
    fields = [field_text(field) for field in statement.body if isinstance(field, ast.AnnAssign)]
    if fields:
        yield from ["   Fields: " + ", ".join(f"``{field}``" for field in fields) + ".", ""]


def field_text(field):
    """A field as a person would write it: ``names: dict = dict()``."""
    return re.sub(r"dataclasses\.field\(default_factory=(\w+)\)", r"\1()", ast.unparse(field))


class SettingsTable(FromSource):
    """Every setting with its default and its comment, grouped as in the module."""

    module = distributed.config

    def lines(self, source):
        yield from [".. list-table::", "   :header-rows: 1", "   :widths: 34 18 48", ""]
        yield from ["   * - Setting", "     - Default", "     - Meaning"]
        for line in source.splitlines():
            field = re.match(r"    (\w+): \w+ = ([^#]+?)(?:  # (.+))?$", line)
            group = re.match(r"    # (.+)", line)
            if field:
                yield from [f"   * - ``{field[1]}``", f"     - ``{field[2]}``", f"     - {field[3] or ''}"]
            elif group:
                yield from [f"   * - **{group[1]}**", "     -", "     -"]
        yield ""


def setup(app):
    app.add_directive("messages", Messages)
    app.add_directive("settings", SettingsTable)
    return {"parallel_read_safe": True}
