"""Word times of sets of sequences, by the CTC head of a trained encoder or by an HMM aligner."""

import os
from collections import Counter

from espnet_llmvq.align.ctc import word_owners
from espnet_llmvq.align.ctm import read_ctm
from espnet_llmvq.align.output import alignment_files, write_alignment
from espnet_llmvq.base.environment import versions
from espnet_llmvq.base.errors import UserError
from espnet_llmvq.base.files import check_outputs
from espnet_llmvq.base.made import Made
from espnet_llmvq.data.audio import SAMPLE_RATE, read_audio
from espnet_llmvq.decode.batches import Batches
from espnet_llmvq.llm.spans import at_start, text_offsets
from espnet_llmvq.sequence.sequence import Span, read_sequences


def utterances(path):
    """{utterance: (audio path, seconds, [(text with loss, whether it comes first)])} of sequences, each of one whole
    sound file.
    """
    found = {}
    for seq in read_sequences(path):
        speech = [s for s in seq.spans if s.is_speech]
        if len(speech) != 1 or speech[0].is_piece:
            raise UserError(f"{path}: {seq.id}: one whole sound file is needed here; align the ASR sequences")
        texts = [(s.text, first) for s, first in zip(seq.spans, at_start(seq.spans)) if s.loss]
        found[seq.id] = speech[0].audio, speech[0].samples / SAMPLE_RATE, texts
    return found


def word_tokens(tokenizer, text, first=True):
    """(words, token ids, word index of each token) of a text, tokenized as training does it; first: as `encode_text`.

    Raises ValueError as `word_owners`, UserError as `encode_text`.
    """
    ids, offsets = text_offsets(tokenizer, Span(text=text, loss=True), first)
    words, owners = word_owners(tokenizer, text, ids, offsets)
    return words, ids, owners


def unknown_characters(tokenizer, text):
    """What of a text a tokenizer cannot write, as a string; with the case that it could."""
    pairs = zip(*text_offsets(tokenizer, Span(text=text, loss=True), True))
    pieces = [text[start:end].strip(" ") for token, (start, end) in pairs if token == tokenizer.unk_token_id]
    unknown = "".join(dict.fromkeys("".join(pieces)))
    for case in (str.lower, str.upper):
        if tokenizer.unk_token_id not in tokenizer.encode(case(text), add_special_tokens=False):
            return f"{unknown!r}; it knows the text in {case.__name__} case"
    return repr(unknown)


def transcripts(wanted, tokenizer, failed, counts):
    """{utterance: (words, token ids, word of each token)}; adds {utterance: reason} to `failed`.

    counts: gets the numbers of `tokens`, of those that are `unknown`, and of those that the texts would have in `other`
    case, where all of their letters are of one.
    """
    found, unk = {}, tokenizer.unk_token_id
    for utt, (_, _, texts) in wanted.items():
        words, ids, owners = [], [], []
        try:
            for text, first in texts:
                more = word_tokens(tokenizer, text, first)
                owners += [len(words) + i for i in more[2]]
                words += more[0]
                ids += more[1]
        except (ValueError, UserError) as err:
            failed[utt] = str(err)
            continue
        text = "".join(text for text, _ in texts)
        other = text.lower() if text.isupper() else text.upper() if text.islower() else text
        counts["tokens"] += len(ids)
        counts["unknown"] += ids.count(unk)
        counts["other"] += len(tokenizer.encode(other, add_special_tokens=False))
        if unk in ids:
            failed[utt] = f"characters unknown to the tokenizer: {unknown_characters(tokenizer, text)}"
            continue
        found[utt] = words, ids, owners
    return found


def align_ctc(model, tokenizer, path, wanted, failed, counts, batch_seconds, device):
    """{utterance: [Word]} by the CTC head of a model, for the sequences of `path`. failed, counts: of `transcripts`."""
    import torch
    from tqdm import tqdm

    from espnet_llmvq.align.ctc import align_words

    step = model.speech_encoder.rate.seconds
    tokens, aligned = transcripts(wanted, tokenizer, failed, counts), {}
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
            aligned[utt] = aligner.align("".join(text for text, _ in texts).split(), load(utt))
        except ValueError as err:
            failed[utt] = str(err)
    return aligned


def align_sets(sets, *, encoder=None, aligner="ctc", boundaries="letters", batch_seconds=120.0, threads=2, ngpu=0):
    """Write the word times of each of `sets`, [(sequences, CTM to write, true CTM or None)], that is not up to date.

    encoder: experiment directory (ctc). aligner: ctc or hmm. boundaries: letters or ctc. batch_seconds: audio in a
    batch, padding included. The encoder is loaded once, and only if a set needs it. Raises UserError for sequences of
    other than one whole sound file, and where nothing can be aligned.
    """
    todo = []
    for sequences, ctm, reference in sets:
        inputs = {"sequences": sequences, "true word times": reference} if reference else {"sequences": sequences}
        options = {"aligner": aligner, "tools": versions("pocketsphinx")}
        if aligner == "ctc":
            inputs["encoder"] = os.path.join(encoder, "model.pth")
            options = {"aligner": aligner, "boundaries": boundaries}
        made = Made(ctm, inputs, **options)
        if made.fresh():
            print(f"{ctm} is up to date, nothing to do")
        else:
            check_outputs(alignment_files(ctm), [sequences, reference])
            todo.append((made, sequences, ctm, utterances(sequences), read_ctm(reference) if reference else None))
    if not todo:
        return
    import torch

    from espnet_llmvq.align.refine import refine

    device = "cuda" if ngpu else "cpu"
    if aligner == "ctc":
        from espnet_llmvq.llm.directory import load_tokenizer
        from espnet_llmvq.model.build import load_model

        model, config = load_model(encoder, device)
        if model.ctc is None:
            raise UserError(f"{encoder}: the encoder has no CTC head (ctc: false); train one that has")
        tokenizer = load_tokenizer(config["llm"])
    for made, sequences, ctm, wanted, reference in todo:
        failed, counts = {}, Counter()

        def load(utt, wanted=wanted):
            return read_audio(wanted[utt][0])

        if aligner == "hmm":
            aligned = align_hmm(wanted, load, failed)
        else:
            torch.set_num_threads(threads)
            aligned = align_ctc(model, tokenizer, sequences, wanted, failed, counts, batch_seconds, device)
            if boundaries == "letters":
                torch.set_num_threads(1)  # an utterance alone is too little for more: they would wait for each other
                aligned, more = refine(aligned, load)
                failed.update(more)
        write_alignment(ctm, aligned, failed, {utt: wanted[utt][1] for utt in aligned}, reference, counts)
        made.note()
