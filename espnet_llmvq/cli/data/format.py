"""Write a data directory whose audio is mono at one rate, one file per utterance.

Files that are so already and that no segment cuts are referenced where they are; the others are converted into
DEST/audio, and so are Ogg and MP3, which every epoch would decode again. DEST appears when it is complete. Unchanged
input is not done again.
"""

from espnet_llmvq.cli.parser import Parser, add_nj, positive


def main(argv=None):
    parser = Parser(description=__doc__)
    parser.add_argument("--rate", type=positive, default=16000, help="sampling rate in Hz")
    add_nj(parser)
    parser.add_argument("--audio_format", choices=("wav", "flac"), default="wav", help="of converted files")
    parser.add_argument("source", metavar="SRC", help="data directory")
    parser.add_argument("dest", metavar="DEST", help="directory to write")
    args = parser.parse_args(argv)
    from espnet_llmvq.data.format import format_audio

    format_audio(args.source, args.dest, rate=args.rate, nj=args.nj, audio_format=args.audio_format)
