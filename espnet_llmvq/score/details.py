"""Files of a hypothesis file: ref.trn, hyp.trn, result.txt, and counts by utterance and speaker."""

from pathlib import Path

import numpy as np

from espnet_llmvq.base.files import file_name, write_text
from espnet_llmvq.score.files import trn
from espnet_llmvq.score.table import tsv_text
from espnet_llmvq.score.wer import format_alignments

FILES = ("ref.trn", "hyp.trn", "result.txt", "utterances.tsv", "speakers.tsv")
COUNTS = ("words", "correct", "substitutions", "deletions", "insertions", "chars", "char_errors")


def utterance_table(reference, evaluation):
    """(header, rows) of counts by utterance; the rows start with utterance and speaker.

    Further columns, where measured: tokens, token_errors; entities, entities_missed (raw). The last
    is `derailed`, kinds joined by commas.
    """
    header, more, kinds = ["utterance", "speaker", *COUNTS], [], {}
    for metric, names in (("ter", ("tokens", "token_errors")), ("eer", ("entities", "entities_missed"))):
        if metric in evaluation.counts:
            header += names
            more.append(evaluation.counts[metric][:, ::-1].astype(int).tolist())
    for kind, utts in evaluation.derailed.items():
        for utt in utts:
            kinds.setdefault(utt, []).append(kind)
    rows = []
    for i, score in enumerate(evaluation.scores):
        speaker = reference.speakers[score.utt] if reference.speakers else "-"
        row = [score.utt, speaker, score.words, *map(score.count, "=SDI"), score.chars, score.char_errors]
        rows.append([*row, *sum((counts[i] for counts in more), []), ",".join(kinds.get(score.utt, ()))])
    return [*header, "derailed"], rows


def by_speaker(rows):
    """[(speaker, rows of the utterances)], sorted."""
    found = {}
    for row in rows:
        found.setdefault(row[1], []).append(row)
    return sorted(found.items())


def speaker_table(header, rows):
    """(header, rows) summed by speaker, with utterances and WER in percent, from the above."""
    table = []
    for speaker, members in by_speaker(rows):
        counts = np.array([row[2:-1] for row in members]).sum(axis=0).tolist()
        words, _, *errors = counts[:5]
        rate = f"{100 * sum(errors) / words:.2f}" if words else ""
        table.append([speaker, len(members), rate, *counts, sum(bool(row[-1]) for row in members)])
    return ["speaker", "utterances", "wer", *header[2:]], table


def sclite_summary(rows, name):
    """sclite's table by speaker, with its last line Sum/Avg, from rows of utterances."""
    lines = []
    for speaker, members in [*by_speaker(row for row in rows if row[1] != "-"), ("Sum/Avg", rows)]:
        words, correct, subs, dels, ins = np.array([row[2:7] for row in members]).sum(axis=0).tolist()
        wrong = sum(sum(row[4:7]) > 0 for row in members)
        shares = [100 * n / words if words else 0.0 for n in (correct, subs, dels, ins)]
        shares += [100 * (subs + dels + ins) / words if words else 0.0, 100 * wrong / len(members)]
        percents = " ".join(f"{share:6.1f}" for share in shares)
        lines.append(f"| {speaker:<10} | {len(members):>6} {words:>7} | {percents} |\n")
    head = f"| {'SPKR':<10} | {'# Snt':>6} {'# Wrd':>7} | "
    head += " ".join(f"{title:>6}" for title in ("Corr", "Sub", "Del", "Ins", "Err", "S.Err"))
    return f"{name}\n{head} |\n{''.join(lines)}"


def details_dir(out_dir, system, name):
    """Directory of the details of a system on the set `name`: of no other, wherever its hypotheses are."""
    return Path(out_dir, "details", file_name(system.name), file_name(name))


def details_of(directory):
    """Paths of what `write_details` writes to a directory."""
    return [Path(directory, name) for name in FILES]


def write_details(directory, reference, evaluation):
    """Write ref.trn, hyp.trn (raw), result.txt, utterances.tsv and, with speakers, speakers.tsv."""
    directory = Path(directory)
    write_text(directory / "ref.trn", trn(reference.refs))
    write_text(directory / "hyp.trn", trn(evaluation.hyps))
    header, rows = utterance_table(reference, evaluation)
    write_text(directory / "utterances.tsv", tsv_text(header, rows))
    if reference.speakers:
        write_text(directory / "speakers.tsv", tsv_text(*speaker_table(header, rows)))
    summary = sclite_summary(rows, f"{Path(evaluation.path).name}, {reference.normaliser}")
    write_text(directory / "result.txt", f"{summary}\n{format_alignments(evaluation.scores)}")
