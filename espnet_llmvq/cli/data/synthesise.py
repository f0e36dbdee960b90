"""Speak a text file with espeak-ng, or any other engine, into a data directory."""

from espnet_llmvq.cli.parser import Parser, add_nj


def main(argv=None):
    parser = Parser(description=__doc__)
    parser.add_argument("--text", required=True, help="Kaldi text: <utt> <words...>")
    parser.add_argument("--out", required=True, help="data directory to write")
    parser.add_argument("--voices", default="en-us", help="voices, dealt evenly over the utterances")
    parser.add_argument("--seed", type=int, default=0, help="of voice, rate and pitch")
    add_nj(parser)
    parser.add_argument("--command", help="another engine, such as 'tool {text} {wav}'; also {voice}, {rate}, {pitch}")
    args = parser.parse_args(argv)

    from espnet_llmvq.data.synthesise import synthesise
    from espnet_llmvq.data.tables import read_scp

    utterances = list(read_scp(args.text).items())
    synthesise(utterances, args.out, voices=args.voices.split(), seed=args.seed, nj=args.nj, command=args.command)
