"""Learning curves: checkpoints after parts of the steps, and trainings on a share of the data."""

import json
import os
import shutil
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from conftest import LORA, write_cards
from test_report import epoch_line

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.cli import curves as command
from espnet_llmvq.experiment.cards import read_cards
from espnet_llmvq.experiment.systems import expand, phases_of
from espnet_llmvq.experiment.training import Training
from espnet_llmvq.sequence.sequence import read_sequences
from espnet_llmvq.stages import curves, sequences
from espnet_llmvq.stages import train as stage


def test_parts():
    found = curves.read_parts("1/8 0.5 1")
    assert found == {"1_of_8": Fraction(1, 8), "1_of_2": Fraction(1, 2), "1_of_1": 1}
    for bad in ("9/8", "0", "half", "1/0", "-1"):
        with pytest.raises(UserError, match=f"--at {bad}: give parts of all steps"):
            curves.read_parts(bad)
    with pytest.raises(UserError, match="--at is empty"):
        curves.read_parts("")


@pytest.fixture
def planned(tmp_path, experiment_of):
    """A system of three phases, the first without the LLM, and its checkpoints as empty files."""
    model = str(tmp_path / "exp" / "a-b-c")
    configs = {
        "a": {"model_conf": {"llm_weight": 0.0}, "num_iters_per_epoch": 50, "max_epoch": 3},
        "a-b": {"num_iters_per_epoch": 20, "accum_grad": 2, "max_epoch": 4},
        "a-b-c": {"num_iters_per_epoch": 30, "max_epoch": 2},
    }
    trainings = [Training(tag, f"phase {tag}", config) for tag, config in configs.items()]
    experiment = experiment_of(str(tmp_path), {"soft": model}, {}, trainings=trainings)
    systems = (replace(experiment.systems[0], phases=tuple(configs)),)
    for tag, epochs in (("a", (1, 2, 3)), ("a-b", (1, 4)), ("a-b-c", (1, 2))):
        os.makedirs(experiment.exp(tag))
        for epoch in epochs:
            Path(experiment.exp(tag, f"{epoch}epoch.pth")).touch()
    Path(experiment.exp("a-b", "train.log")).write_text(epoch_line(1, "2.0", "1.5") + epoch_line(4, "1.0", "0.5"))
    return replace(experiment, systems=systems)


def test_checkpoints_by_hand(planned):
    """40 steps of 10 an epoch (two batches a step), then 60; the phase without the LLM does not count."""
    (system,) = planned.systems
    kept, total = curves.kept_checkpoints(planned, system)
    assert total == 100
    found = {steps: (Path(c.system.model).name, c.system.weights, c.loss) for steps, c in kept.items()}
    assert found == {
        10: ("a-b", "1epoch.pth", 1.5), 40: ("a-b", "4epoch.pth", 0.5),
        70: ("a-b-c", "1epoch.pth", None), 100: ("a-b-c", "2epoch.pth", None),
    }  # fmt: skip
    chosen = curves.choose(planned, planned.systems, curves.read_parts("1/10 0.7 1"))
    assert [one.steps for one in chosen.values()] == [10, 70, 100]
    message = (
        r"soft: no checkpoint after 1/8 of its 100 steps was kept, but after 10, 40, 70, 100; give the phase num_it"
    )
    with pytest.raises(UserError, match=message):
        curves.choose(planned, planned.systems, curves.read_parts("1/8"))
    with pytest.raises(UserError, match="soft has no checkpoint with the LLM; it is not trained"):
        curves.kept_checkpoints(planned, replace(system, phases=("a",)))
    planned.trainings[1].config.pop("num_iters_per_epoch")
    with pytest.raises(UserError, match="phase a-b: how many steps an epoch has depends on the data"):
        curves.kept_checkpoints(planned, system)


