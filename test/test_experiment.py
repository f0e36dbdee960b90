"""What a run is about: made of options and cards, checked at once, written and read again."""

import dataclasses
import json
import os
import re

import pytest
import yaml
from conftest import link_template, write_cards

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.cli import plan as command
from espnet_llmvq.experiment.experiment import read_experiment
from espnet_llmvq.experiment.options import Options, pairs
from espnet_llmvq.experiment.plan import make_plan

CARDS = {
    "phases": {
        "common": {"bridge_conf": {"stack": 2}, "max_epoch": 3, "num_iters_per_epoch": 10, "batch_type": "numel",
                   "batch_bins": 100},
        "start": {"base": "common"},
        "joint": {"base": "common", "max_epoch": 2, "train_encoder": True},
        "joint_mixed": {"base": "joint", "mixture": "mixed"},
        "joint_both": {"base": "joint", "mixture": "both"},
    },
    "systems": {
        "ctc": {"decode": "ctc", "label": "CTC"},
        "ctc_lm": {"decode": "ctc_lm", "label": "CTC + LLM", "lm_weight": 0.5},
        "plain": {"label": """Plain | "quoted", a=b:c 'x' {set}""", "phases": ["start", "joint"], "note": "a note"},
        "mixed": {"phases": ["start", "joint_mixed"]},
        "both": {"phases": ["start", "joint_both"]},
        "all": {"systems": ["ctc", "plain", "mixed"]},
    },
    "mixtures": {
        "mixed": {"train/asr": 2, "train/word": 1},
        "both": {"train/asr": 1, "tts/text": 0.5, "domain/text": 1, "tts/asr": 1},
    },
    "interleave": {"word": {"level": "word"}, "segments": {"level": "segment"}},
}  # fmt: skip
ENCODER = {"frontend_conf": {"hop_length": 160}, "encoder_conf": {"output_size": 4}, "max_epoch": 5,
           "batch_type": "numel", "batch_bins": 100, "model_conf": {"ctc_weight": 1.0, "llm_weight": 0.0}}  # fmt: skip


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """Function: the `Experiment` of options, in a recipe that has cards and a config of an encoder."""
    write_cards(tmp_path / "conf", **CARDS)
    (tmp_path / "conf/encoder.yaml").write_text(yaml.safe_dump(ENCODER))
    link_template(tmp_path / "conf")
    monkeypatch.chdir(tmp_path)

    def make(**options):
        return make_plan(Options(**{"systems": "plain", "test_sets": "test:id phone:ood", **options}))

    return make


def test_a_plan_is_read_as_it_was_written(recipe):
    experiment = recipe(
        systems="all both", texts="domain='a=b:c d.txt'", tts_text="tts.txt", set_metrics="phone=bleu phone=chrf",
        set_normalisers="phone=softvq", word_lists="test=rare.txt", train_overrides="'betas=[1, x]' grad_clip=",
    )  # fmt: skip
    experiment.write()
    assert read_experiment("exp") == read_experiment("exp/experiment.json") == experiment
    assert [s.name for s in experiment.systems] == ["ctc", "plain", "mixed", "both"]
    assert experiment.texts == {"domain": "a=b:c d.txt"}
    assert all(t.config["betas"] == [1, "x"] and t.config["grad_clip"] is None for t in experiment.trainings)
    phone = experiment.eval_set(experiment.sets[1])
    assert (phone.domain, phone.normaliser, phone.metrics, phone.word_list) == ("ood", "softvq", ("bleu", "chrf"), "")
    assert (phone.text, phone.utt2spk, phone.entities) == ("dump/phone/text", "dump/phone/utt2spk", "")
    os.makedirs("dump/phone")
    open("dump/phone/entities", "w").close()
    assert experiment.eval_set(experiment.sets[1]).entities == "dump/phone/entities"


