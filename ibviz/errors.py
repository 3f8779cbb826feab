"""The error that wrong input causes, and messages that several modules share."""

from collections.abc import Iterable
from difflib import get_close_matches


class InputError(ValueError):
    """Error for input that cannot be used; the message says what was expected, what came and the way out.

    The command line prints it as one line and exits with 2; in Python it is a `ValueError`.
    """


class NoMapError(InputError):
    """Error for a map that does not exist for this network or these images; a comparison goes on without it."""


def unknown(kind: str, name: str, known: list[str]) -> InputError:
    """Return the error for an unknown name, which lists the known ones and the one that is most like it.

    >>> str(unknown("method", "gradcam", ["grad_cam", "attention"]))
    "unknown method 'gradcam'; known: attention, grad_cam; did you mean 'grad_cam'?"
    """
    return InputError(f"unknown {kind} {name!r}; known: {', '.join(sorted(known))}{did_you_mean(name, known)}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a question after the known name that is most like `name`; nothing if none is.

    >>> did_you_mean("digitz", ["digits", "photos"]), did_you_mean("x", ["digits"])
    ("; did you mean 'digits'?", '')
    """
    close = get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def no_gradient_error() -> InputError:
    """Return the error for a network through which no gradient flows."""
    return InputError(
        "the target's score does not depend on the images by gradients: the network is cut by detach, "
        "no_grad or a step function, or it is the score of a box that was not detected; mend it, or choose a "
        "method without gradients, such as score_cam, occlusion or rise"
    )


def not_finite(what: str) -> InputError:
    """Return the error for NaN or infinite values from a network.

    >>> str(not_finite("maps of grad_cam"))[:42]
    'maps of grad_cam are not finite: look for '
    """
    return InputError(
        f"{what} are not finite: look for NaN in the images and in the network's weights, and run it in "
        "float32, without autocast"
    )
