"""The commands in README.md and the documentation are those that there are: each is parsed by its real parser.

Blocks marked `sh` are read line by line. `llmvq` and `./run.sh` are parsed as they parse themselves; of make, cd, `.`
and scripts it is checked that target, directory, file and options are there. Any other program needs a comment
`<!-- not run: REASON -->` before its block. The tutorial's commands are run by test/smoke_fork.sh, all of llmvq by
test_strangers.py.
"""

import contextlib
import importlib
import io
import os
import re
import shlex
import subprocess
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from test_install import ROOT

from espnet_llmvq import __main__ as llmvq
from espnet_llmvq.base.errors import UserError
from espnet_llmvq.cli.parser import Parser

# Records of runs (RESULTS.md) and of changes are as they were.
PAGES = sorted(
    str(path.relative_to(ROOT))
    for pattern in ("*.md", "docs/*.md", "bench/*.md", "egs/*.md", "egs/*/*.md", "egs/*/*/*.md")
    for path in ROOT.glob(pattern)
    if not path.name.startswith(("RESULTS", "CHANGELOG"))
)
DEFAULT_RECIPE = "egs/mini_tts/llmasr1"
OPERATORS = {"&&", "||", ";", "|"}
ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=")


@dataclass
class Block:
    """A fenced block: the number of its first line, its language and lines; `reason`: why it is not run; `section`: the
    number of headings before it.
    """

    line: int
    language: str
    lines: list = field(default_factory=list)
    reason: str = ""
    section: int = 0


def blocks(text):
    """(blocks of a page, its other lines as (number, line))."""
    found, others, block, reason, section = [], [], None, "", 0
    for number, line in enumerate(text.splitlines(), 1):
        fence = re.match(r" *```(\S*)", line)
        if block is not None:
            if fence:
                found.append(block)
                block = None
            else:
                block.lines.append(line)
        elif fence:
            block, reason = Block(number + 1, fence[1], [], reason, section), ""
        else:
            others.append((number, line))
            section += line.startswith("#")
            if marked := re.match(r" *<!-- not run: (\S.*) -->$", line):
                reason = marked[1]
            elif line.strip():
                reason = ""
    assert block is None, f"line {block.line}: the block is not closed"
    return found, others


def commands(block):
    """[(line number, words)] of the simple commands of a block of shell."""
    found, number, whole = [], block.line, ""
    for i, line in enumerate(block.lines):
        if not whole:
            number = block.line + i
        whole += line.removesuffix("\\") + " "
        if line.endswith("\\"):
            continue
        lexer = shlex.shlex(whole, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words = []
        for word in [*lexer, ";"]:
            if word not in OPERATORS:
                words.append(word)
            elif words:
                found.append((number, words))
                words = []
        whole = ""
    return found


class _Parsed(BaseException):
    """Raised in place of the work, when a command has parsed its arguments."""


def parse_llmvq(words):
    """Let a command of llmvq parse its words, and do no more. Raises ValueError with its message."""

    def parse_only(parser, args=None, namespace=None):
        parse(parser, args, namespace)
        raise _Parsed

    group, rest = (), list(words)
    while not group or os.path.isdir(os.path.join(llmvq.CLI, *group)):
        if not rest or rest[0] not in llmvq.children(group):
            raise ValueError(f"llmvq {' '.join(words)}: no such command")
        group = (*group, rest.pop(0))
    main = importlib.import_module(llmvq.module_name(group)).main
    parse, Parser.parse_args = Parser.parse_args, parse_only
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told), contextlib.redirect_stdout(told):
            main(rest)
    except _Parsed:
        return
    except SystemExit as end:
        if end.code:
            raise ValueError(told.getvalue()) from None
    finally:
        Parser.parse_args = parse


# The options of llmasr.sh as it parses them itself; what it leaves for `llmvq plan` is printed.
STUB = """\
#!/usr/bin/env bash
set -euo pipefail
{options}
plan_args=()
. ./utils/parse_options.sh
plan_args+=(--script_options "${{script_options}}")
printf '%s\\0' ${{plan_args[@]+"${{plan_args[@]}}"}} >"${{PLAN_ARGS}}"
"""