def test_systems_know_where_their_models_and_hypotheses_are(recipe):
    systems = {s.name: s for s in recipe(systems="ctc ctc_lm plain").systems}
    assert systems["plain"].label == """Plain | "quoted", a=b:c 'x' {set}""" and systems["plain"].note == "a note"
    assert systems["plain"].phases == ("start", "start-joint") and systems["plain"].model == "exp/start-joint"
    paths = {name: str(s.hyp_path("a{set}")) for name, s in systems.items()}
    assert paths == {
        "ctc": "exp/encoder/decode_ctc_a{set}/hyp.jsonl",
        "ctc_lm": "exp/encoder/decode_ctc_lm_a{set}/hyp.jsonl",
        "plain": "exp/start-joint/decode_a{set}/hyp.jsonl",
    }
    assert systems["ctc_lm"].fusion == {"lm_weight": 0.5, "length_bonus": 0.0}


def test_ctc_lm_may_have_a_beam_of_its_own(recipe, tmp_path):
    from espnet_llmvq.stages.decode import search_options

    cards = json.loads(json.dumps(CARDS))
    cards["systems"]["wide"] = {**cards["systems"]["ctc_lm"], "num_beams": 20}
    (tmp_path / "conf/systems.yaml").write_text(yaml.safe_dump(cards))
    found = recipe(systems="ctc_lm wide", num_beams=3)
    beams = [search_options(found, system) for system in found.systems]
    assert beams == [{"num_beams": n, "lm_weight": 0.5, "length_bonus": 0.0} for n in (3, 20)]
    for beam in (0, True, 2.5, "4"):
        cards["systems"]["wide"]["num_beams"] = beam
        (tmp_path / "conf/systems.yaml").write_text(yaml.safe_dump(cards))
        with pytest.raises(UserError, match=f"system wide: num_beams is {beam!r}; it must be a whole number of 1 or"):
            recipe(systems="wide")


@pytest.fixture
def fused():
    """CARDS with a system that fuses an LLM which its phases train."""
    phases = {
        **CARDS["phases"],
        "lm": {"base": "common", "mixture": "lm", "freeze": ["bridge"]},
        "lm_joint": {"base": "joint", "mixture": "lm"},
        "lm_frozen": {"base": "lm", "mixture": None, "freeze": ["llm"]},
        "lm_lora": {"base": "lm", "llm_conf": {"lora": {"r": 2}}},
    }
    card = {"decode": "ctc_lm", "lm_weight": 0.5}
    chains = {"one": ["lm"], "two": ["start", "lm_joint"], "adapted": ["lm_lora"], "bad": ["lm", "lm_frozen"]}
    systems = {name: {**card, "phases": chain} for name, chain in chains.items()}
    mixtures = {**CARDS["mixtures"], "lm": {"domain/text": 1}}
    return {**CARDS, "phases": phases, "systems": {**CARDS["systems"], **systems}, "mixtures": mixtures}


def test_phases_of_ctc_lm_train_its_llm(recipe, fused, tmp_path):
    """The encoder is that of the run in any case; what the LLM decides is in the directory of its last phase."""
    write_cards(tmp_path / "conf", **fused)
    experiment = recipe(systems="one two adapted ctc_lm plain", texts="domain=d.txt", seed=2)
    assert [t.tag for t in experiment.trainings] == [
        "encoder", "lm_seed2", "start_seed2", "start-lm_joint_seed2", "lm_lora_seed2", "start-joint_seed2"
    ]  # fmt: skip
    one, two, adapted, before, plain = experiment.systems
    assert (one.model, one.lm, one.phases) == ("exp/encoder", "exp/lm_seed2", ("lm_seed2",))
    assert str(one.hyp_path("a")) == "exp/lm_seed2/decode_one_a/hyp.jsonl"
    assert (two.model, two.lm, two.phases[-1]) == ("exp/encoder", "exp/start-lm_joint_seed2", "start-lm_joint_seed2")
    assert adapted.lm == "exp/lm_lora_seed2" and (before.lm, plain.lm) == ("", "")
    assert str(before.hyp_path("a")) == "exp/encoder/decode_ctc_lm_a/hyp.jsonl"
    experiment.write()
    assert read_experiment("exp/seed2") == experiment


