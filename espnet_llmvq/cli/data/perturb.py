"""Make an out-of-domain version of a test set: other tempo, a room, noise, in this order.

What was drawn for each utterance is written to DEST/perturbation.tsv, the audio to DEST/audio as 16-bit WAV. Each
utterance draws from its own random generator, so --nj changes nothing.
"""

from espnet_llmvq.cli.parser import Parser, add_nj


def main(argv=None):
    parser = Parser(description=__doc__)
    parser.add_argument("src", metavar="SRC", help="data directory")
    parser.add_argument("dest", metavar="DEST", help="data directory to write")
    parser.add_argument("--noise", default="", help='kinds to draw from, e.g. "pink babble"; also white')
    parser.add_argument("--snr", type=float, nargs=2, default=[5.0, 15.0], metavar=("LOW", "HIGH"), help="dB")
    parser.add_argument("--rt60", type=float, nargs=2, metavar=("LOW", "HIGH"), help="seconds")
    parser.add_argument("--tempo", type=float, nargs=2, metavar=("SLOW", "FAST"), help="each utterance gets one")
    parser.add_argument("--suffix", default="", help="put behind utterance ids, as --suffix=-noise")
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    add_nj(parser)
    args = parser.parse_args(argv)
    from espnet_llmvq.data.copies import perturb_data

    perturb_data(
        args.src, args.dest, noise=args.noise.replace(",", " ").split(), snr=args.snr, rt60=args.rt60,
        tempo=args.tempo, suffix=args.suffix, seed=args.seed, nj=args.nj,
    )  # fmt: skip
