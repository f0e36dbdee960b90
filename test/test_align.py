"""Word alignment: against every CTC path of small cases, against known spikes, and its files."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from espnet_llmvq.align.ctc import align_tokens, align_words
from espnet_llmvq.align.ctm import Word, boundary_errors, ctm_lines, read_ctm, write_ctm
from espnet_llmvq.align.output import write_alignment
from espnet_llmvq.align.quality import case_hint
from espnet_llmvq.base.errors import UserError
from espnet_llmvq.decode.align import align_sets, transcripts, word_tokens
from espnet_llmvq.speech.frame_rate import FrameRate

BLANK = 2  # not 0, where torchaudio has it unless told


def collapsed(path):
    return [k for k, _ in itertools.groupby(path) if k != BLANK]


def best_path(log_probs, ids):
    """The best of all V^T paths that spell `ids`, with its score; None when there is none."""
    frames, tokens = log_probs.shape
    scored = [
        (sum(log_probs[t, k].item() for t, k in enumerate(path)), path)
        for path in itertools.product(range(tokens), repeat=frames)
        if collapsed(path) == list(ids)
    ]
    return max(scored) if scored else None


def runs(path):
    """(first frame, frame after the last) of each token of a path."""
    spans, t = [], 0
    for token, group in itertools.groupby(path):
        n = len(list(group))
        spans += [(t, t + n)] if token != BLANK else []
        t += n
    return spans


@pytest.mark.parametrize("ids", [[0], [1, 3], [3, 3], [0, 1, 0], [1, 1, 1], [0, 0, 3]])
def test_alignment_is_the_best_of_all_paths(ids):
    generator = torch.Generator().manual_seed(len(ids))
    for frames in range(1, 7):
        log_probs = torch.randn(frames, 4, generator=generator).mul(2).log_softmax(-1)
        best = best_path(log_probs, ids)
        if best is None:
            with pytest.raises(ValueError, match=f"audio too short: {frames} encoder frames, its {len(ids)} tokens"):
                align_tokens(log_probs, ids, BLANK)
            continue
        found = align_tokens(log_probs, ids, BLANK)
        assert [span[:2] for span in found] == runs(best[1])
        for (first, last, score), token in zip(found, ids):
            assert score == pytest.approx(log_probs[first:last, token].mean().item(), abs=1e-5)


def test_empty_transcript_is_refused():
    with pytest.raises(ValueError, match="empty"):
        align_tokens(torch.zeros(5, 4).log_softmax(-1), [], BLANK)


def test_words_lie_at_their_spikes():
    probs = torch.full((12, 5), 0.01)
    for t in range(12):
        probs[t, {2: 0, 3: 0, 5: 1, 8: 4, 11: 0}.get(t, BLANK)] = 0.96
    words = align_words(probs.log(), ["ab", "c"], [0, 1, 4, 0], [0, 0, 1, 1], BLANK, 0.04, 0.47)
    assert [w.word for w in words] == ["ab", "c"]
    np.testing.assert_allclose([(w.start, w.end) for w in words], [(0.08, 0.24), (0.32, 0.47)])
    assert [w.confidence for w in words] == pytest.approx([0.96, 0.96])


def test_blank_is_not_token_zero():
    """The same case with blank and token 0 exchanged gives the same times."""
    log_probs = torch.randn(9, 4, generator=torch.Generator().manual_seed(7)).log_softmax(-1)
    swapped = log_probs[:, [2, 1, 0, 3]]
    assert align_tokens(log_probs, [0, 1, 0], 2) == align_tokens(swapped, [2, 1, 2], 0)


def unigram(pieces):
    """A tokenizer as `train_tokenizer` makes it, with these pieces; id 0 is unknown."""
    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), *pieces], unk_id=0))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Strip(), normalizers.Prepend(" "), normalizers.Replace(" ", "▁")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="never")
    tokenizer.decoder = decoders.Metaspace("▁", prepend_scheme="always")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


PIECES = [("▁", -3.0), ("▁go", -2.0), ("od", -2.0), ("▁he", -2.0), ("y", -3.0), (".", -3.0), ("n", -4.0)]


@pytest.mark.parametrize("text", [" good hey.", "good hey.", " good  hey."])
def test_tokens_of_words_are_those_of_each_word_alone(text):
    tokenizer = unigram(PIECES)
    words, ids, owners = word_tokens(tokenizer, text)
    assert words == ["good", "hey."]
    assert tokenizer.convert_ids_to_tokens(ids) == tokenizer.tokenize(text)
    if "  " not in text:
        apart = [tokenizer.encode(f" {w}", add_special_tokens=False) for w in words]
        assert [[i for i, o in zip(ids, owners) if o == n] for n in range(2)] == apart
    assert owners == sorted(owners)


def test_space_token_goes_with_the_word_after_it():
    tokenizer = unigram(PIECES)
    words, ids, owners = word_tokens(tokenizer, " hey ny")
    assert tokenizer.convert_ids_to_tokens(ids) == ["▁he", "y", "▁", "n", "y"]
    assert owners == [0, 0, 1, 1, 1]


def test_byte_level_tokens():
    """GPT-2's kind, where a word at the start has no space and other pieces than elsewhere."""
    pieces = {piece: i for i, piece in enumerate(["a", "b", "Ġ", ".", "Ġa", "ab"])}
    tokenizer = Tokenizer(models.BPE(pieces, [("Ġ", "a"), ("a", "b")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    words, ids, owners = word_tokens(fast, "ab ab b.")
    assert fast.convert_ids_to_tokens(ids) == ["ab", "Ġa", "b", "Ġ", "b", "."]
    assert owners == [0, 1, 1, 2, 2, 2]


def test_token_over_two_words_is_refused():
    tokenizer = Tokenizer(models.WordLevel({"of the": 0, "end": 1, "?": 2}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("|", "removed")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    with pytest.raises(ValueError, match="covers several words"):
        word_tokens(fast, "of the|end")


def test_word_without_token_is_refused():
    tokenizer = Tokenizer(models.WordLevel({"one": 0, "two": 1, "?": 2}, unk_token="?"))
    tokenizer.normalizer = normalizers.Replace("-", "")
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    with pytest.raises(ValueError, match="has no token: '-'"):
        word_tokens(fast, "one - two")


def test_ctm_round_trip(tmp_path):
    path = tmp_path / "words.ctm"
    words = {"u2": [Word("zwei", 0.5, 0.25), Word("eins", 0.1, 0.4)], "u1": [Word("naïve,", 0.0, 1.2346, 0.5)]}
    write_ctm(path, words)
    assert path.read_text(encoding="utf-8") == (
        "u1 1 0.000 1.235 naïve, 0.500\nu2 1 0.100 0.400 eins\nu2 1 0.500 0.250 zwei\n"
    )
    assert read_ctm(path) == {
        "u1": [Word("naïve,", 0.0, 1.235, 0.5)],
        "u2": [Word("eins", 0.1, 0.4), Word("zwei", 0.5, 0.25)],
    }
    assert sorted(p.name for p in tmp_path.iterdir()) == [".llmvq-written", "words.ctm"]


@pytest.mark.parametrize(
    "line, message",
    [
        ("u 1 0.1 0.2", "4 fields"),
        ("u 1 0.1 0.2 a 0.9 b", "7 fields"),
        ("", "0 fields"),
        ("u 2 0.1 0.2 a", "channel is '2'"),
        ("u 1 x 0.2 a", "start is 'x'"),
        ("u 1 -0.1 0.2 a", "start is '-0.1'"),
        ("u 1 0.1 nan a", "duration is 'nan'"),
        ("u 1 0.1 inf a", "duration is 'inf'"),
        ("u 1 0.1 0.2 a 1.5", "confidence is '1.5'"),
        (b"u 1 0.1 0.2 na\xefve", "utf-8"),
    ],
)
def test_bad_ctm_line_is_named(tmp_path, line, message):
    path = tmp_path / "words.ctm"
    path.write_bytes(b"u 1 0 0.1 ok\n" + (line if isinstance(line, bytes) else line.encode()) + b"\n")
    with pytest.raises(UserError, match=r"words\.ctm:2: .*") as error:
        read_ctm(path)
    assert message in str(error.value)


def test_missing_ctm_is_named(tmp_path):
    with pytest.raises(UserError, match="none.ctm: No such file"):
        read_ctm(tmp_path / "none.ctm")


def test_word_that_a_line_cannot_hold_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="7 fields|6 fields|confidence"):
        write_ctm(tmp_path / "w.ctm", {"u": [Word("two words", 0.0, 0.1)]})
    assert not list(tmp_path.iterdir())


def test_boundary_errors_by_hand():
    truth = {"u": [Word("a", 0.1, 0.2), Word("b", 0.5, 0.1)], "v": [Word("a", 0.0, 0.1)], "w": []}
    found = {"u": [Word("a", 0.12, 0.2), Word("b", 0.46, 0.1)], "v": [Word("c", 0.0, 0.1)], "x": [Word("d", 0, 1)]}
    starts, ends, n = boundary_errors(truth, found)
    assert n == 1
    assert starts == pytest.approx([20, 40])
    assert ends == pytest.approx([20, 40])


@pytest.mark.parametrize(
    "conf, stack, layer, seconds",
    [
        ({"hop_length": 160}, 4, "linear", 0.04),
        ({"hop_length": 160}, 1, "conv2d", 0.04),
        ({"hop_length": 160}, 1, "conv2d6", 0.06),
        ({}, 1, "conv2d8", 0.064),
        ({"hop_length": 160}, 2, "conv2d2", 0.04),
    ],
)
def test_frame_seconds_match_the_frame_count(conf, stack, layer, seconds):
    config = {"frontend_conf": conf, "frame_stack": stack, "encoder_conf": {"input_layer": layer}}
    rate = FrameRate(config)
    assert rate.seconds == pytest.approx(seconds)
    # Over a minute, the count of frames grows by 60 s / seconds, whatever the edges do.
    grown = rate.frames(16000 * 160) - rate.frames(16000 * 100)
    assert math.isclose(grown, 60 / seconds, abs_tol=1)


class Head:
    blank = BLANK

    def __call__(self, frames):
        return frames


class Model:
    """Frames are the samples of the file, one value a frame, as spikes of that token."""

    ctc = Head()

    class speech_encoder:
        class rate:
            seconds = 1 / 16000

    def encode(self, speech, lengths):
        return torch.nn.functional.one_hot((speech * 100).round().long(), 10).float() * 20, lengths


def test_sets(tmp_path, monkeypatch, capsys):
    import soundfile

    from espnet_llmvq.sequence.asr import asr_sequence
    from espnet_llmvq.sequence.sequence import write_sequences

    tokenizer = unigram(PIECES)
    tokenizer.add_special_tokens({"eos_token": "</s>"})
    go, od, he, y = tokenizer.convert_tokens_to_ids(["▁go", "od", "▁he", "y"])
    b = 9  # blank, after the tokens of the tokenizer
    monkeypatch.setattr(Head, "blank", b)
    utterances = {
        "u1": ("good hey", [b, go, go, b, b, od, b, b, he, b, y, y]),
        "u2": ("good", [b, b, b, go, od]),
        "u3": ("good hey", [b, go, he]),
        "u4": ("hey", [b, he, y]),
    }
    sequences = []
    for utt, (text, path) in utterances.items():
        soundfile.write(tmp_path / f"{utt}.wav", np.array(path) / 100, 16000, subtype="FLOAT")
        sequences.append(asr_sequence(utt, f"{tmp_path}/{utt}.wav", len(path), text, "{speech} {text}"))
    write_sequences(tmp_path / "more.jsonl", [sequences.pop()])
    write_sequences(tmp_path / "sequences.jsonl", sequences)
    monkeypatch.setattr("espnet_llmvq.model.build.load_model", lambda *_: (Model(), {"llm": "llm"}))
    monkeypatch.setattr("espnet_llmvq.llm.directory.load_tokenizer", lambda _: tokenizer)
    written = {}  # as it was before it was rounded

    def lines(utt, words):
        written[utt] = words
        return ctm_lines(utt, words)

    monkeypatch.setattr("espnet_llmvq.align.output.ctm_lines", lines)
    reference = {"u1": [Word("good", 0.001, 0.002), Word("hey", 0.01, 0.001)]}
    write_ctm(tmp_path / "true.ctm", reference)
    first = f"{tmp_path}/sequences.jsonl", f"{tmp_path}/out/w.ctm", f"{tmp_path}/true.ctm"
    second = f"{tmp_path}/more.jsonl", f"{tmp_path}/out/more.ctm", None
    align_sets([first, second], encoder="exp", threads=1, boundaries="ctc")
    more = written.pop("u4")

    def samples(words):
        return [(w.word, round(w.start * 16000), round(w.end * 16000)) for w in words]

    assert {utt: samples(words) for utt, words in written.items()} == {
        "u1": [("good", 1, 6), ("hey", 8, 12)],
        "u2": [("good", 3, 5)],
    }
    # The second set is aligned as it would be alone.
    assert samples(more) == [("hey", 1, 3)] and (tmp_path / "out/more.ctm.failed").read_text() == ""
    failed = (tmp_path / "out/w.ctm.failed").read_text()
    assert failed == "u3 audio too short: 3 encoder frames, its 4 tokens need 4\n"
    printed = capsys.readouterr().out
    assert "2 of 3 utterances aligned, 1 failed" in printed and "1 failed: audio too short" in printed
    assert "word starts: error median 5 ms" in printed and "1 of 2 utterances" in printed
    report = (tmp_path / "out/w.ctm.report.tsv").read_text().splitlines()
    assert {"coverage\taligned\t2", "failed\taudio too short\t1"} <= set(report)


@pytest.mark.parametrize("text, reason", [
    ("good ħ hey.", "'ħ'"), ("GOOD HEY.", "'GODHEY'; it knows the text in lower case"), ("", None),
    ("good \u3000 hey.", r"'\u3000'"),
])  # fmt: skip
def test_texts_that_the_tokenizer_cannot_write_are_not_aligned(text, reason):
    failed, counts = {}, Counter()
    wanted = {"u1": ("a.wav", 1.0, [("good hey.", True)]), "u2": ("b.wav", 1.0, [(text, True)])}
    found = transcripts(wanted, unigram(PIECES), failed, counts)
    assert "u1" in found and counts["tokens"] >= 5
    if reason:
        assert failed == {"u2": f"characters unknown to the tokenizer: {reason}"} and counts["unknown"] > 0


def test_the_other_case_is_hinted_at():
    """A tokenizer that spells upper-case letters one by one: then the audio is too short, or the confidence low."""
    tokenizer = unigram([*PIECES, *((letter, -5.0) for letter in "GODHEY")])
    wanted = {"u": ("a.wav", 1.0, [("GOOD HEY", True)])}
    counts = Counter()
    transcripts(wanted, tokenizer, {}, counts)
    assert (counts["tokens"], counts["other"], counts["unknown"]) == (9, 4, 0)
    assert case_hint(counts) and not case_hint(Counter(tokens=4, other=9)) and not case_hint(None)


def test_the_report_has_confidence_and_unknown_tokens(tmp_path, capsys):
    aligned = {"good": [Word("a", 0, 1, 0.9), Word("b", 1, 1, 0.7)], "bad": [Word("c", 0, 1, 0.02)]}
    counts = Counter(tokens=40, unknown=4, other=40)
    out = tmp_path / "w.ctm"
    write_alignment(str(out), aligned, {}, {"good": 2.0, "bad": 1.0}, counts=counts)
    report = (tmp_path / "w.ctm.report.tsv").read_text().splitlines()
    assert {"tokens\tunknown_share\t0.1000", "confidence\tmean\t0.410", "low_confidence\tbad\t0.020"} <= set(report)
    printed = capsys.readouterr().out
    assert "10.0% of the texts' tokens are unknown" in printed
    assert "mean confidence 0.41; 1 utterances below 0.1, listed in the report" in printed
    with pytest.raises(UserError, match="such as u: audio too short; in the other case"):
        write_alignment(str(out), {}, {"u": "audio too short"}, {}, counts=Counter(tokens=9, other=4))
