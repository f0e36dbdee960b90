"""Word times of transcribed speech (stage 8), by CTC with the trained encoder or by an HMM aligner.

Writes, for each set, CTM, its word times; CTM.failed, `<utt> <reason>` for each utterance that could not be aligned;
and the quality of the alignment, CTM.report.tsv and CTM.report.png. `llmvq align import` takes word times from
elsewhere.
"""

from espnet_llmvq.cli.parser import Parser


def get_parser():
    parser = Parser(description=__doc__)
    parser.add_argument("--encoder", help="experiment directory of the encoder (ctc)")
    parser.add_argument(
        "--set", dest="sets", action="append", required=True, metavar="SEQUENCES=CTM[=REFERENCE]",
        help="sequences (JSON lines) with transcripts, word times to write, and true word times (CTM) to measure the "
        "error against; repeated",
    )  # fmt: skip
    parser.add_argument(
        "--aligner", default="ctc", choices=("ctc", "hmm"),
        help="hmm: pocketsphinx with its English model, for the words of its dictionary",
    )  # fmt: skip
    parser.add_argument(
        "--boundaries", default="letters", choices=("letters", "ctc"),
        help="letters: place them by letter models fitted to this speech; ctc: where the CTC path has them (ctc)",
    )  # fmt: skip
    parser.add_argument("--batch_seconds", type=float, default=120.0, help="audio in a batch, padding included (ctc)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--ngpu", type=int, default=0, help="1 to encode on a GPU (ctc)")
    return parser


<<<<<<< HEAD
def utterances(path):
    """{utterance: (audio path, seconds, [text with loss])} of sequences, each of one whole sound file."""
    from espnet_llmvq.base.errors import UserError
    from espnet_llmvq.data.audio import SAMPLE_RATE
    from espnet_llmvq.sequence.sequence import read_sequences

    found = {}
    for seq in read_sequences(path):
        speech = [s for s in seq.spans if s.is_speech]
        if len(speech) != 1 or speech[0].is_piece:
            raise UserError(f"{path}: {seq.id}: one whole sound file is needed here; align the ASR sequences")
        texts = [s.text for s in seq.spans if s.loss]
        found[seq.id] = speech[0].audio, speech[0].samples / SAMPLE_RATE, texts
    return found


def transcripts(wanted, tokenizer, failed):
    """{utterance: (words, token ids, word of each token)}; adds {utterance: reason} to `failed`."""
    from espnet_llmvq.align.ctc import word_tokens

    found = {}
    for utt, (_, _, texts) in wanted.items():
        words, ids, owners = [], [], []
        try:
            for text in texts:
                more = word_tokens(tokenizer, text)
                owners += [len(words) + i for i in more[2]]
                words += more[0]
                ids += more[1]
        except ValueError as err:
            failed[utt] = str(err)
            continue
        found[utt] = words, ids, owners
    return found


def load_encoder(directory, device):
    """(model, tokenizer) of an encoder with a CTC head."""
    from espnet_llmvq.base.errors import UserError
    from espnet_llmvq.llm.directory import load_tokenizer
    from espnet_llmvq.model.build import load_model

    model, config = load_model(directory, device)
    if model.ctc is None:
        raise UserError(f"{directory}: the encoder has no CTC head (ctc: false); train one that has")
    return model, load_tokenizer(config["llm"])


def align_ctc(model, tokenizer, path, wanted, failed, batch_seconds, device):
    """{utterance: [Word]} by the CTC head of a model, for the sequences of `path`."""
    import torch
    from tqdm import tqdm

    from espnet_llmvq.align.ctc import align_words
    from espnet_llmvq.decode.batches import Batches

    step = model.speech_encoder.rate.seconds
    tokens, aligned = transcripts(wanted, tokenizer, failed), {}
    batches = Batches(path, batch_seconds, tokenizer)
    with torch.inference_mode():
        for utts, batch in tqdm(batches, desc=f"align {path}", unit="batch", mininterval=1):
            frames, lengths = model.encode(batch["speech"].to(device), batch["speech_lengths"].to(device))
            log_probs = model.ctc(frames).float().log_softmax(-1).cpu()
            for utt, x, n in zip(utts, log_probs, lengths.tolist()):
                if utt not in tokens:
                    continue
                try:
                    aligned[utt] = align_words(x[:n], *tokens[utt], model.ctc.blank, step, wanted[utt][1])
                except ValueError as err:
                    failed[utt] = str(err)
    return aligned


def align_hmm(wanted, load, failed):
    """{utterance: [Word]} by pocketsphinx."""
    from tqdm import tqdm

    from espnet_llmvq.align.hmm import HmmAligner

    aligner, aligned = HmmAligner(), {}
    for utt, (_, _, texts) in tqdm(wanted.items(), desc="align", unit="utt", mininterval=1):
        try:
            aligned[utt] = aligner.align("".join(texts).split(), load(utt))
        except ValueError as err:
            failed[utt] = str(err)
    return aligned


=======
>>>>>>> data
def main(argv=None):
    parser = get_parser()
    args = parser.parse_args(argv)
    if args.aligner == "ctc" and not args.encoder:
        parser.error("--aligner ctc needs --encoder")
    from espnet_llmvq.base.errors import UserError
    from espnet_llmvq.decode.align import align_sets

    sets = []
    for item in args.sets:
        sequences, _, rest = item.partition("=")
        ctm, _, reference = rest.partition("=")
        if not sequences or not ctm:
            raise UserError(f"--set {item}: expected SEQUENCES=CTM[=REFERENCE]")
        sets.append((sequences, ctm, reference or None))
    options = {name: getattr(args, name) for name in ("aligner", "boundaries", "batch_seconds", "threads", "ngpu")}
    align_sets(sets, encoder=args.encoder, **options)