def test_frames_of_ctc_lm_are_those_of_the_encoder(recipe, fused, tmp_path, monkeypatch):
    """Also where the phase of its LLM would train an encoder."""
    from espnet_llmvq.stages import encoder

    write_cards(tmp_path / "conf", **fused)
    experiment = recipe(systems="two plain", texts="domain=d.txt")
    monkeypatch.setattr(encoder, "frames_of", lambda experiment, name: f"{name}.scp")
    assert [encoder.frames_read(experiment, system, "a") for system in experiment.systems] == ["a.scp", None]


def test_an_llm_that_no_phase_trains_is_none_for_ctc_lm(recipe, fused, tmp_path):
    write_cards(tmp_path / "conf", **fused)
    message = (
        "phase lm_frozen: it is the last phase of bad, which decodes with ctc_lm, and does not train the LLM; train it "
        r"or LoRA \(llm_conf.lora\) there, or leave out the phases of bad"
    )
    with pytest.raises(UserError, match=message):
        recipe(systems="bad", texts="domain=d.txt")


def test_trainings_are_each_once_and_as_they_will_be(recipe):
    experiment = recipe(systems="mixed plain", train_overrides="max_epoch=7", accumulate=2)
    assert [(t.tag, t.parent, t.mixture, t.is_encoder) for t in experiment.trainings] == [
        ("encoder", "", "", True), ("start", "", "", False), ("start-joint_mixed", "start", "mixed", False),
        ("start-joint", "start", "", False),
    ]  # fmt: skip
    joint = experiment.trainings[-1].config
    assert (joint["max_epoch"], joint["train_encoder"], joint["accum_grad"], joint["batch_bins"]) == (7, True, 2, 50)
    assert experiment.stack == 2
    assert experiment.encoder == {key: ENCODER[key] for key in ("frontend_conf", "encoder_conf")}


def test_another_seed_has_directories_of_its_own(recipe):
    one, two = recipe(), recipe(seed=2)
    assert [t.tag for t in two.trainings] == ["encoder", "start_seed2", "start-joint_seed2"]
    assert (one.results_dir, two.results_dir) == ("exp", "exp/seed2")
    one.write()
    two.write()
    assert read_experiment("exp").options.seed == 1 and read_experiment("exp/seed2").options.seed == 2


def test_sources_of_mixtures_and_their_files(recipe):
    experiment = recipe(systems="mixed both", texts="domain=d.txt", tts_text="t.txt", ctms="train=a=b.ctm")
    assert experiment.sources == ["train/asr", "train/word", "tts/text", "domain/text", "tts/asr"]
    assert experiment.mixtures["both"] == {"train/asr": 1, "tts/text": 0.5, "domain/text": 1, "tts/asr": 1}
    assert [experiment.sequences(s) for s in experiment.sources] == [
        "dump/train/sequences.jsonl", "dump/train/word.jsonl", "dump/tts/plain.jsonl", "dump/domain/plain.jsonl",
        "dump/tts/sequences.jsonl",
    ]  # fmt: skip
    assert experiment.positions("train") == "exp/stats/train_shape"
    assert experiment.positions("tts/asr") == "exp/stats/tts_asr_shape"
    assert experiment.interleaved_sets == ["train"] and experiment.sets_to_align == []
    assert experiment.ctm("train") == "a=b.ctm"
    aligned = recipe(systems="mixed", align_sets="test train")
    assert aligned.sets_to_align == ["test", "train"] and aligned.ctm("test") == "exp/align/test.ctm"


def test_overrides_reach_the_forms_of_interleaving(recipe):
    experiment = recipe(systems="mixed", interleave_overrides="silence=0.5 segment_token='<a b>'")
    assert experiment.interleave["word"]["silence"] == 0.5
    assert experiment.interleave["word"]["segment_token"] == "<a b>"
    assert list(experiment.interleave) == ["word"]


def test_the_baseline_of_a_run_without_it_is_its_first_system(recipe):
    assert recipe(systems="mixed plain", baseline="plain").options.baseline == "plain"
    assert recipe(systems="mixed", baseline="plain").options.baseline == "mixed"
    with pytest.raises(UserError, match="unknown baseline 'plian' .did you mean 'plain'"):
        recipe(baseline="plian")
    with pytest.raises(UserError, match="unknown baseline 'all'"):  # a group
        recipe(baseline="all")


