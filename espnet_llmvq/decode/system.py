"""Decoding of sets with one system: hypotheses, n-best lists, and the facts of it that tables print."""

import time
from dataclasses import dataclass

from espnet_llmvq.base.environment import facts
from espnet_llmvq.base.errors import UserError
from espnet_llmvq.base.made import Made


@dataclass(frozen=True)
class Work:
    """A set to decode: its name, its sequences, cached frames of it (scp) or None, the `Made` of its n-best lists, and
    the hypothesis file to write beside them."""

    name: str
    sequences: str
    frames: str
    made: Made
    hypotheses: str


def check_prompt(path, templates, trained, other_prompt):
    """Facts about the prompt of sequences.

    templates: {template: first utterance} of the sequences in `path`; trained: the model's, None if not recorded.
    Raises UserError if they differ and other_prompt is false.
    """
    known = {"prompt": " | ".join(sorted(templates))}
    for template, utt in templates.items():
        if trained is not None and template != trained:
            if not other_prompt:
                raise UserError(
                    f"{path}: {utt} has the prompt {template!r}, but the model was trained with {trained!r}; make the "
                    "sequences with that --prompt (stage 9), or give --other_prompt to decode with another one"
                )
            known["prompt of training"] = trained
    return known


def load_fusion_lm(path, tokenizer, device, trained=""):
    """(LLM, None) of a system with `decode: ctc_lm`; (LLM, its tokenizer) where tokens of the CTC head, of `tokenizer`,
    are only a part of its own, so that it scores words. Raises UserError if they are others.

    path: of the LLM. trained: directory of a phase, to take it as that left it.
    """
    from espnet_llmvq.llm.directory import load_llm, load_tokenizer

    own = load_tokenizer(path)
    whole, head = own.get_vocab(), tokenizer.get_vocab()
    if not head.keys() <= whole.keys():
        raise UserError(f"the LLM {path} has other tokens than the encoder's CTC head; train both with one tokenizer")
    llm = load_trained_llm(trained) if trained else load_llm(path)
    return llm.to(device).eval(), None if head == whole else own


def load_trained_llm(directory):
    """The LLM of a phase in float32, LoRA merged into it. Raises UserError for a phase without one."""
    from espnet_llmvq.llm.lora import merge_lora
    from espnet_llmvq.model.build import load_model

    model, _ = load_model(directory)
    if model.llm is None:
        raise UserError(f"{directory}: its phase runs no LLM, so ctc_lm has none to take; name another phase last")
    return merge_lora(model.llm.float())


def decode_system(system, work, search, source=None, other_prompt=False, ngpu=0, batching=None):
    """Decode sets with a `System`.

    work: [`Work`]. search: {option: value} of its search. source: directory of what a system decodes with that has not
    trained it, the LLM of `decode: ctc_lm` or the recogniser. batching: {"batch_seconds", "batch_size"}, audio in a
    batch with its padding, and most utterances.
    """
    import torch

    torch.set_num_threads(1)
    device, batching = "cuda" if ngpu else "cpu", {"batch_seconds": 120.0, **(batching or {})}
    if system.decode == "recogniser":
        opened, decoded = with_recogniser(source, search, device)
    else:
        search, opened, decoded = with_model(system, search, source, other_prompt, device)
    known = facts(**search, ngpu=ngpu)
    for one in work:
        batches, more = opened(one, **batching)
        decode_set(system, one, batches, decoded, {**known, **more})


def in_dtype(llm, name):
    """The LLM with its parameters in the numbers of `--llm_dtype`. Buffers stay: positions need frequencies exactly."""
    import torch

    for parameter in llm.parameters():
        parameter.data = parameter.data.to(getattr(torch, name))
    return llm


def with_recogniser(path, search, device):
    """(opened, decoded) of the recogniser in a directory, as `with_model` returns them."""
    from espnet_llmvq.decode.batches import Batches
    from espnet_llmvq.decode.generate import Hypothesis
    from espnet_llmvq.speech.recogniser import PretrainedRecogniser

    recogniser = PretrainedRecogniser(path, **search, device=device)

    def opened(one, batch_seconds, **options):
        return Batches(one.sequences, batch_seconds, None, least=recogniser.window, **options), {}

    def decoded(batches):
        for ids, waves in batches.waves():
            found = recogniser(waves)
            yield (
                ids,
                [[Hypothesis(tokens, None, at_limit=cut)] for tokens, _, cut in found],
                [[t] for _, t, _ in found],
            )

    return opened, decoded


