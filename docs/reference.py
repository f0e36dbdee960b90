"""What the site writes itself: the reference of the commands from their parsers, that of Python from docstrings.

Both give Markdown, which conf.py puts behind docs/commands.md and docs/api.md.
"""

import argparse
import importlib
import inspect
import os
import re

import espnet_llmvq
from espnet_llmvq.__main__ import CLI, children, module_name
from espnet_llmvq.cli.completion import parser_of

CODE = re.compile(r"(`[^`\n]+`)")


def command_words(group=()):
    """The words of every command, `("data", "format")` of `llmvq data format`, in order."""
    for name in children(group):
        words = (*group, name)
        yield from command_words(words) if os.path.isdir(os.path.join(CLI, *words)) else [words]


def plain(text):
    """Text of a help message as Markdown, of which only `code` keeps a meaning, in one line that fits into a cell."""
    parts = CODE.split(" ".join(text.split()))
    parts[::2] = [re.sub(r"([\\*_<>\[\]#|$])", r"\\\1", part) for part in parts[::2]]
    return "".join(part.replace("|", "\\|") if part.startswith("`") else part for part in parts)


def default_of(action):
    """The default of an option, as one writes it on the command line; empty for none."""
    value = action.default
    if value in (None, argparse.SUPPRESS, "", []) or isinstance(action, argparse._HelpAction):
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{' '.join(map(str, value)) if isinstance(value, (list, tuple)) else value}`".replace("|", "\\|")


def command(words):
    """The section of one command: what it does, its usage, a table of arguments and options."""
    parser = parser_of(importlib.import_module(module_name(words)).main)
    parser.prog = " ".join(("llmvq", *words))
    formatter = parser._get_formatter()
    lines = [f"## {parser.prog}", "", plain(parser.description), ""]
    if parser.epilog:
        lines += [plain(parser.epilog), ""]
    lines += ["```text", parser.format_usage().rstrip(), "```", ""]
    lines += ["| argument | default | meaning |", "|---|---|---|"]
    for action in parser._actions:
        if action.help == argparse.SUPPRESS or isinstance(action, argparse._HelpAction):
            continue
        names = ", ".join(f"`{name}`" for name in action.option_strings) or f"`{action.metavar or action.dest}`"
        needed = " (needed)" if action.required and action.option_strings else ""
        # The formatter adds the default to the text; here it has a column.
        text = re.sub(r" \(default: .*?\)$", "", formatter._expand_help(action), flags=re.DOTALL)
        if action.choices and not all(str(choice) in text for choice in action.choices):
            text += "; one of " + ", ".join(map(str, action.choices))
        lines.append(f"| {names}{needed} | {default_of(action)} | {plain(text)} |")
    return "\n".join(lines) + "\n"


def commands():
    """Markdown: all commands of llmvq."""
    os.environ["COLUMNS"] = "100"  # the width of usages
    return "\n".join(map(command, command_words()))


def as_markdown(doc):
    """A docstring as Markdown: indented code is fenced, a list of arguments becomes one of Markdown."""
    out, block, within = [], [], False

    def close():
        if block:
            out.extend(["```python", *inspect.cleandoc("\n".join(["", *block])).splitlines(), "```"])
            block.clear()

    for line in doc.splitlines():
        item = re.match(r"    (\w[\w, ]*): (.*)", line)
        if line in ("Args:", "Attributes:"):
            within = True
            out += [f"**{line[:-1]}**", ""]
        elif within and item:
            names = ", ".join(f"`{name}`" for name in item[1].split(", "))
            out.append(f"- {names}: {item[2]}")
        elif within and line.startswith("        "):
            out.append("  " + line.strip())
        elif line.startswith("    "):
            block.append(line)
        else:
            if within and line:
                out.append("")
                within = False
            if line or not block:
                close()
                out.append(line)
    close()
    return "\n".join(out)


def signature(function):
    """The arguments of a function as they are written, without `self`, a line each where they are many."""
    given = inspect.signature(function)
    shown = [p for p in given.parameters.values() if p.name != "self"]
    shown = [p.replace(default=...) if callable(p.default) and p.default is not p.empty else p for p in shown]
    one, several = str(given.replace(parameters=shown)), "(\n" + "".join(f"    {p},\n" for p in shown) + ")"
    if given.return_annotation is not given.empty:
        several += " -> " + inspect.formatannotation(given.return_annotation)
    text = one if len(one) < 80 else several
    text = re.sub(r"\b(?:collections\.abc|numpy|os|espnet_llmvq(?:\.\w+)*?)\.(?=[A-Z]|ndarray)", "", text)
    return text.replace("Ellipsis", "...")


def public(name):
    """The section of a public name: its docstring, and those of its methods and properties."""
    thing = getattr(espnet_llmvq, name)
    if not inspect.isclass(thing):
        return ""
    head = f"class {name}"
    if not issubclass(thing, Exception):
        head += signature(thing.__init__).replace(" -> None", "")
    lines = [f"## {name}", "", "```python", head, "```", "", as_markdown(inspect.getdoc(thing)), ""]
    for member, value in vars(thing).items():
        if (member.startswith("_") and member != "__call__") or not getattr(value, "__doc__", None):
            continue
        if isinstance(value, property):
            lines += [f"### {name}.{member}", "", as_markdown(inspect.getdoc(value.fget)), ""]
        elif inspect.isfunction(value):
            title, call = (f"Calling a {name}", "recogniser") if member == "__call__" else (f"{name}.{member}", member)
            lines += [f"### {title}", "", "```python", call + signature(value), "```", ""]
            lines += [as_markdown(inspect.getdoc(value)), ""]
    return "\n".join(lines) + "\n"


def api():
    """Markdown: all public names of espnet_llmvq."""
    return "\n".join(filter(None, map(public, espnet_llmvq.__all__)))