def test_an_encoder_and_an_llm_from_elsewhere(recipe, tmp_path):
    (tmp_path / "given").mkdir()
    (tmp_path / "given/config.yaml").write_text(yaml.safe_dump({**ENCODER, "frame_stack": 3}))
    experiment = recipe(encoder_file="given/model.pth", llm="owner/name")
    assert not experiment.trains_encoder and [t.tag for t in experiment.trainings] == ["start", "start-joint"]
    assert experiment.encoder_dir == "given" and experiment.encoder["frame_stack"] == 3
    assert (experiment.llm, experiment.tokenizer, experiment.trains_llm) == ("owner/name", "owner/name", False)
    given = recipe(systems="ctc ctc_lm plain", encoder_file="given/model.pth")
    assert {s.model for s in given.systems if not s.phases} == {"given"} and given.frames("a") == "exp/encoder/frames/a"
    assert str(given.system("ctc").hyp_path("a")) == "exp/encoder/decode_ctc_a/hyp.jsonl"
    assert str(given.system("ctc_lm").hyp_path("a")) == "exp/encoder/decode_ctc_lm_a/hyp.jsonl"
    own = recipe()
    assert (own.llm, own.tokenizer, own.encoder_file) == ("exp/llm", "exp/tokenizer", "exp/encoder/model.pth")


def test_settings_of_the_results_are_those_trained(recipe):
    from espnet_llmvq.base.made import Made

    planned = recipe(systems="plain mixed")
    base, mixed = (t.config for t in planned.trainings if t.tag.startswith("start-"))
    assert planned.differences() == {"plain": {}, "mixed": {}} and base == mixed
    os.makedirs("exp/start-joint_mixed")
    Made("exp/start-joint_mixed", settings={**mixed, "max_epoch": 9, "seed": 1, "ngpu": 0}).note()
    assert planned.differences() == {"plain": {}, "mixed": {"max_epoch": 9}}


def test_smoke_runs_look_into_their_own_data(recipe):
    options = recipe(
        smoke=True, datadir="data_smoke", expdir="exp_smoke", lm_train_text="data/lm/a.txt /else/b.txt",
        lm_valid_text="valid='data/a b.txt'", questions="mc=data/q.jsonl", train_overrides="optim=sgd",
    ).options  # fmt: skip
    assert options.lm_train_text == "data_smoke/lm/a.txt /else/b.txt"
    assert pairs(options.lm_valid_text, "x") == [("valid", "data_smoke/a b.txt")]
    assert options.questions == "mc=data_smoke/q.jsonl"
    assert recipe(smoke=True).trainings[-1].config["max_epoch"] == 1


