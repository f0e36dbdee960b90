"""Tokenizer and language model (stages 5 and 6)."""

import os

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.experiment.options import words


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
        if experiment.spelling:
            spelling_pieces(experiment)
        return
    texts = words(options.tokenizer_text, "tokenizer_text") or experiment.lm_train_text
    existing(texts, "tokenizer_text" if options.tokenizer_text else "lm_train_text")
    from espnet_llmvq.llm.tokenizer import train_tokenizer

    reserved, out = words(options.reserved_tokens, "reserved_tokens"), experiment.tokenizer
    trained = train_tokenizer(texts, options.vocab_size, out, whole_words=options.whole_words, reserved=reserved)
    print(f"wrote {out}" if trained else f"{out} is there, nothing to do")


def spelling_pieces(experiment):
    """Choose the tokens of the LLM that the CTC head spells the training set with."""
    from espnet_llmvq.llm.spelling import write_spelling

    text, out = os.path.join(experiment.dump_dir(experiment.options.train_set), "text"), experiment.spelling
    count = write_spelling(experiment.llm, text, out, experiment.pieces)
    print(f"wrote {out}: {count} pieces" if count else f"{out} is there, nothing to do")


def language_model(experiment, threads=1, ngpu=0):
    """Train the small language model, unless there is another LLM, and measure its perplexity on held-out texts."""
    from espnet_llmvq.llm import perplexity, pretrain

    options, out = experiment.options, experiment.exp("perplexity")
    files, config = experiment.lm_valid_text, pretrain.Config()
    existing(files.values(), "lm_valid_text")
    if experiment.trains_llm:
        import torch

        # Beside the encoder one: on batches as small as the recipes use, a second was measured to gain nothing.
        torch.set_num_threads(1 if experiment.trains_encoder else threads)
        texts, out = existing(experiment.lm_train_text, "lm_train_text"), experiment.llm
        config = pretrain.load_config(options.lm_config)
        pretrain.log_to_stderr()
        trained = pretrain.train(config, texts, experiment.tokenizer, out, options.prompt, options.base_seed, ngpu)
        print(f"wrote {out}" if trained else f"{out} is there, nothing to do")
    if files:
        report = perplexity.measure(experiment.llm, files, options.prompt, config.noise, options.base_seed, out, ngpu)
        if report:
            print(perplexity.table(report))
