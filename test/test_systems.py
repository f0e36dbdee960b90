"""Systems and phases: names, tags, groups; steps of rows that are compared; keys that nothing reads."""

from pathlib import Path

import pytest
import yaml
from conftest import write_cards

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.experiment.cards import read_cards
from espnet_llmvq.experiment.systems import expand, phases_of, read_systems

EGS = Path(__file__).resolve().parent.parent / "egs"
RECIPES = {"paper_a": EGS / "TEMPLATE/conf/paper_a.yaml", "an4": EGS / "an4/llmasr1/conf"}
PHASES = {"start": {}, "hard": {}, "lora": {}, "soft": {}}
SYSTEMS = {
    "ctc": {"label": "CTC greedy", "decode": "ctc"},
    "hard": {"label": "Stage 1", "phases": ["start", "hard"], "note": "frozen codebook"},
    "soft": {"label": "Stage 2", "phases": ["start", "hard", "soft"]},
    "lora": {"phases": ["start", "lora"]},
    "soft_alone": {"phases": ["soft"]},
    "all_a": {"systems": ["soft", "ctc", "hard"]},
}


@pytest.fixture
def conf(tmp_path):
    return write_cards(tmp_path / "conf", phases=PHASES, systems=SYSTEMS)


@pytest.fixture
def cards(conf):
    return read_cards(conf)


def with_system(conf, text):
    """The cards with a system `bad` of this YAML."""
    return read_cards(write_cards(conf, phases=PHASES, systems={**SYSTEMS, "bad": yaml.safe_load(text)}))


def test_systems_share_phases(cards):
    ctc, soft, lora, hard, alone = read_systems(cards, ["ctc", "soft", "lora", "hard", "soft_alone"], "x", "given")
    assert soft.phases == ("start", "start-hard", "start-hard-soft") and hard.phases == soft.phases[:2]
    assert (lora.phases, alone.phases, ctc.phases) == (("start", "start-lora"), ("soft",), ())
    assert [p.parent for p in phases_of(cards, "soft")] == ["", "start", "start-hard"]
    assert phases_of(cards, "soft")[:2] == phases_of(cards, "hard")
    assert [p.where for p in phases_of(cards, "lora")] == [f"{cards.path}, phase {p}" for p in ("start", "lora")]
    assert (hard.label, hard.note, lora.label, ctc.decode) == ("Stage 1", "frozen codebook", "lora", "ctc")
    assert (soft.model, ctc.model) == ("x/start-hard-soft", "given")
    assert str(soft.hyp_path("test")) == "x/start-hard-soft/decode_test/hyp.jsonl"
    assert str(ctc.hyp_path("test")) == "x/encoder/decode_ctc_test/hyp.jsonl"


def test_seed_is_part_of_every_tag(cards):
    phases = phases_of(cards, "soft", seed=3)
    assert [p.tag for p in phases] == ["start_seed3", "start-hard_seed3", "start-hard-soft_seed3"]
    assert [p.parent for p in phases] == ["", "start_seed3", "start-hard_seed3"]
    assert not {p.tag for p in phases} & {p.tag for p in phases_of(cards, "soft")}
    assert read_systems(cards, ["soft"], seed=3)[0].phases == tuple(p.tag for p in phases)


@pytest.mark.parametrize(
    "text, message",
    [
        ("phases: [start, sofd]", r"unknown phase in .*system bad: 'sofd' \(did you mean 'soft'\?\)"),
        ("phase: [start]", r"unknown key in .*system bad: 'phase' \(did you mean 'phases'\?\)"),
        ("phases: [start]\ndecode: cct", r"unknown decode in .*system bad: 'cct' \(did you mean 'ctc'\?\)"),
        ("phases: [start]\ndecode: ctc", "decodes with ctc has 1 phases"),
        ("label: no phases", "decodes with llm has 0 phases"),
        ("- start", r"systems.yaml, system bad: expected keys and values, not \['start'\]"),
        ("phases:", "system bad: phases must be a list of names"),
        ("phases: [[start]]", r"unknown phase in .*system bad: \['start'\]"),
        ("phases: [soft]\nlabel: 5", "system bad: label is 5; it must be text; put quotes around it"),
    ],
)
def test_mistakes_in_a_system(conf, text, message):
    with pytest.raises(UserError, match=message):
        read_systems(with_system(conf, text), ["soft", "bad"])


@pytest.mark.parametrize(
    "wanted, names",
    [
        (["all_a"], ["soft", "ctc", "hard"]),
        (["hard", "all_a", "lora"], ["hard", "soft", "ctc", "lora"]),
        (["all_a", "all_a", "soft"], ["soft", "ctc", "hard"]),
    ],
)
def test_group_stands_for_its_systems_each_once(cards, wanted, names):
    systems = read_systems(cards, wanted)
    assert [system.name for system in systems] == names
    assert systems == read_systems(cards, names)


@pytest.mark.parametrize(
    "text, message",
    [
        ("systems: [lara]", r"unknown system in .*system bad: 'lara' \(did you mean 'lora'\?\)"),
        ("systems: [lora]\nlabel: x", "unknown key in .*system bad, a group, 'label'"),
        ("systems: lora", "system bad: systems must be a list of names"),
        ("systems: []", "system bad: systems must be a list of names"),
        ("systems: [[lora]]", r"unknown system in .*system bad: \['lora'\]"),
        ("systems: [lora, bad]", "bad is a group too; name its systems instead"),
    ],
)
def test_mistakes_in_a_group(conf, text, message):
    cards = with_system(conf, text)
    with pytest.raises(UserError, match=message):
        read_systems(cards, ["bad"])
    with pytest.raises(UserError, match=r"unknown system 'al_a' \(did you mean 'all_a'\?\)"):
        read_systems(cards, ["al_a"])