@pytest.mark.parametrize(
    "options, message",
    [
        ({"systems": ""}, "--systems is empty"),
        ({"systems": "plian"}, "unknown system 'plian' .did you mean 'plain'"),
        ({"test_sets": ""}, "--test_sets is empty"),
        ({"test_sets": "test"}, "--test_sets test: expected NAME:id or NAME:ood"),
        ({"test_sets": "test:od"}, "--test_sets test:od: expected NAME:id or NAME:ood"),
        ({"test_sets": "test:id test:ood"}, "--test_sets gives test twice"),
        ({"test_sets": "a/b:id"}, "set 'a/b': a name has letters, digits"),
        ({"test_sets": "..:id"}, "set '..': a name has letters, digits"),
        ({"test_sets": "valid:id"}, "the set valid has two meanings"),
        ({"test_sets": "train:id"}, "the set train has two meanings"),
        ({"test_sets": "tts:id", "tts_text": "x"}, "the set tts has two meanings"),
        ({"test_sets": "train_sp:id", "speed_perturb_factors": "0.9"}, "the set train_sp has two meanings"),
        ({"valid_set": "train"}, "the set train has two meanings"),
        ({"texts": "train=a.txt"}, "the set train has two meanings"),
        ({"texts": "test=a.txt"}, "the set test has two meanings"),
        ({"texts": "../a=a.txt"}, "set '../a': a name has letters, digits"),
        ({"set_normalisers": "tset=basic"}, "unknown set in --set_normalisers 'tset' .did you mean 'test'"),
        ({"set_normalisers": "test=basik"}, "basik"),
        ({"normaliser": "basik"}, "basik"),
        ({"word_lists": "test"}, "--word_lists test: expected NAME=VALUE"),
        ({"word_lists": "test=a test=b"}, "--word_lists gives test twice"),
        ({"texts": "a='b"}, "--texts .*: No closing quotation"),
        ({"systems": "both"}, "both, tts/text: .tts.|both, domain/text: .domain."),
        ({"systems": "mixed", "texts": "domain"}, "--texts domain: expected NAME=VALUE"),
        ({"systems": "mixed", "ctms": "train"}, "--ctms train: expected NAME=VALUE"),
        ({"systems": "mixed", "ctms": "trian=x"}, "unknown set in --ctms 'trian' .did you mean 'train'"),
        ({"systems": "mixed", "interleave_overrides": "silense=0"}, "did you mean 'silence'"),
        ({"questions": "mcq=x"}, "unknown kind of --questions 'mcq' .did you mean 'mc'"),
        ({"question_examples": "x"}, "--question_examples is for multiple choice"),
        ({"pretrained_layer": "3"}, "--pretrained_layer is for --pretrained_encoder"),
        ({"pretrained_encoder": "a", "encoder_file": "b"}, "give --pretrained_encoder or --encoder_file, not both"),
        ({"ctc_weight": "1.5"}, "--ctc_weight '1.5': expected a number from 0 to 1"),
        ({"context": "long"}, "--context 'long': expected a number of positions, or llm"),
        ({"draft_accept": 0.5}, "--draft_accept is for --draft ctc"),
        ({"draft": "ctc", "draft_accept": 2.0}, "--draft_accept 2.0: expected a number from 0 to 1"),
        ({"draft": "ctc", "pretrained_encoder": "w", "ctc_head": False}, "needs a CTC head"),
        ({"joint_ctc": 1.0}, "--joint_ctc 1 leaves the LLM out: the system `ctc` does so"),
        ({"joint_ctc": 0.3, "draft": "ctc"}, "--joint_ctc is a beam search of its own: give --draft none"),
        ({"joint_ctc": 0.3, "num_beams": 1}, "--joint_ctc is a beam search of its own"),
        ({"joint_ctc": 0.3, "tokens_per_second": 5.0}, "--tokens_per_second is no limit of --joint_ctc"),
        ({"joint_ctc": 0.3, "pretrained_encoder": "w", "ctc_head": False}, "--joint_ctc needs a CTC head"),
        ({"num_beams": 0}, "--num_beams 0 must be 1 or more"),
        ({"min_duration": 30}, "--min_duration 30.* below --max_duration"),
        ({"llm": "./none"}, "LLM directory ./none does not exist"),
        ({"encoder_config": "conf/none.yaml"}, "conf/none.yaml does not exist"),
        ({"train_overrides": "max_epoch"}, "override 'max_epoch': expected key=value"),
        ({"train_overrides": "=1"}, "override '=1': expected key=value"),
        ({"train_overrides": "a=1 betas=[1"}, r"override 'betas=\[1': the value is not YAML"),
        ({"set_metrics": "test=foo"}, "unknown metric in --set_metrics 'foo'"),
        ({"align_sets": "nosuch"}, "unknown set in --align_sets 'nosuch'"),
        ({"align_sets": "tts"}, "unknown set in --align_sets 'tts'"),
        ({"prompt": "no speech {text}"}, "prompt .* must hold {speech} once and end with {text}"),
        ({"questions_config": "conf/none.yaml"}, "--questions_config conf/none.yaml does not exist"),
        ({"lm_config": "conf/none.yaml"}, "--lm_config conf/none.yaml does not exist"),
        ({"whole_words": -1}, "--whole_words -1 must be 0 or more"),
        ({"seed": -1}, "--seed -1 must be 0 or more"),
        ({"base_seed": -1}, "--base_seed -1 must be 0 or more"),
        ({"ngpu": -1}, "--ngpu -1 must be 0 or more"),
        ({"num_nodes": 0}, "--num_nodes 0 must be 1 or more"),
        ({"tts_text": "x", "tts_voices": " "}, "--tts_voices is empty"),
        ({"speed_perturb_factors": "0.9 fast"}, "--speed_perturb_factors 0.9 fast: expected numbers from 0.1 to 10"),
        ({"speed_perturb_factors": "nan"}, "expected numbers from 0.1 to 10"),
        ({"speed_perturb_factors": "11"}, "expected numbers from 0.1 to 10"),
        ({"speed_perturb_factors": "0.9 0.90"}, "expected numbers from 0.1 to 10, each once"),
        ({"test_sets": "lm:id"}, "set 'lm': this name is taken"),
        ({"test_sets": "train.unfiltered:id"}, "set 'train.unfiltered': this name is taken"),
        ({"expdir": "exp_{set}"}, "--expdir exp_{set}: {set} stands for the name of a set"),
        ({"questions": "mc=a/q.jsonl mc=b/q.jsonl"}, "two files would share the results of mc=q"),
        (
            {"systems": "ctc ctc_lm", "test_sets": "test:id lm_test:ood"},
            "system ctc on lm_test and system ctc_lm on test would both write exp/encoder/decode_ctc_lm_test/hyp.jsonl",
        ),
        ({"train_overrides": "seed=3"}, "--train_overrides: seed is set by the run .it is --seed or --base_seed."),
        ({"train_overrides": "train_shape_file=x"}, "train_shape_file is set by the run"),
        ({"train_overrides": "optim_conf=3"}, "--train_overrides: optim_conf is 3; it must be keys and values"),
        ({"train_overrides": "optim_conf=[1]"}, r"optim_conf is \[1\]; it must be keys and values"),
        ({"train_overrides": "bridge_conf=x"}, "bridge_conf is 'x'; it must be keys and values"),
        ({"train_overrides": "scheduler_conf=5"}, "scheduler_conf is 5; it must be keys and values"),
        ({"train_overrides": "accum_grad=0"}, "accum_grad is 0; it must be a whole number of 1 or more"),
        ({"train_overrides": "accum_grad=x"}, "accum_grad is 'x'; it must be a whole number"),
        ({"train_overrides": "max_epoch=x"}, "max_epoch is 'x'; it must be a whole number"),
        ({"train_overrides": "batch_bins="}, "batch_bins is None; it must be a whole number"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_done(recipe, options, message, tmp_path):
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(UserError, match=message):
        recipe(**options)
    assert sorted(os.listdir(tmp_path)) == before


def test_systems_that_differ_in_what_positions_count_are_refused(recipe, tmp_path):
    cards = json.loads(json.dumps(CARDS))
    cards["phases"]["joint"]["bridge_conf"] = {"stack": 5}
    (tmp_path / "conf/systems.yaml").write_text(yaml.safe_dump(cards))
    with pytest.raises(UserError, match="bridge_conf.stack"):
        recipe()


@pytest.mark.parametrize(
    "section, name, entry, message",
    [
        ("phases", "joint", {"optim_conf": 3}, "phase joint: optim_conf is 3; it must be keys and values"),
        ("phases", "joint", {"accum_grad": 0}, "phase joint: accum_grad is 0; it must be a whole number"),
        ("phases", "joint", {"init_from": "x"}, "phase joint: init_from is set by the run .it is the phase before."),
        ("systems", "llm", {"phases": ["start"]}, "system llm: this name is taken"),
    ],
)
def test_cards_that_cannot_be(recipe, tmp_path, section, name, entry, message):
    cards = json.loads(json.dumps(CARDS))
    cards[section][name] = entry
    (tmp_path / "conf/systems.yaml").write_text(yaml.safe_dump(cards))
    with pytest.raises(UserError, match=message):
        recipe()


def test_systems_share_hypotheses_only_where_they_are_the_same(recipe, tmp_path):
    cards = json.loads(json.dumps(CARDS))
    cards["systems"] |= {
        "greedy": {"decode": "ctc"},
        "ctc": {"decode": "ctc_lm", "lm_weight": 1},
        "ctc_too": {"decode": "ctc"},
    }
    (tmp_path / "conf/systems.yaml").write_text(yaml.safe_dump(cards))
    assert len(recipe(systems="greedy ctc_too").systems) == 2
    with pytest.raises(UserError, match="system greedy on valid and system ctc on valid would both write"):
        recipe(systems="greedy ctc")


def test_null_takes_keyword_arguments_away(recipe):
    config = recipe(train_overrides="optim_conf= encoder_conf= num_iters_per_epoch=").trainings[-1].config
    assert config["optim_conf"] is config["num_iters_per_epoch"] is None
    assert recipe(train_overrides="encoder_conf=").caches_frames


def test_chat_prompts_wait_for_their_tokenizer(recipe):
    assert recipe(prompt="chat: {speech} Transcribe.").options.prompt == "chat: {speech} Transcribe."


def test_the_metrics_that_may_be_asked_for():
    from espnet_llmvq.experiment.table import METRICS
    from espnet_llmvq.score.measure import names_of

    assert list(METRICS) == names_of("always", "asked")


def test_directories_are_the_same_however_they_are_spelled(recipe):
    options = recipe(datadir="./data", dumpdir="dump/", expdir="exp//").options
    assert (options.datadir, options.dumpdir, options.expdir) == ("data", "dump", "exp")
    options = recipe(smoke=True, datadir="./data_smoke", lm_train_text="data/lm/train.txt ./data/b.txt").options
    assert options.lm_train_text == "data_smoke/lm/train.txt data_smoke/b.txt"


def test_damaged_or_absent_plans(recipe, tmp_path):
    with pytest.raises(UserError, match="exp: No such file or directory; run ./run.sh of the recipe"):
        read_experiment("exp")
    recipe().write()
    text = (tmp_path / "exp/experiment.json").read_text()
    for damaged, message in ((text[:50], "is damaged"), (text.replace('"name"', '"nam"', 1), "unknown key .* 'nam'")):
        (tmp_path / "exp/experiment.json").write_text(damaged)
        with pytest.raises(UserError, match=message):
            read_experiment("exp")


def test_the_command_has_every_option(recipe, tmp_path, capsys):
    command.main(["--systems", "plain", "--test_sets", "mean_voices:ood micro_x:id", "--cache_encoder", "false",
                  "--max_duration", "9", "--other_prompt"])  # fmt: skip
    experiment = read_experiment("exp")
    assert experiment.options == dataclasses.replace(
        Options(), systems="plain", test_sets="mean_voices:ood micro_x:id", cache_encoder=False, max_duration=9.0,
        other_prompt=True, baseline="plain", title=tmp_path.parent.name,
    )  # fmt: skip
    assert capsys.readouterr().out == "systems: plain; sets: train valid mean_voices micro_x\n"
    with pytest.raises(SystemExit):
        command.main(["--script_options", "stage nj", "--stge", "1"])
    assert "--stge (did you mean '--stage'?)" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command.main(["--conf_dir", "conf", "--bridge_stack", "2"])
    assert "--conf_dir (now --cards), --bridge_stack (now known from the phases)" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command.main(["--cache_encoder", "maybe"])
    assert "invalid true or false value: 'maybe'" in capsys.readouterr().err


def test_the_docs_list_every_option():
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    with open(os.path.join(root, "egs/TEMPLATE/llmasr1/llmasr.sh"), encoding="utf-8") as f:
        block = f.read().partition("# begin options")[2].partition("# end options")[0]
    with open(os.path.join(root, "docs/recipes.md"), encoding="utf-8") as f:
        table = f.read().partition("\n## Options\n")[2].partition("\n## ")[0]
    cells = [line.split(" |")[0] for line in table.splitlines() if line.startswith("| `--")]
    listed = [name for cell in cells for name in re.findall("--([a-z_0-9]+)", cell)]
    script = set(re.findall("^([a-z_0-9]+)=", block, re.MULTILINE))
    assert sorted(listed) == sorted(script | {field.name for field in dataclasses.fields(Options)})
