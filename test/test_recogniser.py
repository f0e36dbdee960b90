"""The recogniser itself as a row: texts are those of transformers, whatever the batch; what cannot be is refused."""

import functools
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import standins
import torch
from transformers import AutoProcessor, WhisperForConditionalGeneration, pipeline

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.decode.batches import Batches
from espnet_llmvq.experiment.experiment import read_experiment
from espnet_llmvq.sequence.asr import asr_sequence
from espnet_llmvq.sequence.sequence import write_sequences
from espnet_llmvq.speech.recogniser import PretrainedRecogniser, asked
from espnet_llmvq.stages import decode as stage

RATE = 16000
LENGTHS = (8000, 16000, 4000, 20000, 12000)
SYSTEM = {"label": "Itself", "decode": "recogniser", "language": "en"}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """{name: directory} of stand-ins: several languages, English alone."""
    room = tmp_path_factory.mktemp("models")
    return {
        "several": standins.whisper_recogniser(room / "several"),
        "english": standins.whisper_recogniser(room / "english", english=True),
    }


def sounds(lengths=LENGTHS):
    """Tones of their own pitch and level in noise, (S,) float32 each."""
    rng = np.random.default_rng(0)
    waves = [rng.uniform(0.1, 1) * np.sin(np.arange(n) / rng.uniform(2, 20)) for n in lengths]
    return [(wave + 0.05 * rng.standard_normal(len(wave))).astype(np.float32) for wave in waves]


@functools.cache
def theirs(path):
    return AutoProcessor.from_pretrained(path), WhisperForConditionalGeneration.from_pretrained(path)


def alone(path, wave, prompt="", **options):
    """(new token ids, text) of an utterance by transformers' processor and generate."""
    processor, model = theirs(path)
    features = processor(wave, sampling_rate=RATE, return_tensors="pt").input_features
    assert features.shape[-1] == 3000
    if prompt:
        options["prompt_ids"] = processor.get_prompt_ids(prompt, return_tensors="pt")
    ids = model.generate(features, **options)[0].tolist()
    return ids, processor.decode(ids, skip_special_tokens=True).strip()


@pytest.mark.parametrize(
    "model, asked_for, options",
    [
        ("several", {"language": "en"}, {"language": "en"}),
        ("several", {"language": "fr", "task": "translate"}, {"language": "fr", "task": "translate"}),
        ("several", {}, {"task": "transcribe"}),  # the language is detected
        ("several", {"language": "en", "num_beams": 3}, {"language": "en", "num_beams": 3}),
        ("several", {"language": "en", "prompt_words": "ibu Sun"}, {"language": "en", "prompt": "ibu Sun"}),
        ("english", {"language": "en"}, {}),
        ("english", {"num_beams": 2, "prompt_words": "ibu"}, {"num_beams": 2, "prompt": "ibu"}),
    ],
)
def test_texts_are_those_of_transformers_for_each_utterance_alone(models, model, asked_for, options):
    waves = sounds()
    found = PretrainedRecogniser(models[model], **asked_for)(waves)
    assert [(tokens, text) for tokens, text, _ in found] == [alone(models[model], wave, **options) for wave in waves]
    assert len({text for _, text, _ in found}) > 2


def test_what_is_asked_for_changes_texts(models):
    ways = ({"language": "en"}, {"language": "fr"}, {"language": "en", "task": "translate"},
            {"language": "en", "prompt_words": "ibu"}, {"language": "en", "num_beams": 4})  # fmt: skip
    texts = [[text for _, text, _ in PretrainedRecogniser(models["several"], **way)(sounds())] for way in ways]
    assert all(a != b for i, a in enumerate(texts) for b in texts[:i])


@pytest.mark.parametrize("options", [{}, {"num_beams": 3, "prompt_words": "ibu"}])
def test_the_batch_changes_nothing(models, options):
    recogniser = PretrainedRecogniser(models["several"], language="en", **options)
    waves = sounds((*LENGTHS, 17 * 30000))
    one_by_one = [recogniser([wave])[0] for wave in waves]
    assert recogniser(waves) == one_by_one and recogniser(waves[::-1]) == one_by_one[::-1]


@pytest.mark.parametrize("model", ["several", "english"])
def test_longer_speech_is_transcribed_window_after_window_as_by_transformers(models, model):
    (short, long) = sounds((8000, 17 * 30000))
    found = PretrainedRecogniser(models[model], language="en")([short, long])
    recognise = pipeline("automatic-speech-recognition", model=models[model], dtype=torch.float32)
    language = {"language": "en"} if model == "several" else {}
    for wave, (tokens, text, cut), times in zip((short, long), found, (False, True)):
        said = recognise(wave.copy(), return_timestamps=times, generate_kwargs={"num_beams": 1, **language})
        assert text == said["text"].strip() and text and not cut
        times_said = [t for t in tokens if t > 266]  # behind the marks
        assert bool(times_said) == times
    assert len(said["chunks"]) > 1


