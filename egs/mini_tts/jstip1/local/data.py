#!/usr/bin/env python3
"""Make the corpus: everyday stories and medical dictations, spoken by espeak-ng, and texts.

Speech: train, valid, test_id (everyday), test_domain (medical), questions/mc, questions/sqa. Text: lm/ for the
language model, text/domain.txt and domain_tts/text of the medical domain. Training speech holds no medical entity. No
sentence of a validation or test set and no question of a test is in any training text.
"""

import json
import random
import sys
from pathlib import Path

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.cli.parser import Parser, run

VOICES = "en-us en-us+f2 en-gb+m3 en-gb+f4".split()
SPOKEN = ("test_id", "test_domain", "valid", "train")
QUESTIONS = ("mc", "sqa")
# Sizes: of the recipe, of smoke runs, and what they are.
SIZES = {
    "train": (6000, 30, "training utterances"),
    "valid": (120, 6, "validation utterances"),
    "test": (300, 8, "utterances of each test set"),
    "lm_everyday": (10000, 350, "LM lines, those of train included"),
    "lm_medical": (7500, 150, "LM lines that state medical facts"),
    "lm_valid": (200, 30, "lines of each held-out LM text"),
    "domain": (2000, 12, "documents of text/domain.txt and of domain_tts/text"),
    "mc": (150, 6, "multiple-choice questions"),
    "sqa": (120, 6, "questions answered freely"),
}


def get_parser():
    parser = Parser(prog="local/data.py", description=__doc__)
    parser.add_argument("--datadir", default="data", help="directory to write")
    for name, (size, _, what) in SIZES.items():
        parser.add_argument(f"--{name}", type=int, default=size, help=what)
    parser.add_argument("--joined", type=float, default=0.3, help="share of texts that are two sentences of llmasr1")
    parser.add_argument("--broad_share", type=float, default=0.15, help="share of slots with a rarer word")
    parser.add_argument("--core_words", type=int, default=12, help="frequent words of each class that are used")
    parser.add_argument("--smoke", default="false", choices=("true", "false"), help="a few utterances of everything")
    parser.add_argument("--seed", type=int, default=1, help="random seed")
    parser.add_argument("--nj", type=int, default=2, help="processes")
    return parser


class Draw:
    """Draws the sets one after the other, so that none holds a sentence of one held out."""

    def __init__(self, options):
        import stories  # local/stories.py
        import text  # local/text.py

        self.seed = options["seed"]
        self.normalise, self.sentences, self.max_words = text.normalise, stories.sentences, stories.MAX_WORDS
        words = {"broad_share": options["broad_share"], "core_words": options["core_words"]}
        self.everyday_stories = stories.Stories("stories.txt", options["joined"], **words)
        self.dictations = stories.Stories("dictations.txt", **words)
        self.medicine = stories.Medicine()
        self.entities = self.medicine.entities()
        self.held_out = set()

    def rng(self, name):
        return random.Random(f"{self.seed}-{name}")

    def everyday(self, rng):
        """A story without entities (two parts of names may make up one)."""
        while True:
            story = self.everyday_stories.story(rng)
            if not self.entities & set(self.normalise(story[0]).split()):
                return story

    def dictation(self, rng):
        """Two sentences, as everyday texts have: a recogniser that hears one would go on writing after it."""
        while True:
            one, other = (self.dictations.story(rng, self.medicine.situation(rng)) for _ in range(2))
            if len(self.sentences(one[0])) == 2:
                return one
            both = f"{one[0]} {other[0]}"
            if len(self.sentences(both)) == 2 and len(both.split()) <= self.max_words:
                return both, one[1] + other[1]

    def facts(self, rng):
        return self.medicine.document(rng, rng.choice(self.medicine.records))

    def domain(self, rng):
        """What the domain's text is made of: as many dictations as statements of facts."""
        return rng.choice((self.dictation, self.facts))(rng)

    def keys(self, story):
        return {self.normalise(sentence) for sentence in self.sentences(story)}

    def distinct(self, name, n, draw, hold_out=False):
        """Draw `n` different texts without a held-out sentence -> [(text, entities)]; hold theirs out if asked to."""
        rng, found, misses = self.rng(name), {}, 0
        while len(found) < n:
            story, entities = draw(rng)
            if story in found or self.keys(story) & self.held_out:
                misses += 1
                if misses > 100 * n + 1000:
                    raise UserError(f"{name}: there are fewer than {n} distinct texts")
                continue
            found[story] = entities
        if hold_out:
            self.held_out.update(*map(self.keys, found))
        return list(found.items())

    def questions(self, name, n):
        """Draw `n` test questions -> [{question, choices, answer}], and hold them out.

        name: mc or sqa. choices: four values of the answer's column; answer: index of the right one. The wrong ones
        answer other test questions: answers that training text has behind a question would be likelier whatever is
        asked.
        """
        rng, found = self.rng(name), []
        asks = [(record, column, wording) for record, column, words in self.medicine.asks(True) for wording in words]
        if n > len(asks):
            raise UserError(f"--{name} {n}: there are {len(asks)} questions")
        for record, column, question in rng.sample(asks, n):
            right = record[column]
            others = sorted({row[column] for row, asked, _ in asks if asked == column} - {right})
            choices = [capital(c) for c in (right, *rng.sample(others, 3))]
            rng.shuffle(choices)
            found.append({"question": question, "choices": choices, "answer": choices.index(capital(right))})
            self.held_out.add(self.normalise(question))
        return found

    def answered(self):
        """Lines with a question that is in no test, and its answer."""
        return [
            f"{question} {capital(record[column])}."
            for record, column, wordings in self.medicine.asks(False)
            for question in wordings
        ]


