"""Metrics as functions of counts summed over utterances, and a hypothesis file measured by them."""

import functools
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Literal

import numpy as np

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.data.normalise import described, get_normaliser
from espnet_llmvq.data.tables import read_scp
from espnet_llmvq.score import entities as ent
from espnet_llmvq.score import origins, sacre, wer
from espnet_llmvq.score.derail import AuditRules, audit
from espnet_llmvq.score.files import Rules, match_utterances, read_at_limit, read_lines, read_transcript, some
from espnet_llmvq.score.origins import LETTERS, Sounds
from espnet_llmvq.score.table import SMALL

ALTERNATIVES = re.compile(r"\{[^{}]*\s/\s[^{}]*\}")  # of sclite's references


def ratio(part, whole):
    """100 * part / whole; nan where `whole` is 0. Floats, or arrays of one shape."""
    part, whole = np.asarray(part, dtype=np.float64), np.asarray(whole, dtype=np.float64)
    defined = whole > 0
    return np.where(defined, 100 * part / np.where(defined, whole, 1), np.nan)


class Sides:
    """What metrics are counted from: a Reference and hypotheses for it.

    hyps: {utt: raw text}; words: {utt: normalised words}, both in the order of the reference, and so are scores,
    UtteranceScores of the normalised words. derailed: {kind: [utts]}, by what `audit` is told, `AuditRules` among it.
    """

    def __init__(self, reference, hyps, at_limit=(), prompt="", rules=AuditRules()):  # noqa: B008  frozen
        self.reference, self.hyps, self.rules = reference, hyps, rules
        self.normalise = get_normaliser(reference.normaliser)
        self.words = wer.split_words(hyps, self.normalise)
        self.scores = wer.score_utterances(reference.words, self.words)
        self.derailed = audit(reference.refs, hyps, reference.words, self.words, at_limit, prompt, rules)

    @cached_property
    def raw_entities(self):
        """(4, N) entities: instances, those found, mentions, false ones, in raw text."""
        return self._entities(self.reference.refs, self.hyps, self.reference.entities)

    @cached_property
    def normalised_entities(self):
        """The same in normalised text."""
        sides = ({utt: " ".join(words) for utt, words in side.items()} for side in (self.reference.words, self.words))
        entities = self.reference.entities
        values = {utt: [(slot, self.normalise(value)) for slot, value in items] for utt, items in entities.items()}
        return self._entities(*sides, values)

    @staticmethod
    def _entities(refs, hyps, entities):
        rows = np.array(list(ent.entity_counts(refs, hyps, entities).values()), dtype=np.float64)
        return rows.reshape(-1, 4).T

    @cached_property
    def listed(self):
        """(N, 4): errors and words inside, errors and words outside of the list, or else of the entities."""
        listed, entities, rows, single = self.reference.listed, self.reference.entities, [], set()
        if listed is not None:
            lexicon = ent.Lexicon(listed)
            single = {entry[0] for entry in listed if len(entry) == 1}
        for score in self.scores:
            if listed is None:
                values = (self.normalise(value).split() for _, value in entities.get(score.utt, ()))
                lexicon = ent.Lexicon(values)
            rows.append(ent.inside_errors(score.pairs, lexicon, single))
        return np.array(rows, dtype=np.float64)

    @cached_property
    def parts(self):
        """(N, parts of `origins.PARTS`): word errors."""
        sounds, kinds = self.reference.sounds, {}
        for kind, utts in self.derailed.items():
            for utt in utts:
                kinds.setdefault(utt, set()).add(kind)
        sounds.learn(word for score in self.scores for word in origins.wrong_words(score.pairs))
        limit = self.rules.sound_distance
        rows = [origins.parts(s.pairs, kinds.get(s.utt, set()), sounds, limit) for s in self.scores]
        return np.array([list(row.values()) for row in rows], dtype=np.float64)


def word_errors(sides):
    """(N, 2): word errors and words."""
    return np.array([(score.errors, score.words) for score in sides.scores], dtype=np.float64)


def char_errors(sides):
    """(N, 2): errors in characters, and characters."""
    return np.array([(score.char_errors, score.chars) for score in sides.scores], dtype=np.float64)


