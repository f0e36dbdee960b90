"""Whisper base and Gemma 3 270M as `make models` brings them: what the toolkit makes of them is what they are."""

import os
from pathlib import Path

import pytest
import torch

MODELS = Path(os.environ.get("MODELS", "."))
NAMES = ("whisper-base", "gemma-3-270m")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all((MODELS / name / "config.json").exists() for name in NAMES),
        reason="MODELS does not name a directory of whisper-base and gemma-3-270m (make models)",
    ),
]
TEXT = "the patient was given two tablets of ibuprofen in the evening"


@pytest.fixture(scope="module")
def gemma():
    from espnet_llmvq.llm.directory import load_llm, load_tokenizer

    path = str(MODELS / "gemma-3-270m")
    return load_llm(path).eval(), load_tokenizer(path)


def test_a_text_has_the_logits_of_the_model(gemma):
    """From our sequence of text to our loss: as transformers, which is given the tokenizer's own ids."""
    from espnet_llmvq.model.batch import SequenceArrays, batch_of
    from espnet_llmvq.model.losses import assemble, next_token_loss
    from espnet_llmvq.sequence.asr import text_sequence

    llm, tokenizer = gemma
    _, batch = batch_of(SequenceArrays(tokenizer), [text_sequence("u", TEXT)])
    ids = torch.tensor([tokenizer.encode(TEXT) + [tokenizer.eos_token_id]])
    assert batch["tokens"].tolist() == ids.tolist() and ids[0, 0] == tokenizer.bos_token_id
    with torch.no_grad():
        own = llm(input_ids=ids, labels=ids, use_cache=False)
        loss, count, _ = next_token_loss(llm, *assemble(llm.get_input_embeddings(), batch["tokens"], batch["labels"]))
    assert count == ids.shape[1] - 1 and float(loss / count) == pytest.approx(float(own.loss), rel=1e-5)
    # A sentence of English is no surprise, as it is where steps have another scale.
    text = own.logits[0, :-2].log_softmax(-1).gather(1, ids[0, 1:-1, None])
    assert -float(text.mean()) < 5


def test_rows_of_the_codebook_are_what_gemma_gets(gemma):
    from espnet_llmvq.bridge.bridge import BRIDGES
    from espnet_llmvq.llm.ends import token_inputs

    llm, _ = gemma
    table = token_inputs(llm)
    ids = torch.tensor([2, 5, 1000, 99_999, len(table) - 1])
    with torch.no_grad():
        assert torch.equal(table[ids], llm.get_input_embeddings()(ids))
        torch.testing.assert_close(table[ids], llm.get_input_embeddings().weight[ids] * 640**0.5, rtol=1e-3, atol=0)
        assert 24 < float(table.norm(dim=-1).mean()) < 28
        bridge = BRIDGES["hard"](4, table, stack=1, hidden_size=8)
        out, _, stats = bridge(torch.randn(1, 6, 4), torch.tensor([6]))
    assert (out[0][:, None] - table[stats_rows(bridge, out[0])]).abs().amax(-1).min(1).values.max() < 1e-4
    assert 0.8 < float(stats["bridge_norm_ratio"]) < 1.2


def stats_rows(bridge, out):
    """The row of the codebook nearest to each output."""
    from espnet_llmvq.bridge.soft_vq import nearest_rows

    return nearest_rows(out, bridge.codebook, 1, 0)[1][:, 0]


def test_gemma_writes_text_alone(gemma):
    """What it prefers after an answer is a mark of images; that is no text."""
    from espnet_llmvq.decode.generate import never_written, search
    from espnet_llmvq.decode.questions import LLMAlone

    llm, tokenizer = gemma
    ids = torch.tensor(tokenizer.encode("the capital of France is"))
    options = dict(max_new_tokens=8, do_sample=False, eos_token_id=tokenizer.eos_token_id, pad_token_id=0)
    plain = llm.generate(input_ids=ids[None], attention_mask=torch.ones_like(ids)[None], **options)[0, len(ids) :]
    assert set(plain.tolist()) & set(never_written(tokenizer, llm.config.vocab_size))
    prompt = llm.get_input_embeddings()(ids).detach()
    ((hypothesis, *_),) = search(LLMAlone(llm, tokenizer.eos_token_id), tokenizer, [prompt], [8], 1)
    text = tokenizer.decode(hypothesis.tokens)
    assert text.startswith(" Paris") and text == tokenizer.decode(hypothesis.tokens, skip_special_tokens=True)


def test_whisper_itself_writes_what_is_said():
    """Cased and punctuated; a rare word where it is told of it."""
    pytest.importorskip("espeakng_loader")
    from espnet_llmvq.data.espeak import Espeak
    from espnet_llmvq.speech.recogniser import PretrainedRecogniser

    said = ("please call the bank and ask for a new card", "the doctor gave me ibuprofen and amlodipine")
    waves = [Espeak().speak(text, "en-us")[0] for text in said]

    def texts(**options):
        return [text for _, text, _ in PretrainedRecogniser(str(MODELS / "whisper-base"), **options)(waves)]

    bank, drugs = texts(language="en", num_beams=5)
    assert bank == "Please call the bank and ask for a new card."
    assert drugs.startswith("The doctor gave me ibuprofen, and") and "amlodipine" not in drugs
    assert texts() == texts(language="en")  # which is heard
    assert "amlodipine" in texts(language="en", prompt_words="ibuprofen, amlodipine, metformin")[1]


def test_frames_of_whisper_are_those_of_the_whole_window():
    """Of speech that fills it, to the last frame; `last` is what its decoder reads."""
    from transformers import WhisperModel

    from espnet_llmvq.speech.pretrained import WhisperEncoder

    path = str(MODELS / "whisper-base")
    torch.manual_seed(0)
    wave = torch.randn(480_000) * torch.linspace(0, 0.3, 480_000)
    ours = WhisperEncoder(path).eval()
    with torch.no_grad():
        frames, lengths = ours(wave[None], torch.tensor([480_000]))
        mel = ours.extractor(wave.numpy(), sampling_rate=16000, return_tensors="pt").input_features
        own = WhisperModel.from_pretrained(path, local_files_only=True).get_encoder().eval()(mel).last_hidden_state
    assert lengths.tolist() == [1500]
    # The window ends in a mirror of its last samples, ours in silence.
    torch.testing.assert_close(frames, own, atol=5e-3, rtol=0)
