"""The peers' rules as plain NumPy loops: a score, an image (h, w, 3) and its map (h, w) in; areas out.

`mean` and `std` are those of the network's normalisation: the peers blur and blank after it. Ties go in stable order.
"""

import numpy as np
from scipy.ndimage import convolve, gaussian_filter


def descending(values):
    return np.argsort(-values.ravel(), kind="stable")


def ascending_flipped(values):
    return np.flip(np.argsort(values.ravel(), kind="stable"))


def states(start, finish, order, counts):
    """The image after the first so many pixels of `order` were taken from `finish`."""
    width = start.shape[1]
    for count in counts:
        state = start.copy()
        for pixel in order[:count]:
            state[pixel // width, pixel % width] = finish[pixel // width, pixel % width]
        yield state


def curve(f, start, finish, order, counts):
    return np.array([f(state) for state in states(start, finish, order, counts)])


def blurred(image, kernel, mode, mean, std):
    normal = (image - mean) / std
    channels = [convolve(normal[..., c], kernel, mode=mode, cval=0.0) for c in range(3)]
    return np.stack(channels, axis=-1) * std + mean


def rise(f, image, values, mean, std):
    impulse = np.zeros((11, 11))
    impulse[5, 5] = 1
    soft = blurred(image, gaussian_filter(impulse, 5), "constant", mean, std)
    blank = np.broadcast_to(mean, image.shape).astype(image.dtype)
    pixels, step = values.size, values.shape[1]
    counts = [min(step * i, pixels) for i in range(-(-pixels // step) + 1)]
    order = ascending_flipped(values)
    both = curve(f, image, blank, order, counts), curve(f, soft, image, order, counts)
    return tuple((s.sum() - s[0] / 2 - s[-1] / 2) / (len(s) - 1) for s in both)


def torchcam(f, image, values, mean, _):
    blank = np.broadcast_to(mean, image.shape).astype(image.dtype)
    step = -(-values.size // 20)
    counts = [*range(0, values.size, step), values.size]
    order, fractions = descending(values), np.array(counts) / values.size
    both = curve(f, image, blank, order, counts), curve(f, blank, image, order, counts)
    return tuple(float(np.trapezoid(s, fractions)) for s in both)


def xplique(f, image, values, mean, _):
    blank = np.broadcast_to(mean, image.shape).astype(image.dtype)
    counts = np.linspace(0, values.size, 11, dtype=np.int32)
    order = ascending_flipped(values)
    both = curve(f, image, blank, order, counts), curve(f, blank, image, order, counts)
    return tuple(float(np.mean(s[:-1] + s[1:]) * 0.5) for s in both)


def latec(f, image, values, mean, std):
    taps = np.exp(-0.5 * (np.arange(-4, 5) / 5.0) ** 2)
    kernel = np.outer(taps, taps) / taps.sum() ** 2
    soft = blurred(image, kernel, "mirror", mean, std)
    blank = np.broadcast_to(mean, image.shape).astype(image.dtype)
    order, counts = descending(values), range(50, values.size, 50)  # neither the image nor the end
    both = curve(f, image, blank, order, counts), curve(f, soft, image, order, counts)
    return tuple(float(np.trapezoid(s, dx=1 / len(s))) for s in both)


def quantus(f, image, values, *_):
    """Deletion only."""
    step = values.shape[1]
    counts = [min(count + step, values.size) for count in range(0, values.size, step)]  # the image itself is missing
    scores = curve(f, image, np.full_like(image, image.min()), descending(values), counts)
    return (float(np.trapezoid(scores, dx=1)),)


def iba(f, image, values, *_):
    """Mean score with the most and with the least relevant tiles first."""
    rows, columns = values.shape[0] // 8, values.shape[1] // 8
    tiles = values.reshape(rows, 8, columns, 8).mean((1, 3))
    means = np.broadcast_to(image.mean((0, 1)), image.shape)
    wanted = {int(count) for count in np.round(np.linspace(0, 1, 100) * tiles.size)}
    found = []
    for order in (descending(tiles), descending(-tiles)):
        state, scores = image.copy(), [f(image)]
        for step, tile in enumerate(order):
            here = np.s_[tile // columns * 8 :, tile % columns * 8 :]
            state[here][:8, :8] = means[here][:8, :8]
            if step in wanted:
                scores.append(f(state))
        found.append(float(np.mean(scores)))
    return tuple(found)


RULES = {"rise": rise, "torchcam": torchcam, "xplique": xplique, "latec": latec, "quantus": quantus, "iba": iba}
