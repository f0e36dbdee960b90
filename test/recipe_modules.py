"""The programs of a recipe's local/, which find each other by their plain names; two recipes may use the same ones."""

import contextlib
import importlib
import sys
from pathlib import Path


@contextlib.contextmanager
def local_modules(local):
    """Function that imports a module of the directory `local` by its name; all are forgotten at the end."""
    names = [path.stem for path in Path(local).glob("*.py")]
    before = {name: sys.modules.pop(name, None) for name in names}
    sys.path.insert(0, str(local))
    try:
        yield importlib.import_module
    finally:
        sys.path.remove(str(local))
        for name, module in before.items():
            sys.modules.pop(name, None)
            if module:
                sys.modules[name] = module
