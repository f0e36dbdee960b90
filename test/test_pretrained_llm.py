"""LLMs of the Qwen2 and Llama families as downloaded ones are: tied and untied, without begin or padding token."""

import copy
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import standins
import torch
import transformers

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.espnet import compiled
from espnet_llmvq.llm.directory import load_llm, load_tokenizer
from espnet_llmvq.llm.packing import check_no_leak, pack
from espnet_llmvq.llm.spans import at_start, encode_text, puts_space_first
from espnet_llmvq.model.losses import IGNORE, PAD
from espnet_llmvq.sequence.prompt import parse, resolved, template_of
from espnet_llmvq.sequence.sequence import Span

FAMILIES = ("qwen2", "llama")
TOKENIZERS = (*FAMILIES, "llama_by_class")
LORA = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "down_proj"]}
TEMPLATE = "USER: {speech} Transcribe speech to text. ASSISTANT: {text}"
CHAT = "chat: {speech}\nTranscribe speech to text."


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    room = tmp_path_factory.mktemp("models")
    made = {name: make(room / name) for name, make in standins.ALL.items()}
    # As the published one is: transformers then makes the space in another way.
    shutil.copytree(made["llama"], room / "llama_by_class")
    path = room / "llama_by_class" / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "tokenizer_class": "LlamaTokenizer"}))
    return {**made, "llama_by_class": str(room / "llama_by_class")}


def test_standins_are_like_the_published_models(models):
    qwen, llama = (load_tokenizer(models[name]) for name in FAMILIES)
    assert qwen.bos_token is None and qwen.eos_token == "<|im_end|>" and qwen.pad_token == "<|endoftext|>"
    assert llama.bos_token == "<s>" and llama.pad_token is None and puts_space_first(llama) == "always"
    assert puts_space_first(qwen) is None
    for tokenizer in (qwen, llama):
        for text in ("Hello, the patient is good.", "zwölf €"):
            ids = tokenizer.encode(text, add_special_tokens=False)
            assert tokenizer.decode(ids) == text
    tied, untied = (load_llm(models[name]) for name in FAMILIES)
    assert tied.get_output_embeddings().weight is tied.get_input_embeddings().weight
    assert untied.get_output_embeddings().weight is not untied.get_input_embeddings().weight
    assert len(tied.get_input_embeddings().weight) > len(qwen)


@pytest.mark.parametrize("family", TOKENIZERS)
def test_spans_have_the_tokens_of_the_text_as_a_whole(models, family):
    tokenizer = load_tokenizer(models[family])
    spans = ["USER:", " hello there", " ASSISTANT:", " good"]
    whole = tokenizer.encode("".join(spans), add_special_tokens=False)
    assert sum((encode_text(tokenizer, Span(text=s), 0, i == 0) for i, s in enumerate(spans)), []) == whole
    assert encode_text(tokenizer, Span(text=" good", loss=True, eos=True), 7)[-1] == 7
    # A line break or a word may begin a span; names of special tokens are tokens in prompts, text in data.
    spans = [Span(text="Hello"), Span(text="\nA. tea"), Span(text="\n\n"), Span(text="good", loss=True)]
    whole = tokenizer.encode("".join(s.text for s in spans), add_special_tokens=False)
    assert sum((encode_text(tokenizer, s, 0, first) for s, first in zip(spans, at_start(spans))), []) == whole
    assert at_start([Span(text="<s>", special=True), Span(text="a"), Span(text="b")]) == [True, True, False]
    for name in {tokenizer.eos_token, tokenizer.unk_token} - {None}:
        ids = [encode_text(tokenizer, Span(text=f" a {name}b", loss=loss), 0) for loss in (True, False)]
        special = tokenizer.convert_tokens_to_ids(name)
        assert special not in ids[0] and special in ids[1]
        assert tokenizer.decode(ids[0]).strip() == f"a {name}b"