def with_model(system, search, llm, other_prompt, device):
    """How a system decodes with its trained model: (search, opened, decoded).

    search: with what training found. opened: function from a `Work` and batching to (`Batches`, facts of the prompt).
    decoded: function from these to an iterable of (ids, n-best lists, their texts), a batch each time.
    """
    from espnet_llmvq.decode.batches import read_batches
    from espnet_llmvq.decode.ctc import drafts, greedy, respeller
    from espnet_llmvq.decode.generate import encoded, generate
    from espnet_llmvq.decode.rescore import add_ctc_scores, speller
    from espnet_llmvq.llm.directory import load_tokenizer
    from espnet_llmvq.llm.lora import merge_lora
    from espnet_llmvq.model.build import load_model
    from espnet_llmvq.model.positions import LEAST_RATE
    from espnet_llmvq.speech.pretrained import frames_are_trained

    model, config = load_model(system.model, device, system.weights)
    tokenizer, pieces, spell, respell = load_tokenizer(config["llm"]), None, None, None
    template = config.get("prompt") or ""
    if system.decode == "llm" and config["ctc_tokens"]:
        pieces = load_tokenizer(config["ctc_tokens"])
        spell, respell = speller(tokenizer, pieces), respeller(tokenizer, pieces, template)
    is_joint, dtype = "joint_ctc" in search, search.get("llm_dtype")
    # In joint decoding a pass a piece: what LoRA adds to each would be a third of the time.
    if system.decode == "llm" and (dtype or is_joint):
        model.llm = in_dtype(merge_lora(model.llm.float()), dtype or "float32")
    if system.decode == "llm" and not is_joint:
        search = {"tokens_per_second": config.get("tokens_per_second", LEAST_RATE), **search}
    if is_joint:
        from espnet_llmvq.decode.ctc_lm import joint
    if system.decode == "ctc_lm":
        from espnet_llmvq.decode.ctc_lm import search as search_ctc

        fused, words_of = load_fusion_lm(llm, tokenizer, device, system.lm)
        fused = in_dtype(fused, dtype) if dtype else fused

    def opened(one, batch_seconds, **options):
        cache = None if frames_are_trained(config, config["encoder_file"]) else one.frames
        batches = read_batches(one.sequences, batch_seconds, config["llm"], cache=cache, **options)
        if system.decode != "llm":
            return batches, {}
        return batches, check_prompt(one.sequences, batches.templates, config.get("prompt"), other_prompt)

    own = {key: value for key, value in search.items() if key not in ("draft", "llm_dtype")}

    def decode(batch, names):
        if system.decode == "ctc":
            return greedy(model, batch)
        if system.decode == "ctc_lm":
            return search_ctc(model, fused, tokenizer, batch, **own, words_of=words_of)
        if is_joint:
            return joint(model, tokenizer, batch, **own, template=template, pieces=pieces, names=names)
        drafted = {"drafts": drafts(model, batch, respell)} if "draft" in search else {}
        return generate(model, tokenizer, batch, **own, **drafted, names=names)

    def decoded(batches):
        for ids, batch in batches:
            batch = encoded(model, batch)
            lists = decode(batch, ids)
            if system.decode != "ctc_lm" and model.ctc is not None and not is_joint:
                lists = add_ctc_scores(model, batch, lists, spell)
            yield ids, lists, [[tokenizer.decode(h.tokens, skip_special_tokens=True).strip() for h in n] for n in lists]

    return search, opened, decoded


def decode_set(system, work, batches, decoded, known):
    """Decode one set. batches, decoded: as `with_model` makes them; known: facts of the search."""
    from tqdm import tqdm

    from espnet_llmvq.decode.choose import GIVEN, choose, write_chosen
    from espnet_llmvq.decode.nbest import Partial, nbest_line
    from espnet_llmvq.score.files import some

    nbest = work.made.out
    work.made.forget()
    partial = Partial(nbest, {**known, **work.made.state()})
    if partial.done:
        count = f"{len(partial.done)} of {len(batches.order)} utterances"
        print(f"{work.hypotheses}: {count} are decoded, going on", flush=True)
    batches.skip(partial.done)
    start, heard = time.perf_counter(), 0.0
    total = sum(batches.seconds(keys) for keys in batches.batches)
    shape = "{l_bar}{bar}| {n:.0f}/{total:.0f} s of audio [{elapsed}<{remaining}{postfix}]"
    with tqdm(total=total, desc=f"{system.name} {work.name}", bar_format=shape, mininterval=2) as bar:
        for ids, lists, texts in decoded(batches):
            partial.add({i: nbest_line(i, row, found) for i, row, found in zip(ids, lists, texts)})
            heard += batches.seconds(ids)
            bar.set_postfix(RTF=f"{(time.perf_counter() - start) / heard:.3f}", refresh=False)
            bar.update(batches.seconds(ids))
    seconds = time.perf_counter() - start
    partial.finish(nbest, batches.order)
    work.made.note(**known)
    write_chosen(work.hypotheses, 0, GIVEN)
    chosen = choose(nbest, 0)
    cut = [utt for utt, h in chosen.items() if h and h.get("at_limit")]
    print(
        f"{work.hypotheses}: {len(chosen)} utterances, real-time factor {seconds / max(heard, 1e-9):.3f}, "
        f"{len(cut)} at the length limit{': ' * bool(cut)}{some(cut)}",
        flush=True,
    )
    if drafted := [h for h in chosen.values() if h and "passes" in h]:
        accepted, tokens, passes = (sum(of(h) for h in drafted) for of in (
            lambda h: h["accepted"], lambda h: len(h["tokens"]) + 1, lambda h: h["passes"]))  # fmt: skip
        print(
            f"{work.hypotheses}: drafts had {100 * accepted / tokens:.1f} % of the tokens, {passes / len(drafted):.2f} "
            f"passes of the LLM an utterance for {tokens / len(drafted):.1f} tokens",
            flush=True,
        )
