"""Put questions to a model, in writing and spoken: scores of choices, and generated answers."""

import json

import torch

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.data.audio import SAMPLE_RATE
from espnet_llmvq.data.questions import OPEN
from espnet_llmvq.decode.generate import encoded, log_probability, prompt_inputs, search
from espnet_llmvq.llm.directory import context, load_llm, load_tokenizer
from espnet_llmvq.llm.spans import encode_text
from espnet_llmvq.model.batch import SequenceArrays, batch_of
from espnet_llmvq.score.questions import SPEECH
from espnet_llmvq.sequence.prompt import CHAT, check_marks
from espnet_llmvq.sequence.questions import multiple_choice_sequence, open_sequence, question_span
from espnet_llmvq.sequence.sequence import Span


class LLMAlone(torch.nn.Module):
    """A causal LM in place of a `SpeechLLM`, for prompts without speech."""

    def __init__(self, llm, eos_id):
        super().__init__()
        self.llm, self.eos_id = llm, eos_id


def prompts_of(model, tokenizer, sequences, rooms):
    """LLM inputs of prompts, list of (P, H); sequences: list of `Sequence`, all of them to be given.

    rooms: tokens that must fit behind each. Raises UserError for a prompt that the LLM's context cannot hold with them.
    """
    _, batch = batch_of(SequenceArrays(tokenizer), sequences)
    # Inputs are made one sequence at a time, so that the neighbours in a batch decide nothing.
    inputs = prompt_inputs(model, encoded(model, batch))
    limit = context(model.llm.config)
    for sequence, one, room in zip(sequences, inputs, rooms):
        if limit is not None and len(one) + room > limit:
            raise UserError(
                f"{sequence.id}: the prompt has {len(one)} positions, and {room} must fit behind it, but the LLM's "
                f"context has {limit}; shorten it, or give fewer --shots"
            )
    return inputs


def check_words(tokenizer, options):
    """Raise UserError if the tokenizer has no token for some of the prompt's own words, or for a mark among them."""
    # The separator stands after examples only.
    for name in ("instruction", "prompt", *(["separator"] if getattr(options, "shots", 0) else [])):
        text = getattr(options, name, "")
        check_marks(text, tokenizer)
        if text.startswith(CHAT):
            raise UserError(f"{name} {text!r}: {CHAT} is for prompts of sequences; write the roles yourself")
        for mark in ("{speech}", "{text}", "{A}", "{B}", "{C}", "{D}"):
            text = text.replace(mark, " ")
        ids = tokenizer.encode(text, add_special_tokens=False)
        if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in ids:
            raise UserError(
                f"the tokenizer has no token for something in the {name} {getattr(options, name)!r}, a line break "
                f"perhaps; give a --{name} without it"
            )


def answer_tokens(tokenizer, options, question):
    """Token ids of the four answers. Raises UserError for letters that are no single tokens, each its own."""
    answers = [Span(text=text, loss=True) for text in options.answers(question)]
    tokens = [encode_text(tokenizer, span, tokenizer.eos_token_id) for span in answers]
    if options.answer == "letter" and (any(len(row) != 1 for row in tokens) or len({row[0] for row in tokens}) < 4):
        shown = ", ".join(f"{text!r}: {len(row)}" for text, row in zip(options.answers(question), tokens))
        raise UserError(
            f"the letters are no single tokens of this tokenizer ({shown}); score the choices themselves: --answer text"
        )
    if not all(tokens):
        raise UserError(f"{question.id}: a choice has no tokens: {', '.join(question.choices)}")
    return tokens


@torch.inference_mode()
def choose(model, tokenizer, questions, sequences, options):
    """Scores of the choices of each question: [{"choice": index of the best, "scores": [4 log probabilities]}].

    Letters: of the next token. Texts: the sum over tokens, or with `length_normalise` their mean.
    """
    texts, found = [answer_tokens(tokenizer, options, q) for q in questions], []
    # The last token of an answer is predicted, never read.
    rooms = [max(map(len, tokens)) - 1 for tokens in texts]
    for tokens, prompt in zip(texts, prompts_of(model, tokenizer, sequences, rooms)):
        (scores,) = log_probability(model, [prompt], [tokens], end=False)
        if options.answer == "text" and options.length_normalise:
            scores = [score / len(row) for score, row in zip(scores, tokens)]
        found.append({"choice": scores.index(max(scores)), "scores": [round(score, 6) for score in scores]})
    return found


