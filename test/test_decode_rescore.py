"""CTC scores against the sum over all paths; choosing by both scores; the command; files of n-best lists."""

import itertools
import json
import math
import os

import pytest
import torch
from conftest import ctc_texts

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.base.made import Made
from espnet_llmvq.cli import rescore
from espnet_llmvq.decode.choose import choose, restore, write_chosen
from espnet_llmvq.decode.generate import Hypothesis
from espnet_llmvq.decode.nbest import best, nbest_line, read_nbest, write_hypotheses
from espnet_llmvq.decode.rescore import add_ctc_scores, ctc_log_likelihood
from espnet_llmvq.stages.decode import rescore as choose_all

INF = float("inf")


@pytest.mark.parametrize("blank", [0, 2, 3])
@pytest.mark.parametrize("frames", [1, 4])
def test_ctc_log_likelihood(blank, frames):
    torch.manual_seed(frames)
    log_probs = torch.randn(frames, 4).log_softmax(-1)
    sums = ctc_texts(log_probs.double(), blank)
    others = [t for t in range(4) if t != blank]
    texts = [list(t) for n in range(5) for t in itertools.product(others, repeat=n)]
    found = ctc_log_likelihood(log_probs, texts, blank)
    assert len(found) == len(texts) == 121
    for text, score in zip(texts, found):
        assert score == pytest.approx(sums.get(tuple(text), -INF), abs=1e-5)
    assert sum(score > -INF for score in found) == len(sums)


def test_no_path_spells_blanks_or_foreign_tokens():
    log_probs = torch.zeros(3, 4).log_softmax(-1)
    assert ctc_log_likelihood(log_probs, [[1, 0], [4], [-0]], 0) == [-INF] * 3
    assert ctc_log_likelihood(log_probs, [], 0) == []
    mixed = ctc_log_likelihood(log_probs, [[9], [1], []], 0)
    assert mixed[0] == -INF and mixed[2] == pytest.approx(3 * math.log(0.25))
    # One run of 1s in three frames, blanks around it: 6 of 64 paths.
    assert mixed[1] == pytest.approx(math.log(6 / 64))


def test_scores_of_a_batch(make_model):
    """Padded utterances get what torch gives each alone over the whole vocabulary."""
    model = make_model()
    torch.manual_seed(0)
    speech, lengths = 3 * torch.randn(3, 12, 16), torch.tensor([12, 7, 2])
    texts = [[[20, 21, 21], [22]], [[23, 24], []], [[20, 21, 22], [25]]]
    lists = [[Hypothesis(t, -1.0 - i) for i, t in enumerate(row)] for row in texts]
    found = add_ctc_scores(model, {"speech": speech, "speech_lengths": lengths}, lists)
    for x, n, row, before in zip(speech, lengths, found, lists):
        log_probs = model.ctc(x[None, :n]).log_softmax(-1).transpose(0, 1)
        for h, old in zip(row, before):
            targets, length = (torch.tensor([h.tokens], dtype=torch.long), torch.tensor([len(h.tokens)]))
            args = (log_probs, targets, n[None], length, model.ctc.blank)
            loss = torch.nn.functional.ctc_loss(*args, reduction="none")
            assert h.ctc == pytest.approx(-float(loss), abs=1e-3)
            assert (h.tokens, h.llm) == (old.tokens, old.llm)
    assert found[2][0].ctc == -INF


def entry(text, llm, ctc, **more):
    return {"text": text, "tokens": [], "llm": llm, "ctc": ctc, **more}


def test_best_by_hand():
    entries = [entry("a", -1.0, -9.0), entry("b", -2.0, -6.0), entry("c", -5.0, -4.0), entry("d", -0.5, None)]
    # 0.5: -5, -4, -4.5, impossible
    assert [best(entries, w) for w in (0, 0.01, 0.2, 0.5, 0.8, 1)] == [0, 0, 0, 1, 2, 2]
    assert best([entry("a", -3.0, -1.0), entry("b", -1.0, -3.0)], 0.5) == 0
    assert best([entry("a", -1.0, None), entry("b", -0.5, None)], 0.5) == 0
    assert best([{"text": "a", "llm": -1.0}, {"text": "b", "llm": -0.5}], 0) == 0
    # off: what the search has first, of which the LLM may think less
    assert best([entry("written", -3.0, None), entry("draft", -2.0, -1.0)], 0) == 0


