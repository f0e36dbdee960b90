"""The bridges as post-encoders of ESPnet's own ASR task, in front of its Hugging Face decoder with a causal LM."""

import espnet2.tasks.asr as espnet_asr
import torch
from espnet2.asr.postencoder.abs_postencoder import AbsPostEncoder

from espnet_llmvq.base.errors import UserError, check_name
from espnet_llmvq.bridge.bridge import BRIDGES
from espnet_llmvq.llm.directory import load_llm
from espnet_llmvq.llm.ends import token_inputs
from espnet_llmvq.model.build import signature_keys


class BridgePostEncoder(AbsPostEncoder):
    """A bridge: encoder outputs to LLM inputs.

    Args:
        input_size: width of an encoder frame.
        model_name_or_path: Hugging Face directory or hub id of the causal LM whose input embeddings become the
            codebook. ESPnet builds the post-encoder before the decoder, so they are read here a second time.
        conf: keyword arguments of the bridge, the same as in our own `bridge_conf`.

    Raises UserError for unknown or impossible keys and a directory that is no LLM.
    """

    name = None  # in BRIDGES

    def __init__(self, input_size, model_name_or_path, **conf):
        super().__init__()
        bridge = BRIDGES[self.name]
        for key in conf:
            known = signature_keys(bridge) - {"input_size", "embedding"} | {"model_name_or_path"}
            check_name(f"key under postencoder_conf of llmvq_{self.name}", key, known)
        self.model_name_or_path = model_name_or_path
        table = self.load_table()
        self.width = table.shape[1]
        self.bridge = bridge(input_size, table, **conf)

    def load_table(self):
        """(V, D) the LLM's input embeddings."""
        return token_inputs(load_llm(self.model_name_or_path)).detach()

    def forward(self, input, input_lengths):
        """(B, T, input_size), (B,) -> ((B, S, D), (B,)). Padding is zero and does not influence the rest."""
        output, lengths, _ = self.bridge(input, input_lengths)
        return output, lengths

    def output_size(self):
        return self.width

    def reload_pretrained_parameters(self):
        """Restore the codebook. ESPnet calls this after `--init`, which gives all matrices random values."""
        if hasattr(self.bridge, "codebook"):
            self.bridge.codebook.data.copy_(self.load_table())


# "none" alone is a reserved word of ESPnet's choices.
POSTENCODERS = {
    f"llmvq_{name}": type(f"{bridge.__name__}PostEncoder", (BridgePostEncoder,), {"name": name})
    for name, bridge in BRIDGES.items()
}


class ASRTask(espnet_asr.ASRTask):
    """ESPnet's ASR task with our post-encoders.

    With several GPUs ESPnet spawns processes that start from nothing and unpickle `ASRTask.main_worker`. It is
    found by the name of this module, whose import registers the post-encoders there too.
    """

    @classmethod
    def build_model(cls, args):
        """As ESPnet's. Raises UserError where the decoder does not read what the bridge writes."""
        name = getattr(args, "postencoder", None)
        if name not in POSTENCODERS:
            return super().build_model(args)
        if args.decoder != "hugging_face_transformers" or not args.decoder_conf.get("causal_lm"):
            raise UserError(
                f"postencoder: {name} makes inputs of a causal LM; set decoder: hugging_face_transformers and "
                f"decoder_conf: {{causal_lm: true}} (decoder is {args.decoder}, {args.decoder_conf})"
            )
        llm = args.decoder_conf.get("model_name_or_path")
        if llm is None:
            raise UserError("decoder_conf needs model_name_or_path, the directory or hub id of an LLM")
        args.postencoder_conf.setdefault("model_name_or_path", llm)
        model = super().build_model(args)
        # ESPnet would lead other widths through a new linear layer, and no codebook row would reach the LLM.
        if model.decoder is not None and not isinstance(model.decoder.linear_in, torch.nn.Identity):
            raise UserError(
                f"the codebook of {args.postencoder_conf['model_name_or_path']} is {model.postencoder.output_size()} "
                f"wide, but the inputs of {llm} are {model.decoder.linear_in.out_features}; take both from one LLM "
                "(leave model_name_or_path out of postencoder_conf)"
            )
        return model


# Importing this module is what registers: unpickling in a spawned process does no more than that. Modules that import
# ESPnet's `ASRTask` afterwards get ours.
espnet_asr.postencoder_choices.classes.update(POSTENCODERS)
espnet_asr.ASRTask = ASRTask
