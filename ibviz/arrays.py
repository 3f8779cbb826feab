"""Arrays that users pass: tensors as they are, NumPy arrays as tensors."""

import numpy as np
import torch
from torch import Tensor

from ibviz.errors import InputError


def as_tensor(given: object, what: str) -> Tensor:
    """Return a tensor as it is and a NumPy array as a tensor, with float64, NumPy's default, reduced to float32.

    Raises `InputError` for anything else; `what` names the argument in the message.

    >>> as_tensor(np.zeros(2), "images").dtype
    torch.float32
    """
    if isinstance(given, Tensor):
        return given
    if not isinstance(given, np.ndarray) or given.dtype.kind not in "fiub":
        raise InputError(f"{what} must be a tensor or a NumPy array of numbers; got {type(given).__name__}")
    array = torch.from_numpy(np.ascontiguousarray(given))
    return array.float() if array.dtype == torch.float64 else array
