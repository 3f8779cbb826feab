"""Prepare docstrings for the site: doctests become code, and the fields of records a table."""

import re
from typing import Any

from griffe import Attribute, Class, Docstring, Extension, Object

EXAMPLE = re.compile(r"^>>> .*?(?=\n\s*\n|\Z)", re.MULTILINE | re.DOTALL)
COMMENT = re.compile(r"  # (.*)$")


class Docstrings(Extension):
    """Change docstrings in place after they were collected."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:  # noqa: ARG002
        """Fence every run of lines that begins with `>>>`; Markdown would take it for quotations."""
        if obj.docstring is not None:
            obj.docstring.value = EXAMPLE.sub(r"```pycon\n\g<0>\n```", obj.docstring.value)

    def on_class(self, *, cls: Class, **kwargs: Any) -> None:  # noqa: ARG002
        """List the fields of a record that has no section of attributes; the comment beside a field describes it."""
        fields = [member for member in cls.members.values() if isinstance(member, Attribute) and is_field(member)]
        if not fields or cls.docstring is None or "Attributes:" in cls.docstring.value:
            return
        lines = [f"    {field.name}: {described(field)}" for field in fields]
        cls.docstring = Docstring(
            "\n".join([cls.docstring.value, "", "Attributes:", *lines]), lineno=cls.docstring.lineno, parent=cls
        )


def is_field(member: Attribute) -> bool:
    """Tell whether a member of a class is a public field of a record, and not computed or documented by itself."""
    return (
        member.annotation is not None
        and member.is_public
        and not member.has_docstring
        and "property" not in member.labels
    )


def described(field: Attribute) -> str:
    """Return the comment at the end of a field's line, and its default."""
    comments = COMMENT.findall(field.lines[-1]) if field.lines else []
    default = "" if field.value is None else f"Default: `{field.value}`."
    sentence = f"{comments[0][0].upper()}{comments[0][1:].rstrip('.')}." if comments else ""
    return " ".join(part for part in (sentence, default) if part) or "-"
