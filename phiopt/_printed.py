"""Results that show their report where they are looked at: in a prompt and in a notebook, as in print."""

from html import escape


class Printed:
    """An object whose ``str`` is a report for people. A prompt and a notebook show the report."""

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"
