"""A causal LM from GGUF, the format of llama.cpp, to a directory of transformers, with its tokenizer."""

import gguf  # noqa: F401 (transformers read with it)
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from espnet_llmvq.base.errors import UserError

# Marks of images in Gemma 3. The file has them as words of users, the published tokenizer as special tokens.
MARKS = ("[multimodal]", "<start_of_image>", "<end_of_image>")


def convert(path, source, out):
    """Write the GGUF file `path` as the directory `out`. source: not needed; all is in the file.

    Stored as float16: half of float32's size and, unlike bfloat16, fine enough for the values of 4 to 8 bits that the
    file holds. config.json has the weights read as float32.
    """
    # Older transformers do not read from the file that texts have a begin token, as all that come here do.
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, add_bos_token=True)
    marks = [mark for mark in MARKS if mark in tokenizer.get_vocab()]
    tokenizer.add_special_tokens({"extra_special_tokens": marks}, replace_extra_special_tokens=False)
    tokenizer.save_pretrained(out)
    model = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.float16
    )
    model.save_pretrained(out)
    model.config.dtype = "float32"
    model.config.save_pretrained(out)


def loss(directory, text):
    """Loss of `text` a token, in nats."""
    model, info = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, local_files_only=True, output_loading_info=True
    )
    if wrong := [*info["missing_keys"], *info["unexpected_keys"]]:
        raise UserError(f"{directory}: tensors of the model are missing or too many: {', '.join(wrong[:4])}")
    ids = AutoTokenizer.from_pretrained(directory, local_files_only=True)(text, return_tensors="pt").input_ids
    with torch.no_grad():
        return model.eval()(ids, labels=ids).loss.item()