def generate_answers(model, tokenizer, sequences, options):
    """The text that follows each prompt: list of strings."""
    prompts = prompts_of(model, tokenizer, sequences, [options.max_tokens] * len(sequences))
    lists = search(model, tokenizer, prompts, [options.max_tokens] * len(prompts), options.num_beams)
    texts = []
    for hypotheses in lists:
        text = tokenizer.decode(hypotheses[0].tokens, skip_special_tokens=True) if hypotheses else ""
        text = text.strip()
        texts.append(text.split(options.stop)[0].strip() if options.stop else text)
    return texts


def audio_samples(questions, path):
    """{wav: samples at 16 kHz} of spoken questions. Raises UserError for one without audio."""
    from espnet_llmvq.data.audio import info

    silent = [q.id for q in questions if q.wav is None]
    if silent:
        raise UserError(
            f"{path}: {len(silent)} questions have no wav, such as {silent[0]}; speak them (synthesise), or ask in "
            "writing only (--text_only)"
        )
    samples = {}
    for question in questions:
        header = info(question.wav)
        samples[question.wav] = round(header.frames * SAMPLE_RATE / header.rate)
    return samples


class Asker:
    """Puts the questions of one file.

    kind: of data.questions. questions, examples: [Question]; options: MultipleChoice or OpenQuestions.
    samples: {wav: samples at 16 kHz} of all that are spoken.
    """

    def __init__(self, kind, questions, examples, options, samples, batch_size):
        self.kind, self.questions, self.examples = kind, questions, examples
        self.options, self.samples, self.batch_size = options, samples, batch_size

    def sequence(self, question, form):
        """The prompt of a question, a `Sequence`."""
        spoken = self.samples if form == SPEECH else {}
        if self.kind == OPEN:
            return open_sequence(question, spoken.get(question.wav), self.options)
        before = spoken if self.options.spoken_examples else {}
        shown = [(q, question_span(q, before.get(q.wav))) for q in self.examples]
        return multiple_choice_sequence(
            question, question_span(question, spoken.get(question.wav)), shown, self.options
        )

    def batch(self, model, tokenizer, questions, forms):
        """Answers to a batch: [{form: what `choose` or `generate_answers` found}]."""
        found = {}
        for form in forms:
            sequences = [self.sequence(question, form) for question in questions]
            if self.kind == OPEN:
                found[form] = generate_answers(model, tokenizer, sequences, self.options)
            else:
                found[form] = choose(model, tokenizer, questions, sequences, self.options)
        return [dict(zip(found, row)) for row in zip(*found.values())]

    def ask(self, model, tokenizer, forms, name):
        """All answers of one model as JSON lines. forms: TEXT, SPEECH."""
        from tqdm import tqdm

        check_words(tokenizer, self.options)
        lines = []
        for at in tqdm(range(0, len(self.questions), self.batch_size), desc=name, disable=None):
            batch = self.questions[at : at + self.batch_size]
            for question, found in zip(batch, self.batch(model, tokenizer, batch, forms)):
                line = {"id": question.id, "answer": question.answer, **found}
                lines.append(json.dumps(line, ensure_ascii=False) + "\n")
        return "".join(lines)


def load(directory, llm, device):
    """(model, tokenizer) of a trained system, or, where `directory` is None, of the LLM directory `llm` alone."""
    if directory is None:
        tokenizer = load_tokenizer(llm)
        return LLMAlone(load_llm(llm), tokenizer.eos_token_id).to(device).eval(), tokenizer
    from espnet_llmvq.model.build import load_model

    model, config = load_model(directory, device)
    return model, load_tokenizer(config["llm"])