@pytest.fixture
def trained(tmp_path, trained_soft, settings, corpus, experiment_of, monkeypatch):
    """An experiment with two systems of four epochs of two steps, all kept; the second has seen half of the data."""
    from espnet_llmvq.espnet.run import average_of, train_phase

    monkeypatch.chdir(tmp_path)
    encoder, _ = trained_soft
    half = str(tmp_path / "half")
    sequences.write_share(half, corpus.train_shape, 0.5, 1)
    systems, trainings = {}, []
    for name, shape in (("whole", corpus.train_shape), ("half", half)):
        config = settings(
            encoder_file=os.path.join(encoder, "model.pth"), specaug=None, max_epoch=4, num_iters_per_epoch=2,
            keep_nbest_models=[2, 4], llm_conf={"lora": LORA}, bridge="soft", scheduler=None,
            bridge_conf={"stack": 1, "hidden_size": 24, "codebook": "trainable", "top_k": 5},
            train_shape_file=[shape],
        )  # fmt: skip
        systems[name] = str(tmp_path / "exp" / name)
        train_phase(systems[name], config, 1)
        Path(systems[name], "train.log").write_text("".join(epoch_line(i, "2.0", 2 - i / 10) for i in range(1, 5)))
        trainings.append(Training(name, f"phase {name}", config))
    # The average of the two best, though four are kept.
    assert average_of(systems["whole"], config) == f"{systems['whole']}/valid.loss.ave_2best.pth"
    same = [Path(systems["whole"], name).read_bytes() for name in ("model.pth", "valid.loss.ave_2best.pth")]
    assert same[0] == same[1]
    sets = {"a": corpus.valid, "valid": corpus.valid, "train": corpus.train}
    experiment = experiment_of(str(tmp_path), systems, sets, encoder=encoder, trainings=trainings, baseline="whole")
    for name in sets:
        texts = {seq.id: seq.spans[-1].text.strip() for seq in read_sequences(experiment.sequences(name))}
        Path(experiment.dump_dir(name), "text").write_text("".join(f"{utt} {text}\n" for utt, text in texts.items()))
        Path(experiment.dump_dir(name), "utt2spk").write_text("".join(f"{utt} {utt}\n" for utt in texts))
    return experiment


def test_curves(trained, tmp_path, capsys):
    """What is decoded is what the checkpoint alone decodes; tables say the steps, losses and rates."""
    from espnet_llmvq.stages.decode import decode

    command.main(["--exp", "exp", "--at", "1/4 1", "--sets", "valid a"])
    printed = capsys.readouterr().out
    home = tmp_path / "exp" / "curves"
    assert (home / "CURVES.md").read_text() in printed
    lines = [line.split("\t") for line in (home / "curves.tsv").read_text().splitlines()]
    assert lines[0] == ["system", "part", "steps", "loss", "set", "wer", "low", "high"]
    assert [line[:5] for line in lines[1:]] == [
        [name, part, steps, loss, data]
        for name in ("whole", "half")
        for part, steps, loss in (("1/4", "2", "1.9"), ("1", "8", "1.6"))
        for data in ("valid", "a")
    ]
    rows = json.loads((home / "1_of_4" / "results.json").read_text())
    values = {(r["system"], r["set"]): r["value"] for r in rows if (r["metric"], r["kind"]) == ("wer", "set")}
    assert {(line[0], line[4]): float(line[5]) for line in lines[1:] if line[1] == "1/4"} == values
    assert "2 steps, validation loss 1.900" in (home / "1_of_4" / "RESULTS.md").read_text()
    assert "| half" in (home / "CURVES.md").read_text().partition("## WER on a (%)")[2]
    assert (home / "curves.png").read_bytes().startswith(b"\x89PNG")
    # The checkpoint in the place of the model of a system.
    alone = shutil.copytree(tmp_path / "exp" / "whole", tmp_path / "alone")
    shutil.copyfile(alone / "1epoch.pth", alone / "model.pth")
    system = replace(trained.systems[0], model=str(alone), hypotheses=str(alone / "decode_{set}" / "hyp.jsonl"))
    decode(trained, [system], ["valid"])
    expected = (alone / "decode_valid" / "hyp.jsonl").read_text()
    assert (home / "1_of_4" / "decode" / "whole" / "valid" / "hyp.jsonl").read_text() == expected
    capsys.readouterr()
    command.main(["--exp", "exp", "--at", "1/4 1", "--sets", "valid a"])
    assert capsys.readouterr().out.count("all sets are decoded") == 4