def capital(words):
    return words[0].upper() + words[1:]


def draw(options):
    """Draw everything -> ({set: [(text, entities)]}, {mc, sqa: questions}); options: those of the parser."""
    if options["lm_everyday"] < options["train"]:
        raise UserError(f"--lm_everyday {options['lm_everyday']} must hold the {options['train']} stories of --train")
    d = Draw(options)
    questions = {name: d.questions(name, options[name]) for name in QUESTIONS}
    sets = {
        "test_id": d.distinct("test_id", options["test"], d.everyday, True),
        "test_domain": d.distinct("test_domain", options["test"], d.dictation, True),
        "valid": d.distinct("valid", options["valid"], d.everyday, True),
        "lm/valid": d.distinct("lm/valid", options["lm_valid"], d.everyday, True),
        "lm/valid_domain": d.distinct("lm/valid_domain", options["lm_valid"], d.dictation, True),
        "train": d.distinct("train", options["train"], d.everyday),
        "text/domain": d.distinct("domain", options["domain"], d.domain),
        "domain_tts": d.distinct("domain_tts", options["domain"], d.domain),
    }
    everyday = d.distinct("lm_everyday", options["lm_everyday"] - options["train"], d.everyday)
    sets["lm/tokenizer"] = [*sets["train"], *everyday]
    lm = sets["lm/tokenizer"] + d.distinct("lm_medical", options["lm_medical"], d.facts)
    lm += [(line, []) for line in d.answered()] * 3
    d.rng("shuffle").shuffle(lm)
    sets["lm/train"] = lm
    return sets, questions


def main(argv=None):
    args = get_parser().parse_args(argv)
    options = {k: v for k, v in vars(args).items() if k not in ("datadir", "nj", "smoke")}
    if args.smoke == "true":
        options.update({name: size for name, (_, size, _) in SIZES.items()})
    for name in SIZES:
        if options[name] < 1:
            raise UserError(f"--{name} must be at least 1, not {options[name]}")
    for name in ("joined", "broad_share"):
        if not 0 <= options[name] <= 1:
            raise UserError(f"--{name} is a share, not {options[name]}")

    from espnet_llmvq.base.files import write_lines
    from espnet_llmvq.data.synthesise import synthesise

    out = Path(args.datadir)

    def speak(name, lines, entities=None):
        """Speak lines into a data directory -> {index of the line: utterance}; entities: a list for each line."""
        ids = {f"{name.rsplit('/')[-1]}-{i:05d}": i - 1 for i in range(1, len(lines) + 1)}
        found = None if entities is None else dict(zip(ids, entities, strict=True))
        how = {"voices": VOICES, "seed": options["seed"], "nj": args.nj, "entities": found}
        return {ids[job["source"]]: job["utt"] for job in synthesise(list(zip(ids, lines)), out / name, **how)}

    sets, questions = draw(options)
    for name in ("lm/train", "lm/tokenizer", "lm/valid", "lm/valid_domain", "text/domain"):
        write_lines(out / f"{name}.txt", [story for story, _ in sets[name]])
    spoken = [f"domain_tts-{i:05d} {story}" for i, (story, _) in enumerate(sets["domain_tts"], 1)]
    write_lines(out / "domain_tts" / "text", spoken)
    for name in SPOKEN:
        entities = [found for _, found in sets[name]] if name == "test_domain" else None
        speak(name, [story for story, _ in sets[name]], entities)
    for name, asked in questions.items():
        ids = speak(f"questions/{name}", [q["question"] for q in asked])
        lines = []
        for i, q in enumerate(asked):
            wav = f"{name}/wav/{ids[i]}.wav"  # from the file's directory
            if name == "sqa":
                q = {"question": q["question"], "answer": q["choices"][q["answer"]]}
            lines.append(json.dumps({"id": ids[i], **q, "wav": wav}, ensure_ascii=False))
        write_lines(out / "questions" / f"{name}.jsonl", lines)
        answers = {ids[i]: q["choices"][q["answer"]] for i, q in enumerate(asked)}
        write_lines(out / "questions" / name / "answers", [f"{utt} {answers[utt]}" for utt in sorted(answers)])
    sizes = ", ".join(f"{name} {len(found)}" for name, found in sorted({**sets, **questions}.items()))
    print(f"{out}: {sizes}", file=sys.stderr)


if __name__ == "__main__":
    run(main)
