"""Every command: fast help that names all its options, and a useful answer to a mistyped one."""

import importlib
import json
import os
import resource
import subprocess
import sys

import pytest

from espnet_llmvq import __main__ as llmvq
from espnet_llmvq import __version__
from espnet_llmvq.base.errors import UserError
from espnet_llmvq.cli import completion
from espnet_llmvq.cli.parser import Parser, run


def commands(group=()):
    """Words of every command, found as `llmvq` finds them."""
    for name in llmvq.children(group):
        words = (*group, name)
        if os.path.isdir(os.path.join(llmvq.CLI, *words)):
            yield from commands(words)
        else:
            yield words


COMMANDS = [" ".join(words) for words in commands()]
# Each of these alone takes longer to import than `--help` may take.
HEAVY = {
    "torch", "torchaudio", "espnet", "espnet2", "transformers", "peft", "scipy", "librosa", "matplotlib", "sklearn",
}  # fmt: skip
# Asks each command for its help in one process, then names the heavy modules that were loaded.
HELP_OF_ALL = f"""
import contextlib, io, json, sys
from espnet_llmvq.__main__ import main
helps = {{}}
for command in sys.argv[1:]:
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        try:
            main([*command.split(), "--help"])
        except SystemExit as end:
            assert end.code == 0, command
    helps[command] = printed.getvalue()
    loaded = {HEAVY!r} & set(sys.modules)
    assert not loaded, (command, loaded)
print(json.dumps(helps))
"""


def main_of(command):
    return importlib.import_module(llmvq.module_name(command.split())).main


def parser_of(command):
    return completion.parser_of(main_of(command))


