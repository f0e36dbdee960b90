"""Print a script that completes groups, commands, options and their values in a shell.

For bash: eval "$(llmvq completion bash)" in ~/.bashrc.
"""

import importlib
import os

from espnet_llmvq.cli.parser import Parser

BASH = """\
declare -A _llmvq_words=(
{words}
)
_llmvq() {{
    local key=llmvq previous=${{COMP_WORDS[COMP_CWORD - 1]}} current=${{COMP_WORDS[COMP_CWORD]}} i
    for ((i = 1; i < COMP_CWORD; i++)); do
        [[ ${{COMP_WORDS[i]}} != -* && -n ${{_llmvq_words["${{key}} ${{COMP_WORDS[i]}}"]+set}} ]] || break
        key+=" ${{COMP_WORDS[i]}}"
    done
    [ -z "${{_llmvq_words["${{key}} ${{previous}}"]+set}}" ] || key+=" ${{previous}}"
    COMPREPLY=()
    # Options after a hyphen only: without one, files are completed.
    [[ ${{_llmvq_words["${{key}}"]}} == --* && ${{current}} != -* ]] ||
        mapfile -t COMPREPLY < <(compgen -W "${{_llmvq_words["${{key}}"]}}" -- "${{current}}")
}}
complete -o default -F _llmvq llmvq"""


class _Built(BaseException):
    """Raised in place of parsing, to leave a command's main() with its parser."""


def parser_of(main):
    """The Parser that a command's main() builds."""

    def leave(parser, args=None, namespace=None):
        raise _Built(parser)

    parse, Parser.parse_args = Parser.parse_args, leave
    try:
        main([])
    except _Built as built:
        return built.args[0]
    finally:
        Parser.parse_args = parse


def completions(group=()):
    """{words typed so far: [words that can follow]} of a group and all in it: "llmvq data format --audio_format"."""
    from espnet_llmvq.__main__ import CLI, children, module_name

    names = children(group)
    table = {" ".join(("llmvq", *group)): [*names, *(["--help"] if group else ["--help", "--version"])]}
    for words in ((*group, name) for name in names):
        if os.path.isdir(os.path.join(CLI, *words)):
            table.update(completions(words))
            continue
        typed = " ".join(("llmvq", *words))
        actions = parser_of(importlib.import_module(module_name(words)).main)._actions
        table[typed] = [option for action in actions for option in action.option_strings if option.startswith("--")]
        for action in actions:
            if action.choices:
                table.update({f"{typed} {option}": list(map(str, action.choices)) for option in action.option_strings})
    return table


def main(argv=None):
    parser = Parser(description=__doc__)
    parser.add_argument("shell", choices=("bash",), help="for which to print it")
    parser.parse_args(argv)
    print(BASH.format(words="\n".join(f"    ['{key}']='{' '.join(words)}'" for key, words in completions().items())))