def test_a_text_that_there_is_no_room_for_is_cut_off(models, tmp_path):
    path = shutil.copytree(models["several"], tmp_path / "short")
    said = json.loads((path / "generation_config.json").read_text())
    (path / "generation_config.json").write_text(json.dumps({**said, "max_length": 9}))  # without the marks before it
    whole, found = (PretrainedRecogniser(str(one), language="en")(sounds()) for one in (models["several"], path))
    assert {cut for *_, cut in found} == {True, False}
    for (tokens, text, cut), (part, beginning, ended) in zip(whole, found):
        assert part == tokens[:9] and text.startswith(beginning) and ended == (len(tokens) >= 9) and not cut


def test_batches_count_whole_windows(tmp_path):
    path = tmp_path / "a.jsonl"
    write_sequences(path, [asr_sequence(f"u{i}", "x.wav", 16000, "a", "{speech} {text}") for i in range(5)])
    for seconds, expected in ((120, [4, 1]), (59, [1] * 5), (10, [1] * 5)):
        assert list(map(len, Batches(path, seconds, None, least=30 * RATE).batches)) == expected
    assert list(map(len, Batches(path, 3, None).batches)) == [3, 2]


@pytest.fixture
def recognising(models, plan, tmp_path):
    """Function: the `Experiment` of two such systems, in a copy of the model's directory, on sounds `test`."""
    shutil.copytree(models["several"], tmp_path / "whisper")
    rows = []
    for i, wave in enumerate(sounds()):
        soundfile.write(tmp_path / f"{i}.wav", wave, RATE, subtype="FLOAT")
        rows.append(asr_sequence(f"u{i}", str(tmp_path / f"{i}.wav"), len(wave), "ab", "USER: {speech} A: {text}"))
    for name in ("test", "valid"):
        (tmp_path / "dump" / name).mkdir(parents=True)
        write_sequences(tmp_path / "dump" / name / "sequences.jsonl", rows)
        for table, value in (("text", "UUG"), ("utt2spk", "me")):
            (tmp_path / "dump" / name / table).write_text("".join(f"{row.id} {value}\n" for row in rows))
    (tmp_path / "words.txt").write_text("ibu\n\n  Sun \n")
    systems = {"itself": SYSTEM, "beam": {**SYSTEM, "num_beams": 2, "prompt_words": "words.txt"},
               "x": {"phases": ["a"]}}  # fmt: skip

    def make(wanted="itself beam", **options):
        cards = {"phases": {"a": {}}, "systems": systems}
        return plan(cards, systems=wanted, llm="a/b", pretrained_encoder="./whisper", **options)

    return make