@pytest.fixture(scope="module")
def parse_run(tmp_path_factory):
    """Function: what `./run.sh` of a recipe passes to `llmvq plan`. Raises ValueError for an unknown option."""
    rooms = tmp_path_factory.mktemp("recipes")

    def with_encoder(recipe):
        """Variables of a recipe that stops without what another one trains, or without any corpus."""
        if recipe != "egs/mini_librispeech/jstip1":
            return {}
        trained = rooms / "trained"
        trained.mkdir(exist_ok=True)
        for name in ("model.pth", "config.yaml", "config.json"):
            (trained / name).touch()
        given = {"ENCODER": trained / "model.pth", "ENCODER_SMOKE": trained / "model.pth", "S2I": "/path"}
        return {name: str(value) for name, value in (given | {"LLM": trained, "LLM_SMOKE": trained}).items()}

    def parse(recipe, words):
        source = ROOT / recipe
        room = rooms / "egs" / Path(recipe).relative_to("egs")
        if not room.exists():
            room.mkdir(parents=True)
            for path in source.iterdir():
                if path.name not in ("llmasr.sh", "run.sh"):
                    (room / path.name).symlink_to(path.resolve())
            (room / "run.sh").write_text((source / "run.sh").read_text())
            script = (source / "llmasr.sh").read_text()
            options = script[script.index("# begin options") : script.index("# end options") + len("# end options")]
            (room / "llmasr.sh").write_text(STUB.format(options=options))
            (room / "llmasr.sh").chmod(0o755)
        if words in (["--help"], ["-h"]):
            return []
        given = {"PLAN_ARGS": str(room / "plan_args"), "MAIN_ROOT": str(ROOT), **with_encoder(recipe)}
        done = subprocess.run(
            ["bash", "./run.sh", *words], cwd=room, capture_output=True, text=True, env={**os.environ, **given}
        )
        if done.returncode:
            raise ValueError(done.stderr)
        args = (room / "plan_args").read_text().split("\0")[:-1]
        parse_llmvq(["plan", *args])
        return args

    return parse


def value_of(args, name, default):
    """The last value of an option in parsed words."""
    found = default
    for i, word in enumerate(args):
        if word.replace("-", "_") == f"__{name}":
            found = args[i + 1]
        elif word.partition("=")[0].replace("-", "_") == f"__{name}":
            found = word.partition("=")[2]
    return found


def check_systems(recipe, args, page):
    """Raise UserError for systems that neither the cards of the recipe nor the page have."""
    from espnet_llmvq.experiment.cards import read_cards
    from espnet_llmvq.experiment.systems import expand

    cards = read_cards(str(ROOT / recipe / value_of(args, "cards", "conf/systems.yaml")))
    mine = set(re.findall(r"^ +(\w+): \{label: ", page, re.MULTILINE))
    for base in re.findall(r"^ *base: template/(\S+)", page, re.MULTILINE):
        mine |= set(read_cards(str(ROOT / "egs/TEMPLATE/conf" / base)).names("systems"))
    names = [name for name in value_of(args, "systems", "").split() if name not in mine]
    if names:
        expand(cards, names)


SHELL_TEXT = "".join(
    path.read_text(encoding="utf-8")
    for pattern in ("Makefile", "tools/Makefile", "egs/*/*/*.sh", "egs/*/*/local/*.sh")
    for path in sorted(ROOT.glob(pattern))
    if path.is_file()
)


def check_assignment(word):
    name = ASSIGNMENT.match(word)[1]
    if not re.search(rf"\b{name}\b", SHELL_TEXT):
        raise ValueError(f"no script and no Makefile reads {name}")


def check_make(words):
    where, targets = ROOT, []
    words = list(words)
    while words:
        word = words.pop(0)
        if word == "-C":
            where = ROOT / words.pop(0)
        elif ASSIGNMENT.match(word):
            check_assignment(word)
        else:
            targets.append(word)
    text = (where / "Makefile").read_text(encoding="utf-8")
    for target in targets:
        if not re.search(rf"^{re.escape(target)}:", text, re.MULTILINE):
            raise ValueError(f"{where}/Makefile has no target {target}")


def check_script(path, words):
    """A script is there, and its text has the options that it is given."""
    if not path.is_file():
        raise ValueError(f"there is no {path}")
    text = path.read_text(encoding="utf-8")
    for word in words:
        option = word.partition("=")[0]
        if option.startswith("--") and option not in text and not re.search(rf"^{option[2:]}=", text, re.MULTILINE):
            raise ValueError(f"{path} has no option {option}")