def token_errors(sides):
    """(N, 2): errors in tokens of raw text, and tokens."""
    from rapidfuzz.distance import Levenshtein

    pairs = [(sacre.tokens_13a(ref), sacre.tokens_13a(sides.hyps[u])) for u, ref in sides.reference.refs.items()]
    return np.array([(Levenshtein.distance(ref, hyp), len(ref)) for ref, hyp in pairs], dtype=np.float64)


def sacre_counts(name, sides):
    """(N, K): the sums that BLEU or chrF is a function of."""
    refs, hyps = list(sides.reference.refs.values()), list(sides.hyps.values())
    return np.array(sacre.statistics(name, refs, hyps), dtype=np.float64)


def part_errors(part, sides):
    """(N, 2): word errors of a part, and words."""
    return np.stack([sides.parts[:, list(origins.PARTS).index(part)], word_errors(sides)[:, 1]], axis=1)


def chosen_errors(chosen, sides):
    """(N, 2): errors on reference words that `chosen`, a function of a word and the Reference, takes; these words."""
    known = functools.lru_cache(None)(lambda word: chosen(word, sides.reference))
    return np.array([origins.word_errors(score.pairs, known) for score in sides.scores], dtype=np.float64)


def seen(bounds, word, reference):
    """Whether the training text has a word as often as `bounds` (least, most or None) say."""
    (least, most), times = bounds, reference.trained[word]
    return least <= times and (most is None or times <= most)


@dataclass(frozen=True)
class Metric:
    """A metric: a function of counts that are summed over utterances.

    title: heading of its tables. counts: from `Sides` to (N, K). of: what the second of two counts counts; the metric
    is then their ratio in percent. "": it is no ratio, and `function` makes the value of the K sums. normalised: of
    text as the set's normaliser leaves it, otherwise of raw text. better: "low" or "high". measured: on which sets,
    "always"; "asked", where the set names it; "entities", "list", where the set has these (a list, or entities);
    "parts", "numbers", in tables of systems and sets; "trained", there, if the training text is known.
    tested: whether `score` and `compare` test it. Of those that follow from another, or say the same of normalised
    text, tests would only make the correction for many comparisons harsher. short, counted: headings of its column, and
    of that with both counts, beside other metrics. by_sound: how words sound decides.
    """

    title: str
    counts: Callable
    of: str = ""
    normalised: bool = True
    better: Literal["low", "high"] = "low"
    measured: Literal["always", "asked", "entities", "list", "parts", "numbers", "trained"] = "asked"
    tested: bool = False
    function: Callable = ratio
    short: str = ""
    counted: str = ""
    by_sound: bool = False


def _entity_metrics():
    """{name: Metric} of entities, each of raw and of normalised text."""

    def false(instances, found, mentions, false):
        return false, np.ones_like(false)

    kinds = {
        "eer": ("Entity error rate", "EER", "entities", "low", lambda i, f, m, x: (i - f, i)),
        "entity_recall": ("Entity recall", "recall", "entities", "high", lambda i, f, m, x: (f, i)),
        "entity_precision": ("Entity precision", "precision", "mentions", "high", lambda i, f, m, x: (m - x, m)),
        "entity_false": ("False entities per 100 utterances", "false per 100 utterances", "utterances", "low", false),
    }
    metrics = {}
    for name, (title, short, of, better, pick) in kinds.items():
        unit, rate = " (%)" * (name != "entity_false"), name == "eer"
        for ending, side, words in (("", "raw_entities", "raw text"), ("_norm", "normalised_entities", "normalised")):
            metrics[name + ending] = Metric(
                title + (", normalised" if ending else "") + unit,
                lambda sides, pick=pick, side=side: np.stack(pick(*getattr(sides, side)), axis=1),
                of,
                normalised=bool(ending),
                better=better,
                measured="entities",
                tested=rate and not ending,
                short=f"{short}, {words}",
                counted="missed / entities" * rate,
            )
    return metrics


def _part_metrics():
    """{name: Metric} of the parts of the word error rate."""
    return {
        f"part_{part}": Metric(
            f"Errors: {short} (% of words)", partial(part_errors, part), "words", measured="parts", short=short,
            by_sound=part == "alike",
        )
        for part, (short, _) in origins.PARTS.items()
    }  # fmt: skip