def lines_of(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def test_decoding_a_set(recognising, capsys):
    experiment = recognising()
    experiment.write()
    assert read_experiment("exp") == experiment
    stage.decode(experiment, experiment.systems, ["test"], batch_seconds=60)
    for name, options in (("itself", {}), ("beam", {"num_beams": 2, "prompt_words": "ibu, Sun"})):
        found = PretrainedRecogniser("./whisper", language="en", **options)(sounds())
        room = Path(f"exp/recogniser/decode_{name}_test")
        assert sorted(os.listdir(room)) == [
            ".llmvq-written", "environment.json", "hyp.jsonl", "hyp.jsonl.made.json", "nbest.jsonl",
            "nbest.jsonl.made.json",
        ]  # fmt: skip
        assert lines_of(room / "hyp.jsonl") == [{"id": f"u{i}", "text": text} for i, (_, text, _) in enumerate(found)]
        assert [line["nbest"] for line in lines_of(room / "nbest.jsonl")] == [
            [{"text": text, "tokens": tokens, "llm": None}] for tokens, text, _ in found
        ]
        facts = json.loads((room / "environment.json").read_text())
        assert facts.items() >= {"num_beams": 1, "language": "en", "task": "transcribe", "ngpu": 0, **options}.items()
        assert "prompt_words" in facts or name == "itself"
    assert "5 utterances, real-time factor" in capsys.readouterr().out
    stage.decode(experiment, experiment.systems, ["test"])
    assert capsys.readouterr().out.count("nothing to do") == 2
    # Nothing to choose, as no score is known.
    before = (room / "hyp.jsonl").read_text()
    stage.rescore(experiment, experiment.systems, ["test"], "0.5")
    assert (room / "hyp.jsonl").read_text() == before


def test_what_changes_is_decoded_again(recognising, capsys):
    experiment = recognising()

    def run():
        stage.decode(experiment, experiment.systems, ["test"])
        told = capsys.readouterr().out
        return [name for name in ("itself", "beam") if f"[{name}] all sets are decoded" not in told]

    assert run() == ["itself", "beam"] and run() == []
    Path("words.txt").write_text("ibu\nSun\n")  # the same words
    assert run() == []
    Path("words.txt").write_text("Sun\n")
    assert run() == ["beam"]
    Path("whisper/generation_config.json").write_text(Path("whisper/generation_config.json").read_text() + " ")
    assert run() == ["itself", "beam"] and run() == []


def test_decoding_goes_on_where_it_was(recognising, monkeypatch, capsys):
    experiment, heard, transcribed = recognising(), [], PretrainedRecogniser.transcribed
    system, names = experiment.select("itself"), ("hyp.jsonl", "nbest.jsonl", "environment.json")
    stage.decode(experiment, system, ["test"], batch_seconds=60)
    room = Path("exp/recogniser/decode_itself_test")
    whole = [(room / name).read_text() for name in names]

    def killed(self, waves):
        heard.append(len(waves))
        if len(heard) == 2:
            raise KeyboardInterrupt
        return transcribed(self, waves)

    monkeypatch.setattr(PretrainedRecogniser, "transcribed", killed)
    with pytest.raises(KeyboardInterrupt):
        stage.decode(experiment, system, ["test"], batch_seconds=60, redo=True)
    stage.decode(experiment, system, ["test"], batch_seconds=60)
    assert "2 of 5 utterances are decoded, going on" in capsys.readouterr().out and heard == [2, 2, 2, 1]
    assert [(room / name).read_text() for name in names] == whole


def test_the_row_is_scored_beside_others_and_the_other_stages_leave_it_out(recognising, capsys):
    from espnet_llmvq.cli import pack
    from espnet_llmvq.score.options import Options, Statistics
    from espnet_llmvq.score.scoring import score_all, write_results
    from espnet_llmvq.stages.analyse import analyse

    experiment = recognising()
    experiment.write()
    stage.decode(experiment, experiment.systems, ["test"])
    table = replace(experiment.table(), train_text="")
    write_results(score_all(table, Options(statistics=Statistics(replicates=100)), "exp"), "exp")
    rows = [row for row in json.loads(Path("exp/results.json").read_text()) if row["metric"] == "wer"]
    assert {row["system"] for row in rows} == {"itself", "beam"}
    results = Path("exp/RESULTS.md").read_text()
    assert "Itself" in results and "- prompt_words: ibu, Sun" in results and "- language: en" in results
    capsys.readouterr()
    analyse(experiment, experiment.systems)
    assert "[itself] has no bridge, left out" in capsys.readouterr().out
    with pytest.raises(UserError, match="a system that decodes with recogniser cannot be packed; ctc and llm can"):
        pack.main(["--exp", "exp", "--system", "itself", "--out", "packed"])


def test_the_row_stays_beside_systems_of_the_encoder(recognising, models, capsys):
    experiment = recognising("x itself", ctc_head=False)
    assert [(s.name, s.decode, s.phases, s.model) for s in experiment.systems][1] == ("itself", "recogniser", (), "")
    assert experiment.system("itself").label == "Itself" and [t.tag for t in experiment.trainings] == ["a"]
    assert "left out" not in capsys.readouterr().out
    alone = recognising("itself", seed=2)
    assert alone.system("itself").hypotheses == experiment.system("itself").hypotheses
    # no head is trained that nothing would use
    assert alone.trainings == ()
    assert recognising("itself", align_sets="test", ctc_pieces="all").on_pretrained


def test_the_row_alone_leaves_the_encoder_of_other_runs_as_it_is(recognising, capsys):
    from espnet_llmvq.stages import encoder

    Path("exp/encoder").mkdir(parents=True)
    Path("exp/encoder/model.pth").write_text("of layers and a head")
    experiment = recognising("itself")
    encoder.prepare(experiment)
    encoder.encode(experiment, 1)
    assert os.listdir("exp/encoder") == ["model.pth"] and not os.path.exists("exp/frames")
    assert capsys.readouterr().out == ""


def cards(**keys):
    return {"phases": {"a": {}}, "systems": {"rec": {**SYSTEM, **keys}}}


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"num_beams": 0}, "system rec: num_beams is 0; it must be a whole number of 1 or more"),
        ({"num_beams": True}, "num_beams is True; it must be"),
        ({"language": False}, "language is False; it must be a code; put quotes around it"),
        ({"language": "de"}, r"system rec: unknown language 'de'.*known: en, fr"),
        ({"task": "translat"}, "unknown task in .*did you mean 'translate'"),
        ({"prompt_words": 5}, "prompt_words is 5; it must be a file with a word a line, or a list of words"),
        ({"prompt_words": [5]}, r"prompt_words is \[5\]; it must be"),
        (
            {"prompt_words": ["abcdefghij"] * 2},
            "system rec: prompt_words: 24 tokens are more than the 20 that it reads",
        ),
        ({"prompt_words": "many.txt"}, "prompt_words: 28 tokens are more than the 20"),
        ({"prompt_words": "empty.txt"}, "empty.txt: is empty"),
        ({"prompt_words": ["<|en|>"]}, "prompt_words: Encountered text in the prompt corresponding to disallowed"),
        ({"lm_weight": 1}, "lm_weight is read only with decode: ctc_lm, not recogniser"),
        ({"phases": ["a"]}, "a system that decodes with recogniser has 1 phases"),
        ({"decode": "ctc"}, "language is read only with decode: recogniser, not ctc"),
    ],
)
def test_what_cannot_be_asked_for_is_told_by_the_plan(models, plan, tmp_path, keys, message):
    (tmp_path / "many.txt").write_text("abcdefghij\nklmnopqrstuvwx\n")
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(UserError, match=message):
        plan(cards(**keys), systems="rec", llm="a/b", pretrained_encoder=models["several"])


