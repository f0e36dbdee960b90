"""Word times of a data directory: those from elsewhere, checked, and the segments that they make."""

from dataclasses import replace

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.base.files import write_text, writing
from espnet_llmvq.data.audio import SAMPLE_RATE
from espnet_llmvq.data.normalise import visible
from espnet_llmvq.sequence.corpus import NO_ALIGNMENT, joined
from espnet_llmvq.sequence.interleaved import CUTS
from espnet_llmvq.sequence.units import Dropped, timed_words


def import_word_times(data_dir, word_times, out, reference=None, tolerance=0.02, silence_words=()):
    """Write those of {utt: [Word]} that fit a formatted data directory to `out` (CTM), and the files beside it.

    Memory is some 100 bytes an utterance, more with many words, and what is dropped.

    reference: true word times, to measure the error against. tolerance: seconds by which words may overlap or run past
    the audio. silence_words: entries that are no words. Raises UserError if none fits.
    """
    from espnet_llmvq.align.ctm import rounded
    from espnet_llmvq.align.output import write_aligned

    dropped, failed = {}, {}

    def rows():
        for utt, _, samples, text, words in joined(data_dir, word_times, NO_ALIGNMENT, dropped):
            try:
                # As it will be written, and as texts are.
                words = [replace(rounded(w), word=visible(w.word)) for w in words if visible(w.word)]
                # For its checks; case and punctuation may be written otherwise, so words stay as they are.
                timed_words(text, words, samples, tolerance, silence_words)
            except Dropped as why:
                dropped[utt] = why
                continue
            yield utt, [w for w in words if w.word not in silence_words], samples / SAMPLE_RATE
        failed.update({utt: str(why) for utt, why in dropped.items()})

    write_aligned(out, rows(), failed, reference)


def segment_lengths(data_dir, ctm, options, dropped):
    """[(cut, utterance, words, seconds)] of all segments, by each cut in turn."""
    rows = []
    for utt, _, samples, text, words in joined(data_dir, ctm, NO_ALIGNMENT, dropped):
        try:
            units = timed_words(text, words, samples, options.tolerance, options.silence_words)
        except Dropped as why:
            dropped[utt] = why
            continue
        for cut in CUTS:
            for s in replace(options, cut=cut).segments(units):
                rows.append((cut, utt, len(s.words), (s.end - s.start) / SAMPLE_RATE))
    return sorted(rows, key=lambda row: CUTS.index(row[0]))


def draw_lengths(rows, path):
    """Histograms of words and of seconds, shares of all segments of a cut, as PNG, in one step."""
    import numpy as np
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    for panel, at, name in zip(figure.subplots(1, 2), (2, 3), ("words", "seconds")):
        values = [np.array([row[at] for row in rows if row[0] == cut]) for cut in CUTS]
        # Few segments are very long: the axis ends where 99 % of them do.
        top = max(np.percentile(v, 99) for v in values)
        edges = np.arange(0.5, top + 1.5) if name == "words" else np.linspace(0, top, 31)
        weights = [np.full(len(v), 100 / len(v)) for v in values]
        labels = [f"{cut.replace('_', ' + ')} (mean {v.mean():.2f})" for cut, v in zip(CUTS, values)]
        panel.hist([np.minimum(v, edges[-1] - 1e-9) for v in values], bins=edges, weights=weights, label=labels)
        panel.set_xlabel(f"{name} in a segment")
        panel.set_ylabel("% of segments")
        panel.legend(loc="lower left", bbox_to_anchor=(0, 1), frameon=False, fontsize="small")
    with writing(path, binary=True) as f:
        figure.savefig(f, format="png", dpi=150)


def write_segment_lengths(data_dir, word_times, options, out):
    """Write OUT.tsv, a line a segment, and OUT.png; options: an `Interleaving`. Raises UserError if there are none."""
    dropped = {}
    rows = segment_lengths(data_dir, word_times, options, dropped)
    if not rows:
        raise UserError(f"{out}.tsv: no utterance can be used, e.g. {next(iter(dropped.items()))}")
    lines = ["cut\tutterance\twords\tseconds\n"]
    lines += [f"{cut}\t{utt}\t{words}\t{seconds:.3f}\n" for cut, utt, words, seconds in rows]
    write_text(f"{out}.tsv", "".join(lines))
    draw_lengths(rows, f"{out}.png")
    for cut in CUTS:
        own = [row for row in rows if row[0] == cut]
        n, words, seconds = len(own), sum(r[2] for r in own), sum(r[3] for r in own)
        print(f"{out}.tsv: {cut}: {n} segments of {words / n:.2f} words, {seconds / n:.2f} s")
    if dropped:
        print(f"{len(dropped)} utterances cannot be used; llmvq sequences make lists the reasons")
