"""The speech LLM: encoder, bridge and LLM from a batch to a loss."""
