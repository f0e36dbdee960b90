"""Published models: encoders and LLMs from packages of the package registry or from the hub."""
