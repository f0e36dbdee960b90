"""Metrics as functions of counts summed over utterances, and a hypothesis file measured by them."""

from dataclasses import dataclass, field
from functools import partial

import numpy as np

from espnet_llmvq.base.errors import UserError, check_name
from espnet_llmvq.data.normalise import get_normaliser
from espnet_llmvq.score import entities as ent
from espnet_llmvq.score import sacre, wer
from espnet_llmvq.score.derail import audit
from espnet_llmvq.score.files import Rules, match_utterances, read_at_limit, read_lines, read_transcript, some
from espnet_llmvq.score.table import SMALL


def ratio(part, whole):
    """Return 100 * part / whole; nan where `whole` is 0. Floats, or arrays of one shape."""
    part, whole = np.asarray(part, dtype=np.float64), np.asarray(whole, dtype=np.float64)
    defined = whole > 0
    return np.where(defined, 100 * part / np.where(defined, whole, 1), np.nan)


@dataclass(frozen=True)
class Metric:
    """label: as printed. better: "low" or "high". of: what the second count counts, or "".

    function: from the summed counts to the value, in percent. normalised: by the set's normaliser;
    otherwise it is of raw text. Metrics with `of` are ratios of two counts.
    """

    label: str
    of: str
    normalised: bool
    better: str = "low"
    function: object = ratio


METRICS = {
    "wer": Metric("word error rate", "words", True),
    "cer": Metric("character error rate", "characters", True),
    "ter": Metric("token error rate (13a tokens, case and punctuation)", "tokens", False),
    "eer": Metric("entity error rate", "entities", False),
    "eer_norm": Metric("entity error rate, normalised", "entities", True),
    "entity_recall": Metric("entity recall", "entities", False, "high"),
    "entity_recall_norm": Metric("entity recall, normalised", "entities", True, "high"),
    "entity_precision": Metric("entity precision", "mentions", False, "high"),
    "entity_precision_norm": Metric("entity precision, normalised", "mentions", True, "high"),
    "entity_false": Metric("false entities per 100 utterances", "utterances", False),
    "entity_false_norm": Metric("false entities per 100 utterances, normalised", "utterances", True),
    "wer_in": Metric("WER inside the list", "words", True),
    "wer_out": Metric("WER outside the list", "words", True),
    "bleu": Metric("BLEU", "", False, "high", partial(sacre.from_sums, "bleu")),
    "chrf": Metric("chrF", "", False, "high", partial(sacre.from_sums, "chrf")),
}
ENTITY_METRICS = tuple(name for name in METRICS if name.startswith(("eer", "entity")))
LIST_METRICS = ("wer_in", "wer_out")
# The others follow from these, or say the same of normalised text: testing them too would only
# make the correction for many comparisons harsher.
TESTED = ("wer", "cer", "ter", "eer", "wer_in", "bleu", "chrf")


