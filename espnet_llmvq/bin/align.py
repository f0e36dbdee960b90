"""Word times of transcribed speech by CTC forced alignment with the trained encoder (stage 8).

Writes OUT, a CTM file, and OUT.failed, `<utt> <reason>` for each utterance that could not be aligned.
"""

import os

from espnet_llmvq.bin.cli import Parser, run


def get_parser():
    parser = Parser(description=__doc__)
    parser.add_argument("--encoder", required=True, help="experiment directory of the encoder")
    parser.add_argument("--sequences", required=True, help="sequences (JSON lines) with transcripts")
    parser.add_argument("--out", required=True, metavar="CTM", help="word times to write")
    parser.add_argument("--reference", metavar="CTM", help="true word times, to measure the error against")
    parser.add_argument("--batch_seconds", type=float, default=120.0, help="audio in a batch, padding included")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--ngpu", type=int, default=0, help="1 to encode on a GPU")
    return parser


def transcripts(path, tokenizer, failed):
    """{utterance: (words, token ids, word of each token, seconds)}; adds {utterance: reason} to `failed`."""
    from espnet_llmvq.align.ctc import word_tokens
    from espnet_llmvq.sequence import SAMPLE_RATE, read_sequences

    found = {}
    for seq in read_sequences(path):
        words, ids, owners = [], [], []
        seconds = sum(s.samples for s in seq.spans if s.is_speech) / SAMPLE_RATE
        try:
            for span in (s for s in seq.spans if s.loss):
                more = word_tokens(tokenizer, span.text)
                owners += [len(words) + i for i in more[2]]
                words += more[0]
                ids += more[1]
        except ValueError as err:
            failed[seq.id] = str(err)
            continue
        found[seq.id] = words, ids, owners, seconds
    return found


def main(argv=None):
    args = get_parser().parse_args(argv)
    from espnet_llmvq.align.ctm import boundary_errors, read_ctm, write_ctm
    from espnet_llmvq.data.datadir import write_atomic
    from espnet_llmvq.errors import UserError

    reference = read_ctm(args.reference) if args.reference else None
    import numpy as np
    import torch
    from tqdm import tqdm

    from espnet_llmvq.align.ctc import align_words
    from espnet_llmvq.decode.batches import Batches
    from espnet_llmvq.llm.directory import load_tokenizer
    from espnet_llmvq.tasks.speech_llm import load_model

    torch.set_num_threads(args.threads)
    device = "cuda" if args.ngpu else "cpu"
    model, model_args = load_model(args.encoder, device)
    if model.ctc is None:
        raise UserError(f"{args.encoder}: the encoder has no CTC head (ctc: false); train one that has")
    step = model.speech_encoder.frame_seconds()
    tokenizer = load_tokenizer(model_args.llm)
    aligned, failed = {}, {}
    wanted = transcripts(args.sequences, tokenizer, failed)
    batches = Batches(args.sequences, args.batch_seconds, tokenizer)
    with torch.inference_mode():
        for ids, batch in tqdm(batches, desc=f"align {args.sequences}", unit="batch", mininterval=1):
            frames, lengths = model.encode(
                batch["speech"].to(device), batch["speech_lengths"].to(device)
            )
            log_probs = model.ctc(frames).float().log_softmax(-1).cpu()
            for utt, x, n in zip(ids, log_probs, lengths.tolist()):
                if utt not in wanted:
                    continue
                words, tokens, owners, seconds = wanted[utt]
                try:
                    aligned[utt] = align_words(
                        x[:n], words, tokens, owners, model.ctc.blank, step, seconds
                    )
                except ValueError as err:
                    failed[utt] = str(err)
    os.makedirs(os.path.dirname(args.out) or ".", exist_ok=True)
    write_atomic(f"{args.out}.failed", "".join(f"{u} {failed[u]}\n" for u in sorted(failed)))
    if not aligned:
        raise UserError(f"{args.sequences}: no utterance could be aligned; {args.out}.failed has the reasons")
    write_ctm(args.out, aligned)
    more = f" (reasons in {args.out}.failed)" if failed else ""
    print(f"{args.out}: {len(aligned)} utterances aligned, {len(failed)} failed{more}")
    if reference is None:
        return
    starts, ends, n = boundary_errors(reference, aligned)
    if not n:
        raise UserError(f"{args.reference} has no utterance with the words of {args.sequences}")
    for name, errors in (("start", starts), ("end", ends)):
        median, high = np.percentile(errors, [50, 90])
        print(
            f"word {name}s: error median {median:.0f} ms, 90th percentile {high:.0f} ms "
            f"({len(errors)} words of {n} utterances)"
        )


if __name__ == "__main__":
    run(main)
