"""The site of the documentation, for Sphinx: `make docs`.

Its pages are the Markdown files of the repository where they lie, so that they can be read and their links followed on
a code host too. What the site adds: the navigation, which is the lists of docs/README.md; the reference of commands and
of Python (reference.py); equations as MathML, so that no page loads anything from elsewhere.
"""

import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

import espnet_llmvq  # noqa: E402

project = "espnet_llmvq"
version = release = espnet_llmvq.__version__
root_doc = "README"
extensions = ["myst_parser"]
# Directories without pages are not looked through.
exclude_patterns = ["**/.*", "build", "dist", "downloads", "espnet_llmvq", "test", "tools"]
exclude_patterns += [f"egs/*/*/{name}" for name in ("data*", "dump*", "exp*", "downloads", "llm*", "conf", "local")]
include_patterns = ["*.md", "bench/*.md", "docs/*.md", "egs/README.md", "egs/TEMPLATE/*.md", "egs/*/*/*.md"]

myst_heading_anchors = 4
myst_enable_extensions = []
myst_fence_as_directive = {"math"}
suppress_warnings = []
highlight_language = "text"
html_math_renderer = "mathml"

html_theme = "furo"
html_title = f"{project} {version}"
html_copy_source = html_show_sphinx = False
html_show_copyright = False


def navigation():
    """Hidden toctrees: a part for each heading of docs/README.md, with the pages that its list links to."""
    text = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    parts = ["```{toctree}\n:hidden:\n\n/docs/README\n```\n"]
    for part in text.split("\n## ")[1:]:
        title, _, body = part.partition("\n")
        pages = re.findall(r"^ *- \[.*?\]\(([\w./-]+)\.md\)", body, re.MULTILINE)
        if pages:
            paths = ["/" + os.path.normpath(f"docs/{page}") for page in pages]
            parts.append("\n".join(["```{toctree}", ":hidden:", f":caption: {title}", "", *paths, "```", ""]))
    return "\n".join(parts)


def add(app, page, source):
    """Put what the site writes itself behind a page."""
    import reference

    more = {"README": navigation, "docs/commands": reference.commands, "docs/api": reference.api}
    if page in more:
        source[0] += "\n" + more[page]()


def visit_math(self, node):
    from docutils.utils.math.latex2mathml import tex2mathml

    block = node.tagname == "math_block"
    text = tex2mathml(node.astext(), as_block=block)
    # Not of the class "math", whose style cuts off high fractions.
    self.body.append(f'<div style="overflow-x: auto; padding: 0.4em 0">{text}</div>' if block else text)
    from docutils.nodes import SkipNode

    raise SkipNode


def enter_at_the_front(app, error):
    """The site begins at index.html, the pages at README."""
    if not error and app.builder.name == "html":
        text = '<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url=README.html">\n'
        (Path(app.outdir) / "index.html").write_text(text + '<a href="README.html">README</a>\n', encoding="utf-8")


def setup(app):
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math, None))
    app.connect("source-read", add)
    app.connect("build-finished", enter_at_the_front)
