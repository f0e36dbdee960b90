"""Card files: what is merged and when, names, mistakes; and those of the recipes, which say what 220 files said."""

import json
from pathlib import Path

import pytest

from espnet_llmvq.base.config import from_mapping, read_config, read_yaml
from espnet_llmvq.base.errors import UserError
from espnet_llmvq.experiment.cards import SECTIONS, read_cards
from espnet_llmvq.experiment.options import Options
from espnet_llmvq.experiment.phases import bridge_stack, describe, with_schedule
from espnet_llmvq.experiment.plan import read_trainings
from espnet_llmvq.experiment.systems import expand, is_group, phases_of, read_interleaving, read_phases, read_systems
from espnet_llmvq.score.published import Published
from espnet_llmvq.stages.train import check

ROOT = Path(__file__).resolve().parent.parent
EGS = ROOT / "egs"
# All configs of all recipes, resolved, as they were in 220 files: written in commit b9cdcfd by reading each with its
# `read_config`, `read_systems` and `read_yaml`. A config is a list of indices into `pairs` of keys and values.
GOLDEN = json.loads((ROOT / "test/golden/configs.json").read_text())
MOVED = {"TEMPLATE/llmasr1": "TEMPLATE/conf/paper_a.yaml", "TEMPLATE/jstip1": "TEMPLATE/conf/paper_b.yaml"}
RECIPES = {
    recipe: EGS / MOVED.get(recipe, recipe if "/conf" in recipe else f"{recipe}/conf") for recipe in GOLDEN["recipes"]
}


@pytest.mark.parametrize("run", sorted(EGS.glob("*/*/run.sh")), ids=lambda run: run.parent.parent.name)
def test_another_datadir_brings_its_own_text(run):
    assert "--lm_train_text" not in run.read_text()  # else a run with another --datadir learns the text of data/


_DATA = {f"{bridge}_{share}_data" for bridge in ("lora", "hard", "soft") for share in ("half", "quarter")}
_CURVES = {"lora_curve", "hard_curve", "soft_curve"} | _DATA
CURVES = (_CURVES | {"hard_half", "soft_half"}, _CURVES | {"hard_soft_curve", "curves", "shares"})  # phases, systems
OWN = [
    "TEMPLATE/llmasr1",
    "TEMPLATE/jstip1",
    *(recipe for recipe in RECIPES if recipe.startswith(("an4", "librispeech"))),
]


def golden(recipe, section):
    """{name: config} of a section then."""
    found = GOLDEN["recipes"][recipe][section]
    return {name: dict(GOLDEN["pairs"][i] for i in config) for name, config in found.items()}


def with_rate(config):
    """A config of then with the rate of its schedule as that of its optimizer: onecyclelr reads no other."""
    if config.get("scheduler") == "onecyclelr":
        config["optim_conf"] = {**config["optim_conf"], "lr": config["scheduler_conf"]["max_lr"]}
    return config


@pytest.mark.parametrize("recipe", RECIPES)
def test_phases_are_what_they_were(recipe):
    cards, then = read_cards(RECIPES[recipe]), golden(recipe, "phases")
    # That of the small recipes, from which none of the phases begins here.
    more = {"common"} if recipe == "librispeech/jstip1" else set()
    more |= CURVES[0] if "start_blanks" in then else set()  # of all recipes with the rows of paper_a, since then
    assert set(cards.names("phases")) == set(then) | more
    for name, config in then.items():
        assert with_schedule(cards.phase(name), name) == with_rate(config), name


@pytest.mark.parametrize("recipe", RECIPES)
def test_systems_mixtures_and_forms_are_what_they_were(recipe):
    cards, then = read_cards(RECIPES[recipe]), golden(recipe, "systems")
    # Of all recipes since then, but for one whose encoder is no recogniser.
    more = set() if recipe == "librispeech/llmasr1" else {"recogniser", "recogniser_beam"}
    more |= CURVES[1] if "lora_long_blanks" in then else set()
    assert cards.names("systems") == sorted(then.keys() | more)
    for name, data in then.items():
        if is_group(cards, name):
            assert expand(cards, [name]) == data["systems"]
            continue
        (s,) = read_systems(cards, [name])
        now = {"label": s.label, "phases": list(s.phases), "decode": s.decode, "note": s.note}
        assert {**now, "fusion": [list(pair) for pair in (s.fusion or {}).items()]} == data
    for section in ("mixtures", "interleave"):
        then = golden(recipe, section)
        assert cards.names(section) == sorted(then)
        for name, data in then.items():
            assert list(cards.entry(section, name).items()) == list(data.items())


@pytest.mark.parametrize("recipe", RECIPES)
def test_encoders_are_what_they_were(recipe):
    for name, config in golden(recipe, "encoders").items():
        path = f"{RECIPES[recipe]}/{name}.yaml"
        assert with_schedule(read_config(path), path) == with_rate(config)


