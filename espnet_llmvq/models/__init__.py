"""Published models as directories of transformers: converted from packages of the registry, or from the hub."""
