"""README.md and the documentation: up to date, complete, and a site without a warning."""

import dataclasses
import importlib.util
import inspect
import re
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import soundfile
from conftest import TONES, tones
from test_cli import COMMANDS
from test_docs_commands import PAGES, blocks
from test_install import ROOT

import espnet_llmvq


def load(name):
    """A module of docs/, which is no package."""
    spec = importlib.util.spec_from_file_location(name.replace("/", "_"), ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read(path):
    return (ROOT / path).read_text(encoding="utf-8")


def test_readme_is_short_and_up_to_date():
    readme = read("README.md")
    assert len(readme.splitlines()) <= 120
    assert load("readme_table").renewed(readme) == readme, "run: python docs/readme_table.py"
    table = [line for line in readme.splitlines() if line.startswith("| system |")]
    assert len(table) == 1 and table[0].count("|") - 1 <= 4
    assert load("images/bridge").picture() == read("docs/images/bridge.svg"), "run: python docs/images/bridge.py"


def test_table_of_the_readme():
    results = textwrap.dedent("""
        # Tables

        ## Word error rate (%)

        | system               |           a (ID) | b_x (OOD) |           c (OOD) |
        | -------------------- | ---------------: | --------: | ----------------: |
        | words / utterances / OOV % | 12 / 3 / 0.5 | 4 (small) / 1 / 0 | 7 / 2 / 1.0 |
        | normaliser           | none | none | none |
        | One                  | **1.25** [0.34, 2.05] | 3.00 | 110.45 [99.95, 120.00] |

        ## Character error rate (%)
        """)
    assert load("readme_table").short_table(results, ["c", "a"]).splitlines() == [
        "| system | c (OOD) | a (ID) |",
        "| --- | ---: | ---: |",
        "| words | 7 | 12 |",
        "| One | 110.5 [100.0, 120.0] | **1.3** [0.3, 2.1] |",
    ]
    with pytest.raises(ValueError, match="there is no column d; there are a, b_x, c"):
        load("readme_table").short_table(results, ["a", "d"])
    with pytest.raises(ValueError, match="there is no table under"):
        load("readme_table").short_table("# Nothing", ["a"])
    with pytest.raises(ValueError, match="no comments around its table"):
        load("readme_table").renewed("# Nothing")


def test_every_command_is_in_the_list():
    listed = set()
    for row in re.findall(r"^\| (`llmvq .*?) \|", read("docs/commands.md"), re.MULTILINE):
        first, *others = re.findall(r"`(.*?)`", row)
        group = first.split()[1:-1]
        for name in [first.removeprefix("llmvq "), *others]:
            names = [name, " ".join([*group, name]), name.rpartition(" ")[0]]
            listed |= {n for n in names if n in COMMANDS}
            if name == "stage NAME":
                stages = re.search(r"^\| `llmvq stage NAME` .*$", read("docs/commands.md"), re.MULTILINE)[0]
                assert {"check", "encode"} <= set(re.findall(r"`(\w+)`", stages))
    assert listed == set(COMMANDS)


def test_reference_of_commands():
    """Each has a section with all its options, their defaults and texts that no mark of Markdown breaks."""
    text = load("reference").commands()
    sections = dict(re.findall(r"^## llmvq (.*)\n((?:(?!## ).*\n)*)", text, re.MULTILINE))
    assert sorted(sections) == sorted(COMMANDS)
    assert "| `--replicates` | `1000` |" in sections["score"]
    assert "| `SRC` |  | data directory |" in sections["data perturb"]
    assert re.search(r"\| `--ref` \(needed\) \|  \| reference transcript \|", sections["score"])
    for name, section in sections.items():
        for row in section.splitlines():
            if row.startswith("|"):
                assert len(re.findall(r"(?<!\\)\|", row)) == 4, (name, row)


def test_reference_of_python():
    text = load("reference").api()
    classes = [name for name in espnet_llmvq.__all__ if not name.startswith("_")]
    assert re.findall(r"^## (.*)", text, re.MULTILINE) == classes
    assert set(re.findall(r"^\| `(\w+)` \|", read("docs/api.md"), re.MULTILINE)) == set(classes)
    assert "- `batch_seconds`: audio decoded at once" in text and "-> Iterator[Segment]" in text
    assert "0x" not in text and "espnet_llmvq." not in text.replace("espnet_llmvq.transcribe", "")


def config_rows():
    """{(section, key): default} of the tables of docs/config.md."""
    rows, section = {}, ""
    for line in read("docs/config.md").splitlines():
        if line.startswith("## "):
            section = line[3:]
        elif line.startswith("| `"):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            if len(cells) == 2:  # a key that is needed
                continue
            names = re.findall(r"`([^`]+)`", cells[0])
            defaults = cells[1].split(", ") if len(names) > 1 else [cells[1]]
            assert len(defaults) in (1, len(names)), line
            rows |= {(section, name): defaults[i % len(defaults)] for i, name in enumerate(names)}
            assert cells[2], f"what is it? {line}"
    return rows


def said(value):
    """A default as docs/config.md has it."""
    if value is None:
        return "none"
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(said, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


@pytest.mark.slow
def test_every_key_is_there_with_its_default():
    from espnet_llmvq.espnet.task import WRITTEN, SpeechLLMTask
    from espnet_llmvq.llm.noisy_copy import Noise
    from espnet_llmvq.llm.pretrain import Config
    from espnet_llmvq.model import build
    from espnet_llmvq.sequence.interleaved import Interleaving

    rows, text, wrong = config_rows(), read("docs/config.md"), []

    def check(section, name, default):
        found = rows.get((section, name), "not there").replace("`", "")
        if found != said(default):
            wrong.append(f"{section}, {name}: {found}; it is {said(default)}")

    for cls, section, prefix in (
        (Config, "`lm.yaml`", ""), (Noise, "`lm.yaml`", "noise."), (Interleaving, "Interleaving", ""),
    ):  # fmt: skip
        for field in dataclasses.fields(cls):
            if field.default is not dataclasses.MISSING:
                check(section, prefix + field.name, field.default)
    for bridge in build.BRIDGES.values():
        for name in build.signature_keys(bridge) - {"input_size", "embedding"}:
            inits = [vars(cls)["__init__"] for cls in bridge.__mro__ if "__init__" in vars(cls)]
            values = [inspect.signature(init).parameters.get(name) for init in inits]
            check("Bridge", name, next(value.default for value in values if value))
    losses = "Losses, freezing, precision"
    for section, prefix, function in (
        ("LLM", "llm_conf", build.load_llm), (losses, "aligned_start_conf", build.AlignedStart),
        (losses, "ctc_conf", build.PieceHead), (losses, "model_conf", build.SpeechLLM.__init__),
    ):  # fmt: skip
        for value in inspect.signature(function).parameters.values():
            given = {"path", "weights", "embedding", "blank", "input_size", "rows", "ids"}  # by the commands
            if value.name not in given and (prefix != "model_conf" or value.kind is value.KEYWORD_ONLY):
                check(section, f"{prefix}.{value.name}", value.default)
    for name, default in SpeechLLMTask.get_default_config().items():
        if f"`{name}`" not in text and f"`{name}." not in text and name not in WRITTEN:
            wrong.append(f"{name} is not there")
        found = rows.get(("ESPnet's keys", name), "").replace("`", "")
        if isinstance(default, (bool, int, float, str)) and found and found != said(default) and name != "batch_size":
            wrong.append(f"{name}: {found}; it is {said(default)}")
    assert not wrong, "\n".join(wrong)


# Pages whose blocks of Python are a session with a packed system, in order.
SESSIONS = ["README.md", "docs/api.md", "docs/transcribe.md"]


@pytest.mark.slow
@pytest.mark.parametrize("page", SESSIONS)
def test_python_runs(page, packed_dir, tmp_path, monkeypatch, capsys):
    """As it stands, but for the GPU."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exp" / "packed").mkdir(parents=True)
    for name in ("DIR", "exp/packed/soft_k10"):
        (tmp_path / name).symlink_to(packed_dir)
    wave = tones(list(TONES)[:2], np.random.default_rng(0))
    for name in ("meeting.flac", "a.wav"):
        soundfile.write(name, wave, 16000)
    names = {"samples": np.zeros((44100, 2)), "chunks": np.split(wave[: len(wave) // 100 * 100], 100)}
    for block in blocks(read(page))[0]:
        if block.language == "python":
            exec("\n".join(block.lines).replace('device="cuda"', 'device="cpu"'), names)
    assert capsys.readouterr().out.strip()


@pytest.mark.slow
def test_the_site_has_no_warning(tmp_path):
    missing = [name for name in ("sphinx", "furo", "myst_parser") if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)}: make -C tools installs the extra docs")
    command = re.search(r"^\tpython -m sphinx (.*) build/docs$", read("Makefile"), re.MULTILINE)[1]
    words = command.replace("build/docs/.doctrees", str(tmp_path / "trees")).split()
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *words, tmp_path / "site"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    site = tmp_path / "site"
    for page in PAGES:
        html = (site / page).with_suffix(".html").read_text(encoding="utf-8")
        # Nothing is loaded from elsewhere; links may lead there.
        assert not re.search(r"<(?:script|img|link|iframe)[^>]+(?:src|href)=\"(?:https?:)?//", html), page
    assert 'id="llmvq-score"' in (site / "docs/commands.html").read_text(encoding="utf-8")
    assert "<math" in (site / "docs/methods.html").read_text(encoding="utf-8")
    assert "README.html" in (site / "index.html").read_text(encoding="utf-8")