@pytest.mark.parametrize("recipe", [*OWN, "mini_librispeech/llmasr1", "mini_librispeech/jstip1"])
def test_every_system_of_the_recipes_can_be_trained(recipe):
    """Every key is read, nothing is cut short, every phase trains something; each phase has its system."""
    import torch

    from espnet_llmvq.bridge.bridge import BRIDGES
    from espnet_llmvq.espnet.task import SpeechLLMTask

    cards, defaults = read_cards(RECIPES.get(recipe, EGS / recipe / "conf")), SpeechLLMTask.get_default_config()
    trainings = read_trainings(read_phases(cards, cards.names("systems")), Options(encoder_file="from elsewhere"))
    trained = {t.tag.rpartition("-")[2] for t in trainings}
    assert set(cards.names("phases")) - trained == {"common"}  # from which others begin
    assert bridge_stack(trainings) == (5 if recipe.startswith("librispeech/llmasr1") else 1)
    table = torch.randn(160, 4)  # the smallest vocabulary of the recipes' smoke runs
    for training in trainings:
        config = training.config
        SpeechLLMTask.check_config(config, training.where)
        bridge = BRIDGES[config["bridge"]](2, table, **config["bridge_conf"])
        trained = bridge.codebook.requires_grad if config["bridge"] != "none" else None
        assert trained == {"frozen": False, "trainable": True}.get(config["bridge_conf"].get("codebook"))
        facts = describe(training, defaults)
        assert facts["trains"] and facts["effective_batch"] > 0
        assert facts["steps"] == config["scheduler_conf"].get("total_steps")  # librispeech's hang on the data


@pytest.mark.parametrize("recipe", [name for name in RECIPES if not name.startswith("TEMPLATE")])
def test_published_figures_are_of_systems(recipe):
    (path,) = (RECIPES[recipe] / "published").glob("*.yaml")
    cards, rows = read_cards(RECIPES[recipe]), list(from_mapping(Published, read_yaml(path), path).rows)
    (paper,) = {"paper_a", "paper_b"} & set(cards.names("systems"))
    assert [name for name in expand(cards, [paper]) if name in rows] == rows  # all are there, in the paper's order


def test_config_files_are_few():
    """Links count; what lies behind the link of a directory does not."""
    conf = [path for conf in ("TEMPLATE/conf", "*/*/conf") for folder in EGS.glob(conf) for path in folder.rglob("*")]
    files = [path for path in conf if path.is_symlink() or path.is_file()]
    assert len([path for path in files if path.suffix != ".md"]) <= 47  # .md: texts of a packed system


BELOW = """\
phases:
  common: {max_epoch: 4, optim_conf: {lr: 1, betas: [1, 2]}, llm_conf: {lora: {r: 8}}}
  start: {base: common, bridge: none}
  hard: {base: start, bridge: hard, optim_conf: {lr: 2}}
  soft: {base: hard, bridge: soft}
systems:
  hard: {label: Hard, phases: [start, hard], note: below}
  soft: {phases: [start, hard, soft]}
  both: {systems: [hard, soft]}
interleave:
  word: {level: word, margin: 0}
"""


@pytest.fixture
def cards(tmp_path):
    """Function: the cards of this text, with BELOW as their base."""

    def read(text, below=BELOW):
        (tmp_path / "papers").mkdir(exist_ok=True)
        (tmp_path / "papers/below.yaml").write_text(below)
        (tmp_path / "systems.yaml").write_text("base: papers/below.yaml\n" + text)
        return read_cards(tmp_path)

    return read


def test_a_change_of_a_base_is_one_of_all_that_begin_with_it(cards):
    text = "  common: {optim_conf: {lr: 3}, freeze: [llm]}\n  start: {bridge_conf: {stack: 2}}\n  hard: {}\n"
    found = cards("phases:\n" + text)
    common = {"max_epoch": 4, "optim_conf": {"lr": 3, "betas": [1, 2]}, "llm_conf": {"lora": {"r": 8}}}
    common["freeze"] = ["llm"]
    assert found.phase("common") == common
    start = {**common, "bridge": "none", "bridge_conf": {"stack": 2}}
    assert found.phase("start") == start
    hard = {**start, "bridge": "hard", "optim_conf": {"lr": 2, "betas": [1, 2]}}
    assert found.phase("hard") == hard and found.phase("soft") == {**hard, "bridge": "soft"}
    assert found.where("phases", "start") == f"{found.path}, phase start"
    assert found.where("phases", "soft").endswith("papers/below.yaml, phase soft")


def test_a_phase_that_says_its_base_begins_from_that_alone(cards):
    found = cards("phases:\n  hard: {base: null, bridge: none}\n  soft: {base: common, max_epoch: 1}\n")
    assert found.phase("hard") == {"bridge": "none"}
    assert found.phase("soft") == {**found.phase("common"), "max_epoch": 1}


def test_other_entries_are_replaced(cards):
    found = cards("systems:\n  hard: {phases: [hard]}\ninterleave:\n  word: {level: segment}\n")
    (hard,) = read_systems(found, ["hard"])
    assert (hard.label, hard.note, hard.phases) == ("hard", "", ("hard",))
    assert read_interleaving(found, "word").margin == 0.1


