"""Systems, phases and configs: names, tags, merging, and keys that nothing reads."""

import os

import pytest

from espnet_llmvq.base.config import read_config, read_overrides, read_yaml
from espnet_llmvq.base.errors import UserError
from espnet_llmvq.cli import train
from espnet_llmvq.cli.recipe import systems as list_systems
from espnet_llmvq.experiment.systems import hypothesis_file, names, plan, read_systems, system_dir
from espnet_llmvq.score.published import make_published

ROOT = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "egs")
RECIPES = [os.path.join(ROOT, name, "llmasr1", "conf") for name in ("TEMPLATE", "mini_tts", "an4")]
PHASES = ("start", "hard", "lora", "soft")
SYSTEMS = {
    "ctc": "label: CTC greedy\ndecode: ctc\n",
    "hard": "label: Stage 1\nphases: [start, hard]\nnote: frozen codebook\n",
    "soft": "label: Stage 2\nphases: [start, hard, soft]\n",
    "lora": "phases: [start, lora]\n",
    "soft_alone": "phases: [soft]\n",
}


@pytest.fixture
def conf(tmp_path):
    for kind, files in (("phases", dict.fromkeys(PHASES, "")), ("systems", SYSTEMS)):
        os.makedirs(tmp_path / kind)
        for name, text in files.items():
            (tmp_path / kind / f"{name}.yaml").write_text(text)
    return tmp_path


def test_systems_share_phases(conf):
    ctc, soft, lora, hard, alone = read_systems(str(conf), ["ctc", "soft", "lora", "hard", "soft_alone"])
    assert [p.tag for p in soft.phases] == ["start", "start-hard", "start-hard-soft"]
    assert [p.parent for p in soft.phases] == [None, "start", "start-hard"]
    assert soft.phases[:2] == hard.phases and soft.phases[0] == lora.phases[0]
    assert [p.config for p in lora.phases] == [str(conf / "phases" / f"{p}.yaml") for p in ("start", "lora")]
    assert (alone.phases[0].tag, alone.phases[0].parent) == ("soft", None)
    assert (hard.label, hard.note, lora.label, ctc.decode, ctc.phases) == (
        "Stage 1",
        "frozen codebook",
        "lora",
        "ctc",
        (),
    )
    assert system_dir(soft, "exp", "exp/encoder") == "exp/start-hard-soft"
    assert hypothesis_file(soft, "exp", "exp/encoder", "test") == "exp/start-hard-soft/decode_test/hyp.jsonl"
    assert hypothesis_file(ctc, "exp", "exp/encoder", "test") == "exp/encoder/decode_ctc_test/hyp.jsonl"


def test_plan_has_each_phase_once_after_its_parent(conf):
    phases = plan(read_systems(str(conf), ["soft", "lora", "ctc", "hard", "soft_alone"]))
    assert [p.tag for p in phases] == ["start", "start-hard", "start-hard-soft", "start-lora", "soft"]
    for i, phase in enumerate(phases):
        assert phase.parent is None or phase.parent in [p.tag for p in phases[:i]]


def test_seed_is_part_of_every_tag(conf):
    (soft,) = read_systems(str(conf), ["soft"], seed=3)
    assert [p.tag for p in soft.phases] == ["start_seed3", "start-hard_seed3", "start-hard-soft_seed3"]
    assert [p.parent for p in soft.phases] == [None, "start_seed3", "start-hard_seed3"]
    assert not {p.tag for p in soft.phases} & {p.tag for p in read_systems(str(conf), ["soft"])[0].phases}


