"""Questions in writing and spoken: files, prompts, scores against one forward pass at a time, accuracies by hand."""

import dataclasses
import json
import os

import numpy as np
import pytest
import torch

from espnet_llmvq.base.config import from_mapping
from espnet_llmvq.base.errors import UserError
from espnet_llmvq.base.files import write_text
from espnet_llmvq.cli import ask as command
from espnet_llmvq.cli import results
from espnet_llmvq.data.questions import MULTIPLE_CHOICE, OPEN, Question, read_questions
from espnet_llmvq.score import stats
from espnet_llmvq.score.questions import contains, estimates, read_answers
from espnet_llmvq.sequence.questions import (
    MultipleChoice,
    OpenQuestions,
    multiple_choice_sequence,
    open_sequence,
    split_examples,
)
from espnet_llmvq.sequence.sequence import Span, read_sequences

GOOD = {"id": "q1", "question": "Is it?", "choices": ["a", "b", "c", "d"], "answer": 2}


def write(path, *entries):
    path.write_text("".join((e if isinstance(e, str) else json.dumps(e)) + "\n" for e in entries))
    return str(path)


def test_files(tmp_path):
    wavs = {**GOOD, "id": "q2", "wav": "w/q2.wav"}, {**GOOD, "id": "q3", "wav": "/w/q3.wav"}
    found = read_questions(write(tmp_path / "mc.jsonl", GOOD, "", *wavs), MULTIPLE_CHOICE)
    assert found[0] == Question("q1", "Is it?", 2, ("a", "b", "c", "d"))
    assert [q.wav for q in found] == [None, str(tmp_path / "w/q2.wav"), "/w/q3.wav"]
    entries = {"id": "q1", "question": "Who?", "answer": "Ann"}, {"id": "q2", "question": "Who?", "answer": ["A", "B"]}
    found = read_questions(write(tmp_path / "qa.jsonl", *entries), OPEN)
    assert [q.answer for q in found] == [("Ann",), ("A", "B")]


@pytest.mark.parametrize(
    "entry, message",
    [
        ("{", r"mc.jsonl:2: not JSON"),
        ("[]", r"mc.jsonl:2: not a JSON object"),
        ({**GOOD, "wave": "x"}, r"mc.jsonl:2: unknown key 'wave' \(did you mean 'wav'\?\)"),
        ({**GOOD, "subject": "law"}, r"mc.jsonl:2: unknown key 'subject'"),
        ({k: v for k, v in GOOD.items() if k != "id"}, r"mc.jsonl:2: has no 'id'"),
        ({**GOOD, "question": " "}, r"mc.jsonl:2: question is ' '"),
        ({**GOOD, "choices": ["a", "b", "c"]}, r"mc.jsonl:2: choices is .*list of 4 texts"),
        ({**GOOD, "choices": ["a", "b", "c", "a "]}, r"mc.jsonl:2: two choices are the same"),
        ({**GOOD, "answer": "C"}, r"mc.jsonl:2: answer is 'C'; it must be the number .* 0 to 3"),
        ({**GOOD, "answer": 4}, r"mc.jsonl:2: answer is 4"),
        ({**GOOD, "answer": True}, r"mc.jsonl:2: answer is True"),
        (GOOD, r"mc.jsonl:2: the id q1 is that of .*mc.jsonl:1 too"),
    ],
)
def test_malformed_lines(tmp_path, entry, message):
    with pytest.raises(UserError, match=message):
        read_questions(write(tmp_path / "mc.jsonl", GOOD, entry), MULTIPLE_CHOICE)


