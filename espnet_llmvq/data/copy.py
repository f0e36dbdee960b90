"""Data directories with other ids."""

from espnet_llmvq.data.datadir import DataDir
from espnet_llmvq.data.made import check_apart
from espnet_llmvq.data.tables import level


def rename(data, new_utt, new_spk):
    """A DataDir with ids {old: new} of utterances and of speakers; recordings of segments keep theirs."""
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


def copy_data(source, dest, utt=("", ""), spk=("", "")):
    """Copy a data directory; utt, spk: what is put before and behind the ids of utterances and of speakers."""
    check_apart(dest, source)
    data = DataDir.load(source)
    new_utt = {old: old.join(utt) for old in data.text}
    new_spk = {old: old.join(spk) for old in data.utt2spk.values()}
    rename(data, new_utt, new_spk).write(dest)
    print(f"{dest}: {len(data.text)} utterances")
