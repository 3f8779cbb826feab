"""The one error a user can cause."""


class InputError(ValueError):
    """What was given cannot be used; the message says what was expected, what came and the way out.

    The command line prints it as one line and exits with 2; in Python it is a `ValueError`.
    """


def unknown(kind: str, name: str, known: list[str]) -> InputError:
    """Error for a name that is not in a dictionary, listing those that are.

    >>> str(unknown("method", "gradcam", ["grad_cam", "attention"]))
    "unknown method 'gradcam'; known: attention, grad_cam"
    """
    return InputError(f"unknown {kind} {name!r}; known: {', '.join(sorted(known))}")
