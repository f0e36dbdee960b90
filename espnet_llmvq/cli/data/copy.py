"""Copy a data directory, with other utterance and speaker ids where asked, as Kaldi's copy_data_dir.sh does.

With new utterance ids, utt2uniq leads back to the old ones. A value that begins with a hyphen is joined by "=".
"""

import os
import shlex

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.cli.data import validate as validate_data_dir
from espnet_llmvq.cli.parser import Parser


def rename(data, new_utt, new_spk):
    """Return a DataDir with ids {old: new} of utterances and of speakers; recordings of segments keep theirs."""
    from espnet_llmvq.data.datadir import DataDir
    from espnet_llmvq.data.tables import level

    recs = {rec: rec for rec in data.wav_scp} if data.segments is not None else new_utt
    ids = {"utt": new_utt, "spk": new_spk, "rec": recs}
    extra = {name: {ids[level(name)][key]: lines for key, lines in table.items()} for name, table in data.extra.items()}
    if "utt2uniq" not in extra and any(old != new for old, new in new_utt.items()):
        extra["utt2uniq"] = {new: [old] for old, new in new_utt.items()}
    segments = data.segments
    if segments is not None:
        segments = {new_utt[utt]: value for utt, value in segments.items()}
    return DataDir(
        {recs[rec]: wav for rec, wav in data.wav_scp.items()},
        {new_utt[utt]: text for utt, text in data.text.items()},
        {new_utt[utt]: new_spk[spk] for utt, spk in data.utt2spk.items()},
        segments,
        extra,
    )


def main(argv=None):
    parser = Parser(description=__doc__)
    for option, what in (("utt", "utterance"), ("spk", "speaker")):
        parser.add_argument(f"--{option}_prefix", default="", help=f"put before {what} ids")
        parser.add_argument(f"--{option}_suffix", default="", help=f"put behind {what} ids")
    parser.add_argument(
        "--validate_opts",
        default="--audio false --allow_empty_text true",
        help="options of llmvq data validate, which checks the copy",
    )
    parser.add_argument("source", metavar="SRC", help="data directory")
    parser.add_argument("dest", metavar="DEST", help="directory to write")
    args = parser.parse_args(argv)
    from espnet_llmvq.data.datadir import DataDir

    for name in ("utt_prefix", "utt_suffix", "spk_prefix", "spk_suffix"):
        if any(map(str.isspace, getattr(args, name))):
            raise UserError(f"--{name} {getattr(args, name)!r}: an id has no blanks")
    if os.path.realpath(args.source) == os.path.realpath(args.dest):
        raise UserError(f"{args.dest}: is the source itself (give another DEST)")
    data = DataDir.load(args.source)
    new_utt = {utt: args.utt_prefix + utt + args.utt_suffix for utt in data.text}
    new_spk = {spk: args.spk_prefix + spk + args.spk_suffix for spk in data.utt2spk.values()}
    rename(data, new_utt, new_spk).write(args.dest)
    print(f"{args.dest}: {len(data.text)} utterances")
    return validate_data_dir.main([*shlex.split(args.validate_opts), args.dest])