def test_file_of_nbest_lists(tmp_path):
    hypotheses = [Hypothesis([5, 6], -1.5, -INF), Hypothesis([], -2.0, -0.25, True)]
    path = tmp_path / "nbest.jsonl"
    path.write_text(nbest_line("u", hypotheses, ["eins zwö", ""]) + nbest_line("v", [], []), encoding="utf-8")
    lists = read_nbest(path)
    assert lists == {
        "u": [
            {"text": "eins zwö", "tokens": [5, 6], "llm": -1.5, "ctc": None},
            {"text": "", "tokens": [], "llm": -2.0, "ctc": -0.25, "at_limit": True},
        ],
        "v": [],
    }
    json.loads(path.read_text().splitlines()[0], parse_constant=lambda name: pytest.fail(name))
    write_hypotheses(tmp_path / "hyp.jsonl", {"u": lists["u"][1], "v": None})
    lines = [json.loads(line) for line in (tmp_path / "hyp.jsonl").read_text().splitlines()]
    assert lines == [{"id": "u", "text": "", "at_limit": True}, {"id": "v", "text": ""}]
    path.write_text('{"id": "u", "nbest": [{"text": "a"}]}\n')
    with pytest.raises(UserError, match=r"nbest.jsonl:1: not an n-best list .*decode again"):
        read_nbest(path)
    with pytest.raises(UserError, match=r"gone: cannot read it: .*stage 12"):
        read_nbest(tmp_path / "gone")


