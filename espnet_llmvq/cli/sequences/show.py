"""Print sequences as a person reads them: words, times, special tokens, and what is trained on (`loss`)."""

from espnet_llmvq.cli.parser import Parser


def get_parser():
    parser = Parser(description=__doc__)
    parser.add_argument("file", metavar="SEQUENCES", help="sequences (JSON lines)")
    parser.add_argument("--ids", nargs="+", help="show these, in this order")
    parser.add_argument("--limit", type=int, default=10, help="without --ids: how many, from the beginning; 0: all")
    return parser


def lines(seq):
    """The lines that show one `Sequence`."""
    from espnet_llmvq.data.audio import SAMPLE_RATE

    yield seq.id
    for span in seq.spans:
        loss = "loss" if span.loss else "    "
        if span.is_speech:
            start = (span.start or 0) / SAMPLE_RATE
            said = f' "{span.said}"' if span.said is not None else " whole file"
            yield f"  {loss}  speech {start:7.3f} to {start + span.samples / SAMPLE_RATE:7.3f} s{said}  {span.audio}"
            continue
        if span.is_heard:
            tops = " ".join(max(step, key=step.get) for step in span.heard)
            yield f"  {loss}  heard  {tops}" + (f'  of "{span.said}"' if span.said else "")
        if span.text:
            yield f"  {loss}  token  {span.text}" if span.special else f'  {loss}  text   "{span.text}"'
        if span.eos:
            yield f"  {loss}  end token"


def main(argv=None):
    args = get_parser().parse_args(argv)
    import itertools

    from espnet_llmvq.base.errors import UserError, nearest
    from espnet_llmvq.sequence.sequence import Sequence, SequenceReader, read_sequences

    if args.limit < 0:
        raise UserError(f"--limit {args.limit} must be 0 or more")
    if args.ids:
        reader = SequenceReader(args.file)
        for key in args.ids:
            if key not in reader:
                raise UserError(f"{args.file}: no sequence {key!r}{nearest(key, reader)}")
        chosen = (Sequence.from_json(reader[key]) for key in args.ids)
    else:
        chosen = itertools.islice(read_sequences(args.file), args.limit or None)
    for seq in chosen:
        print("\n".join(lines(seq)))
