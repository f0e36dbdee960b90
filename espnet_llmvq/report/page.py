"""The page as HTML: template, styles and script of this directory, put together.

Everything that comes from outside is escaped by the template engine. As a second line of
defence the page forbids itself the network and every script and style but its own.
"""

import base64
import hashlib
import re
from pathlib import Path

HERE = Path(__file__).resolve().parent
# What HTML cannot hold: control characters, and halves of surrogate pairs from JSON escapes.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def clean(value):
    """`value` with characters that HTML cannot hold as U+FFFD, if it is a string."""
    # What the engine has escaped already has a method __html__, and is clean.
    if isinstance(value, str) and not hasattr(value, "__html__"):
        return _UNPRINTABLE.sub("\ufffd", value)
    return value


def _hash(text):
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"


def render(template="page.html.jinja", **content):
    """A page. template: a file of this directory; content: the names that it uses."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=clean,
    )
    css = (HERE / "page.css").read_text(encoding="utf-8")
    js = (HERE / "page.js").read_text(encoding="utf-8")
    return environment.get_template(template).render(css=css, js=js, css_hash=_hash(css), js_hash=_hash(js), **content)