class Reader:
    """Goes through the commands of a page. `where`: the directory that it is in, at each heading that of the page."""

    def __init__(self, page, text, parse_run):
        self.page, self.text, self.parse_run = page, text, parse_run
        home = os.path.dirname(page) if page.startswith("egs/") and page.count("/") > 2 else ""
        self.home, self.section = home, 0
        self.where, self.forks, self.foreign = home, {}, []

    def enter(self, block):
        """Begin a block: what was cd'ed to counts until the next heading."""
        self.foreign = []
        if block.section != self.section:
            self.section, self.where = block.section, self.home

    def recipe(self):
        """The recipe whose run.sh is meant."""
        if self.where in self.forks:
            return self.forks[self.where]
        return self.where if (ROOT / (self.where or "") / "run.sh").is_file() else DEFAULT_RECIPE

    def read(self, words):
        words = list(words)
        while words and ASSIGNMENT.match(words[0]):
            check_assignment(words.pop(0))
        if not words:
            return
        program, *rest = words
        if rest and rest[-1] == "...":  # and so on
            rest.pop()
        if os.path.basename(program) == "llmvq":
            parse_llmvq(rest)
            if rest[:2] == ["recipe", "fork"] and len(rest) > 3 and not rest[2].startswith("-"):
                self.forks[rest[3]] = f"egs/{rest[2]}" + ("" if "/" in rest[2] else "/llmasr1")
        elif program == "./run.sh":
            recipe = self.recipe()
            check_systems(recipe, self.parse_run(recipe, rest) + rest, self.text)
        elif program == "make":
            check_make(rest)
        elif program == "cd":
            self.go(rest[0])
        elif program == "export":
            for word in rest:
                check_assignment(word)
        elif program == ".":
            name = rest[0].removeprefix("./")
            if not any((ROOT / place / name).is_file() for place in ("", self.recipe(), "egs/TEMPLATE/llmasr1")):
                raise ValueError(f"there is no {name}")
        elif program in ("python", "python3") and rest and rest[0].endswith(".py"):
            check_script(ROOT / rest[0], rest[1:])
        elif program in ("python", "python3") and rest[:2] == ["-m", "pytest"]:
            check_script(ROOT / rest[2], [])
        elif (ROOT / program).is_file() and "/" in program:
            check_script(ROOT / program, rest)
        else:
            self.foreign.append(program)

    def go(self, target):
        there = os.path.normpath(target)
        if there in self.forks or (ROOT / there).is_dir():
            self.where = there
        elif self.where and (ROOT / self.where / there).is_dir():
            self.where = os.path.normpath(os.path.join(self.where, there))
        else:
            raise ValueError(f"there is no directory {target}")


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_one(page, parse_run):
    text = (ROOT / page).read_text(encoding="utf-8")
    reader, wrong = Reader(page, text, parse_run), []
    for block in blocks(text)[0]:
        if block.language != "sh":
            if block.reason:
                wrong.append(f"{page}:{block.line}: only blocks of sh are marked 'not run'")
            continue
        reader.enter(block)
        for number, words in commands(block):
            try:
                reader.read(words)
            except (ValueError, UserError) as err:
                wrong.append(f"{page}:{number}: {shlex.join(words)}: {str(err).strip()[-500:]}")
        if reader.foreign and not block.reason:
            names = ", ".join(dict.fromkeys(reader.foreign))
            wrong.append(f"{page}:{block.line}: {names}: say why with '<!-- not run: REASON -->' before the block")
        if block.reason and not reader.foreign:
            wrong.append(f"{page}:{block.line}: all of it is checked; leave out 'not run'")
    assert not wrong, "\n".join(wrong)


PROGRAMS = r"(llmvq|\./run\.sh|make|pip|uv|hf|git|python3?|cd) [\w./-]"


@pytest.mark.parametrize("page", PAGES)
def test_commands_stand_in_blocks_of_sh(page):
    """So that none is overlooked; a YAML file for a forge's runner has its own."""
    found, others = blocks((ROOT / page).read_text(encoding="utf-8"))
    loose = [(n, line) for n, line in others if re.match(r" {4,}(\$ |(\w+=\S+ )*)" + PROGRAMS, line)]
    loose += [
        (block.line, line)
        for block in found
        if block.language != "sh"
        for line in block.lines
        if re.match(r" *(\$ )?" + PROGRAMS, line)
    ]
    assert not loose


def inline(text):
    """Commands of llmvq and run.sh in running text, as words."""
    _, others = blocks(text)
    for code in re.findall(r"`([^`\n]+)`", "\n".join(line for _, line in others)):
        if code.startswith(("llmvq ", "./run.sh ")):
            with contextlib.suppress(ValueError):  # a quotation that is not closed
                yield code, shlex.split(code)


