"""`llmvq`, the one command: `llmvq [GROUP] COMMAND` runs espnet_llmvq/cli/[GROUP/]COMMAND.py and imports no other."""

import ast
import importlib
import os
import sys

from espnet_llmvq import __version__
from espnet_llmvq.base.errors import nearest
from espnet_llmvq.cli.parser import run

CLI = os.path.join(os.path.dirname(os.path.abspath(__file__)), "cli")
NOT_COMMANDS = ("__init__", "parser")


def module_file(words):
    """Path of a command or group below cli/ without its ending: "_" for "-"; one behind a name that Python reserves."""
    path = os.path.join(CLI, *(word.replace("-", "_") for word in words))
    return path if os.path.exists(path + ".py") or os.path.isdir(path) else path + "_"


def module_name(words):
    """Name of the module of a command."""
    return "espnet_llmvq.cli." + os.path.relpath(module_file(words), CLI).replace(os.sep, ".")


def children(group=()):
    """{name: one line of help} of the commands and groups in a group; () is the top."""
    found = {}
    for entry in sorted(os.scandir(os.path.join(CLI, *group)), key=lambda entry: entry.name):
        name, ending = os.path.splitext(entry.name)
        if entry.is_dir() and not name.startswith("_"):
            path = os.path.join(entry.path, "__init__.py")
        elif ending == ".py" and name not in NOT_COMMANDS:
            path = entry.path
        else:
            continue
        with open(path, encoding="utf-8") as f:
            doc = ast.get_docstring(ast.parse(f.read())) or ""
        found[name.rstrip("_").replace("_", "-")] = " ".join(doc.partition("\n\n")[0].split())
    return found


def usage(group=()):
    """Help of a group: its commands, each with the first line of its own help."""
    commands = children(group)
    width = max(map(len, commands))
    lines = [f"usage: {' '.join(['llmvq', *group])} COMMAND [--help] [OPTION ...]", ""]
    lines += [f"  {name:<{width}}  {text}" for name, text in commands.items()]
    if not group:
        lines += ["", "`llmvq COMMAND --help` has the options of a command, or the commands of a group."]
        lines += [f"Version {__version__}. `llmvq --version` prints it."]
    return "\n".join(lines)


def main(argv=None):
    """Find the command that the first words name, and call its main with the others."""
    words = list(sys.argv[1:] if argv is None else argv)
    group = ()
    while True:
        if not words or words[0] in ("-h", "--help"):
            print(usage(group))
            sys.exit(0 if words else 2)
        if not group and words[0] == "--version":
            print(__version__)
            sys.exit(0)
        name = words.pop(0).replace("_", "-")  # as options are taken with either
        known = children(group)
        if name not in known:
            where = f"in `llmvq {' '.join(group)}`" if group else "of llmvq"
            hint = nearest(name, known)
            print(f"error: {name!r} is no command {where}{hint}; known: {', '.join(known)}", file=sys.stderr)
            sys.exit(2)
        group = (*group, name)
        if not os.path.isdir(os.path.join(CLI, *group)):
            break
    sys.argv[0] = "llmvq " + " ".join(group)  # argparse says it in its messages
    run(importlib.import_module(module_name(group)).main, words)


if __name__ == "__main__":
    main()
