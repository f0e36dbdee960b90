"""Speak a text file with espeak-ng, or any other engine, into a data directory."""

from espnet_llmvq.cli.parser import Parser


def main(argv=None):
    parser = Parser(description=__doc__)
    parser.add_argument("--text", required=True, help="Kaldi text: <utt> <words...>")
    parser.add_argument("--out", required=True, help="data directory to write")
    parser.add_argument("--voices", default="en-us", help="voices, dealt evenly over the utterances")
    parser.add_argument("--seed", type=int, default=0, help="of voice, rate and pitch")
    parser.add_argument("--nj", type=int, default=2, help="processes")
    parser.add_argument("--command", help="another engine, such as 'tool {text} {wav}'; also {voice}, {rate}, {pitch}")
    args = parser.parse_args(argv)

    from espnet_llmvq.data.espeak import synthesise
    from espnet_llmvq.data.tables import read_scp

    utterances = list(read_scp(args.text).items())
    jobs = synthesise(utterances, args.voices.split(), args.out, args.seed, args.nj, args.command)
    print(f"{args.out}: {len(jobs)} utterances, {len({j['spk'] for j in jobs})} speakers")