def options_of(words):
    return [word.partition("=")[0].replace("-", "_") for word in words if word.startswith("--")]


@pytest.mark.parametrize("page", PAGES)
def test_commands_in_running_text_are_known(page):
    """Their names and options; what stands for something else is in capitals."""
    from espnet_llmvq.cli.completion import parser_of

    def known_options(group):
        main = importlib.import_module(llmvq.module_name(group)).main
        return {option.replace("-", "_") for option in parser_of(main)._option_string_actions}

    script = (ROOT / "egs/TEMPLATE/llmasr1/llmasr.sh").read_text(encoding="utf-8").partition("# end options")[0]
    own = {f"__{name}" for name in re.findall(r"^([a-z_0-9]+)=", script, re.MULTILINE)} | {"__help"}
    wrong = []
    for code, words in inline((ROOT / page).read_text(encoding="utf-8")):
        group, rest = (), words[1:]
        if words[0] == "./run.sh":
            known = own | known_options(("plan",))
        else:
            while rest and os.path.isdir(os.path.join(llmvq.CLI, *group)) and rest[0] in llmvq.children(group):
                group = (*group, rest.pop(0))
            if os.path.isdir(os.path.join(llmvq.CLI, *group)):  # `llmvq data`, `llmvq --version`, `llmvq COMMAND`
                if rest and not rest[0].startswith("--") and not rest[0].isupper():
                    wrong.append(code)
                continue
            known = known_options(group)
        wrong += [f"{code}: {option}" for option in options_of(rest) if option not in known]
    assert not wrong


def test_a_wrong_command_is_found(parse_run, tmp_path):
    reader = Reader("docs/x.md", "", parse_run)
    for line, message in {
        "llmvq scor --ref a": "no such command",
        "llmvq score --ref a --hyp b --hpy c": "--hpy (did you mean '--hyp'?)",
        "./run.sh --stge 3": "--stge (did you mean '--stage'?)",
        "./run.sh --stage": "needs a value",
        "./run.sh --systems soft_k11": "soft_k11",
        "make reciep": "no target reciep",
        "make MODEL=x models": "reads MODEL",
        "cd egs/mini_tss/llmasr1": "no directory",
        "python bench/drafts.py --jsn x": "no option --jsn",
        ". tools/activate.sh": "no tools/activate.sh",
    }.items():
        with pytest.raises((ValueError, UserError)) as told:
            for _, words in commands(Block(1, "sh", [line])):
                reader.read(words)
        assert message in str(told.value), line
    reader.read(["sbatch", "x"])
    assert reader.foreign == ["sbatch"]


def test_lines_are_cut_as_a_shell_cuts_them():
    block = Block(3, "sh", ["a --b 'c d' \\", "    e   # f", "", "g && h | i", "X=1 j ..."])
    assert commands(block) == [
        (3, ["a", "--b", "c d", "e"]), (6, ["g"]), (6, ["h"]), (6, ["i"]), (7, ["X=1", "j", "..."]),
    ]  # fmt: skip
    found, _ = blocks("<!-- not run: far away -->\n```sh\na\n```\n\n  ```python\n  b\n  ```\n")
    assert [(b.line, b.language, b.lines, b.reason) for b in found] == [
        (3, "sh", ["a"], "far away"), (7, "python", ["  b"], ""),
    ]  # fmt: skip


def cards_in(page):
    """Indented blocks of a page that are whole cards: they begin with `base: template/...`."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [
        textwrap.dedent(block)
        for block in re.findall(r"^( {4,}base: template/.*\n(?: {4,}.*\n|\n(?= {4,}\S))*)", text, re.MULTILINE)
    ]


@pytest.mark.parametrize("page", [page for page in PAGES if cards_in(page)])
def test_cards_can_be_read(page, tmp_path):
    """All their systems are to be had, with phases that there are."""
    from conftest import link_template

    from espnet_llmvq.experiment.cards import read_cards
    from espnet_llmvq.experiment.systems import read_systems

    link_template(tmp_path / "conf")
    for block in cards_in(page):
        (tmp_path / "conf" / "systems.yaml").write_text(block, encoding="utf-8")
        cards = read_cards(str(tmp_path / "conf"))
        assert read_systems(cards, cards.names("systems"))


@pytest.mark.parametrize("page", PAGES)
def test_python_compiles(page):
    for block in blocks((ROOT / page).read_text(encoding="utf-8"))[0]:
        if block.language == "python":
            compile(textwrap.dedent("\n".join(block.lines)), f"{page}:{block.line}", "exec")
