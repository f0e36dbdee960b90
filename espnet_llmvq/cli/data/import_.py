"""Write a Kaldi data directory from data in another form, and hold out parts of it.

DATA is a Kaldi data directory; a CSV, TSV or JSON-lines manifest with the columns audio and text, and id, speaker,
entities, offset and duration or start and end if there are any (audio paths are relative to the manifest); one of NeMo
or FunASR; an audio folder of Hugging Face; an LJSpeech folder; a Common Voice list; or a
Lhotse manifest. See docs/fork.md.
"""

import os

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.cli.parser import Parser, add_repeated_audio, add_strip_tags


def main(argv=None):
    parser = Parser(description=__doc__)
    parser.add_argument("data", metavar="DATA", help="file or directory to read")
    parser.add_argument("dest", metavar="OUT", help="data directory to write")
    parser.add_argument(
        "--held_out", nargs="+", default=[], metavar="DIR",
        help="also write these, each with a tenth of the utterances, whole speakers if none has more",
    )  # fmt: skip
    add_repeated_audio(parser)
    add_strip_tags(parser)
    args = parser.parse_args(argv)
    from espnet_llmvq.data import importer
    from espnet_llmvq.data.shared import check_repeated

    places = [os.path.realpath(path) for path in (args.data, args.dest, *args.held_out)]
    for path, place in zip((args.dest, *args.held_out), places[1:], strict=True):
        if places.count(place) > 1:
            raise UserError(f"{path}: is given twice, and would be overwritten (give another OUT)")
    form, data = importer.read(args.data, args.strip_tags)
    if not args.repeated_audio:
        check_repeated(data, args.data)
    parts = importer.hold_out(data, len(args.held_out)) if args.held_out else [data]
    for path, part in zip([args.dest, *args.held_out], parts, strict=True):
        changed = "" if part.write(path) else " (unchanged)"
        print(f"{path}: {len(part.text)} utterances, {len(part.spk2utt)} speakers, from {form} {args.data}{changed}")
    return 0