def test_a_tokenizer_that_spells_keeps_its_spaces():
    """Its " a" is a space and "a", as where a space is put in front; but none is."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    base = Tokenizer(models.BPE(letters, []))
    base.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=base)
    for text in (" hello there", "hello"):
        ids = encode_text(tokenizer, Span(text=text, loss=True), 0)
        assert tokenizer.convert_ids_to_tokens(ids) == list(text.replace(" ", "\u0120"))


@pytest.mark.parametrize("family", TOKENIZERS)
@pytest.mark.parametrize("text", [" hello there good", "hello  there  good", " hello", "zwölf €, hello", " </s> hello"])
def test_alignment_cuts_text_as_training_does(models, family, text):
    """The tokens whose times are found are those that the CTC head was trained on."""
    from espnet_llmvq.decode.align import word_tokens

    tokenizer = load_tokenizer(models[family])
    for first in (False, True):
        words, ids, owners = word_tokens(tokenizer, text, first)
        assert ids == encode_text(tokenizer, Span(text=text, loss=True), 0, first)
        assert words == text.split() and owners == sorted(owners)
        # spelt together, the tokens of a word hold it; a character of several bytes may be cut
        spelt = [tokenizer.decode([t for t, o in zip(ids, owners) if o == i]).strip() for i in range(len(words))]
        assert spelt == words


def test_special_tokens_that_a_tokenizer_cannot_spell(llm_dir):
    """That of recipes holds their names as pieces: an error that names the sequence."""
    from espnet_llmvq.model.positions import Positions
    from espnet_llmvq.sequence.sequence import Sequence

    tokenizer = load_tokenizer(llm_dir)
    count = Positions(tokenizer, {}, 1)
    assert count(Sequence("u", (Span(text=" one <blank>"), Span(text=" two", loss=True)))) > 2
    for text in (" one <blank> two", " one </s>"):
        with pytest.raises(UserError, match="u7: .* holds '.*', which the LLM's tokenizer keeps for itself"):
            count(Sequence("u7", (Span(text=text, loss=True),)))
    ids = encode_text(tokenizer, Span(text="<blank>", special=True, loss=True), 2)
    assert ids == [tokenizer.convert_tokens_to_ids("<blank>")]


@pytest.mark.parametrize("family", TOKENIZERS)
def test_choices_have_the_tokens_of_the_whole(models, family):
    """Letters and choices after the prompt, as in one string."""
    from espnet_llmvq.data.questions import Question
    from espnet_llmvq.decode.questions import answer_tokens
    from espnet_llmvq.sequence.questions import MultipleChoice

    tokenizer = load_tokenizer(models[family])
    question = Question("q", "Is it good?", 0, ("one", "two three", "the doctor", "not"))
    for answer in ("letter", "text"):
        options = MultipleChoice(answer=answer)
        prompt = "Is it good?\nAnswer:"
        before = tokenizer.encode(prompt, add_special_tokens=False)
        whole = [tokenizer.encode(prompt + a, add_special_tokens=False) for a in options.answers(question)]
        assert all(ids[: len(before)] == before for ids in whole)
        if answer == "letter" and any(len(ids) != len(before) + 1 for ids in whole):
            continue  # a small vocabulary may lack them
        assert answer_tokens(tokenizer, options, question) == [ids[len(before) :] for ids in whole]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("said", [CHAT, "chat:Listen to {speech} please."])
def test_chat_prompt_is_that_of_the_tokenizer(models, family, said):
    """Token by token: what apply_chat_template makes of the turn, cut where the speech stands."""
    from espnet_llmvq.sequence.asr import asr_sequence

    tokenizer = load_tokenizer(models[family])
    template = resolved(said, tokenizer)
    seq = asr_sequence("u", "u.wav", 16000, "hello there", template)
    mark = "MARK"
    content = said[len("chat:") :].strip().replace("{speech}", mark)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, return_dict=False
    )
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    before, after = text.split(mark)
    expected = [tokenizer.encode(part, add_special_tokens=False) for part in (before.rstrip(" "), after)]
    got = [
        encode_text(tokenizer, s, tokenizer.eos_token_id, first)
        for s, first in zip(seq.prompt, at_start(seq.prompt)) if not s.is_speech
    ]  # fmt: skip
    if family == "llama":  # what stands in the middle has no space in front but its own
        expected[1] = ids[len(ids) - len(expected[1]) + 1 :]
    assert got == expected
    # the roles are special tokens or words as in the whole, and the generation prompt ends it
    assert ids[: len(got[0]) - 2] == got[0][:-2] and ids[-4:] == got[1][-4:]
    assert seq.spans[-1].text == "hello there" and seq.spans[-1].eos
    # models keep the template of their sequences; read again it makes the same ones
    assert parse(template_of(seq)) == parse(template)


def test_chat_prompt_errors(models, llm_dir):
    tokenizer = load_tokenizer(models["qwen2"])
    assert resolved(TEMPLATE, tokenizer) == TEMPLATE
    assert resolved(CHAT + "{text}", tokenizer) == resolved(CHAT, tokenizer)
    with pytest.raises(UserError, match="{speech} once"):
        resolved("chat: Transcribe.", tokenizer)
    with pytest.raises(UserError, match="no chat template; write the roles yourself"):
        resolved(CHAT, load_tokenizer(llm_dir))


def ids_of(tokenizer, *spans):
    """Tokens of a sequence, checked against the count of its positions."""
    from espnet_llmvq.model.batch import SequenceArrays
    from espnet_llmvq.model.positions import Positions
    from espnet_llmvq.sequence.sequence import Sequence

    sequence = Sequence("u", spans)
    arrays = SequenceArrays(tokenizer)(sequence)
    assert len(arrays["tokens"]) == Positions(tokenizer, {}, 1)(sequence) <= Positions(None, {}).upper_bound(sequence)
    assert [t for t, wanted in zip(arrays["tokens"], arrays["labels"]) if wanted != IGNORE] == [
        wanted for wanted in arrays["labels"] if wanted != IGNORE
    ]
    return arrays["tokens"].tolist()


def test_the_begin_token_stands_once_where_the_tokenizer_puts_one(models):
    """As in what the tokenizer makes of the whole text."""
    qwen, llama = (load_tokenizer(models[name]) for name in FAMILIES)
    learnt = Span(text=" good", loss=True)
    whole = llama.encode("USER: hello good")
    assert whole[0] == llama.bos_token_id and whole.count(llama.bos_token_id) == 1
    for said in ("USER: hello", "<s>USER: hello"):
        assert ids_of(llama, Span(text=said), learnt) == whole
    assert ids_of(llama, Span(text="<s>", special=True), Span(text="USER: hello"), learnt) == whole
    assert ids_of(llama, Span(text="{no_begin}USER: hello"), learnt) == whole[1:]
    assert ids_of(llama, Span(text="USER: hello good", loss=True)) == whole
    # The name in data is text, and there is nothing to put it in front of for Qwen.
    assert ids_of(llama, Span(text="<s> good", loss=True)).count(llama.bos_token_id) == 1
    assert ids_of(qwen, Span(text="USER: hello"), learnt) == qwen.encode("USER: hello good")
    assert ids_of(qwen, Span(text="{no_begin}USER: hello"), learnt) == qwen.encode("USER: hello good")


def test_the_begin_token_of_a_chat_prompt(models):
    qwen, llama = (load_tokenizer(models[name]) for name in FAMILIES)
    plain = resolved(CHAT, llama)
    assert resolved("<s>" + CHAT, llama) == resolved("<s> " + CHAT, llama) == "<s>" + plain
    assert resolved("{no_begin}" + CHAT, llama) == "{no_begin}" + plain
    with_begin = load_tokenizer(models["llama"])
    with_begin.chat_template = "{{ bos_token }}" + with_begin.chat_template  # as those of Gemma and Llama 3
    assert resolved(CHAT, with_begin) == resolved("<s>" + CHAT, with_begin) == "<s>" + plain
    assert resolved("{no_begin}" + CHAT, with_begin) == "{no_begin}" + plain
    for mark in ("<s>", "<bos>", "<|user|>", "<start_of_turn>"):
        with pytest.raises(UserError, match="is no token of the LLM's tokenizer, which has .*<.im_end"):
            resolved(f"{mark}USER: {{speech}} {{text}}", qwen)
    assert resolved("<noise> {speech} <3 {text}", qwen) == "<noise> {speech} <3 {text}"


@pytest.mark.parametrize("date", ["", "{% if strftime_now is defined %}{% set date = strftime_now('%c') %}{% endif %}"])
def test_a_chat_prompt_is_the_same_on_another_day(models, date):
    """Llama 3 tells the LLM the date, and decoding is refused for a prompt other than that of the training."""
    tokenizer = load_tokenizer(models["llama"])
    said = "{{ messages[0]['content'] }}"
    loop = "{% for m in messages %}" + ("{{ date }}" if date else "{{ strftime_now('%Y-%m-%d') }}") + " {% endfor %}"
    tokenizer.chat_template = date + loop + said
    assert resolved(CHAT, tokenizer) == f"26 Jul 2024 {CHAT.removeprefix('chat: ')}{{text}}"


@pytest.mark.parametrize("family", TOKENIZERS)
@pytest.mark.parametrize("begin", ["", "{no_begin}"])
def test_noisy_copies_are_read_as_sequences_are(models, family, begin):
    """A copy without noise is what a model gets that is given the transcript in writing in the place of speech."""
    from espnet_llmvq.llm.noisy_copy import Noise, NoisyCopy
    from espnet_llmvq.model.batch import SequenceArrays
    from espnet_llmvq.sequence.asr import prompted

    tokenizer, quiet = load_tokenizer(models[family]), {name: 0.0 for name in vars(Noise()) if name.startswith("p_")}
    copier = NoisyCopy(tokenizer, begin + TEMPLATE, Noise(**quiet))
    (tokens,) = copier.encode(["the patient is good"])
    ids, _ = copier.example(tokens, np.random.default_rng(0))
    given = Span(text=" the patient is good")
    assert (
        ids
        == SequenceArrays(tokenizer)(prompted("u", given, "the patient is good", begin + TEMPLATE))["tokens"].tolist()
    )


def test_line_breaks_of_a_prompt_stay():
    assert parse("Q: {speech}\nA:\n{text}") == [("text", "Q:"), ("speech",), ("text", "\nA:\n"), ("transcript",)]


def test_make_sequences_with_a_chat_prompt(models, corpus, tmp_path):
    from espnet_llmvq.cli.sequences import make as make_sequences
    from espnet_llmvq.sequence.sequence import read_sequences

    data, out = tmp_path / "data", str(tmp_path / "sequences.jsonl")
    data.mkdir()
    (data / "wav.scp").write_text(f"u1 {corpus.dir}/train00.wav\n")
    (data / "utt2spk").write_text("u1 s1\n")
    (data / "text").write_text("u1 one two\n")
    (data / "utt2num_samples").write_text("u1 8000\n")
    options = ["--data_dir", str(data), "--out", out, "--prompt", CHAT]
    with pytest.raises(UserError, match="needs --llm"):
        make_sequences.main(options)
    make_sequences.main([*options, "--llm", models["llama"]])
    (seq,) = read_sequences(out)
    assert [s.text for s in seq.spans] == [
        "<|user|>\n", None, "\nTranscribe speech to text.</s>\n<|assistant|>\n", "one two"
    ]  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_lora_by_name_trains_nothing_else(models, family):
    llm = load_llm(models[family], dtype="bfloat16", lora=LORA)
    trainable = {n for n, p in llm.named_parameters() if p.requires_grad}
    assert len(trainable) == 2 * 3 * 2 and all("lora_" in n for n in trainable)
    modules = {n.split(".lora_")[0].split(".")[-1] for n in trainable}
    assert modules == set(LORA["target_modules"])
    assert {p.dtype for n, p in llm.named_parameters() if n in trainable} == {torch.float32}
    assert {p.dtype for n, p in llm.named_parameters() if n not in trainable} == {torch.bfloat16}
    with pytest.raises(UserError, match="llm_conf.lora: .*query"):
        load_llm(models[family], lora={"r": 4, "target_modules": ["query"]})


@pytest.mark.parametrize(
    "options, also",
    [
        ({}, None),
        ({"init_lora_weights": False}, None),
        ({"init_lora_weights": "orthogonal"}, None),
        ({"use_dora": True}, "lora_magnitude_vector"),
        ({"bias": "all"}, "layers.0.self_attn.k_proj.bias"),
        ({"modules_to_save": ["embed_tokens"]}, "embed_tokens.modules_to_save"),
        ({"modules_to_save": ["lm_head"]}, "lm_head.modules_to_save"),
        ({"trainable_token_indices": list(range(3, 350))}, "trainable_tokens_delta"),
    ],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_what_peft_trains_trains_and_is_in_the_checkpoint(models, built, family, options, also):
    conf = {"lora": {**LORA, **options}}
    model, _, batch = built("whisper", family, llm_conf=conf)
    if family == "llama" and "bias" in options:
        also = None  # it has none
    trainable = {n: p for n, p in model.train().llm.named_parameters() if p.requires_grad}
    assert also is None or any(also in n for n in trainable)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):  # at first B is zero, and with it the gradient of A
        optimizer.zero_grad()
        model(**batch)[0].backward()
        optimizer.step()
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert {n for n in moved if n.startswith("llm.")} == {f"llm.{n}" for n, p in trainable.items() if p.grad.any()}
    assert also is None or any(also in n for n in moved)
    state = model.state_dict()
    assert moved <= set(state)
    torch.manual_seed(99)
    again, _, _ = built("whisper", family, llm_conf=conf)
    again.load_state_dict(state)
    with torch.no_grad():
        assert torch.equal(model.eval()(**batch)[0], again.eval()(**batch)[0])


@pytest.mark.parametrize(
    "begin", ["pissa", "pissa_niter_4", "olora", "corda", "eva", "loftq", "lora_ga", "mica", "nonsense"]
)
def test_beginnings_of_lora_that_are_not_in_checkpoints_are_refused(models, begin):
    lora = {**LORA, "init_lora_weights": begin, **({"loftq_config": {"loftq_bits": 4}} if begin == "loftq" else {})}
    with pytest.raises(
        UserError, match=f"llm_conf.lora: init_lora_weights '{begin}' .*; use one of True, False, gauss"
    ):
        load_llm(models["llama"], lora=lora)


def test_what_trains_in_low_precision_beside_lora_is_refused(models):
    with pytest.raises(UserError, match="lm_head.*would train in bfloat16.*set llm_conf.dtype: float32"):
        load_llm(models["llama"], dtype="bfloat16", lora={**LORA, "modules_to_save": ["lm_head"]})


def test_a_search_is_ours_whatever_the_directory_says(models):
    llm = load_llm(models["qwen2"])
    assert not llm.generation_config.do_sample and llm.generation_config.repetition_penalty in (None, 1.0)
    embeds = llm.get_input_embeddings().weight[None, 20:23].detach()
    eos = load_tokenizer(models["qwen2"]).eos_token_id
    got = llm.generate(inputs_embeds=embeds, max_new_tokens=30, do_sample=False, eos_token_id=eos, pad_token_id=eos)[0]
    # greedy by hand
    rows, expected = embeds, []
    for _ in range(30):
        with torch.no_grad():
            token = int(llm(inputs_embeds=rows).logits[0, -1].argmax())
        expected.append(token)
        if token == eos:
            break
        rows = torch.cat([rows, llm.get_input_embeddings().weight[None, token : token + 1]], 1)
    assert got.tolist() == expected and len(set(expected)) < len(expected)


def test_per_layer_embeddings_are_refused(tmp_path):
    from transformers import AutoModelForCausalLM, Gemma3nTextConfig

    config = Gemma3nTextConfig(
        vocab_size=20, vocab_size_per_layer_input=20, hidden_size=8, hidden_size_per_layer_input=4, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=4, intermediate_size=8, num_kv_shared_layers=0,
        activation_sparsity_pattern=[0.0, 0.0], laurel_rank=2,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    message = "Gemma3nForCausalLM gives each of its layers the token ids again .* a step of speech has none"
    with pytest.raises(UserError, match=message):
        load_llm(str(tmp_path))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_sequences_are_what_they_are_alone(models, family, attention):
    llm = load_llm(models[family], attn_implementation=attention).eval()
    assert llm.config._attn_implementation == attention
    check_no_leak(llm)
    table = llm.get_input_embeddings().weight
    inputs = [table[torch.arange(i, i + n)] for i, n in ((5, 7), (40, 3), (90, 12))]
    labels = [torch.arange(len(x)) for x in inputs]
    embeds, positions, targets = pack(inputs, labels, 20, -100)
    assert embeds.shape == (2, 19, 32) or embeds.shape == (2, 15, 32)
    with torch.no_grad():
        hidden = llm.get_decoder()(inputs_embeds=embeds, position_ids=positions, use_cache=False).last_hidden_state
        for x in inputs:
            alone = llm.get_decoder()(inputs_embeds=x[None], use_cache=False).last_hidden_state[0]
            found = [
                hidden[r, s : s + len(x)]
                for r in range(2)
                for s in range(embeds.shape[1] - len(x) + 1)
                if torch.equal(embeds[r, s : s + len(x)], x) and positions[r, s] == 0
            ]
            assert len(found) == 1
            torch.testing.assert_close(found[0], alone, atol=1e-5, rtol=1e-4)


def test_unknown_attention_is_told(models):
    with pytest.raises(UserError, match="llm_conf.attn_implementation: flash"):
        load_llm(models["llama"], attn_implementation="flash")


NO_NETWORK = """
import os, socket, sys
def refuse(*args, **kwargs):
    raise AssertionError("network")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
