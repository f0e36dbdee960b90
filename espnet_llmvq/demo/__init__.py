"""A local page: speech from a microphone or a file, what packed systems make of it, and what their LLM got of it."""
