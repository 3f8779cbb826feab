"""Networks of the user's own code, named as `file.py:name` or `package.module:name`."""

import os

from torch import nn

from ibviz.errors import InputError
from ibviz.extensions import check_signature, is_outside, load_outside

TRANSFORMERS = "transformers/"  # prefix of the names of that library


def is_code(name: str) -> bool:
    """Return True if the name of a network names code, and no file, folder or network of `transformers`.

    >>> is_code("nets.py:small"), is_code("torchvision/resnet50")
    (True, False)
    """
    return is_outside(name) and not name.startswith(TRANSFORMERS) and not os.path.exists(name)


def build_outside(name: str) -> nn.Module:
    """Return the network that is named, or that the named function without arguments returns.

    Raises:
        InputError: There is no such name, its code fails, or it gives no network.
    """
    given = load_outside(name)
    if not isinstance(given, nn.Module):
        check_signature(name, given, least=0, most=0, keywords=())
        try:
            given = given()
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"{name} fails: {type(error).__name__}: {error}") from error
    if not isinstance(given, nn.Module):
        raise InputError(f"{name} gives {type(given).__name__}; expected a network, as ibviz.wrap(...) returns it")
    return given
