"""Tokenizer and language model (stages 5 and 6)."""

import os

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.base.made import Made
from espnet_llmvq.experiment.options import words
from espnet_llmvq.stages.report import is_there, tools


def existing(files, where):
    """The files, which must be there. Raises UserError."""
    for path in files:
        if not os.path.isfile(path):
            raise UserError(f"--{where}: {path} does not exist; stage 1 makes the recipe's own text")
    return files


def tokenizer(experiment):
    """Train the tokenizer of a language model that is trained here."""
    options = experiment.options
    if not experiment.trains_llm:
        print(f"the LLM is {experiment.llm}, which has its tokenizer")
        return
    texts = words(options.tokenizer_text, "tokenizer_text") or experiment.lm_train_text
    existing(texts, "tokenizer_text" if options.tokenizer_text else "lm_train_text")
    arguments = {
        "vocab_size": options.vocab_size,
        "whole_words": options.whole_words,
        "reserved": words(options.reserved_tokens, "reserved_tokens"),
    }
    inputs = {f"text {i}": path for i, path in enumerate(texts, 1)}
    made = Made(experiment.tokenizer, inputs, **arguments, **tools("sentencepiece"))
    if is_there(made, experiment):
        return
    from espnet_llmvq.llm.tokenizer import train_tokenizer

    train_tokenizer(texts, out_dir=made.out, **arguments, made=made)
    print(f"wrote {made.out}")


def language_model(experiment, threads=1, ngpu=0):
    """Train the small language model, unless there is another LLM, and measure its perplexity on held-out texts."""
    if not experiment.trains_llm:
        measure_perplexity(experiment, experiment.exp("perplexity"), ngpu=ngpu)
        return
    from dataclasses import asdict

    from espnet_llmvq.llm import pretrain

    options, texts = experiment.options, existing(experiment.lm_train_text, "lm_train_text")
    config = pretrain.load_config(options.lm_config)
    inputs = {"tokenizer": experiment.tokenizer, **{f"text {i}": path for i, path in enumerate(texts, 1)}}
    made = Made(
        experiment.llm, inputs, config=asdict(config), prompt=options.prompt, seed=options.base_seed,
        **tools("torch", "transformers"),
    )  # fmt: skip
    if not is_there(made, experiment):
        import torch

        # Beside the encoder one: on batches as small as the recipes use, a second was measured to gain nothing.
        torch.set_num_threads(1 if experiment.trains_encoder else threads)
        pretrain.log_to_stderr()
        pretrain.train(
            config, texts, experiment.tokenizer, made.out, options.prompt, options.base_seed, ngpu, made=made
        )
        print(f"wrote {made.out}")
    measure_perplexity(experiment, made.out, config.noise, ngpu)


def measure_perplexity(experiment, out, noise=None, ngpu=0):
    """Measure the perplexity of the LLM on held-out texts; perplexity.json in `out`."""
    from dataclasses import asdict

    from espnet_llmvq.llm import perplexity, pretrain

    files = experiment.lm_valid_text
    existing(files.values(), "lm_valid_text")
    if not files:
        return
    options, noise = experiment.options, noise or pretrain.Config().noise
    inputs = {f"held out: {name}": path for name, path in files.items()}
    if os.path.isdir(experiment.llm):
        inputs["llm"] = os.path.join(experiment.llm, "config.json")
    path = os.path.join(out, perplexity.FILE)
    made = Made(path, inputs, llm=experiment.llm, noise=asdict(noise), prompt=options.prompt, seed=options.base_seed)
    if not made.fresh():
        report = perplexity.measure(experiment.llm, files, options.prompt, noise, options.base_seed, out, ngpu)
        made.note()
        print(perplexity.table(report))
