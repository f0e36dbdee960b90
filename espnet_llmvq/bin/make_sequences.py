"""Build sequences from a formatted data directory (stages 7 and 9)."""

import os

from espnet_llmvq.bin.cli import Parser, run


def get_parser():
    parser = Parser(description=__doc__)
    parser.add_argument("--data_dir", required=True, help="formatted data directory (16 kHz)")
    parser.add_argument("--out", required=True, help="sequences to write (JSON lines)")
    parser.add_argument("--prompt", required=True, help='template, e.g. "USER: {speech} ASSISTANT: {text}"')
    return parser


def main(argv=None):
    args = get_parser().parse_args(argv)
    from espnet_llmvq.data.datadir import DataDir
    from espnet_llmvq.interleave.asr import asr_sequence
    from espnet_llmvq.sequence import write_sequences

    data = DataDir.load(args.data_dir)
    samples = data.extra["utt2num_samples"]
    n = write_sequences(
        args.out,
        (
            asr_sequence(utt, os.path.abspath(data.wav_scp[utt]), int(samples[utt][0]), text, args.prompt)
            for utt, text in sorted(data.text.items())
        ),
    )
    print(f"{args.out}: {n} sequences from {args.data_dir}")


if __name__ == "__main__":
    run(main)
