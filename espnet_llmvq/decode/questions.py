"""Put questions to trained systems, and to a language model alone: answers in DIRECTORY/KIND_NAME/answers.jsonl."""

import json
import os
from dataclasses import asdict
from pathlib import Path

import torch

from espnet_llmvq.data.questions import OPEN
from espnet_llmvq.decode.generate import encoded, log_probability, prompt_inputs, search
from espnet_llmvq.environment import FILE, facts
from espnet_llmvq.errors import UserError
from espnet_llmvq.interleave.questions import given, multiple_choice_sequence, open_sequence
from espnet_llmvq.llm.directory import load_llm, load_tokenizer
from espnet_llmvq.model import SpeechLLM
from espnet_llmvq.score.files import write_text
from espnet_llmvq.score.questions import ANSWERS, SPEECH, TEXT, read_answers
from espnet_llmvq.sequence import SAMPLE_RATE
from espnet_llmvq.tasks.dataset import SequencePreprocessor, collate


class LLMAlone(torch.nn.Module):
    """A causal LM in place of a `SpeechLLM`, for prompts without speech."""

    def __init__(self, llm, eos_id):
        super().__init__()
        self.llm, self.eos_id = llm, eos_id

    assemble = SpeechLLM.assemble


def prompts_of(model, tokenizer, sequences):
    """LLM inputs of prompts, list of (P, H); sequences: list of `Sequence`, all of them to be given.

    Raises UserError for one that is longer than the LLM's context.
    """
    preprocess = SequencePreprocessor(tokenizer, tokenizer.eos_token_id)
    _, batch = collate([(s.id, preprocess(s.id, {"sequence": s.to_json()})) for s in sequences])
    # Inputs are made one sequence at a time, so that the neighbours in a batch decide nothing.
    inputs = prompt_inputs(model, encoded(model, batch))
    limit = getattr(model.llm.config, "max_position_embeddings", None)
    for sequence, one in zip(sequences, inputs):
        if limit is not None and len(one) >= limit:
            raise UserError(
                f"{sequence.id}: the prompt has {len(one)} positions, the LLM's context {limit}; shorten it, or give "
                "fewer --shots"
            )
    return inputs


def check_words(tokenizer, options):
    """Raise UserError if the tokenizer has no token for some of the prompt's own words."""
    # The separator stands after examples only.
    for name in ("instruction", "prompt", *(["separator"] if getattr(options, "shots", 0) else [])):
        text = getattr(options, name, "")
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
    tokens = [tokenizer.encode(text, add_special_tokens=False) for text in options.answers(question)]
    if options.answer == "letter" and not all(len(row) == 1 for row in tokens):
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
    for tokens, prompt in zip(texts, prompts_of(model, tokenizer, sequences)):
        (scores,) = log_probability(model, [prompt], [tokens], end=False)
        if options.answer == "text" and options.length_normalise:
            scores = [score / len(row) for score, row in zip(scores, tokens)]
        found.append({"choice": scores.index(max(scores)), "scores": [round(score, 6) for score in scores]})
    return found


def generate_answers(model, tokenizer, sequences, options):
    """The text that follows each prompt: list of strings."""
    prompts = prompts_of(model, tokenizer, sequences)
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
        shown = [(q, given(q, before.get(q.wav))) for q in self.examples]
        return multiple_choice_sequence(question, given(question, spoken.get(question.wav)), shown, self.options)

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


def is_answered(path, inputs, made):
    """Whether answers are newer than the files `inputs` and were `made` with the same options."""
    beside = os.path.join(os.path.dirname(path), FILE)
    if not (os.path.exists(path) and os.path.exists(beside)):
        return False
    if os.path.getmtime(path) < max(map(os.path.getmtime, inputs)):
        return False
    with open(beside, encoding="utf-8") as f:
        known = json.load(f)
    return all(known.get(key) == value for key, value in made.items())


def print_accuracy(path):
    """Print the accuracy of the answers in `path`."""
    told = []
    for metric, right in read_answers(Path(path)).right.items():
        for form, values in right.items():
            told.append(f"{metric}_{form} {100 * values.mean():.2f} %")
    print(f"{path}: {len(values)} questions, {', '.join(told)}", flush=True)


def ask_all(args, kind, options, questions, examples):
    """Ask the systems and the LLM of parsed arguments what was not asked yet."""
    from espnet_llmvq.systems import read_systems, system_dir

    forms = (TEXT,) if args.text_only else (TEXT, SPEECH)
    name = f"{kind}_{Path(args.questions).stem}"
    files = [args.questions, *([args.examples] if getattr(args, "examples", None) else [])]
    made = {"options": {**asdict(options), "examples": [q.id for q in examples]}, "forms": None, "ngpu": args.ngpu}
    work = []  # (name, what is loaded, file it depends on, forms, answers)
    for system in read_systems(args.conf_dir, args.systems.split(), args.seed) if args.systems else ():
        if system.decode != "llm":
            continue
        directory = system_dir(system, args.expdir, args.encoder)
        model = os.path.join(directory, "model.pth")
        if not os.path.exists(model):
            raise UserError(f"{model} does not exist; run stage 11")
        work.append((system.name, directory, model, forms, os.path.join(directory, name, ANSWERS)))
    if args.llm:
        weights = os.path.join(args.llm, "config.json") if os.path.isdir(args.llm) else args.questions
        work.append(("llm", None, weights, (TEXT,), os.path.join(args.llm_dir, name, ANSWERS)))
    waiting = []
    for label, directory, model, asked, path in work:
        told = {**made, "forms": list(asked)}
        if not args.redo and is_answered(path, [*files, model], told):
            print(f"[{label}] {name} is answered, nothing to do", flush=True)
        else:
            waiting.append((label, directory, asked, path, told))
    if not waiting:
        return
    samples = {}
    if any(SPEECH in asked for _, _, asked, _, _ in waiting):
        spoken = [*questions, *examples] if getattr(options, "spoken_examples", False) else questions
        samples = audio_samples(spoken, args.questions)
    asker = Asker(kind, questions, examples, options, samples, args.batch_size)
    torch.set_num_threads(args.threads)
    device = "cuda" if args.ngpu else "cpu"
    for label, directory, asked, path, told in waiting:
        if directory is None:
            tokenizer = load_tokenizer(args.llm)
            model = LLMAlone(load_llm(args.llm), tokenizer.eos_token_id).to(device).eval()
        else:
            from espnet_llmvq.tasks.speech_llm import load_model

            model, model_args = load_model(directory, device)
            tokenizer = load_tokenizer(model_args.llm)
        lines = asker.ask(model, tokenizer, asked, f"{label} {name}")
        # Facts last: answers without them are asked again.
        Path(path).with_name(FILE).unlink(missing_ok=True)
        write_text(path, lines)
        write_text(Path(path).with_name(FILE), json.dumps(facts(**told), indent=1, ensure_ascii=False) + "\n")
        print_accuracy(path)