@pytest.fixture(scope="module")
def helps():
    """{command: what its --help prints}, all from one process that must load nothing heavy."""
    done = subprocess.run([sys.executable, "-c", HELP_OF_ALL, *COMMANDS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


def required_arguments(parser):
    """Return the shortest command line that `parser` accepts."""
    arguments = []
    for action in parser._actions:
        value = str(next(iter(action.choices))) if action.choices else "1"
        if not action.option_strings and action.nargs not in ("?", "*"):
            arguments.append(value)
        elif action.required and action.option_strings:
            arguments += [action.option_strings[0], value]
    for group in parser._mutually_exclusive_groups:
        if group.required:
            arguments += [group._group_actions[0].option_strings[0], "1"]
    return arguments


def test_there_are_commands():
    assert {"train", "decode", "score"} <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_every_option(command, helps):
    assert helps[command].startswith(f"usage: llmvq {command} ")
    for action in parser_of(command)._actions:
        for option in action.option_strings:
            assert option in helps[command]
        assert action.help, f"{action.dest} has no help"


@pytest.mark.parametrize("words", [["--help"], ["data", "--help"], ["score", "--help"], ["transcribe", "--help"]])
def test_help_takes_less_than_half_a_second(words):
    """Of the processor, and of one on which Python alone takes 20 ms: what else the machine does must not fail this."""
    seconds = {"-c": [], "-m": []}
    for _ in range(3):
        for option, found in seconds.items():
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            given = ["pass"] if option == "-c" else ["espnet_llmvq", *words]
            subprocess.run([sys.executable, option, *given], check=True, capture_output=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            found.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds["-m"]) < 25 * max(0.02, min(seconds["-c"]))


@pytest.mark.parametrize(
    "words, message",
    [
        (["scor"], "'scor' is no command of llmvq (did you mean 'score'?); known: align, "),
        (["data", "valid"], "'valid' is no command in `llmvq data` (did you mean 'validate'?); known: combine, "),
    ],
)
def test_unknown_commands_get_the_nearest_name(words, message, capsys):
    with pytest.raises(SystemExit) as exit_:
        llmvq.main(words)
    assert exit_.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")


def test_groups_list_their_commands(capsys):
    with pytest.raises(SystemExit) as exit_:
        llmvq.main(["data", "--help"])
    assert exit_.value.code == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()[2:]]
    assert listed == [words.split()[1] for words in COMMANDS if words.startswith("data ")]
    with pytest.raises(SystemExit) as exit_:
        llmvq.main(["data"])
    assert exit_.value.code == 2


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    """Function: what bash offers behind a line that was typed."""
    room = tmp_path_factory.mktemp("bash")
    (room / "file.txt").touch()
    script = subprocess.run(
        [sys.executable, "-m", "espnet_llmvq", "completion", "bash"], capture_output=True, text=True
    )
    ask = """
    COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
    _llmvq
    printf '%s\\n' "${COMPREPLY[@]}"
    complete -p llmvq >&2
    """

    def offered(line):
        words = ["llmvq", *line.split(" ")]
        done = subprocess.run(
            ["bash", "-eu", "-c", script.stdout + ask, "bash", *words], capture_output=True, text=True, cwd=room
        )
        assert done.returncode == 0 and done.stderr == "complete -o default -F _llmvq llmvq\n", done.stderr
        return done.stdout.split()

    return offered


@pytest.mark.parametrize(
    "line, words",
    [
        ("da", ["data"]),
        ("data f", ["filter", "fix", "format"]),
        ("data import --h", ["--help", "--held_out"]),
        ("data format --audio_format ", ["wav", "flac"]),
        ("data format --audio_format wav --r", ["--rate"]),
        ("data format src --n", ["--nj"]),
        ("data format sr", []),  # a file's name then
        ("--v", ["--version"]),
        ("nonsense x", []),
    ],
)
def test_bash_completes_commands_options_and_values(complete, line, words):
    assert complete(line) == words


def test_bash_knows_every_command(complete):
    tops = set(complete("")) - {"--help", "--version"}
    assert tops == {command.split()[0] for command in COMMANDS}


def test_version(capsys):
    with pytest.raises(SystemExit) as exit_:
        llmvq.main(["--version"])
    assert exit_.value.code == 0
    assert capsys.readouterr().out == f"{__version__}\n"


def test_a_word_too_many_is_no_option(capsys):
    with pytest.raises(SystemExit):
        main_of("score")(["--ref", "text", "--hyp", "a.txt", "b.txt"])
    assert "error: unexpected: b.txt; an option takes one value" in capsys.readouterr().err


@pytest.mark.parametrize("module", ["espnet.task", "espnet.trainer", "model.build", "transcribe"])
def test_libraries_print_nothing_when_they_are_loaded(module):
    done = subprocess.run([sys.executable, "-c", f"import espnet_llmvq.{module}"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


# `llmvq espnet -m MODULE` passes on what follows.
@pytest.mark.parametrize("command", [command for command in COMMANDS if command != "espnet"])
def test_mistyped_option_gets_the_nearest_name(command, capsys):
    main = main_of(command)
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
def test_no_jobs_are_refused(command, capsys):
    parser = parser_of(command)
    if "--nj" in parser._option_string_actions:
        with pytest.raises(SystemExit):
            parser.parse_args([*required_arguments(parser), "--nj", "0"])
        assert "argument --nj: invalid positive number value: '0'" in capsys.readouterr().err


def test_a_report_of_a_run_takes_no_other_directories(capsys):
    with pytest.raises(SystemExit):
        main_of("report")(["--exp", "exp", "--results_dir", "x"])
    assert "--exp says where all is: leave out --exp_dir, --results_dir and --table" in capsys.readouterr().err


@pytest.mark.parametrize("words, title, resample", [([], "Ours", "utterance"), (["x"], "x", "speaker")])
def test_what_is_asked_beside_a_run_counts(plan, monkeypatch, words, title, resample):
    """The title of a report and what scoring resamples; else they are those of the run."""
    plan({"systems": {"ctc": {"decode": "ctc"}}}, systems="ctc", title="Ours").write()
    asked = {}
    monkeypatch.setattr("espnet_llmvq.report.report.write_report", lambda *args: asked.update(title=args[3].title))

    def scored(table, options, out_dir):
        asked["resample"] = options.statistics.resample
        raise UserError("enough")

    monkeypatch.setattr("espnet_llmvq.score.scoring.score_all", scored)
    main_of("report")(["--exp", "exp", *(f"--title={word}" for word in words)])
    with pytest.raises(UserError, match="enough"):
        main_of("results")(["--exp", "exp", *("--resample=speaker" for _ in words)])
    assert asked == {"title": title, "resample": resample}


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


def test_a_library_of_the_extra_that_is_missing_is_named(capsys):
    def main(argv):
        raise ModuleNotFoundError(f"No module named {argv[0]!r}", name=argv[0])

    for name, extra in (("torch", "train"), ("gguf", "models")):
        with pytest.raises(SystemExit) as exit_:
            run(main, [name])
        assert exit_.value.code == 1
        assert capsys.readouterr().err == (
            f"error: this needs {name}, which is not installed: pip install 'espnet_llmvq[{extra}]' (docs/install.md)\n"
        )
    with pytest.raises(ModuleNotFoundError):  # our own mistake
        run(main, ["espnet_llmvq.nothing"])
