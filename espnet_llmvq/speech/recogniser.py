"""The recogniser that a pretrained encoder comes from: Whisper with its own decoder, as transformers runs it.

It is what one would take otherwise, so it hears what it was made for: whole windows of 30 s, shorter speech filled up
with silence. Of longer speech transformers transcribes window after window, each from where the one before ended.
"""

from espnet_llmvq.base.errors import UserError, check_name
from espnet_llmvq.base.files import check_path, one_line
from espnet_llmvq.base.hub import from_pretrained
from espnet_llmvq.data.audio import SAMPLE_RATE
from espnet_llmvq.speech.frame_rate import described

NEEDED = "the recogniser itself needs --pretrained_encoder, a Whisper model, or an --encoder_file that stands on one"
TRANSCRIBE = "transcribe"
TASKS = (TRANSCRIBE, "translate")
ENGLISH = "en"


def asked(card):
    """The keys of a system's card as arguments of a `PretrainedRecogniser`, without those that ask for nothing.

    Its `prompt_words`, a list or a file with one a line, become a text. Raises UserError for a bad file.
    """
    from espnet_llmvq.data.manifest import read_lines

    words = card["prompt_words"]
    lines = read_lines(words) if words and isinstance(words, str) else words
    text = ", ".join(filter(None, map(one_line, lines)))
    return {key: value for key, value in {**card, "prompt_words": text}.items() if value}


class PretrainedRecogniser:
    """Whisper of a directory (or hub id) as `save_pretrained` writes it with its processor and generation config.

    Args:
        num_beams: of the search, which is greedy with 1.
        language: code of the language that is spoken; "": detected in each utterance. Models for English alone are
            told neither language nor task.
        task: `transcribe`, or `translate` into English.
        prompt_words: text that Whisper takes for what was said before; it then prefers the words that are in it.
        weights: false: only what can be checked without them.
    `window`: samples that it hears at once. Raises UserError for a model that is none, or cannot do what is asked.
    """

    def __init__(self, path, num_beams=1, language="", task=TRANSCRIBE, prompt_words="", device="cpu", weights=True):
        config, self.extractor = described(path)
        if config.model_type != "whisper":
            raise UserError(f"{NEEDED}; {path} is {config.model_type}")
        from transformers import AutoTokenizer, GenerationConfig, WhisperForConditionalGeneration

        local = check_path(path, "generation_config.json", what="encoder", remedy="")
        generation = from_pretrained(GenerationConfig, path, local)
        self.tokenizer = from_pretrained(AutoTokenizer, path, local)
        self.window, self.options = self.extractor.n_samples, {"num_beams": num_beams}
        multilingual = getattr(generation, "is_multilingual", None)
        if multilingual is None:
            raise UserError(f"{path}/generation_config.json does not say is_multilingual; take that of today's Whisper")
        if multilingual:
            codes = [code.strip("<|>") for code in generation.lang_to_id]
            self.options |= {"language": check_name("language", language, codes) if language else None, "task": task}
        elif language not in ("", ENGLISH) or task != TRANSCRIBE:
            raise UserError(f"{path} knows English alone: language {language or ENGLISH}, task {task} cannot be asked")
        if prompt_words:
            self.options["prompt_ids"] = self.prompt_ids(prompt_words, config.max_target_positions // 2)
        if weights:
            from transformers.utils import logging

            from espnet_llmvq.speech.pretrained import load

            logging.set_verbosity_error()  # it warns of calls of its own
            self.model = load(WhisperForConditionalGeneration, path).to(device)

    def prompt_ids(self, prompt, most):
        """Token ids of a prompt and the mark before it. Raises UserError for more than `most`, and for other marks."""
        try:
            ids = self.tokenizer.get_prompt_ids(prompt, return_tensors="pt")
        except ValueError as err:
            raise UserError(f"prompt_words: {err}") from None
        if len(ids) > most:
            raise UserError(f"prompt_words: {len(ids)} tokens are more than the {most} that it reads; take fewer words")
        return ids

    def __call__(self, waves):
        """Transcribe utterances, each (S,) float32 at 16 kHz -> for each (token ids, text, whether it was cut off).

        Those beyond the window are transcribed one after the other, the others at once.
        """
        short = [i for i, wave in enumerate(waves) if len(wave) <= self.window]
        groups = [short] * bool(short) + [[i] for i, wave in enumerate(waves) if len(wave) > self.window]
        found = {}
        for group in groups:
            found |= zip(group, self.transcribed([waves[i] for i in group]))
        return [found[i] for i in range(len(waves))]

    def transcribed(self, waves):
        """As a call, of utterances within the window, or of a longer one."""
        device, options = self.model.device, dict(self.options)
        if "prompt_ids" in options:
            options["prompt_ids"] = options["prompt_ids"].to(device)
        whole = {}
        if max(map(len, waves)) > self.window:
            whole = {"padding": "longest", "truncation": False, "return_attention_mask": True}
            options["return_timestamps"] = True  # they say where the next window begins
        inputs = self.extractor(waves, sampling_rate=SAMPLE_RATE, return_tensors="pt", device=str(device), **whole).to(
            device
        )
        done = self.model.generate(**inputs, **options, return_segments=True)
        return [self.read(segments) for segments in done["segments"]]

    def read(self, segments):
        """(token ids, text, whether it was cut off) of the segments of an utterance."""
        tokens = [token for segment in segments for token in segment["tokens"].tolist()]
        end = self.model.generation_config.eos_token_id
        cut = any(end not in segment["result"][segment["idxs"][0] :] for segment in segments)
        return tokens, self.tokenizer.decode(tokens, skip_special_tokens=True).strip(), cut