sys.path.insert(0, {root!r})
from espnet_llmvq.speech import pretrained as pretrained_encoder
from espnet_llmvq.llm.directory import load_llm, load_tokenizer, table_rows
assert "HF_HUB_OFFLINE" not in os.environ
import huggingface_hub.constants
assert not huggingface_hub.constants.HF_HUB_OFFLINE
for path in sys.argv[3:]:
    load_tokenizer(path), table_rows(path), load_llm(path, lora={lora!r})
for cls, path in zip((pretrained_encoder.WavLMEncoder, pretrained_encoder.WhisperEncoder), sys.argv[1:]):
    cls(path)
print("offline")
"""


def test_local_directories_never_touch_the_network(models):
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    env = {k: v for k, v in os.environ.items() if k not in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")}
    code = NO_NETWORK.format(root=root, lora=LORA)
    paths = [models[name] for name in ("wavlm", "whisper", *FAMILIES)]
    done = subprocess.run([sys.executable, "-c", code, *paths], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "offline" in done.stdout, done.stderr


@pytest.fixture(scope="module")
def built(models, arguments, corpus):
    """Function (encoder, llm, changes) -> (SpeechLLM, tokenizer, a batch of all training utterances)."""

    def build(encoder, llm, /, **changes):
        from espnet_llmvq.espnet.task import SpeechLLMTask
        from espnet_llmvq.model.batch import SequenceArrays, batch_of
        from espnet_llmvq.sequence.asr import asr_sequence
        from espnet_llmvq.sequence.sequence import read_sequences

        torch.manual_seed(0)
        args = arguments(**{
            **{"frontend": None, "normalize": None, "specaug": None, "frame_stack": 1, "ctc": False},
            "encoder": encoder, "encoder_conf": {"path": models[encoder]}, "llm": models[llm],
            "llm_conf": {"lora": LORA}, "bridge_conf": {"stack": 5, "hidden_size": 24}, **changes,
        })  # fmt: skip
        model, tokenizer = SpeechLLMTask.build_model(args), load_tokenizer(models[llm])
        examples = []
        for seq in list(read_sequences(corpus.train))[:4]:
            speech = seq.spans[1]
            text = resolved(CHAT, tokenizer)
            seq = asr_sequence(seq.id, speech.audio, speech.samples, seq.spans[-1].text.strip(), text)
            examples.append(seq)
        return model, tokenizer, batch_of(SequenceArrays(tokenizer), examples)[1]

    return build


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("encoder, conf, bridge", [("wavlm", {"layer": "weighted"}, "soft"), ("whisper", {}, "hard")])
def test_a_step_of_training_and_a_search(models, built, family, encoder, conf, bridge):
    from espnet_llmvq.decode.generate import encoded, generate, log_probability, prompt_inputs

    changes = {"encoder_conf": {"path": models[encoder], **conf}, "bridge": bridge}
    changes["bridge_conf"] = {"stack": 5, "hidden_size": 24, **({"top_k": 5} if bridge == "soft" else {})}
    model, tokenizer, batch = built(encoder, family, **changes)
    model.train()
    trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert not any(n.startswith("speech_encoder.pretrained.") for n in trainable)
    assert ("speech_encoder.layer_weights" in trainable) == (encoder == "wavlm")
    assert not any(m.training for m in model.speech_encoder.pretrained.modules())
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer = torch.optim.AdamW(trainable.values(), lr=0.01)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss, stats, _ = model(**batch)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert np.isfinite(losses).all() and losses[-1] < losses[0]
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved <= set(trainable) and {n for n in trainable if "projector" in n or "layer_weights" in n} <= moved
    # a checkpoint has what trains, no weights of the directories, and gives the same model again
    state = model.state_dict()
    assert not any(n.startswith(("speech_encoder.pretrained.", "llm.model.embed", "llm.lm_head")) for n in state)
    again, _, _ = built(encoder, family, **changes)
    again.load_state_dict(state)
    model.eval(), again.eval()
    with torch.no_grad():
        assert torch.equal(model(**batch)[0], again(**batch)[0])
    # search: the scores are those of the texts
    prompts = {**batch, **{k: v[:1] for k, v in batch.items()}}
    length = int((prompts["labels"][0] == IGNORE).sum()) - int((prompts["tokens"][0] == PAD).sum())
    prompts.update({key: prompts[key][:, :length] for key in ("tokens", "labels")})
    prompts["speech"] = prompts["speech"][:, : int(prompts["speech_lengths"][0])]
    ready = encoded(model, prompts)
    (found,) = generate(model, tokenizer, ready, num_beams=3)
    assert found and found[0].llm == max(h.llm for h in found)
    ((score,),) = log_probability(model, prompt_inputs(model, ready), [[found[0].tokens]])
    assert abs(score - found[0].llm) < 1e-4


def test_a_trainable_encoder_is_in_the_checkpoint(built):
    model, _, batch = built("whisper", "llama", train_encoder=True)
    model.train()
    model(**batch)[0].backward()
    moved = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert "speech_encoder.pretrained.conv1.weight" in moved
    assert "speech_encoder.pretrained.conv1.weight" in model.state_dict()


def test_ctc_head_on_a_pretrained_encoder_and_phases_on_both(models, built, tmp_path):
    """Stage 7 trains a head and the weights of the layers; phases find the rest of the encoder in its directory."""
    import yaml

    from espnet_llmvq.speech.pretrained import frames_are_trained

    conf = {"path": models["wavlm"], "layer": "weighted"}
    only = {"ctc_weight": 1.0, "llm_weight": 0.0}
    model, _, batch = built("wavlm", "llama", encoder_conf=conf, ctc=True, model_conf=only)
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(**batch)[0].backward()
    optimizer.step()
    state = model.state_dict()
    assert set(state) == {
        "speech_encoder.layer_weights",
        "speech_encoder.after_layer_norm",
        "ctc.ctc_lo.weight",
        "ctc.ctc_lo.bias",
    }
    assert state["speech_encoder.layer_weights"].abs().max() > 0
    torch.save(state, tmp_path / "model.pth")
    keys = {"frontend": None, "normalize": None, "encoder": "wavlm", "frame_stack": 1, "encoder_conf": conf}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**keys, "frontend_conf": {}, "normalize_conf": {}}))
    phase = {"encoder_file": str(tmp_path / "model.pth"), "model_conf": {"drop_blank": 1.0}, "ctc": True}
    later, _, _ = built("wavlm", "llama", encoder_conf={}, **phase)
    own = torch.nn.Module.state_dict(later)
    for name, value in state.items():
        assert torch.equal(own[name], value), name
    assert not any(p.requires_grad for p in later.speech_encoder.parameters())
    assert not any(n.startswith(("speech_encoder.", "ctc.")) for n in later.state_dict())
    # so frames can be cached, as they cannot where the weights train
    assert not frames_are_trained({**keys}, phase["encoder_file"]) and frames_are_trained({**keys}, None)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"frontend": "default"}, "encoder: whisper takes the waveform as it is: write frontend: null, not default"),
        ({"frame_stack": 4}, "write frame_stack: 1, not 4"),
        ({"model_conf": {"drop_blank": 0.9}}, "drop_blank and merge_runs need an encoder with a CTC head"),
        ({"encoder": "conformer", "encoder_conf": {}}, "needs a frontend; write frontend: default"),
    ],
)
def test_configs_that_do_not_fit(built, changes, message):
    with pytest.raises(UserError, match=message):
        built("whisper", "llama", **changes)


def test_keys_of_the_encoders_are_checked(models):
    from espnet_llmvq.espnet.task import SpeechLLMTask

    keys = {"encoder": "whisper", "frontend": None, "llm_conf": {"attn_implementation": "sdpa"}}
    SpeechLLMTask.check_config({**keys, "encoder_conf": {"path": "x", "layer": "last", "longer": "windows"}})
    with pytest.raises(UserError, match="key under encoder_conf in config 'layers'.*'layer'"):
        SpeechLLMTask.check_config({**keys, "encoder_conf": {"layers": "last"}})
    with pytest.raises(UserError, match="'longer'"):
        SpeechLLMTask.check_config({**keys, "encoder": "wavlm", "encoder_conf": {"longer": "windows"}})


def with_weights(source, path, llm):
    """A copy of the LLM directory `source` with its tokenizer, but the weights and config of another LLM."""
    shutil.copytree(source, path)
    llm.save_pretrained(path)
    return str(path)


LAYERS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
          "intermediate_size": 64, "head_dim": 8}  # fmt: skip


def small(name, rows=448, **more):
    """A random model of a family by the name of its classes; OPT and GPT-2 drop out a tenth."""
    import transformers

    torch.manual_seed(0)
    sizes = {
        "OPT": {"hidden_size": 32, "word_embed_proj_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
                "ffn_dim": 64, "max_position_embeddings": 512, "init_std": 0.2},
        "GPT2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512, "initializer_range": 0.2},
        "Mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8},
        "RecurrentGemma": {**LAYERS, "lru_width": 32},
        "FalconH1": {**LAYERS, "mamba_d_ssm": 64, "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8},
        "Lfm2": {**LAYERS, "layer_types": ["conv", "full_attention"]},
        "Llama4Text": {**LAYERS, "intermediate_size_mlp": 64, "num_local_experts": 2},
    }  # fmt: skip
    config = getattr(transformers, f"{name}Config")(vocab_size=rows, **{**sizes[name], **more})
    return transformers.AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("family", ["qwen2", "OPT", "GPT2"])
def test_gradient_checkpointing_recomputes_and_changes_nothing(models, built, tmp_path, family, frozen):
    """Also in a frozen LLM, through which the gradient of the projector passes; one with dropout then has none."""
    llm = models["qwen2"] if family == "qwen2" else with_weights(models["qwen2"], tmp_path / family, small(family))
    lora = {**LORA, "lora_dropout": 0.0, **({} if family == "qwen2" else {"target_modules": "all-linear"})}
    conf, more = ({}, {"freeze": ["llm"]}) if frozen else ({"lora": lora}, {})
    losses, grads, calls = [], [], []
    for checkpointing in (False, True):
        conf = {**conf, "gradient_checkpointing": checkpointing}
        model, _, batch = built("whisper", "qwen2", llm=llm, llm_conf=conf, **more)
        model.train()
        count = []
        next(layers_of(model)[0].children()).register_forward_pre_hook(lambda *_, count=count: count.append(1))
        torch.manual_seed(1)
        loss = model(**batch)[0]
        loss.backward()
        losses.append(float(loss.detach()))
        grads.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
        calls.append(len(count))
    assert calls == [1, 2] and losses[0] == losses[1]
    assert grads[0].keys() == grads[1].keys()
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad)
    if frozen:
        with torch.no_grad():
            assert float(model.eval()(**batch)[0]) == losses[0]
    copied, ran = copy.deepcopy(model.eval()), []
    for part in (copied, model):
        next(layers_of(part)[0].children()).register_forward_pre_hook(lambda *_, part=part: ran.append(part))
    copied(**batch)[0].backward()
    assert ran and all(part is copied for part in ran)  # not the layers that were copied


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
def test_compiled_layers_compute_the_same(built, checkpointing):
    """Loss and gradients, of batches of other lengths too; a checkpoint has the names that it had."""
    if fault := compiled.compiler_fault("cpu"):
        pytest.skip(f"torch cannot compile here: {fault}")
    conf = {"lora": {**LORA, "lora_dropout": 0.0}, "gradient_checkpointing": checkpointing}
    found, counters = [], torch._dynamo.utils.counters
    counters.clear()
    for choice in ("none", "layers"):
        model, _, batch = built("whisper", "qwen2", llm_conf=conf, compile_llm=choice)
        assert all((layer._compiled_call_impl is None) == (choice == "none") for layer in layers_of(model))
        for part in (batch, {key: value[:2] for key, value in batch.items()}):
            loss = model.train()(**part)[0]
            model.zero_grad()
            loss.backward()
            found.append((float(loss.detach()), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}))
        found.append((0.0, model.state_dict()))
        assert (counters["stats"]["unique_graphs"] > 0) == (choice == "layers") and not counters["graph_break"]
    for plain, fast in zip(found[:3], found[3:], strict=True):
        assert plain[0] == pytest.approx(fast[0], rel=1e-5) and plain[1].keys() == fast[1].keys()
        for name, value in plain[1].items():
            torch.testing.assert_close(fast[1][name], value, rtol=1e-3, atol=1e-5)


def test_where_nothing_can_be_compiled(built, monkeypatch, caplog):
    monkeypatch.setattr(compiled, "compiler_fault", lambda device: f"no compiler for the {device}")
    with caplog.at_level("INFO"):
        model = built("whisper", "qwen2", compile_llm="auto")[0]
    assert all(layer._compiled_call_impl is None for layer in layers_of(model))
    assert "compile_llm: auto: nothing is compiled: no compiler for the cpu" in caplog.text
    with pytest.raises(UserError, match=r"cannot compile here \(no compiler for the cpu\); install a C\+\+ compiler"):
        built("whisper", "qwen2", compile_llm="layers")
    with pytest.raises(UserError, match="unknown compile_llm in config 'layer' .did you mean 'layers'"):
        built("whisper", "qwen2", compile_llm="layer")


def layers_of(model):
    return next(m for m in model.llm.modules() if isinstance(m, torch.nn.ModuleList))


@pytest.mark.parametrize("family", ["Mamba", "FalconH1", "Lfm2", "RecurrentGemma", "Llama4Text"])
def test_an_llm_that_cannot_be_searched_is_told_when_it_is_loaded(tmp_path, family):
    small(family, rows=64).save_pretrained(tmp_path)
    if family == "RecurrentGemma" and transformers.__version__ < "5.23":
        pytest.skip("the trial finds nothing wrong with it in older versions")
    with pytest.raises(UserError, match=f"^{tmp_path}: .* cannot be searched from speech .*; use another LLM"):
        load_llm(str(tmp_path))
    load_llm(str(tmp_path), weights=False)  # what only counts may


def test_an_llm_that_loses_its_prompt_in_a_search_is_told(models, monkeypatch):
    """What goes on from a padded prompt must be what goes on from it alone."""
    from espnet_llmvq.llm import trial

    llm = load_llm(models["llama"])
    forget = lambda llm, inputs, mask: trial_prompts(llm, inputs.flip(1), mask)  # noqa: E731
    trial_prompts = trial.read_prompts
    monkeypatch.setattr(trial, "read_prompts", forget)
    with pytest.raises(UserError, match="LlamaForCausalLM continues a padded prompt otherwise than one alone"):
        trial.check_llm(llm, "x")


@pytest.fixture(scope="module")
def gemma3(models, tmp_path_factory):
    """(directory, model) like Gemma 3 with vision: the text config is a part of the config."""
    import transformers

    vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
              "image_size": 28, "patch_size": 14}  # fmt: skip
    text = {**LAYERS, "vocab_size": 448, "eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 0}
    torch.manual_seed(0)
    config = transformers.Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    llm = transformers.AutoModelForCausalLM.from_config(config).eval()
    return with_weights(models["qwen2"], tmp_path_factory.mktemp("gemma3") / "gemma3", llm), llm


def test_the_text_part_of_a_model_that_takes_images(models, built, gemma3, tmp_path):
    path, whole = gemma3
    llm = load_llm(path, lora=LORA).eval()
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        assert torch.equal(llm(input_ids=ids).logits, whole(input_ids=ids).logits)
    assert llm.generation_config.eos_token_id == 2 and llm.generation_config.bos_token_id == 1
    assert not any("vision" in n for n, _ in llm.named_parameters())
    load_llm(path).save_pretrained(tmp_path)  # as in a packed system
    with torch.no_grad():
        assert torch.equal(load_llm(str(tmp_path)).eval()(input_ids=ids).logits, whole(input_ids=ids).logits)
    model, _, batch = built("whisper", "qwen2", llm=path)
    model(**batch)[0].backward()


def test_what_is_no_causal_llm_is_told(models):
    with pytest.raises(UserError, match="wavlm is no causal LM of transformers; use another LLM"):
        load_llm(models["wavlm"])


def config_with(source, path, **changes):
    """A copy of a model's directory with keys laid over its config.json."""
    shutil.copytree(source, path)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, **changes}))
    return str(path)


