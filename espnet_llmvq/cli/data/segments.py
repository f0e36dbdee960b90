"""Cut the segments of a data directory into a file each, as Kaldi's extract_wav_segments_data_dir.sh does.

DEST has no `segments`. Audio keeps its sampling rate and becomes mono; llmvq data format cuts too, and resamples.
"""

import os

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.cli.parser import Parser, add_nj


def main(argv=None):
    parser = Parser(description=__doc__)
    add_nj(parser)
    parser.add_argument("--audio_format", choices=("wav", "flac"), default="wav", help="of the files")
    parser.add_argument("source", metavar="SRC", help="data directory with segments")
    parser.add_argument("dest", metavar="DEST", help="directory to write")
    args = parser.parse_args(argv)
    from espnet_llmvq.data.format import format_audio

    if os.path.isdir(args.source) and not os.path.exists(os.path.join(args.source, "segments")):
        raise UserError(f"{args.source}: has no segments to cut (llmvq data copy copies it)")
    format_audio(args.source, args.dest, rate=None, nj=args.nj, audio_format=args.audio_format)
