"""Commands of `llmvq`: parse, call, print."""
