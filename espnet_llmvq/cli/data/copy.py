"""Copy a data directory, with other utterance and speaker ids where asked, as Kaldi's copy_data_dir.sh does.

With new utterance ids, utt2uniq leads back to the old ones. A value that begins with a hyphen is joined by "=".
"""

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.cli.parser import Parser


def main(argv=None):
    parser = Parser(description=__doc__)
    for option, what in (("utt", "utterance"), ("spk", "speaker")):
        parser.add_argument(f"--{option}_prefix", default="", help=f"put before {what} ids")
        parser.add_argument(f"--{option}_suffix", default="", help=f"put behind {what} ids")
    parser.add_argument("source", metavar="SRC", help="data directory")
    parser.add_argument("dest", metavar="DEST", help="directory to write")
    args = parser.parse_args(argv)
    from espnet_llmvq.data.checks import show_problems, validate
    from espnet_llmvq.data.copy import copy_data

    for name in ("utt_prefix", "utt_suffix", "spk_prefix", "spk_suffix"):
        if any(map(str.isspace, getattr(args, name))):
            raise UserError(f"--{name} {getattr(args, name)!r}: an id has no blanks")
    utt, spk = ((getattr(args, f"{of}_prefix"), getattr(args, f"{of}_suffix")) for of in ("utt", "spk"))
    copy_data(args.source, args.dest, utt, spk)
    return show_problems(args.dest, validate(args.dest, audio=False, allow_empty_text=True))
