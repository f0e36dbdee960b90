"""Between encoder and LLM: frame stacking, projector, quantizer, aligned start."""