def test_null_takes_away(cards):
    found = cards("phases:\n  start: null\n  hard: {base: common}\nsystems:\n  soft: null\n")
    assert found.names("phases") == ["common", "hard", "soft"] and found.names("systems") == ["both", "hard"]
    assert expand(found, ["both"]) == ["hard"]
    assert [(p.tag, p.parent) for p in phases_of(found, "hard")] == [("hard", "")]
    with pytest.raises(UserError, match="unknown system 'soft'"):
        read_systems(found, ["soft"])
    again = cards("phases:\n  start: {max_epoch: 9}\n", BELOW.replace("{base: common, bridge: none}", "{}"))
    assert again.phase("start") == {"max_epoch": 9}


@pytest.mark.parametrize(
    "text, message",
    [
        ("phases:\n  soft: {base: soft}\n", "systems.yaml, phase soft: its base soft has this phase as its base"),
        ("phases:\n  start: {base: soft}\n", "phase start: its base soft has this phase as its base; one of them"),
        ("phases:\n  soft: {base: hadr}\n", r"base in .*systems.yaml, phase soft: 'hadr' \(did you mean 'hard'"),
        ("phases:\n  hard: null\n", "unknown base in .*below.yaml, phase soft: 'hard'"),
        ("phases:\n  sotf: null\n", r"phase sotf: null takes it away, but no .* has it \(did you mean 'soft'"),
        ("phases:\n  soft: [hard]\n", r"systems.yaml, phase soft: expected keys and values, not \['hard'\]"),
        ("phase:\n  soft: {}\n", r"unknown section in .*systems.yaml: 'phase' \(did you mean 'phases'\?\)"),
        ("phases: [soft]\n", "systems.yaml: phases must be `name: {key: value}` entries"),
        ("phases:\n  new: {}\n  new: {}\n", "systems.yaml, line 4: 'new' is in line 3 too"),
        ("base: x.yaml\n", "systems.yaml, line 2: 'base' is in line 1 too"),
    ],
)
def test_mistakes(cards, text, message):
    with pytest.raises(UserError, match=message):
        cards(text).phase("soft")


def test_files_in_a_circle(cards):
    with pytest.raises(UserError, match="below.yaml: its base .*systems.yaml has this file as its base"):
        cards("", "base: ../systems.yaml\n" + BELOW)
    with pytest.raises(UserError, match="nowhere does not exist"):
        read_cards("nowhere")


@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.parametrize("name", ["a/b", "..", ".x", "-x", "a b", "a\tb", "a|b", "a=1", "{set}", "", "1", "no", "~"])
def test_names_that_would_break_paths(cards, section, name):
    quoted = name if name in ("1", "no", "~") else json.dumps(name)
    found = r"a name has letters, digits, _ \. \+ -.*" + ("put quotes around it" if quoted == name else "")
    with pytest.raises(UserError, match=rf"systems.yaml, {SECTIONS[section]} .*: {found}"):
        cards(f"{section}:\n  {quoted}: {{}}\n")


@pytest.mark.parametrize(
    "section, name, message",
    [
        ("phases", "encoder", "this name is taken by a file, directory or row of each run"),
        ("interleave", "asr", "this name is taken"),
        ("phases", "soft-k10", "the name of a phase has no -, which joins phases"),
    ],
)
def test_names_that_are_taken(cards, section, name, message):
    cards(f"systems:\n  {name}: {{}}\n")
    with pytest.raises(UserError, match=f"systems.yaml, {SECTIONS[section]} {name}: {message}"):
        cards(f"{section}:\n  {name}: {{}}\n")


def test_a_row_is_one_entry_in_one_file(plan, llm_dir, tmp_path):
    """A system of phases that are there needs its line alone, a new phase a line beside it; the check reads both."""
    conf = tmp_path / "conf"
    conf.mkdir()
    (conf / "template").symlink_to(EGS / "TEMPLATE/conf")
    text = "base: template/paper_a.yaml\nsystems:\n  soft_twice: {phases: [start, hard, soft_k10, soft_k10_frozen]}\n"
    (conf / "systems.yaml").write_text(text)
    check(plan(systems="soft_twice", llm=llm_dir))
    row = "  soft_k30: {label: k=30, phases: [start, hard, soft_k30]}\nphases:\n"
    (conf / "systems.yaml").write_text(text + row + "  soft_k30: {base: soft_k10, bridge_conf: {top_k: 30}}\n")
    check(plan(systems="soft_twice soft_k30", llm=llm_dir))
    (conf / "systems.yaml").write_text(text + row + "  soft_k30: {base: soft_k10, bridge_conf: {topk: 30}}\n")
    with pytest.raises(UserError, match=r"systems.yaml, phase soft_k30 'topk' \(did you mean 'top_k'\?\)"):
        check(plan(systems="soft_k30", llm=llm_dir))