def _seen_metrics():
    """{name: Metric} of errors on words by how often the training text has them."""
    metrics = {}
    for name, bounds in origins.SEEN.items():
        times = {"0": "never", "more": "more often"}.get(name, f"{name.replace('_', ' to ')} times")
        short = f"in training {times}".replace(" 1 times", " once")
        title = f"WER on words {short} (%)"
        count = partial(chosen_errors, partial(seen, bounds))
        metrics[f"wer_seen_{name}"] = Metric(title, count, "words", measured="trained", short=short)
    return metrics


_always = partial(Metric, measured="always", tested=True)
_listed = partial(Metric, of="words", measured="list")
_sacre = partial(Metric, normalised=False, better="high", tested=True)

# The one place of a metric: what is here is measured, and stands in all tables.
METRICS = {
    "wer": _always("Word error rate (%)", word_errors, "words"),
    "cer": _always("Character error rate (%)", char_errors, "characters"),
    "ter": _always("Token error rate (%): 13a tokens, case and punctuation", token_errors, "tokens", normalised=False),
    **_entity_metrics(),
    "wer_in": _listed(
        "WER inside the list (%)", lambda sides: sides.listed[:, :2], tested=True, short="WER inside",
        counted="errors / words inside",
    ),
    "wer_out": _listed(
        "WER outside the list (%)", lambda sides: sides.listed[:, 2:], short="WER outside",
        counted="errors / words outside",
    ),
    **_part_metrics(),
    "wer_numbers": Metric(
        "WER on numbers (%)", partial(chosen_errors, lambda word, _: origins.is_number(word)), "words",
        measured="numbers", short="numbers",
    ),
    **_seen_metrics(),
    "bleu": _sacre("BLEU", partial(sacre_counts, "bleu"), function=partial(sacre.from_sums, "bleu")),
    "chrf": _sacre("chrF", partial(sacre_counts, "chrf"), function=partial(sacre.from_sums, "chrf")),
}  # fmt: skip


def names_of(*measured):
    """Names of the metrics that are measured on such sets, in the order of METRICS."""
    return [name for name, metric in METRICS.items() if metric.measured in measured]


@dataclass(frozen=True)
class Reference:
    """The reference side of a test set.

    refs: {utt: raw text}; words: {utt: normalised words}; skipped: utterances left out by --empty_ref; entities: {utt:
    [(slot, value)]} or None; listed: entries of a word list, normalised words each, or None; speakers: {utt: speaker}
    or None; resample: "utterance" or "speaker"; notes: treatments of bad input, to be printed. trained: Counter of the
    words of the training text, normalised, or None; sounds: how words sound.
    """

    path: str
    normaliser: str
    refs: dict
    words: dict
    skipped: frozenset = frozenset()
    entities: dict | None = None
    listed: tuple | None = None
    speakers: dict | None = None
    resample: str = "utterance"
    notes: list = field(default_factory=list)
    trained: Counter | None = None
    sounds: Sounds = field(default_factory=partial(Sounds, LETTERS))

    def metrics(self, wanted=()):
        """The metrics of this set: those wanted, and those its entities or list allow."""
        more = ["entities", "list"] if self.entities is not None else ["list"] * (self.listed is not None)
        more += ["trained"] * (self.trained is not None)
        more = names_of(*more)
        return [name for name in METRICS if name in wanted or name in more]

    def normaliser_of(self, metric):
        """The name to be printed beside a value of `metric`."""
        more = f"; {self.sounds.name}" if METRICS[metric].by_sound else ""
        return described(self.normaliser) + more if METRICS[metric].normalised else "none"

    def units(self):
        """(N,) number of the resampling unit of each utterance, in order."""
        if self.resample == "utterance":
            return np.arange(len(self.refs))
        number = {}
        return np.array([number.setdefault(self.speakers[u], len(number)) for u in self.refs])

    @property
    def small(self):
        return sum(map(len, self.words.values())) < SMALL