def test_shares_are_nested_and_drawn_by_id(tmp_path):
    shape = tmp_path / "train_shape"
    shape.write_text("".join(f"u{i} {i + 5}\n" for i in range(40)))
    drawn = {}
    for share in (0.25, 0.5):
        out = tmp_path / f"shape.{share}"
        sequences.write_share(str(out), str(shape), share, 1)
        drawn[share] = out.read_text().splitlines()
    lines = shape.read_text().splitlines()
    assert [len(part) for part in drawn.values()] == [10, 20] and set(drawn[0.25]) < set(drawn[0.5]) < set(lines)
    assert drawn[0.5] == [line for line in lines if line in drawn[0.5]]  # in order
    assert drawn[0.5] != lines[:20]
    counts = Counter()
    for seed in range(100):
        sequences.write_share(str(tmp_path / "out"), str(shape), 0.25, seed)
        counts.update((tmp_path / "out").read_text().split()[::2])
    # Each of 40 is expected 25 times of 100; five standard deviations.
    assert len(counts) == 40 and all(3 < n < 47 for n in counts.values())


def test_a_phase_on_a_share(tmp_path, experiment_of, settings):
    """The phase reads the positions of that share; its record and a dry run say so."""
    phases = {"a": {"num_iters_per_epoch": 5, "train_share": 0.25}, "b": {"num_iters_per_epoch": 5}}
    systems = {name: {"phases": [name]} for name in phases}
    cards = read_cards(write_cards(tmp_path / "conf", phases=phases, systems=systems))
    (a,), (b,) = phases_of(cards, "a"), phases_of(cards, "b")
    assert (a.share, b.share) == (0.25, 1.0) and a.config == b.config  # no key of ESPnet's
    trainings = [replace(t, config=settings(num_iters_per_epoch=5)) for t in (a, b)]
    experiment = experiment_of(str(tmp_path), {}, {}, trainings=trainings)
    files = [stage.shapes_of(experiment, t)[0] for t in trainings]
    assert files == [experiment.exp("stats", "train_shape.0.25"), experiment.exp("stats", "train_shape")]
    noted = [stage.made_of(experiment, t, stage.settings_of(experiment, t)).options["settings"] for t in trainings]
    assert noted[0]["train_share"] == 0.25 and "train_share" not in noted[1]
    lines = [line for fact in stage.dry_run(experiment) for line in [fact["share"]]]
    assert lines == [0.25, 1.0]


def test_the_rows_of_the_recipes():
    """All take the same steps with the LLM, and every checkpoint that curves want by default is kept."""
    from espnet_llmvq.espnet.task import SpeechLLMTask

    cards = read_cards(Path(__file__).resolve().parent.parent / "egs/TEMPLATE/conf/paper_a.yaml")
    for name in expand(cards, ["curves", "shares"]):
        start, *phases = phases_of(cards, name)
        assert start.config == cards.phase("start")
        ends = []
        for phase in phases:
            SpeechLLMTask.check_config(phase.config, phase.where)
            each, epochs, kept = (
                phase.config[key] for key in ("num_iters_per_epoch", "max_epoch", "keep_nbest_models")
            )
            assert max(kept) == epochs and min(kept) == 2
            for _ in range(epochs):
                ends.append(each + sum(ends[-1:]))
            assert phase.config["llm_conf"] == cards.phase("lora")["llm_conf"]
        assert ends[-1] == 600 and {75, 150, 300, 600} <= set(ends)
    shares = {phases_of(cards, name)[-1].share for name in expand(cards, ["shares"])}
    assert shares == {0.25, 0.5, 1.0}


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"train_share": 0}, "phase a: train_share is 0; it must be a number above 0, at most 1"),
        ({"train_share": 1.5}, "train_share is 1.5"),
        ({"train_share": True}, "train_share is True"),
        ({"train_share": "half"}, "train_share is 'half'"),
        (
            {"train_share": 0.5, "num_iters_per_epoch": None},
            "train_share needs num_iters_per_epoch, or less data would",
        ),
        ({"train_share": 0.5, "mixture": "mix"}, "train_share is of the training set, and a mixture is another"),
    ],
)
def test_shares_that_cannot_be(tmp_path, keys, message):
    sections = {"phases": {"a": {"num_iters_per_epoch": 5, **keys}}, "systems": {"a": {"phases": ["a"]}}}
    cards = read_cards(write_cards(tmp_path / "conf", **sections, mixtures={"mix": {"train/asr": 1}}))
    with pytest.raises(UserError, match=message):
        phases_of(cards, "a")