@dataclass(frozen=True)
class Reference:
    """The reference side of a test set.

    refs: {utt: raw text}; words: {utt: normalised words}; skipped: utterances left out by --empty_ref;
    entities: {utt: [(slot, value)]} or None; listed: entries of a word list, normalised words each,
    or None; speakers: {utt: speaker} or None; resample: "utterance" or "speaker"; notes: treatments
    of bad input, to be printed.
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

    def metrics(self, wanted=("wer", "cer", "ter")):
        """Return the metrics of this set: those wanted, and those its entities or list allow."""
        more = ENTITY_METRICS * (self.entities is not None)
        more += LIST_METRICS * (self.entities is not None or self.listed is not None)
        return [name for name in METRICS if name in wanted or name in more]

    def normaliser_of(self, metric):
        """Return the name to be printed beside a value of `metric`."""
        return self.normaliser if METRICS[metric].normalised else "none"

    def units(self):
        """Return the (N,) number of the resampling unit of each utterance, in order."""
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
    entities=None,
    word_list=None,
    utt2spk=None,
    resample="utterance",
    rules=Rules(),  # noqa: B008  frozen
):
    """Return the Reference of a transcript file.

    entities, word_list, utt2spk: files, or None. A word list has an entry of one or more words a line.
    UserError for bad input that `rules` does not treat.
    """
    from espnet_llmvq.data.tables import read_scp

    check_name("value of --resample", resample, ("utterance", "speaker"))
    notes, normalise = [], get_normaliser(normaliser)
    refs = read_transcript(path, rules, notes)
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
    found = None
    if entities:
        found = {u: v for u, v in ent.read_entities(entities).items() if u not in skipped}
        found = ent.check_entities(found, refs, entities, rules.entity_absent, notes)
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
    return Reference(str(path), normaliser, refs, words, skipped, found, listed, speakers, resample, notes)


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


def _list_counts(reference, scores, normalise):
    """Return (N, 4): errors and words inside, errors and words outside of the list."""
    found, single = [], set()
    if reference.listed is not None:
        lexicon = ent.Lexicon(reference.listed)
        single = {entry[0] for entry in reference.listed if len(entry) == 1}
    for score in scores:
        if reference.listed is None:
            items = reference.entities.get(score.utt, ())
            lexicon = ent.Lexicon(normalise(value).split() for _, value in items)
        found.append(ent.inside_errors(score.pairs, lexicon, single))
    return np.array(found, dtype=np.float64)


def _entity_counts(refs, hyps, entities):
    """Return {metric without suffix: (N, 2)} of the entity metrics."""
    rows = np.array(list(ent.entity_counts(refs, hyps, entities).values()), dtype=np.float64)
    instances, found, mentions, false = rows.reshape(-1, 4).T
    return {
        "eer": np.stack([instances - found, instances], axis=1),
        "entity_recall": np.stack([found, instances], axis=1),
        "entity_precision": np.stack([mentions - false, mentions], axis=1),
        "entity_false": np.stack([false, np.ones_like(false)], axis=1),
    }


def evaluate(reference, path, metrics, rules=Rules(), prompt="", audit_rules=None):  # noqa: B008
    """Return the Evaluation of the hypothesis file `path`.

    metrics: names of METRICS that the reference allows. prompt: the template of the prompt, for the
    audit. UserError for bad input that `rules` does not treat.
    """
    from rapidfuzz.distance import Levenshtein

    notes, normalise = [], get_normaliser(reference.normaliser)
    texts = read_transcript(path, rules, notes)
    texts = {utt: text for utt, text in texts.items() if utt not in reference.skipped}
    refs = reference.refs
    hyps = match_utterances(refs, texts, reference.path, path, rules, notes)
    hyp_words = wer.split_words(hyps, normalise)
    empty = [utt for utt in refs if utt in texts and not hyp_words[utt]]
    if empty and rules.empty_hyp == "error":
        raise UserError(
            f"{path}: {len(empty)} hypotheses are empty with the normaliser "
            f"{reference.normaliser}: {some(empty)}; decode them again, or count their words as "
            "deletions (--empty_hyp keep)"
        )
    if empty:
        notes.append(f"{path}: {len(empty)} empty hypotheses, their words counted as deletions")
    scores = wer.score_utterances(reference.words, hyp_words)
    counts, rows = {}, []
    for score in scores:
        ops = wer.op_counts(score)
        errors = ops["S"] + ops["D"] + ops["I"]
        rows.append((errors, ops["="] + ops["S"] + ops["D"], score.char_errors, score.chars))
    rows = np.array(rows, dtype=np.float64)
    counts["wer"], counts["cer"] = rows[:, :2], rows[:, 2:]
    if "ter" in metrics:
        rows = []
        for utt, ref in refs.items():
            tokens = sacre.tokens_13a(ref)
            rows.append((Levenshtein.distance(tokens, sacre.tokens_13a(hyps[utt])), len(tokens)))
        counts["ter"] = np.array(rows, dtype=np.float64)
    if set(ENTITY_METRICS) & set(metrics):
        counts.update(_entity_counts(refs, hyps, reference.entities))
        normal = ({utt: " ".join(found) for utt, found in side.items()} for side in (reference.words, hyp_words))
        values = {utt: [(slot, normalise(value)) for slot, value in items] for utt, items in reference.entities.items()}
        more = _entity_counts(*normal, values)
        counts.update({f"{name}_norm": found for name, found in more.items()})
    if set(LIST_METRICS) & set(metrics):
        rows = _list_counts(reference, scores, normalise)
        counts["wer_in"], counts["wer_out"] = rows[:, :2], rows[:, 2:]
    for name in {"bleu", "chrf"} & set(metrics):
        found = sacre.statistics(name, list(refs.values()), list(hyps.values()))
        counts[name] = np.array(found, dtype=np.float64)
    limits = read_at_limit(path, rules) & set(refs)
    more = {} if audit_rules is None else {"rules": audit_rules}
    derailed = audit(refs, hyps, reference.words, hyp_words, limits, prompt, **more)
    return Evaluation(str(path), hyps, scores, counts, derailed, notes)
