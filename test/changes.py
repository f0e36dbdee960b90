"""After a finished smoke run: every option of run.sh and a key of every config file is changed, one by one, and each
change is seen: redone, refused with the difference, or documented as without effect on results. Run in the recipe.

    python changes.py EXPDIR DOCS/recipes.md
"""

import dataclasses
import os
import re
import sys

import yaml

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.experiment.experiment import read_experiment
from espnet_llmvq.experiment.options import Options
from espnet_llmvq.experiment.plan import SMOKE_TRAINING, make_plan
from espnet_llmvq.stages.status import status

# {option: (another value, what is no longer up to date or refused, as a pattern over `result: difference`)}
OPTIONS = {
    "expdir": ("exp_other", r"^exp_other/tokenizer: exp_other/tokenizer is not there"),
    "datadir": ("data_other", r"^stage 2: data_other/train"),
    "dumpdir": ("dump_other", r"^dump_other/train.unfiltered: dump_other/train.unfiltered is not there"),
    "seed": (2, r"^exp_smoke/start_seed2: .* is not there"),
    "base_seed": (2, r"^exp_smoke/encoder: settings.seed: 1 then, 2 now"),
    "cards": ("conf/other.yaml", r"conf/other.yaml does not exist"),
    "train_set": ("valid_two", r"^stage 2: data_smoke/valid_two"),
    "valid_set": ("train_two", r"^stage 3: data_smoke/train_two"),
    "test_sets": ("test_id:ood test_two:id", r"^stage 3: data_smoke/test_two"),
    "systems": ("lora_long hard_k10", r"^exp_smoke/start-hard-hard_k10: .* is not there"),
    "tts_text": ("data_smoke/test_id/text", r"^data_smoke/tts: data_smoke/tts is not there"),
    "speed_perturb_factors": ("0.9", r"^data_smoke/train_sp: "),
    "audio_format": ("flac", r"^dump_smoke/train.unfiltered: audio_format: 'wav' then, 'flac' now"),
    "min_duration": (0.3, r"^dump_smoke/train: min_duration: 0.2 then, 0.3 now"),
    "max_duration": (19.0, r"^dump_smoke/train: max_duration: 20.0 then, 19.0 now"),
    "prompt": ("ASK: {speech} SAY: {text}", r"^dump_smoke/train/sequences.jsonl: prompt: .* now"),
    "llm": ("exp_smoke/llm", r"^exp_smoke/encoder: llm .exp_smoke/llm. has changed"),
    "lm_train_text": ("data_smoke/lm/valid.txt", r"^exp_smoke/llm: text 1 .*has changed"),
    "tokenizer_text": ("data_smoke/lm/valid.txt", r"^exp_smoke/tokenizer: text 1 .*has changed"),
    "lm_valid_text": ("other=data_smoke/lm/valid.txt", r"^exp_smoke/llm/perplexity.json: "),
    "vocab_size": (399, r"^exp_smoke/tokenizer: vocab_size: 400 then, 399 now"),
    "whole_words": (99, r"^exp_smoke/tokenizer: whole_words: 100 then, 99 now"),
    "reserved_tokens": ("<N>", r"^exp_smoke/tokenizer: reserved: \[\] then, \['<N>'\] now"),
    "lm_config": ("conf/template/lm.yaml", r"^exp_smoke/llm: config\."),
    "encoder_file": ("exp_smoke/encoder/model.pth", None),  # the same encoder, named by its file: nothing to do
    "encoder_config": ("conf/none.yaml", r"conf/none.yaml does not exist"),
    "pretrained_encoder": ("./none", r"encoder directory ./none does not exist"),
    "pretrained_layer": ("3", r"--pretrained_layer is for --pretrained_encoder"),
    "encoder_tts": (True, r"--encoder_tts is for the speech that --tts_text becomes"),
    "ctc_head": (False, None),  # both are for pretrained models
    "ctc_pieces": ("all", None),
    "cache_encoder": (False, r"^exp_smoke/start: training frames is no more an input"),
    "augment_cache": (True, r"^exp_smoke/encoder/frames/train: augment: not there then, True now"),
    "align_sets": ("test_noise", r"^exp_smoke/align/test_noise.ctm: .* is not there"),
    "num_beams": (3, r"^exp_smoke/start-lora/decode_test_id/nbest.jsonl: search.num_beams: 4 then, 3 now"),
    "draft": ("ctc", r"^exp_smoke/start-lora/decode_test_id/nbest.jsonl: search.draft: not there then, 'ctc' now"),
    "draft_accept": (0.5, r"--draft_accept is for --draft ctc"),
    "llm_dtype": ("bfloat16", r"decode_test_id/nbest.jsonl: search.llm_dtype: not there then, 'bfloat16' now"),
    "joint_ctc": (0.4, r"^exp_smoke/start-lora/decode_test_id/nbest.jsonl: search.joint_ctc: not there then, 0.4 now"),
    "ctc_weight": ("0.5", r"^exp_smoke/start-lora/decode_test_id/hyp.jsonl: weight: 0 then, 0.5 now"),
    "tokens_per_second": (9.0, r"nbest.jsonl: search.tokens_per_second: not there then, 9.0 now"),
    "other_prompt": (True, r"nbest.jsonl: other_prompt: not there then, True now"),
    "questions": ("sqa=none.jsonl", r"^stage 12: none.jsonl"),
    "question_examples": ("x.jsonl", r"--question_examples is for multiple choice"),
    "train_overrides": (f"{SMOKE_TRAINING} grad_clip=2", r"^exp_smoke/encoder: settings.grad_clip: .* now"),
    "accumulate": (2, r"^exp_smoke/encoder: settings.accum_grad: 1 then, 2 now"),
    "ngpu": (1, r"^exp_smoke/encoder: settings.ngpu: 0 then, 1 now"),
}
# What stages 13 and 15 read, which are always done: the table of the plan is another one.
ALWAYS = {
    "published": "conf", "baseline": "lora_long", "normaliser": "whisper_english", "word_lists": "test_id=x.txt",
    "set_normalisers": "test_id=softvq", "set_metrics": "test_id=bleu", "resample": "speaker", "title": "another",
}  # fmt: skip
# Of a run with mixtures, synthetic speech and questions.
JOINT = {
    "tts_voices": ("en-gb+m3", r"^data_smoke/tts: request"),
    "tts_command": ("say {text} {wav}", r"^data_smoke/tts: request"),
    "texts": ("domain=data_smoke/lm/valid.txt", r"^dump_smoke/domain/plain.jsonl: text .*has changed"),
    "ctms": ("train=exp_smoke/align/tts.ctm", r"^dump_smoke/train/\w+.jsonl: word times .*has changed"),
    "interleave_overrides": ("silence=0 margin=0.5", r"^dump_smoke/train/\w+.jsonl: interleave.\w+: .* now"),
    "context": ("50", r"^dump_smoke/train/\w+.jsonl: context: 'llm' then, '50' now"),
    "too_long": ("refuse", r"^dump_smoke/train/\w+.jsonl: too_long: not there then, 'refuse' now"),
    "mixture_positions": (900, r"^exp_smoke/mixtures/\w+.jsonl: positions: 3000 then, 900 now"),
    "questions_config": ("conf/questions.yaml", r"^exp_smoke/.*/answers.jsonl: options.\w+: .* now"),
}
# {config file: (keys to a value, another value, pattern)}
CONFIGS = {
    "conf/encoder.yaml": (["optim_conf", "lr"], 0.5, r"^exp_smoke/encoder: settings.optim_conf.lr: .* 0.5 now"),
    "conf/systems.yaml": (["phases", "lora"], {"grad_clip": 3.0}, r"start-lora: settings.grad_clip: 1.0 then, 3.0 now"),
    "conf/template/common.yaml": (["phases", "common", "log_interval"], 7, r"start: settings.log_interval: .* 7 now"),
    "conf/template/paper_a.yaml": (
        ["phases", "lora", "llm_conf", "lora", "r"], 3, r"start-lora: settings.llm_conf.lora.r: .* 3 now",
    ),
    "conf/template/lm_smoke.yaml": (["learning_rate"], 0.5, r"^exp_smoke/llm: config.learning_rate: .* 0.5 now"),
}  # fmt: skip
JOINT_CONFIGS = {
    "conf/systems.yaml": (["phases", "joint", "grad_clip"], 3.0, r"-joint\w*: settings.grad_clip: 1.0 then, 3.0 now"),
    "conf/encoder_smoke.yaml": (["optim_conf", "lr"], 0.5, r"^exp_smoke/encoder: settings.optim_conf.lr: .* 0.5 now"),
    "conf/questions_smoke.yaml": (["multiple_choice", "shots"], 0, r"/answers.jsonl: options.shots: .* 0 now"),
    "conf/template/paper_b.yaml": (["mixtures", "text", "domain/text"], 9, r"/text.jsonl: shares: .* 9\]\] now"),
}


