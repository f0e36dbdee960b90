"""Write a made-up data directory of up to ten million utterances, to try how the toolkit does at that size.

DEST is as llmvq data format leaves one, with wav.scp, text, utt2spk, spk2utt and utt2num_samples, and has
sequences.jsonl with its index and sequences_shape, their LLM positions as by a tokenizer of four letters a token. Its
few sound files (DEST/audio) are shared by all utterances, so check it with --repeated_audio true. The same seed writes
the same; the first utterances do not depend on how many follow. DEST appears when it is complete. On disk, an
utterance takes some 0.4 kB, with word times 0.7.
"""

from espnet_llmvq.cli.parser import Parser, positive


def main(argv=None):
    parser = Parser(description=__doc__)
    parser.add_argument("--utterances", type=positive, required=True, metavar="N", help="1 to 10000000")
    parser.add_argument("--sound_files", type=positive, default=8, help="of one to three seconds, shared by all")
    parser.add_argument("--word_times", action="store_true", help="also write words.ctm")
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    parser.add_argument("dest", metavar="DEST", help="directory to write")
    args = parser.parse_args(argv)
    from espnet_llmvq.base.errors import UserError
    from espnet_llmvq.sequence.synth_manifest import synth_manifest

    if args.seed < 0:
        raise UserError(f"--seed {args.seed}: give 0 or more")
    synth_manifest(args.dest, args.utterances, sound_files=args.sound_files, seed=args.seed, word_times=args.word_times)
