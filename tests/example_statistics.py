"""What an image tells without its shapes: colour and texture statistics; and a linear model to read them."""

from __future__ import annotations

import numpy as np

NUM_CLASSES = 11
NEIGHBOURS = [(-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1)]
FIT_SHARE = 0.75
PENALTIES = [1e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0]


def colour_and_texture_statistics(images: np.ndarray) -> np.ndarray:
    """Statistics that know nothing of place: images (N, H, W, 3) uint8 -> (N, F).

    Colour: mean, deviation and histogram of each channel, and a joint histogram of 64 colours. Texture: gradient
    magnitudes, gradient directions weighted by magnitude, uniform local binary patterns, and the power spectrum for
    wavelengths up to an eighth of the image, in 4 directions. (Longer waves draw the silhouette itself.)
    """
    gray = images.mean(axis=3) / 255
    parts = [_colours(images), _gradients(gray), _binary_patterns(gray), _power_spectrum(gray)]
    return np.concatenate(parts, axis=1)


def silhouettes(masks: np.ndarray) -> np.ndarray:
    """Binary masks (N, 64, 64) shrunk to 16 x 16 shares of coverage: (N, 256)."""
    return masks.reshape(len(masks), 16, 4, 16, 4).mean(axis=(2, 4)).reshape(len(masks), -1)


def linear_accuracy(
    features: np.ndarray, labels: np.ndarray, test_features: np.ndarray, test_labels: np.ndarray
) -> float:
    """Test accuracy of multinomial logistic regression, its penalty chosen on a quarter of the training data."""
    mean, deviation = features.mean(axis=0), features.std(axis=0) + 1e-9
    train, test = (np.c_[(x - mean) / deviation, np.ones(len(x))] for x in (features, test_features))
    cut = int(FIT_SHARE * len(train))
    held_out = [_accuracy(_fit(train[:cut], labels[:cut], p), train[cut:], labels[cut:]) for p in PENALTIES]
    weights = _fit(train, labels, PENALTIES[int(np.argmax(held_out))])
    return _accuracy(weights, test, test_labels)


def _colours(images: np.ndarray) -> np.ndarray:
    values = images / 255.0
    code = (images // 64).astype(np.int64) @ np.array([16, 4, 1])
    return np.concatenate(
        [
            values.mean(axis=(1, 2)),
            values.std(axis=(1, 2)),
            *(_histograms(images[..., channel] // 32, 8) for channel in range(3)),
            _histograms(code, 64),
        ],
        axis=1,
    )


def _gradients(gray: np.ndarray) -> np.ndarray:
    down = gray[:, 2:, 1:-1] - gray[:, :-2, 1:-1]
    right = gray[:, 1:-1, 2:] - gray[:, 1:-1, :-2]
    magnitude = np.hypot(down, right)
    direction = np.minimum(np.mod(np.arctan2(down, right), np.pi) * (8 / np.pi), 7).astype(np.int64)
    level = np.digitize(magnitude, [0.01, 0.02, 0.04, 0.08, 0.16, 0.32])
    return np.concatenate([_histograms(direction, 8, magnitude), _histograms(level, 7)], axis=1)


def _binary_patterns(gray: np.ndarray) -> np.ndarray:
    height, width = gray.shape[1:]
    centre, code = gray[:, 1:-1, 1:-1], 0
    for bit, (dy, dx) in enumerate(NEIGHBOURS):
        code = code | (gray[:, 1 + dy : height - 1 + dy, 1 + dx : width - 1 + dx] > centre).astype(np.int64) << bit
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)
    changes = (bits != np.roll(bits, 1, axis=1)).sum(axis=1)
    kind = np.where(changes <= 2, bits.sum(axis=1), 9).astype(np.int64)
    return _histograms(kind[code], 10)


def _power_spectrum(gray: np.ndarray) -> np.ndarray:
    power = np.abs(np.fft.fft2(gray - gray.mean(axis=(1, 2), keepdims=True))) ** 2
    rows, columns = np.fft.fftfreq(gray.shape[1])[:, None], np.fft.fftfreq(gray.shape[2])[None]
    radius, quarter = np.hypot(rows, columns), np.mod(np.arctan2(rows, columns), np.pi) * (4 / np.pi)
    bands = [
        (radius >= low) & (radius < high) & (quarter.astype(np.int64) % 4 == direction)
        for low, high in ((0.125, 0.25), (0.25, 0.71))
        for direction in range(4)
    ]
    return np.stack([np.log(power[:, band].mean(axis=1) + 1e-9) for band in bands], axis=1)


def _histograms(values: np.ndarray, bins: int, weights: np.ndarray | None = None) -> np.ndarray:
    """Histogram of each image's values, which are integers below ``bins``: (N, bins)."""
    flat = values.reshape(len(values), -1).astype(np.int64) + np.arange(len(values))[:, None] * bins
    counts = np.bincount(flat.ravel(), None if weights is None else weights.ravel(), minlength=len(values) * bins)
    return counts.reshape(len(values), bins) / flat.shape[1]


def _fit(features: np.ndarray, labels: np.ndarray, penalty: float, steps: int = 300) -> np.ndarray:
    """Weights (F, classes) by accelerated gradient descent."""
    target = np.eye(NUM_CLASSES)[labels]
    step = 1 / (np.linalg.norm(features, 2) ** 2 / len(features) / 2 + penalty)
    weights = before = np.zeros((features.shape[1], NUM_CLASSES))
    for index in range(steps):
        ahead = weights + index / (index + 3) * (weights - before)
        scores = features @ ahead
        odds = np.exp(scores - scores.max(axis=1, keepdims=True))
        gradient = features.T @ (odds / odds.sum(axis=1, keepdims=True) - target) / len(features) + penalty * ahead
        before, weights = weights, ahead - step * gradient
    return weights


def _accuracy(weights: np.ndarray, features: np.ndarray, labels: np.ndarray) -> float:
    return float(((features @ weights).argmax(axis=1) == labels).mean())