@pytest.mark.parametrize(
    "text, message",
    [
        ("phases: [start, sofd]", r"unknown phase in .*bad.yaml 'sofd' \(did you mean 'soft'\?\)"),
        ("phase: [start]", r"unknown key in .*bad.yaml 'phase' \(did you mean 'phases'\?\)"),
        ("phases: [start]\ndecode: cct", r"unknown decode in .*bad.yaml 'cct' \(did you mean 'ctc'\?\)"),
        ("phases: [start]\ndecode: ctc", "decodes with ctc has 1 phases"),
        ("label: no phases", "decodes with llm has 0 phases"),
        ("- start", "bad.yaml: expected `key: value` lines"),
        ("phases: [start", r"bad.yaml: (.|\n)*line 1"),
        ("phases:", "bad.yaml: phases must be a list of names"),
    ],
)
def test_mistakes_in_a_system(conf, text, message):
    (conf / "systems" / "bad.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        read_systems(str(conf), ["soft", "bad"])


def test_a_base_that_leads_back(conf):
    for name, base in (("start", "hard"), ("hard", "soft"), ("soft", "start")):
        (conf / "phases" / f"{name}.yaml").write_text(f"base: {base}.yaml\n")
    with pytest.raises(UserError, match=r"soft.yaml: its base .*start.yaml has this file as its base"):
        read_config(str(conf / "phases" / "start.yaml"))


def test_a_config_of_another_encoding(conf):
    (conf / "phases" / "start.yaml").write_bytes("# Größe\n".encode("latin-1"))
    with pytest.raises(UserError, match="start.yaml is not UTF-8"):
        read_config(str(conf / "phases" / "start.yaml"))


@pytest.mark.parametrize(
    "pair, message",
    [
        ("max_epoch", "override 'max_epoch': expected key=value"),
        ("=1", "override '=1': expected key=value"),
        ("betas=[1", r"override 'betas=\[1': the value is not YAML"),
    ],
)
def test_mistakes_in_an_override(pair, message):
    assert read_overrides(["a=1", "b=[1, x]", "c="]) == {"a": 1, "b": [1, "x"], "c": None}
    with pytest.raises(UserError, match=message):
        read_overrides(["a=1", pair])


def test_the_baseline_may_be_of_another_run_but_not_mistyped(conf, capsys):
    list_systems.main(["--conf_dir", str(conf), "--systems", "lora", "--baseline", "hard"])
    assert capsys.readouterr().out.startswith("lora|")
    (conf / "systems" / "all_a.yaml").write_text(GROUP)
    with pytest.raises(UserError, match=r"unknown baseline 'all_a'"):
        list_systems.main(["--conf_dir", str(conf), "--systems", "lora", "--baseline", "all_a"])
    with pytest.raises(UserError, match=r"unknown baseline 'herd' \(did you mean 'hard'"):
        list_systems.main(["--conf_dir", str(conf), "--systems", "lora", "--baseline", "herd"])


def test_unknown_system(conf, tmp_path):
    with pytest.raises(UserError, match=r"unknown system 'lara' \(did you mean 'lora'\?\)"):
        read_systems(str(conf), ["soft", "lara"])
    with pytest.raises(UserError, match="nowhere/systems does not exist"):
        read_systems(str(tmp_path / "nowhere"), ["soft"])


GROUP = "systems: [soft, ctc, hard]\n"


@pytest.mark.parametrize(
    "wanted, names",
    [
        (["all_a"], ["soft", "ctc", "hard"]),
        (["hard", "all_a", "lora"], ["hard", "soft", "ctc", "lora"]),
        (["all_a", "all_a", "soft"], ["soft", "ctc", "hard"]),
    ],
)
def test_group_stands_for_its_systems_each_once(conf, wanted, names):
    (conf / "systems" / "all_a.yaml").write_text(GROUP)
    systems = read_systems(str(conf), wanted)
    assert [system.name for system in systems] == names
    assert systems == read_systems(str(conf), names)


@pytest.mark.parametrize(
    "text, message",
    [
        ("systems: [lara]", r"unknown system in .*bad.yaml 'lara' \(did you mean 'lora'\?\)"),
        ("systems: [lora]\nlabel: x", "unknown key in .*bad.yaml, a group of systems, 'label'"),
        ("systems: lora", "bad.yaml: systems must be a list of names"),
        ("systems: []", "bad.yaml: systems must be a list of names"),
        ("systems: [[lora]]", r"unknown system in .*bad.yaml \['lora'\]"),
        ("systems: [lora, bad]", "bad is a group too; name its systems instead"),
    ],
)
def test_mistakes_in_a_group(conf, text, message):
    (conf / "systems" / "bad.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        read_systems(str(conf), ["bad"])
    (conf / "systems" / "all_a.yaml").write_text(GROUP)
    with pytest.raises(UserError, match=r"unknown system 'al_a' \(did you mean 'all_a'\?\)"):
        read_systems(str(conf), ["al_a"])


def test_the_command_lists_the_systems_of_a_group(conf, capsys):
    (conf / "systems" / "all_a.yaml").write_text(GROUP)
    list_systems.main(["--conf_dir", str(conf), "--systems", "lora all_a", "--baseline", "hard"])
    lines = [line.split("|") for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines] == ["lora", "soft", "ctc", "hard"]
    assert lines[1][1:] == ["Stage 2", "exp/start-hard-soft/decode_{set}/hyp.jsonl"]
    list_systems.main(["--conf_dir", str(conf)])  # all of them: the group adds none
    assert len(capsys.readouterr().out.splitlines()) == len(SYSTEMS)


def test_more_rows_than_the_vocabulary_are_refused_before_any_training(conf, llm_dir, tmp_path):
    (conf / "phases" / "soft.yaml").write_text("bridge: soft\nbridge_conf: {top_k: 111}\n")
    command = ["--systems", "soft", "--conf_dir", str(conf), "--expdir", str(tmp_path / "exp"), "--llm", llm_dir]
    files = [part for name in ("train", "valid", "train_shape", "valid_shape") for part in (f"--{name}", "none")]
    message = r"phases/soft.yaml: top_k: 111 is more than the 110 rows of the codebook .* write 'all'"
    with pytest.raises(UserError, match=message):
        train.main([*command, *files])
    assert not (tmp_path / "exp").exists()


def steps(conf, phase):
    config = read_config(os.path.join(conf, "phases", f"{phase}.yaml"))
    taken = config["max_epoch"] * config["num_iters_per_epoch"]
    assert config["scheduler_conf"]["total_steps"] == taken, phase
    return taken


@pytest.mark.parametrize("conf", RECIPES)
def test_every_system_of_the_recipes_can_be_built(conf):
    import torch

    from espnet_llmvq.bridge.bridge import BRIDGES
    from espnet_llmvq.espnet.task import SpeechLLMTask

    everything = names(os.path.join(conf, "systems"))
    assert names(os.path.join(conf, "phases")) == names(os.path.join(RECIPES[0], "phases"))
    table = torch.randn(160, 4)  # the smallest vocabulary of the recipes' smoke runs
    for phase in plan(read_systems(conf, everything)):
        config = read_config(phase.config)
        SpeechLLMTask.check_config(config, phase.config)
        bridge = BRIDGES[config["bridge"]](2, table, **config["bridge_conf"])
        trained = bridge.codebook.requires_grad if config["bridge"] != "none" else None
        assert trained == {"frozen": False, "trainable": True}.get(config["bridge_conf"].get("codebook"))
        steps(conf, phase.config.split("/")[-1][:-5])


@pytest.mark.parametrize("conf", RECIPES)
def test_rows_that_are_compared_take_the_same_steps(conf):
    systems = {s.name: s for s in read_systems(conf, ["paper_a"])}
    taken = {name: sum(steps(conf, p.config.split("/")[-1][:-5]) for p in s.phases) for name, s in systems.items()}
    start = steps(conf, "start")
    assert taken["slam"] == taken["lora"] == taken["hard"] == taken["soft1"]
    assert taken["hard_nostart"] == taken["hard"] - start
    both = [name for name, s in systems.items() if name.startswith(("soft_", "soft1_", "hard_", "lora_"))]
    both = [name for name in both if not name.endswith("nostart")]
    assert len(both) == 17
    assert {taken[name] for name in both} == {taken["soft_k10"]}
    assert taken["lora_long_nostart"] == taken["soft_k10_nostart"] == taken["soft_k10"] - start


@pytest.mark.parametrize("conf", RECIPES)
def test_published_figures_are_of_systems(conf):
    for name in names(os.path.join(conf, "published")):
        path = os.path.join(conf, "published", f"{name}.yaml")
        rows = list(make_published(read_yaml(path), path).rows)
        found = [s.name for s in read_systems(conf, ["paper_a"])]
        assert [name for name in found if name in rows] == rows  # all are there, in the paper's order


def test_base_is_merged_one_level_deep(tmp_path):
    files = {
        "common.yaml": "optim: adamw\noptim_conf: {lr: 0.1, betas: [1, 2]}\nfreeze: [llm]\nllm_conf: {lora: {r: 8}}\n",
        "sub/slam.yaml": "base: ../common.yaml\noptim_conf: {lr: 0.2}\nmax_epoch: 2\n",
        "sub/lora.yaml": "base: slam.yaml\nfreeze: []\noptim_conf: {weight_decay: 1}\n"
        "llm_conf: {lora: {lora_alpha: 4}}\n",
        "lost.yaml": "base: gone.yaml\n",
    }
    os.makedirs(tmp_path / "sub")
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert read_config(str(tmp_path / "sub/lora.yaml")) == {
        "optim": "adamw",
        "optim_conf": {"lr": 0.2, "betas": [1, 2], "weight_decay": 1},
        "freeze": [],
        "max_epoch": 2,
        "llm_conf": {"lora": {"lora_alpha": 4}},
    }
    with pytest.raises(UserError, match="gone.yaml does not exist"):
        read_config(str(tmp_path / "lost.yaml"))
    (tmp_path / "empty.yaml").write_text("# nothing yet\n")
    assert read_yaml(str(tmp_path / "empty.yaml")) == {}


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
