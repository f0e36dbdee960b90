"""YAML configs: reading, inheritance, `key=value` laid over them, and typed ones as dataclasses."""

import dataclasses
import math
import os
import types
import typing

from espnet_llmvq.base.errors import UserError, check_name


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


def option(default, text, choices=()):
    """Field of a dataclass that a command takes as an option too: its default, help, and the words allowed."""
    return dataclasses.field(default=default, metadata={"help": text, "choices": choices})


KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", dict: "keys and values"}


def from_mapping(cls, values, where):
    """A dataclass from a mapping (of YAML, JSON or options), its keys and types checked.

    Fields may be bool, int, float, str, dict, another dataclass, `tuple[X, ...]` or `tuple[X, Y]` of these (lists in
    the mapping), `X | None`, `Literal[...]`. An int does for a float, and so does a text such as "1e-3", which YAML
    does not take for a number. where: what the mapping is, in messages. Raises UserError for an unknown key, with the
    nearest valid one, for one that is missing, for a value of another type, and for what the class itself refuses.
    """
    if not isinstance(values, dict):
        raise UserError(f"{where}: expected keys and values, not {values!r}")
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key in values:
        check_name(f"key in {where}", key, fields)
    made = {key: _typed(hints[key], value, where, key) for key, value in values.items()}
    for name, field in fields.items():
        if name not in made and field.default is field.default_factory is dataclasses.MISSING:
            raise UserError(f"{where}: {name} is missing")
    try:
        return cls(**made)
    except UserError as err:
        raise UserError(f"{where}: {err}") from None


def _typed(kind, value, where, key):
    """A value as the type `kind` of a field wants it. Raises UserError."""
    origin, inside = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in inside:
            return None
        (kind,) = (k for k in inside if k is not type(None))
        return _typed(kind, value, where, key)
    if dataclasses.is_dataclass(kind):
        return from_mapping(kind, value, f"{where}: {key}")
    if origin is typing.Literal:
        if value not in inside or type(value) not in map(type, inside):
            check_name(f"{key} in {where}", str(value), list(map(str, inside)))
            raise UserError(f"{where}: {key} is {value!r}; it must be one of {', '.join(map(repr, inside))}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise UserError(f"{where}: {key} is {value!r}; it must be a list")
        if inside[-1] is Ellipsis:
            inside = inside[:1] * len(value)
        if len(inside) != len(value):
            raise UserError(f"{where}: {key} is {value!r}; it must be a list of {len(inside)}")
        return tuple(_typed(k, v, where, f"{key}[{i}]") for i, (k, v) in enumerate(zip(inside, value)))
    if kind is float and not isinstance(value, bool):
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if math.isfinite(number):
            return number
    elif isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    hint = "; put quotes around it" if kind is str else ""
    raise UserError(f"{where}: {key} is {value!r}; it must be {KINDS[kind]}{hint}")
