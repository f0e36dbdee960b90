"""Models in directories or on the Hugging Face hub, read without running any code of theirs."""

import re

from espnet_llmvq.base.errors import DOWNLOAD, UserError, reading

# Names of files that go with any copy of a model; texts alone. A point is followed by the number of a version.
_WORDS = r"(?:[^.]|\.\d+(?![^\W_]))*"
TERMS = re.compile(rf"{_WORDS}(licen[cs]e|notice|terms|policy){_WORDS}(\.(txt|md|rst|html?|pdf))?", re.IGNORECASE)

# Attention of transformers itself, and of the package flash-attn; by any other name it would run a kernel of the hub.
ATTENTION = ("eager", "sdpa", "flash_attention_2")


def is_terms(name):
    """Whether a file of a model's directory is called a licence, a notice, terms or a policy."""
    return bool(TERMS.fullmatch(name))


def from_pretrained(cls, path, local, remedy=DOWNLOAD, **options):
    """What a class of transformers makes of a directory or hub id. local: `check_path` of it; the network is not asked.

    Raises UserError for what cannot be read, and where code of its own would have to be run.
    """
    if local:  # of the bars of transformers, those of downloads say something
        from transformers.utils import logging

        logging.disable_progress_bar()
    with reading(path, remedy):
        try:
            return cls.from_pretrained(path, local_files_only=local, trust_remote_code=False, **options)
        except ValueError as err:
            if "trust_remote_code" not in str(err):
                raise
            raise UserError(
                f"{path}: asks for code of its own (auto_map), which is not run; use another model"
            ) from None


def check_attention(config, asked=None):
    """Raise UserError if a config of transformers, or who loads it, wants attention other than that of ATTENTION."""
    parts = [config, *(getattr(config, name, None) for name in config.sub_configs)]
    for name in [asked, *(getattr(part, "_attn_implementation", None) for part in parts)]:
        if name not in (None, *ATTENTION):
            raise UserError(f"llm_conf.attn_implementation: {name}: use one of {', '.join(ATTENTION)}")
        if name == "flash_attention_2":
            from transformers.utils import is_flash_attn_2_available

            if not is_flash_attn_2_available():
                raise UserError(f"llm_conf.attn_implementation: {name}: needs its package (flash-attn) and a GPU")
