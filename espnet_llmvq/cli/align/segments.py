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


def main(argv=None):
    args = get_parser().parse_args(argv)
    from espnet_llmvq.align.ctm import read_ctm
<<<<<<< HEAD
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
=======
    from espnet_llmvq.sequence.interleaved import Interleaving
    from espnet_llmvq.sequence.word_times import write_segment_lengths

    write_segment_lengths(args.data_dir, read_ctm(args.ctm), Interleaving.read(args.config), args.out)
>>>>>>> data
