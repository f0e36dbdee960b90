"""How long segments are, cut at silence against silence and punctuation: a table and a figure ([2607.01733], fig. 2).

Writes OUT.tsv, a line a segment, and OUT.png, histograms of words and seconds.
"""

from espnet_llmvq.cli.parser import Parser


def get_parser():
    parser = Parser(description=__doc__)
    parser.add_argument("--data_dir", required=True, help="formatted data directory (16 kHz)")
    parser.add_argument("--ctm", required=True, help="word times of it")
    parser.add_argument("--cards", default="conf/systems.yaml", help="file of --form")
    parser.add_argument("--form", required=True, help="an entry of its section interleave; `cut` is without effect")
    parser.add_argument("--out", required=True, help="path of the two files, without suffix")
    return parser


def measure(data_dir, ctm, options, dropped):
    """[(cut, utterance, words, seconds)] of all segments, by each cut in turn."""
    from dataclasses import replace

    from espnet_llmvq.data.audio import SAMPLE_RATE
    from espnet_llmvq.sequence.corpus import NO_ALIGNMENT, joined
    from espnet_llmvq.sequence.interleaved import CUTS
    from espnet_llmvq.sequence.units import Dropped, timed_words

    rows = {cut: [] for cut in CUTS}
    for utt, _, samples, text, words in joined(data_dir, ctm, NO_ALIGNMENT, dropped):
        try:
            units = timed_words(text, words, samples, options.tolerance, options.silence_words)
        except Dropped as why:
            dropped[utt] = why
            continue
        for cut in CUTS:
            for s in replace(options, cut=cut).segments(units):
                rows[cut].append((cut, utt, len(s.words), (s.end - s.start) / SAMPLE_RATE))
    return [row for cut in CUTS for row in rows[cut]]


def draw(rows, path):
    """Histograms of words and of seconds, shares of all segments of a cut, as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np

    from espnet_llmvq.sequence.interleaved import CUTS

    figure, panels = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    for panel, at, name in zip(panels, (2, 3), ("words", "seconds")):
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
    figure.savefig(path, format="png", dpi=150)
    plt.close(figure)


def main(argv=None):
    args = get_parser().parse_args(argv)
    import os

    from espnet_llmvq.align.ctm import read_ctm
    from espnet_llmvq.base.errors import UserError
    from espnet_llmvq.base.files import write_text
    from espnet_llmvq.experiment.cards import read_cards
    from espnet_llmvq.experiment.systems import read_interleaving
    from espnet_llmvq.sequence.interleaved import CUTS

    options = read_interleaving(read_cards(args.cards), args.form)
    dropped = {}
    rows = measure(args.data_dir, read_ctm(args.ctm), options, dropped)
    if not rows:
        raise UserError(f"{args.ctm}: no utterance can be used, e.g. {next(iter(dropped.items()))}")
    lines = ["cut\tutterance\twords\tseconds\n"]
    lines += [f"{cut}\t{utt}\t{words}\t{seconds:.3f}\n" for cut, utt, words, seconds in rows]
    write_text(f"{args.out}.tsv", "".join(lines))
    draw(rows, f"{args.out}.png.tmp")
    os.replace(f"{args.out}.png.tmp", f"{args.out}.png")
    for cut in CUTS:
        own = [row for row in rows if row[0] == cut]
        n, words, seconds = len(own), sum(r[2] for r in own), sum(r[3] for r in own)
        print(f"{args.out}.tsv: {cut}: {n} segments of {words / n:.2f} words, {seconds / n:.2f} s")
    if dropped:
        print(f"{len(dropped)} utterances cannot be used; llmvq sequences make lists the reasons")