def seen(pattern, lines, expdir):
    """Whether a line matches a pattern that was written for the directory exp_smoke."""
    return any(re.search(pattern.replace("exp_smoke", re.escape(expdir)), line) for line in lines)


def changes(options):
    """What is not up to date with some options, a line each; or what is refused."""
    try:
        return [f"{result}: {difference}" for result, difference in status(make_plan(options)) if difference]
    except UserError as err:
        return [str(err)]


def without_effect(path):
    """Options that the documentation says to have no effect on results."""
    with open(path, encoding="utf-8") as f:
        section = f.read().partition("### Options without effect on results")[2].partition("\n#")[0]
    return set(re.findall(r"`--(\w+)`", section))


def main(expdir, docs):
    experiment, free = read_experiment(expdir), without_effect(docs)
    tried, configs, always = (JOINT, JOINT_CONFIGS, {}) if experiment.mixtures else (OPTIONS, CONFIGS, ALWAYS)
    # As run.sh gave them: a plan of a smoke run is not laid over itself.
    options = dataclasses.replace(experiment.options, smoke=False)
    failures = [f"nothing was changed, but {line}" for line in changes(options)]
    for field in dataclasses.fields(Options):
        if (field.name in {**OPTIONS, **ALWAYS, **JOINT}) == (field.name in free):
            failures.append(f"--{field.name}: must be tried here, or documented as without effect on results")
        if field.name in always:
            other = make_plan(dataclasses.replace(options, **{field.name: always[field.name]}))
            named = getattr(other.options, field.name) != getattr(options, field.name)
            if not named or (field.name not in ("resample", "title") and other.table() == experiment.table()):
                failures.append(f"--{field.name}: the table is the same")
        if field.name not in tried:
            continue
        value, pattern = tried[field.name]
        value = value.replace("exp_smoke", expdir) if isinstance(value, str) else value
        lines = changes(dataclasses.replace(options, **{field.name: value}))
        if (pattern is None and lines) or (pattern and not seen(pattern, lines, expdir)):
            failures.append(f"--{field.name} {value}: {pattern or 'nothing'} was expected, not {lines[:3]}")
    for path, (keys, value, pattern) in configs.items():
        with open(path, encoding="utf-8") as f:
            text = f.read()
        config = yaml.safe_load(text)
        inner = config
        for key in keys[:-1]:
            inner = inner.setdefault(key, {})
        inner[keys[-1]] = value
        with open(path, "w", encoding="utf-8") as f:
            yaml.safe_dump(config, f, sort_keys=False)
        lines = changes(options)
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        if not seen(pattern, lines, expdir):
            failures.append(f"{path}, {'.'.join(keys)}: {pattern} was expected, not {lines[:3]}")
    there = [os.path.join(folder, name) for folder, _, names in os.walk("conf") for name in names]
    ignored = sorted(p for p in there if p not in configs and "published" not in p)
    print(f"changes: {len(tried)} options, {len(configs)} config files; not changed here: {' '.join(ignored)}")
    if failures:
        sys.exit("changes: error: " + "\nchanges: error: ".join(failures))


if __name__ == "__main__":
    main(*sys.argv[1:])
