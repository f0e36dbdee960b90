"""Cut the segments of a data directory into a file each, as Kaldi's extract_wav_segments_data_dir.sh does.

DEST has no `segments`. Audio keeps its sampling rate and becomes mono; format_audio cuts too, and resamples.
"""

import os

from espnet_llmvq.bin.cli import Parser, run
from espnet_llmvq.errors import UserError


def main(argv=None):
    parser = Parser(description=__doc__)
    parser.add_argument("--nj", type=int, default=2, help="processes")
    parser.add_argument("--audio_format", choices=("wav", "flac"), default="wav", help="of the files")
    parser.add_argument("source", metavar="SRC", help="data directory with segments")
    parser.add_argument("dest", metavar="DEST", help="directory to write")
    args = parser.parse_args(argv)
    from espnet_llmvq.bin.format_audio import format_audio

    if os.path.isdir(args.source) and not os.path.exists(os.path.join(args.source, "segments")):
        raise UserError(f"{args.source}: has no segments to cut (copy_data_dir copies it)")
    count = format_audio(args.source, args.dest, None, max(1, args.nj), args.audio_format)
    print(f"{args.dest}: " + ("up to date" if count is None else f"{count} utterances"))
    return 0


if __name__ == "__main__":
    run(main)
