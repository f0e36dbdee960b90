"""YAML configs: reading, inheritance, and `key=value` laid over them."""

import os

from espnet_llmvq.base.errors import UserError


def read_yaml(path):
    """A YAML mapping. Raises UserError with the file and line of a syntax error."""
    import yaml

    try:
        with open(path, encoding="utf-8") as f:
            data = yaml.safe_load(f) or {}
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except UnicodeDecodeError as err:
        raise UserError(f"{path} is not UTF-8: {err}") from None
    except yaml.YAMLError as err:
        raise UserError(f"{path}: {err}") from None
    if not isinstance(data, dict):
        raise UserError(f"{path}: expected `key: value` lines")
    return data


def read_config(path, above=()):
    """A training config; `base: other.yaml` (relative to it) is read first, then overridden.

    Keyword arguments (`*_conf`) are merged one level deep, all else is replaced. above: the files that led here.
    Raises UserError for a base that leads back to the file itself.
    """
    config = read_yaml(path)
    base = config.pop("base", None)
    if base is None:
        return config
    base, above = os.path.join(os.path.dirname(path), str(base)), (*above, os.path.abspath(path))
    if os.path.abspath(base) in above:
        raise UserError(f"{path}: its base {base} has this file as its base; one of them must have another or none")
    merged = read_config(base, above)
    for key, value in config.items():
        if key.endswith("_conf") and isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = {**merged[key], **value}
        else:
            merged[key] = value
    return merged


def read_overrides(pairs):
    """["key=value", ...], values as in YAML -> dict. Raises UserError for a pair that is none."""
    import yaml

    found = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise UserError(f"override {pair!r}: expected key=value")
        try:
            found[key] = yaml.safe_load(value)
        except yaml.YAMLError as err:
            raise UserError(f"override {pair!r}: the value is not YAML: {str(err).splitlines()[0]}") from None
    return found