def test_more_rows_than_the_vocabulary_are_refused_before_any_training(plan, llm_dir):
    from espnet_llmvq.stages.train import check

    soft = {"bridge": "soft", "bridge_conf": {"top_k": 111}}
    experiment = plan({"phases": {**PHASES, "soft": soft}, "systems": SYSTEMS}, systems="soft", llm=llm_dir)
    message = r"systems.yaml, phase soft: top_k: 111 is more than the 110 rows of the codebook .* write 'all'"
    with pytest.raises(UserError, match=message):
        check(experiment)
    assert not Path("exp").exists()


@pytest.mark.parametrize("recipe", RECIPES)
def test_rows_that_are_compared_take_the_same_steps(recipe):
    def steps(phase):
        return phase.config["max_epoch"] * phase.config["num_iters_per_epoch"]

    cards = read_cards(RECIPES[recipe])
    taken = {name: sum(map(steps, phases_of(cards, name))) for name in expand(cards, ["paper_a"])}
    start = steps(phases_of(cards, "slam")[0])
    assert taken["slam"] == taken["lora"] == taken["hard"] == taken["soft1"]
    assert taken["hard_nostart"] == taken["hard"] - start
    both = [name for name in taken if name.startswith(("soft_", "soft1_", "hard_", "lora_"))]
    both = [name for name in both if not name.endswith("nostart")]
    assert len(both) == 17
    assert {taken[name] for name in both} == {taken["soft_k10"]}
    assert taken["lora_long_nostart"] == taken["soft_k10_nostart"] == taken["soft_k10"] - start


@pytest.mark.parametrize(
    "config, message",
    [
        ({"max_epochs": 3}, r"unknown key in x.yaml 'max_epochs' \(did you mean 'max_epoch'\?\)"),
        ({"bridge": "softe"}, r"unknown bridge 'softe' \(did you mean 'soft'\?\)"),
        ({"encoder": "conformr"}, r"unknown encoder 'conformr' \(did you mean 'conformer'\?\)"),
        ({"bridge_conf": {"stak": 2}}, r"unknown key under bridge_conf in x.yaml 'stak' \(did you mean 'stack'\?\)"),
        ({"bridge_conf": {"top_k": 2}}, "unknown key under bridge_conf in x.yaml 'top_k'"),
        ({"bridge": "hard", "bridge_conf": {"embedding": 2}}, "unknown key under bridge_conf in x.yaml 'embedding'"),
        ({"model_conf": {"drop_blnk": 1}}, r"'drop_blnk' \(did you mean 'drop_blank'\?\)"),
        ({"model_conf": {"eos_id": 1}}, "unknown key under model_conf in x.yaml 'eos_id'"),
        ({"encoder_conf": {"num_block": 1}}, r"'num_block' \(did you mean 'num_blocks'\?\)"),
        ({"encoder": "transformer", "encoder_conf": {"cnn_module_kernel": 1}}, "'cnn_module_kernel'"),
        ({"frontend_conf": {"hop": 1}}, "unknown key under frontend_conf in x.yaml 'hop'"),
        ({"specaug": "specaug", "specaug_conf": {"apply_freq_masks": True}}, r"did you mean 'apply_freq_mask'"),
        ({"llm_conf": {"lora_r": 1}}, r"'lora_r' \(did you mean 'lora'\?\)"),
        ({"optim": "adamww"}, r"unknown optim 'adamww' \(did you mean 'adamw'\?\)"),
        (
            {"optim": "adamw", "optim_conf": {"learning_rate": 1}},
            "unknown key under optim_conf in x.yaml 'learning_rate'",
        ),
        ({"scheduler": "onecyclelr", "scheduler_conf": {"max_learn": 1}}, r"'max_learn' \(did you mean 'max_lr'\?\)"),
        ({"augment_conf": {"snr": 1}}, r"'snr' \(did you mean 'snr_db'\?\)"),
        ({"llm_conf": {"dtype": "bfloat"}}, r"unknown llm_conf.dtype in x.yaml 'bfloat' \(did you mean 'bfloat16'\?\)"),
    ],
)
def test_keys_that_nothing_reads(config, message):
    from espnet_llmvq.espnet.task import SpeechLLMTask

    with pytest.raises(UserError, match=message):
        SpeechLLMTask.check_config(config, "x.yaml")


def test_keys_that_are_read(settings):
    from espnet_llmvq.espnet.task import SpeechLLMTask

    SpeechLLMTask.check_config(settings(
        bridge="hard", bridge_conf={"stack": 5, "top_k": 3, "straight_through": "weights", "layer_norm": False},
        model_conf={"ctc_weight": 1, "start_weight": 1, "llm_weight": 1, "drop_blank": 0.9},
        ctc_conf={"dropout_rate": 0}, aligned_start_conf={"temperature": 1},
        llm_conf={"dtype": "bfloat16", "lora": {"r": 1}},
        freeze=["llm"],
    ))  # fmt: skip
