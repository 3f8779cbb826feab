"""The one error a user can cause, and the kind of it that a comparison can do without."""


class InputError(ValueError):
    """What was given cannot be used; the message says what was expected, what came and the way out.

    The command line prints it as one line and exits with 2; in Python it is a `ValueError`.
    """


class NoMapError(InputError):
    """Such a map does not exist for this network or these images; a comparison goes on without it."""


def unknown(kind: str, name: str, known: list[str]) -> InputError:
    """Error for a name that is not in a dictionary, listing those that are.

    >>> str(unknown("method", "gradcam", ["grad_cam", "attention"]))
    "unknown method 'gradcam'; known: attention, grad_cam"
    """
    return InputError(f"unknown {kind} {name!r}; known: {', '.join(sorted(known))}")


def cut_off() -> InputError:
    """Error for a network through which no gradient flows."""
    return InputError(
        "the target's score does not depend on the images by gradients: the network is cut by detach, "
        "no_grad or a step function, or it is the score of a box that was not detected; mend it, or choose a "
        "method without gradients, such as score_cam, occlusion or rise"
    )


def not_finite(what: str) -> InputError:
    """Error for NaN or infinite values that came out of a network.

    >>> str(not_finite("maps of grad_cam"))[:42]
    'maps of grad_cam are not finite: look for '
    """
    return InputError(
        f"{what} are not finite: look for NaN in the images and in the network's weights, and run it in "
        "float32, without autocast"
    )