def test_bad_files_and_open_answers(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_questions(str(tmp_path / "none"), OPEN)
    with pytest.raises(UserError, match="is empty"):
        read_questions(write(tmp_path / "empty"), OPEN)
    (tmp_path / "latin").write_bytes(b"\xe9\n")
    with pytest.raises(UserError, match="not UTF-8"):
        read_questions(str(tmp_path / "latin"), OPEN)
    for answer in ([], ["a", ""], 3):
        with pytest.raises(UserError, match="qa:1: answer is"):
            read_questions(write(tmp_path / "qa", {"id": "q", "question": "Who?", "answer": answer}), OPEN)


def four(*ids):
    return [Question(i, f"Is it {i}?", n % 4, tuple(f"{i} {c}" for c in "wxyz"), f"{i}.wav") for n, i in enumerate(ids)]


def test_prompt_by_hand():
    example, asked = four("e", "q")
    options = MultipleChoice(instruction="Choose.")
    spoken = Span(audio="q.wav", samples=800)
    before = ["Choose.", "Is it e?", "\nA. e w\nB. e x\nC. e y\nD. e z\nAnswer:", " A\n\n"]
    after = ["\nA. q w\nB. q x\nC. q y\nD. q z\nAnswer:"]
    text = multiple_choice_sequence(asked, Span(text=asked.question), [(example, Span(text=example.question))], options)
    assert [s.text for s in text.spans] == [*before, "Is it q?", *after]
    speech = multiple_choice_sequence(asked, spoken, [(example, Span(text=example.question))], options)
    # The question alone is another one.
    assert speech.spans == (*text.spans[:4], spoken, *text.spans[5:])
    assert options.answers(asked) == [" A", " B", " C", " D"]
    words = MultipleChoice(answer="text", prompt="Q: {speech} A:{text}")
    assert words.answers(asked) == ["q w", "q x", "q y", "q z"]
    made = multiple_choice_sequence(asked, Span(text=asked.question), [], words)
    assert [s.text for s in made.spans] == ["Q:", " Is it q?", " A:"]
    # Braces in a choice are its own.
    odd = Question("o", "Is it?", 0, ("{B}", "{text}", "c", "d"))
    assert "A. {B}\nB. {text}\nC. c" in multiple_choice_sequence(odd, Span(text="Is it?"), [], options).spans[-1].text
    question = Question("q", "Who?", ("Ann",), wav="q.wav")
    assert [s.text for s in open_sequence(question, None, OpenQuestions()).spans] == ["Question:", " Who?", " Answer:"]
    assert open_sequence(question, 800, OpenQuestions()).spans[1] == spoken


def test_options():
    for values, message in (
        ({"shot": 1}, "unknown key in conf 'shot'.*did you mean 'shots'"),
        ({"shots": "5"}, "shots is '5'; it must be a whole number"),
        ({"shots": -1}, "0 or more"),
        ({"answer": "words"}, "unknown value of answer"),
        ({"prompt": "{speech} Answer: {text}"}, r"has no \{A\}.*answer: text"),
        ({"prompt": "Answer: {text}"}, "must hold {speech} once"),
    ):
        with pytest.raises(UserError, match=message):
            from_mapping(MultipleChoice, values, "conf")
    with pytest.raises(UserError, match="max_tokens is 0"):
        OpenQuestions(max_tokens=0)


def test_examples_are_never_scored():
    questions = four(*"abcdef")
    asked, examples = split_examples(questions, None, 2, "f")
    assert [q.id for q in examples] == ["a", "b"] and [q.id for q in asked] == ["c", "d", "e", "f"]
    others = four("x", "y", "z")
    assert split_examples(questions, others, 2, "f") == (questions, others[:2])
    with pytest.raises(UserError, match="f: b is an example and is asked too"):
        split_examples(questions, questions[1:3], 2, "f")
    renamed = [dataclasses.replace(questions[3], id="z")]
    with pytest.raises(UserError, match="f: d is an example and is asked too"):
        split_examples(questions, renamed, 1, "f")
    with pytest.raises(UserError, match="6 examples and 0 questions to ask, but shots is 6"):
        split_examples(questions, None, 6, "f")
    with pytest.raises(UserError, match="1 examples and 6 questions"):
        split_examples(questions, others[:1], 2, "f")


# Questions of the tiny world: digits, which its tokenizer has whole.
PROMPT = "USER: {speech} {A} {B} {C} {D} ASSISTANT: {text}"
WORDS = ["one", "two", "three", "four"]


class Numbered(MultipleChoice):
    """Words of one token in place of letters, of which the tiny tokenizer has none."""

    def answers(self, question):
        return self.whole

    @classmethod
    def of(cls, tokenizer, **options):
        pieces = sorted(p for p in tokenizer.get_vocab() if p[0] == "\u2581" and p[1:].isalpha())
        pieces = [" " + p[1:] for p in pieces if len(tokenizer.encode(" " + p[1:], add_special_tokens=False)) == 1]
        cls.whole = pieces[:4]
        return cls(**options)


@pytest.fixture
def spoken(corpus):
    """Six questions with audio of the corpus."""
    found = []
    for i, s in enumerate(list(read_sequences(corpus.train))[:6]):
        choices = WORDS[i % 4 :] + WORDS[: i % 4]
        choices[0] += " five" * (i % 3)
        found.append(Question(s.id, f"{s.transcript} six", i % 4, tuple(choices), s.spans[1].audio))
    return found


def ask(kind, questions, examples, options, batch_size, model, tokenizer):
    from espnet_llmvq.decode.questions import Asker, audio_samples

    samples = audio_samples([*questions, *examples], "file")
    asker = Asker(kind, questions, examples, options, samples, batch_size)
    return asker, asker.ask(model, tokenizer, ("text", "speech"), "test")


def brute(model, tokenizer, spans, answer):
    """Log probabilities of the tokens of `answer`, one token a time, by plain passes in float64."""
    from espnet_llmvq.data.audio import read_audio

    embed, parts = model.llm.get_input_embeddings(), []
    with torch.no_grad():
        for span in spans:
            if span.is_speech:
                wave = torch.from_numpy(read_audio(span.audio)).double()[None]
                frames, lengths = model.encode(wave, torch.tensor([wave.shape[1]]))
                steps, counts, _ = model.bridge_speech(frames, lengths)
                parts.append(steps[0, : int(counts)])
            else:
                parts.append(embed(torch.tensor(tokenizer.encode(span.text, add_special_tokens=False))))
        x, found = torch.cat(parts), []
        for token in tokenizer.encode(answer, add_special_tokens=False):
            found.append(float(model.llm(inputs_embeds=x[None]).logits[0, -1].log_softmax(-1)[token]))
            x = torch.cat([x, embed(torch.tensor([token]))])
    return found


@pytest.mark.parametrize("normalise, examples_spoken", [(True, True), (False, False)])
def test_scores_of_texts(make_model, tokenizer, spoken, normalise, examples_spoken):
    options = MultipleChoice(
        shots=2, answer="text", length_normalise=normalise, prompt=PROMPT, separator=" seven",
        spoken_examples=examples_spoken,
    )  # fmt: skip
    examples, questions = spoken[:2], spoken[2:]
    model = make_model(bridge_conf={"stack": 2, "hidden_size": 24})
    asker, one = ask(MULTIPLE_CHOICE, questions, examples, options, 1, model, tokenizer)
    for size in (3, 16):  # to the last digit
        assert ask(MULTIPLE_CHOICE, questions, examples, options, size, model, tokenizer)[1] == one
    lines = list(map(json.loads, one.splitlines()))
    assert [line["id"] for line in lines] == [q.id for q in questions]
    assert [line["answer"] for line in lines] == [q.answer for q in questions]
    model = model.double()
    for question, line in zip(questions, lines):
        for form in ("text", "speech"):
            spans = asker.sequence(question, form).spans
            speech = (1 + 2 * examples_spoken) * (form == "speech")
            assert sum(s.is_speech for s in spans) == speech
            expected = []
            for choice in question.choices:
                steps = brute(model, tokenizer, spans, f" {choice}")
                expected.append(sum(steps) / (len(steps) if normalise else 1))
            assert line[form]["scores"] == pytest.approx(expected, abs=1e-3)
            assert line[form]["choice"] == int(np.argmax(expected))
    assert len({line[form]["choice"] for line in lines for form in ("text", "speech")}) > 1


def test_scores_of_letters(make_model, tokenizer, spoken):
    model = make_model()
    asker, text = ask(MULTIPLE_CHOICE, spoken, [], Numbered.of(tokenizer, shots=0, prompt=PROMPT), 4, model, tokenizer)
    model = model.double()
    for question, line in zip(spoken, map(json.loads, text.splitlines())):
        for form in ("text", "speech"):
            spans = asker.sequence(question, form).spans
            expected = [brute(model, tokenizer, spans, answer)[0] for answer in Numbered.whole]
            assert line[form]["scores"] == pytest.approx(expected, abs=1e-3)


def test_what_a_tokenizer_cannot_do(make_model, tokenizer, spoken):
    from espnet_llmvq.decode.questions import answer_tokens, check_words, prompts_of

    with pytest.raises(UserError, match=r"no token for something in the prompt .*a --prompt without it"):
        check_words(tokenizer, MultipleChoice())
    check_words(tokenizer, MultipleChoice(prompt=PROMPT, separator=" "))
    with pytest.raises(UserError, match="<bos> is no token of the LLM's tokenizer"):
        check_words(tokenizer, MultipleChoice(instruction="<bos>", prompt=PROMPT, separator=" "))
    with pytest.raises(UserError, match="chat: is for prompts of sequences"):
        check_words(tokenizer, OpenQuestions(prompt="chat: {speech} {text}"))
    with pytest.raises(UserError, match=r"letters are no single tokens .*' A': 2.*--answer text"):
        answer_tokens(tokenizer, MultipleChoice(prompt=PROMPT), spoken[0])
    same = spoken[0]
    alike = Numbered.of(tokenizer, prompt=PROMPT)
    assert len(answer_tokens(tokenizer, alike, same)) == 4
    with pytest.MonkeyPatch.context() as patch, pytest.raises(UserError, match="no single tokens"):
        patch.setattr(Numbered, "answers", lambda self, question: self.whole[:3] + self.whole[:1])
        answer_tokens(tokenizer, alike, same)
    long = multiple_choice_sequence(Question("q", "one " * 600, 0, tuple(WORDS)), Span(text="one " * 600), [],
                                    MultipleChoice(prompt=PROMPT))  # fmt: skip
    with pytest.raises(UserError, match="q: the prompt has 6.. positions, .* context has 512"):
        prompts_of(make_model(), tokenizer, [long], [3])


def test_open_questions(make_model, tokenizer, spoken):
    """Greedy generation is the argmax of full passes; the batch changes nothing; `stop` cuts."""
    model = make_model()
    options = OpenQuestions(prompt="USER: {speech} ASSISTANT: {text}", max_tokens=4, stop="")
    asker, one = ask(OPEN, spoken, [], options, 1, model, tokenizer)
    assert ask(OPEN, spoken, [], options, 6, model, tokenizer)[1] == one
    lines = list(map(json.loads, one.splitlines()))
    for question, line in zip(spoken[:3], lines):
        for form in ("text", "speech"):
            (x,), tokens = decode_prompt(model, tokenizer, asker.sequence(question, form)), []
            with torch.no_grad():
                while len(tokens) < 4:
                    token = int(model.llm(inputs_embeds=x[None]).logits[0, -1].argmax())
                    if token == tokenizer.eos_token_id:
                        break
                    tokens.append(token)
                    x = torch.cat([x, model.llm.get_input_embeddings()(torch.tensor([token]))])
            assert line[form] == tokenizer.decode(tokens, skip_special_tokens=True).strip()
    mark = next(line["text"][1] for line in lines if len(line["text"]) > 1)
    cut = ask(OPEN, spoken, [], OpenQuestions(options.prompt, max_tokens=4, stop=mark), 6, model, tokenizer)[1]
    assert [json.loads(s)["text"] for s in cut.splitlines()] == [s["text"].split(mark)[0].strip() for s in lines]


def decode_prompt(model, tokenizer, sequence):
    from espnet_llmvq.decode.questions import prompts_of

    return prompts_of(model, tokenizer, [sequence], [4])


def answers_file(directory, name, lines, options=None):
    path = directory / name / "answers.jsonl"
    path.parent.mkdir(parents=True)
    write(path, *lines)
    write(path.with_name("environment.json"), {"options": options or {}})
    return path


def test_open_answers_by_hand(tmp_path):
    said = [
        ("New York", "New York.", "it is new york"),  # exact; contained
        ("art", "party", "Art"),  # whole words; exact
        ("Dr. Lee", "Lee", "ask dr lee now"),  # neither; contained
    ]
    lines = [{"id": f"q{i}", "answer": [a, "never"], "text": t, "speech": s} for i, (a, t, s) in enumerate(said)]
    right = read_answers(answers_file(tmp_path, "sqa_x", lines)).right
    assert right["sqa_exact"]["text"].tolist() == [1, 0, 0] and right["sqa_exact"]["speech"].tolist() == [0, 1, 0]
    assert right["sqa_contained"]["text"].tolist() == [1, 0, 0]
    assert right["sqa_contained"]["speech"].tolist() == [1, 1, 1]
    assert not contains(["new", "york"], ["york", "new"]) and contains(["a", "b", "c"], ["b", "c"])
    with pytest.raises(UserError, match="answers.jsonl:1: q: an answer has no words with the normaliser basic"):
        read_answers(answers_file(tmp_path, "sqa_y", [{"id": "q", "answer": ["..."], "text": "a"}]))
    with pytest.raises(UserError, match="answers.jsonl:1: not an answer"):
        read_answers(answers_file(tmp_path, "mc_y", [{"id": "q", "answer": 1, "text": {}}]))


def test_gap_is_paired():
    """Against the same statistics on differences question by question; far narrower than of independent forms."""
    rng = np.random.default_rng(0)
    text = (rng.random(200) < 0.6).astype(float)
    speech = text.copy()
    speech[:10] = 0
    found = estimates({"text": text, "speech": speech}, 1000, 1, "s")
    gap, count, of = found["gap"]
    assert (gap.value, count, of) == (pytest.approx(100 * (speech - text).mean()), int((speech - text).sum()), 200)
    assert found["text"][0].value == pytest.approx(100 * text.mean()) and found["text"][1] == int(text.sum())
    (single,) = stats.sums((speech - text)[:, None], 1000, 1, "s")
    low, high = stats.interval(stats.combine(lambda x: x / 2, [single]), skewed=False)
    assert stats.interval(gap, skewed=False) == pytest.approx((low, high))
    lows, highs = zip(*(stats.interval(found[form][0]) for form in ("text", "speech")))
    assert high - low < min(h - l for l, h in zip(lows, highs)) / 2  # noqa: E741


def test_tables(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "ref", "u1 one two")
    for system in ("a", "b"):
        (tmp_path / system / "decode_test").mkdir(parents=True)
        write(tmp_path / system / "decode_test" / "hyp.jsonl", {"id": "u1", "text": "one two"})
    options = {"shots": 0, "prompt": "{speech} {text}", "examples": []}
    choice = {"a": [(1, 1), (0, 1), (2, 3), (2, 2)], "b": [(1, 1), (1, 1), (0, 0), (0, 0)]}  # text, speech; 1 is right
    for system, chosen in choice.items():
        lines = [{"id": f"q{i}", "answer": 1, "text": {"choice": t}, "speech": {"choice": s}}
                 for i, (t, s) in enumerate(chosen)]  # fmt: skip
        answers_file(tmp_path / system, "mc_pub", lines, options)
    lines = [{"id": f"q{i}", "answer": 1, "text": {"choice": 1}} for i in range(4)]
    answers_file(tmp_path / "llm", "mc_pub", lines, options)
    lines = [{"id": "q", "answer": ["no"], "text": "no", "speech": "oh no"}]
    answers_file(tmp_path / "b", "sqa_pub", lines)
    systems = {s: {"label": s.upper(), "hypotheses": f"{s}/decode_{{set}}/hyp.jsonl", "model": s} for s in ("a", "b")}
    table = {"systems": systems, "sets": {"test": {"domain": "id", "text": "ref"}}}
    table["answers"] = {"llm": {"label": "LLM alone", "directory": "llm"}}
    (tmp_path / "table.yaml").write_text(json.dumps(table))
    command = ["--table=table.yaml", "--out_dir=exp"]
    results.main(command)
    rows = json.loads((tmp_path / "exp" / "results.json").read_text())
    rows = {(r["system"], r["set"], r["metric"]): r for r in rows}
    assert [rows[s, "pub", "mc_text"]["value"] for s in ("a", "b", "llm")] == [25, 50, 100]
    gap = rows["a", "pub", "mc_gap"]
    assert (gap["value"], gap["count"], gap["of"], gap["utterances"]) == (25, 1, 4, 4)
    assert gap["low"] <= 25 <= gap["high"] and gap["normaliser"] == "none"
    assert ("llm", "pub", "mc_gap") not in rows and ("llm", "test", "wer") not in rows
    text = (tmp_path / "exp" / "RESULTS.md").read_text()
    section = text.partition("## Questions in writing and spoken")[2].partition("\n## ")[0]
    cells = [[c.split(" [")[0].strip() for c in line.split("|")[1:-1]] for line in section.splitlines() if "|" in line]
    assert [row for row in cells if row and "--" not in row[0]] == [
        ["system", "text", "speech", "gap"],
        ["A", "25.00", "**50.00**", "+25.00"],
        ["B", "50.00", "**50.00**", "+0.00"],
        ["LLM alone", "**100.00**", "-", "-"],
        ["system", "exact: text", "exact: speech", "exact: gap"]
        + ["contained: text", "contained: speech", "contained: gap"],
        ["B", "100.00", "0.00", "-100.00", "100.00", "100.00", "+0.00"],
    ]
    assert "pub: multiple choice of four, chance is 25 %, 4 questions" in section
    assert 'prompt: "{speech} {text}"' in section
    assert "LLM alone" not in text.partition("## Questions")[0] and "pub: only 4 questions to resample" in text
    write(tmp_path / "llm" / "mc_pub" / "environment.json", {"options": {**options, "shots": 1}})
    with pytest.raises(UserError, match="mc_pub/answers.jsonl: made with other options than that of a"):
        results.main(command)
    table["answers"] = {"a": table["answers"]["llm"]}
    (tmp_path / "table.yaml").write_text(json.dumps(table))
    with pytest.raises(UserError, match="system 'a' is given twice"):
        results.main(command)


def as_lines(spoken, **more):
    return [{"id": q.id, "question": q.question, "choices": list(q.choices), "answer": q.answer, **more}
            for q in spoken]  # fmt: skip


CONFIG = (
    f"multiple_choice: {{answer: text, prompt: '{PROMPT}', separator: ' ', shots: 2}}\n"
    "spoken_qa: {prompt: '{speech} {text}', max_tokens: 2}\n"
)


def test_ask_command(tmp_path, spoken, experiment_of, capsys):
    """The LLM alone, in writing; nothing is asked twice; the config and its errors."""
    questions, config = write(tmp_path / "digits.jsonl", *as_lines(spoken)), tmp_path / "questions.yaml"
    config.write_text(CONFIG)
    experiment_of(tmp_path, {"ctc": "ctc"}, {}, questions=f"mc={questions}", questions_config=str(config))
    asking = ["--exp", str(tmp_path / "exp")]
    command.main([*asking, "mc", "--override", "shots=1"])
    path = tmp_path / "exp" / "llm_alone" / "mc_digits" / "answers.jsonl"
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == [q.id for q in spoken[1:]]
    made = json.loads(path.with_name("environment.json").read_text())
    assert made["options"]["shots"] == 1 and made["options"]["examples"] == [spoken[0].id] and made["forms"] == ["text"]
    assert f"{path}: 5 questions, mc_text " in capsys.readouterr().out
    command.main([*asking, "mc", "--override", "shots=1"])
    assert f"{path} is up to date, nothing to do" in capsys.readouterr().out
    command.main(asking)
    out = capsys.readouterr().out
    assert f"{path}: 4 questions" in out and "is made again: options.shots: 1 then, 2 now" in out
    answers = path.read_text()
    command.main([*asking, "--redo", "--nj", "2"])
    assert path.read_text() == answers
    opened = write(tmp_path / "open.jsonl", *[{"id": q.id, "question": q.question, "answer": "one"} for q in spoken])
    command.main([*asking, "sqa", "--questions", opened])
    assert len((tmp_path / "exp/llm_alone/sqa_open/answers.jsonl").read_text().splitlines()) == 6
    with pytest.raises(UserError, match="--questions FILE needs its kind: llmvq ask mc, or llmvq ask sqa"):
        command.main([*asking, "--questions", questions])
    for text, message in (
        ("multiple_chioce: {}\n", "unknown section in .*'multiple_chioce'.*did you mean 'multiple_choice'"),
        ("multiple_choice: {shot: 1}\n", "unknown key in .*multiple_choice 'shot'.*did you mean 'shots'"),
    ):
        config.write_text(text)
        with pytest.raises(UserError, match=message):
            command.main(asking)
    capsys.readouterr()
    experiment_of(tmp_path, {"ctc": "ctc"}, {})
    command.main(asking)
    assert "no questions are named" in capsys.readouterr().out


def test_what_answers_are_made_of_is_noticed(tmp_path, spoken, experiment_of, monkeypatch):
    """Questions, examples, their audio, options, forms, the model, the LLM; not the time of a file."""
    import shutil

    from espnet_llmvq.stages import decode as stage

    asked = []

    def answer(jobs, *more):
        for label, *_, made in jobs:
            asked.append(label)
            write_text(made.out, "")
            made.note()

    def who(forms=None, redo=False, **overrides):
        asked.clear()
        options = stage.question_options(experiment, "mc", None, {"shots": 1, "prompt": PROMPT, **overrides})
        given = (experiment, experiment.systems, "mc", questions, options)
        stage.ask(*given, examples=examples, forms=forms, redo=redo)
        return set(asked)

    monkeypatch.setattr("espnet_llmvq.decode.ask.ask_all", answer)
    wav = tmp_path / "q.wav"
    shutil.copyfile(spoken[0].wav, wav)
    questions = write(tmp_path / "digits.jsonl", *as_lines(spoken[1:], wav=str(wav)))
    examples = write(tmp_path / "examples.jsonl", *as_lines(spoken[:1]))
    for name in ("exp/lora", "exp/encoder"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "model.pth").write_text("model")
    experiment = experiment_of(tmp_path, {"lora": str(tmp_path / "exp/lora"), "ctc": "ctc"}, {})
    llm = shutil.copytree(experiment.llm, tmp_path / "llm", ignore=shutil.ignore_patterns("made.json"))
    experiment = dataclasses.replace(experiment, options=dataclasses.replace(experiment.options, llm=str(llm)))
    everyone = {"lora", "llm"}
    assert who() == everyone and who() == set() and who(redo=True) == everyone
    for path in (questions, examples, llm / "model.safetensors", tmp_path / "exp/lora/model.pth"):
        os.utime(path)
    assert who() == set()
    # Answers to spoken questions are not replaced by others in writing only.
    assert who(forms=("text",)) == set()
    answers = tmp_path / "exp/lora/mc_digits/answers.jsonl"
    for changed in ({"redo": True}, {"length_normalise": False}):
        with pytest.raises(UserError, match=f"{answers}: has answers to spoken questions too, which --text_only would"):
            who(forms=("text",), **changed)
    shutil.rmtree(answers.parent)
    assert who(forms=("text",)) == {"lora"} and who(forms=("text",)) == set() and who() == {"lora"}
    assert who(length_normalise=False) == everyone and who() == everyone
    for path, asked_again in (
        (questions, everyone), (examples, everyone), (llm / "model.safetensors", everyone),
        (tmp_path / "exp/lora/model.pth", {"lora"}), (tmp_path / "exp/encoder/model.pth", {"lora"}), (wav, {"lora"}),
    ):  # fmt: skip
        with open(path, "a") as f:
            f.write("\n")
        assert who() == asked_again and who() == set(), path


def test_spoken_questions_need_audio(spoken):
    from espnet_llmvq.decode.questions import audio_samples

    found = audio_samples(spoken, "f")
    assert set(found) == {q.wav for q in spoken} and all(n > 1000 for n in found.values())
    with pytest.raises(UserError, match="f: 1 questions have no wav, such as q;.*--text_only"):
        audio_samples([*spoken, Question("q", "Who?", ("a",))], "f")