def load_reference(
    path,
    normaliser="basic",
    entities="",
    word_list="",
    utt2spk="",
    resample="utterance",
    rules=Rules(),  # noqa: B008
):
    """The Reference of a transcript file.

    entities, word_list, utt2spk: files, "" for none. A word list has an entry of one or more words a line.
    UserError for bad input that `rules` does not treat.
    """
    notes, normalise = [], get_normaliser(normaliser)
    refs = read_transcript(path, rules, notes)
    if choices := [utt for utt, text in refs.items() if ALTERNATIVES.search(text)]:
        notes.append(
            f"{path}: {len(choices)} references have alternatives of sclite, {{ a / b }}, whose words all count here: "
            f"{some(choices)}; write one of them"
        )
    words = wer.split_words(refs, normalise)
    empty = [utt for utt in refs if not words[utt]]
    skipped = frozenset()
    if empty and rules.empty_ref == "error":
        raise UserError(
            f"{path}: {len(empty)} references are empty with the normaliser {normaliser}: "
            f"{some(empty)}; complete them, leave them out (--empty_ref drop), or count what is "
            "said there as insertions (--empty_ref keep)"
        )
    if empty and rules.empty_ref == "drop":
        skipped = frozenset(empty)
        refs = {utt: text for utt, text in refs.items() if utt not in skipped}
        words = {utt: words[utt] for utt in refs}
        notes.append(f"{path}: {len(empty)} utterances with an empty reference left out")
    elif empty:
        notes.append(f"{path}: {len(empty)} references are empty; hypotheses there are insertions")
    if not any(words.values()):
        raise UserError(
            f"{path}: the references hold no words with the normaliser {normaliser}, so there is "
            "no error rate; check the file and the normaliser"
        )
    annotated = None
    if entities:
        annotated = {u: v for u, v in ent.read_entities(entities).items() if u not in skipped}
        annotated = ent.check_entities(annotated, refs, entities, rules.entity_absent, notes)
    listed = None
    if word_list:
        lines = [normalise(line).split() for _, line in read_lines(word_list, rules.encoding)]
        listed = tuple(tuple(line) for line in lines if line)
        if not listed:
            raise UserError(f"{word_list}: holds no words; give one entry a line")
    speakers = None
    if utt2spk:
        speakers = dict(read_scp(utt2spk))
        unmapped = [utt for utt in refs if utt not in speakers]
        if unmapped and rules.unmapped == "error":
            raise UserError(
                f"{utt2spk}: {len(unmapped)} of {len(refs)} utterances have no speaker: "
                f"{some(unmapped)}; complete it, or make each a speaker of its own (--unmapped own)"
            )
        if unmapped:
            notes.append(f"{utt2spk}: {len(unmapped)} utterances without a speaker are one each")
        speakers.update({utt: utt for utt in unmapped})
    elif resample == "speaker":
        raise UserError(f"{path}: --resample speaker needs the speakers; give utt2spk")
    return Reference(str(path), normaliser, refs, words, skipped, annotated, listed, speakers, resample, notes)


@dataclass(frozen=True)
class Evaluation:
    """A hypothesis file measured against a Reference.

    hyps: {utt: raw text}; scores: UtteranceScores, in the order of the reference; counts: {metric:
    (N, K)}, what the metric is a function of; derailed: {kind: [utts]}; notes: treatments.
    """

    path: str
    hyps: dict
    scores: list
    counts: dict
    derailed: dict
    notes: list


def evaluate(reference, path, metrics, rules=Rules(), prompt="", audit_rules=AuditRules()):  # noqa: B008  frozen
    """The Evaluation of the hypothesis file `path`.

    metrics: names of METRICS that the reference allows; "wer" is always counted. prompt: the template of the prompt,
    for the audit. Raises UserError for bad input that `rules` does not treat.
    """
    notes = []
    texts = read_transcript(path, rules, notes)
    texts = {utt: text for utt, text in texts.items() if utt not in reference.skipped}
    refs = reference.refs
    texts_of = match_utterances(refs, texts, reference.path, path, rules, notes)
    limits = read_at_limit(path, rules) & set(refs)
    sides = Sides(reference, texts_of, limits, prompt, audit_rules)
    empty = [utt for utt in refs if utt in texts and not sides.words[utt]]
    if empty and rules.empty_hyp == "error":
        raise UserError(
            f"{path}: {len(empty)} hypotheses are empty with the normaliser "
            f"{reference.normaliser}: {some(empty)}; decode them again, or count their words as "
            "deletions (--empty_hyp keep)"
        )
    if empty:
        notes.append(f"{path}: {len(empty)} empty hypotheses, their words counted as deletions")
    counts = {name: METRICS[name].counts(sides) for name in dict.fromkeys(("wer", *metrics))}
    return Evaluation(str(path), sides.hyps, sides.scores, counts, sides.derailed, notes)
