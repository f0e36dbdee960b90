"""Every command: fast help that names all its options, and a useful answer to a mistyped one."""

import importlib
import pkgutil
import subprocess
import sys

import pytest

import espnet_llmvq.bin
from espnet_llmvq.bin.cli import Parser, run
from espnet_llmvq.errors import UserError

COMMANDS = sorted(module.name for module in pkgutil.iter_modules(espnet_llmvq.bin.__path__) if module.name != "cli")
# Each of these alone takes longer to import than `--help` may take.
HEAVY = {"torch", "torchaudio", "espnet", "espnet2", "transformers", "peft", "scipy", "librosa"} | {
    "matplotlib",
    "sklearn",
}
# Runs a module as `python -m` does, then names the heavy modules it loaded.
RUN_AND_LIST = f"""
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
finally:
    print(*sorted({HEAVY!r} & set(sys.modules)), file=sys.stderr)
"""


class Parsed(Exception):
    """Raised in place of parsing, to leave a command's main() with its parser."""


def parser_of(command):
    def leave(parser, args=None, namespace=None):
        raise Parsed(parser)

    main = importlib.import_module(f"espnet_llmvq.bin.{command}").main
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Parsed) as parsed:
        patch.setattr(Parser, "parse_args", leave)
        main([])
    return parsed.value.args[0]


def required_arguments(parser):
    """Return the shortest command line that `parser` accepts."""
    arguments = []
    for action in parser._actions:
        value = str(next(iter(action.choices))) if action.choices else "1"
        if not action.option_strings and action.nargs not in ("?", "*"):
            arguments.append(value)
        elif action.required and action.option_strings:
            arguments += [action.option_strings[0], value]
    return arguments


def test_there_are_commands():
    assert {"train", "decode", "score"} <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_every_option_and_loads_nothing_heavy(command):
    done = subprocess.run(
        [sys.executable, "-c", RUN_AND_LIST, f"espnet_llmvq.bin.{command}", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == "", f"loaded before it was needed, or printed: {done.stderr}"
    for action in parser_of(command)._actions:
        for option in action.option_strings:
            assert option in done.stdout
        assert action.help, f"{action.dest} has no help"


@pytest.mark.parametrize("command", COMMANDS)
def test_mistyped_option_gets_the_nearest_name(command, capsys):
    main = importlib.import_module(f"espnet_llmvq.bin.{command}").main
    parser = parser_of(command)
    options = [o for action in parser._actions for o in action.option_strings if o.startswith("--")]
    for option in options:
        typo = option + "q"
        with pytest.raises(SystemExit) as exit_:
            main([*required_arguments(parser), typo])
        assert exit_.value.code == 2
        message = capsys.readouterr().err
        assert f"{typo} (did you mean '{option}'?)" in message


@pytest.mark.parametrize("command", COMMANDS)
def test_hyphens_do_for_underscores(command):
    parser = parser_of(command)
    arguments = required_arguments(parser)
    hyphened = [a.replace("_", "-") if a.startswith("--") else a for a in arguments]
    assert parser.parse_args(hyphened) == parser.parse_args(arguments)


def test_only_the_name_of_an_option_is_respelled():
    parser = Parser()
    parser.add_argument("--out_dir")
    parser.add_argument("rest", nargs="*")
    args = parser.parse_args(["--out-dir=a-b", "c-d", "--", "--e-f"])
    assert args.out_dir == "a-b"
    assert args.rest == ["c-d", "--e-f"]


def test_user_error_is_one_line_without_traceback(capsys):
    def main(argv):
        raise UserError("text:3: utterance 'u1' has no words; remove the line")

    with pytest.raises(SystemExit) as exit_:
        run(main, [])
    assert exit_.value.code == 1
    assert capsys.readouterr().err == "error: text:3: utterance 'u1' has no words; remove the line\n"


def test_other_errors_keep_their_traceback():
    def main(argv):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(main, [])