def test_kernels_and_code_of_the_hub_are_not_run(models, tmp_path, monkeypatch):
    from espnet_llmvq.speech.frame_rate import described

    for name in ("owner/kernel", "kernels-community/flash-attn2", "paged|sdpa"):
        with pytest.raises(UserError, match=f"attn_implementation: {re.escape(name)}: use one of eager, sdpa, flash"):
            load_llm(models["llama"], attn_implementation=name)
    for source, load in (("llama", load_llm), ("wavlm", described)):
        path = config_with(models[source], tmp_path / source, attn_implementation="owner/kernel")
        with pytest.raises(UserError, match="attn_implementation: owner/kernel: use one of eager, sdpa, flash"):
            load(path)
    monkeypatch.setattr("transformers.utils.is_flash_attn_2_available", lambda: False)
    with pytest.raises(UserError, match=r"flash_attention_2: needs its package \(flash-attn\) and a GPU"):
        load_llm(models["llama"], attn_implementation="flash_attention_2")
    # a type of its own, with code beside it
    path = config_with(models["llama"], tmp_path / "own", model_type="own", auto_map={
        "AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"})  # fmt: skip
    (tmp_path / "own" / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # who is asked says yes to much
    with pytest.raises(UserError, match=r"own: asks for code of its own \(auto_map\), which is not run"):
        load_llm(path)
    assert not (tmp_path / "ran").exists()