def write_nbest(path, lists):
    """As decoding leaves them, with its facts."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as f:
        f.writelines(json.dumps({"id": utt, "nbest": entries}) + "\n" for utt, entries in lists.items())
    Made(path).note(num_beams=3)


@pytest.fixture
def decoded(tmp_path, experiment_of):
    """An experiment with n-best lists of a system for the validation and a test set."""
    (tmp_path / "empty").touch()
    phase = str(tmp_path / "exp" / "p")
    sets = {"valid": tmp_path / "empty", "test": tmp_path / "empty"}
    experiment = experiment_of(tmp_path, {"s": phase, "c": "ctc"}, sets, normaliser="none")
    lists = {
        # Word errors of 4: weight 0: 3 (two inserted, one substituted), 0.5: 1, 1: 2.
        "valid": {
            "u1": [entry("one two two two", -1.0, -9.0, at_limit=True), entry("one two", -3.0, -4.0)],
            "u2": [entry("six four", -1.0, -3.0), entry("three four", -2.0, -2.8), entry("six five", -9.0, -2.0)],
        },
        "test": {"t1": [entry("a", -1.0, -5.0, at_limit=True), entry("b", -2.0, -3.0)], "t2": []},
    }
    for name, found in lists.items():
        write_nbest(f"{phase}/decode_{name}/nbest.jsonl", found)
    (tmp_path / "dump/valid/text").write_text("u1 one two\nu2 three four\n")
    return experiment


def test_rescore_command(decoded, tmp_path, capsys):
    command = ["--exp", str(tmp_path / "exp")]
    room = tmp_path / "exp" / "p" / "decode_test"
    choose_all(decoded, decoded.systems, ["test"], "valid", tune_only=True, grid=(1, 0.5, 0.4, 0))
    out = capsys.readouterr().out.splitlines()
    rates = {"1": "50.00,", "0.5": "25.00,", "0.4": "25.00,", "0": "75.00,"}
    assert [line.split()[2:5] for line in out] == [[weight, "WER", rate] for weight, rate in rates.items()]
    rescore.main([*command, "--tune_only"])
    assert len(capsys.readouterr().out.splitlines()) == 12
    assert sorted(os.listdir(room)) == ["nbest.jsonl", "nbest.jsonl.made.json"]
    choose_all(decoded, decoded.systems, ["test"], "valid", grid=(1, 0.5, 0.4, 0))
    chosen = [json.loads(line) for line in open(room / "hyp.jsonl")]
    assert chosen == [{"id": "t1", "text": "b"}, {"id": "t2", "text": ""}]
    facts = json.loads((room / "environment.json").read_text())
    assert facts == {"num_beams": 3, "ctc_weight": 0.4, "ctc_weight from": "lowest WER on valid"}
    assert not os.path.exists(tmp_path / "exp/p/decode_valid/hyp.jsonl")  # it is not scored in a run of weight 0
    rescore.main([*command, "--ctc_weight", "valid"])
    assert json.loads((room / "environment.json").read_text())["ctc_weight"] == 0.3
    rescore.main([*command, "--ctc_weight", "0", "--sets", "test"])
    assert json.loads(open(room / "hyp.jsonl").readline()) == {"id": "t1", "text": "a", "at_limit": True}
    assert json.loads((room / "environment.json").read_text()) == {"num_beams": 3}
    before = {p: p.stat().st_mtime_ns for p in room.iterdir()}
    rescore.main(command)  # 0 is the weight of the run
    assert {p: p.stat().st_mtime_ns for p in room.iterdir()} == before


def test_hypotheses_are_chosen_again_where_it_is_needed(decoded, tmp_path):
    """Another weight, other lists, a damaged file: chosen again; what was restored has the weight that it had."""
    room = tmp_path / "exp" / "p" / "decode_test"
    path, nbest, facts = str(room / "hyp.jsonl"), str(room / "nbest.jsonl"), room / "environment.json"

    def written(change, *args):
        change(*args)
        return json.loads(open(path).readline())["text"], json.loads(facts.read_text()).get("ctc_weight")

    assert written(restore, path) == ("a", None)
    assert written(write_chosen, path, 0.5, "given") == ("b", 0.5)
    for name in (path, facts):
        for damage in (os.remove, lambda name: open(name, "w").close()):
            damage(name)
            assert written(restore, path) == ("b", 0.5)
    before = os.stat(path).st_mtime_ns
    os.utime(nbest)
    assert written(restore, path) == ("b", 0.5) and os.stat(path).st_mtime_ns == before
    write_nbest(nbest, {"t1": [entry("c", -1.0, -1.0), entry("b", -9.0, -3.0)]})
    assert written(restore, path) == ("c", 0.5)


def test_lists_of_a_fused_search_stay_in_its_order(decoded, tmp_path):
    path = str(tmp_path / "nbest.jsonl")
    write_nbest(path, {"t": [entry("fused", -5.0, -1.0), entry("fluent", -1.0, -9.0)], "u": []})
    assert choose(path, 0)["t"]["text"] == "fused"
    assert choose(path, 0)["u"] is None


@pytest.mark.parametrize(
    "options, message",
    [
        (["--ctc_weight", "1.5"], "--ctc_weight '1.5': expected a number from 0 to 1"),
        (["--ctc_weight", "high"], "--ctc_weight 'high': expected"),
        (["--ctc_weight", "0.1", "--sets", "tset"], "unknown set 'tset' .did you mean 'test'"),
        (["--ctc_weight", "0.1", "--sets", "train"], "decode_train/nbest.jsonl: cannot read it: .*stage 12"),
        (["--systems", "q"], "unknown system 'q'"),
        (["--ctc_weight", "valid"], "dump/valid/text"),
    ],
)
def test_mistakes(decoded, options, message):
    os.remove(f"{decoded.options.dumpdir}/valid/text")
    with pytest.raises(UserError, match=message):
        rescore.main(["--exp", decoded.options.expdir, *options])


def test_texts_that_ctc_cannot_spell_are_no_missing_scores(tmp_path):
    """A short set may have nothing but texts that are longer than its frames: the LLM's order decides."""
    path = tmp_path / "nbest.jsonl"
    hypotheses = [Hypothesis([5, 6], -1.5, -INF), Hypothesis([5, 7], -2.0, -INF)]
    path.write_text(nbest_line("u", hypotheses, ["first", "second"]))
    assert [choose(path, weight)["u"]["text"] for weight in (0, 0.5, 1)] == ["first"] * 3


def test_no_ctc_scores(decoded, tmp_path):
    path = tmp_path / "exp" / "p" / "decode_test" / "nbest.jsonl"
    path.write_text('{"id": "t1", "nbest": [{"text": "a", "tokens": [], "llm": -1.0}]}\n')
    with pytest.raises(UserError, match="no CTC scores; decode again with an encoder that has a CTC head"):
        rescore.main(["--exp", decoded.options.expdir, "--ctc_weight", "0.1", "--sets", "test"])