def test_models_that_are_no_recognisers_are_told_by_the_plan(models, plan, tmp_path):
    options = {"systems": "rec", "llm": "a/b"}
    needed = "systems.yaml, system rec: the recogniser itself needs --pretrained_encoder, a Whisper model"
    with pytest.raises(UserError, match=needed + ", or an --encoder_file that stands on one$"):
        plan(cards(), **options)  # with an encoder of ours
    with pytest.raises(UserError, match=needed + ".*; .*wavlm is wavlm"):
        plan(cards(), **options, pretrained_encoder=standins.wavlm(tmp_path / "wavlm"))
    with pytest.raises(UserError, match="system rec: .*bare has no generation_config.json"):
        plan(cards(), **options, pretrained_encoder=standins.whisper(tmp_path / "bare"))
    for keys in ({"language": "fr"}, {"task": "translate"}):
        with pytest.raises(UserError, match="system rec: .*english knows English alone: language .*cannot be asked"):
            plan(cards(**keys), **options, pretrained_encoder=models["english"])
    old = shutil.copytree(models["several"], tmp_path / "old")
    said = json.loads((old / "generation_config.json").read_text())
    del said["is_multilingual"]
    (old / "generation_config.json").write_text(json.dumps(said))
    with pytest.raises(UserError, match="old/generation_config.json does not say is_multilingual"):
        plan(cards(), **options, pretrained_encoder=str(old))


def test_words_that_stage_1_makes_are_read_when_they_are_there(models, plan):
    experiment = plan(cards(prompt_words="data/w.txt"), systems="rec", llm="a/b", pretrained_encoder=models["several"])
    (system,) = experiment.systems
    with pytest.raises(UserError, match="data/w.txt: cannot be read: No such file"):
        stage.search_options(experiment, system)
    os.mkdir("data")
    Path("data/w.txt").write_text("ibu\nSun\n")
    expected = {"num_beams": 1, "language": "en", "task": "transcribe", "prompt_words": "ibu, Sun"}
    assert stage.search_options(experiment, system) == expected == asked(system.recogniser)


def test_a_whisper_without_its_decoder_is_told(models, tmp_path):
    from safetensors.torch import load_file, save_file

    path = shutil.copytree(models["several"], tmp_path / "cut")
    weights = load_file(path / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if ".encoder." in name}
    assert len(kept) < len(weights)
    save_file(kept, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"cut lacks \d+ tensors of WhisperForConditionalGeneration: .*decoder"):
        PretrainedRecogniser(str(path))


def test_an_encoder_from_elsewhere_that_stands_on_a_whisper_names_the_recogniser(models, plan, tmp_path):
    import yaml

    (tmp_path / "given").mkdir()
    config = {"frontend": "whisper", "frontend_conf": {"path": models["several"]}, "frame_stack": 4}
    config |= {"encoder": "transformer", "encoder_conf": {"input_layer": "linear"}}
    (tmp_path / "given/config.yaml").write_text(yaml.safe_dump(config))
    options = {"systems": "rec", "llm": "a/b", "encoder_file": "given/model.pth"}
    experiment = plan(cards(), **options)
    (system,) = experiment.systems
    assert experiment.recogniser == models["several"]
    inputs = stage.nbest_made(experiment, system, "test", stage.search_options(experiment, system)).inputs
    assert models["several"] in inputs.values()
    # A smoke run has words of its own.
    smoke = plan(cards(prompt_words="data/w.txt"), **options, smoke=True, datadir="data_smoke", expdir="exp_smoke")
    assert smoke.systems[0].recogniser["prompt_words"] == "data_smoke/w.txt"
