"""Images that are there twice: byte for byte, or to the eye, without comparing all with all."""

import itertools
from collections.abc import Iterator

import numpy as np
import scipy.fft
from jaxtyping import Bool, Int, UInt8, UInt64
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

# 64 bits in six bands: where at most three bits differ, at least three whole bands agree.
BANDS, MAX_BITS = 6, 3
WINDOW = 8  # an image is compared with as many that follow it in a band's order
ALIKE = 0.99  # correlation of two thumbnails that show the same
CHUNK = 1 << 16


def same_groups(values: UInt64[np.ndarray, " n"]) -> list[Int[np.ndarray, " m"]]:
    """Returns the positions of each value that comes more than once, in ascending order."""
    order = np.argsort(values, kind="stable")
    runs = np.split(order, np.flatnonzero(np.diff(values[order])) + 1)
    return sorted((run for run in runs if len(run) > 1), key=lambda run: int(run[0]))


def similar_groups(
    thumbnails: UInt8[np.ndarray, "n side side"],
) -> list[Int[np.ndarray, " m"]]:
    """Returns groups of thumbnails that look the same: rescaled, stored anew, a little brighter.

    Each has a hash of 64 bits (`perceptual_hashes`). Two that differ in at most `MAX_BITS` agree in
    half of the `BANDS` at least, so they meet if the hashes are sorted by each half (Manku et al.
    2007, Detecting near-duplicates for web crawling, section 3), and belong together if their
    grey levels correlate by `ALIKE`. Time and memory grow with n, not with its square: within a
    long run of equal bands each is compared with the next `WINDOW` only, so that of many images
    with one hash, which are not alike, a pair may be missed. Nor is an image found that is a
    mirrored, turned or cropped copy, or so smooth that its noise decides its hash.

    Args:
      thumbnails: grey levels, `THUMBNAIL_PX` on each side.

    Returns:
      Positions of two or more, ascending; no image is in two groups.
    """
    n = len(thumbnails)
    hashes = perceptual_hashes(thumbnails)
    groups = np.arange(n)  # the first position of each
    for bands in [range(BANDS), *itertools.combinations(range(BANDS), BANDS - MAX_BITS)]:
        joined = [np.stack([np.arange(n), groups])]
        for a, b in _neighbours(hashes, sum(_mask(band) for band in bands)):
            new = groups[a] != groups[b]
            joined.append(_alike(thumbnails, a[new], b[new]))
        a, b = np.concatenate(joined, axis=1)
        graph = coo_array((np.ones(len(a), bool), (a, b)), shape=(n, n))
        labels = connected_components(graph, directed=False)[1]
        groups = np.unique(labels, return_index=True)[1][labels]
    return same_groups(groups.astype(np.uint64))


def perceptual_hashes(
    thumbnails: UInt8[np.ndarray, "n side side"],
) -> UInt64[np.ndarray, " n"]:
    """Returns 64 bits for each: which of the 8 x 8 lowest frequencies (DCT) are above the median.

    The hash of a picture's coarse structure that is widely known as pHash.
    """
    out = np.empty(len(thumbnails), np.uint64)
    for start in range(0, len(thumbnails), CHUNK):
        part = thumbnails[start : start + CHUNK].astype(np.float32)
        waves = np.asarray(scipy.fft.dctn(part, axes=(1, 2)))
        low = waves[:, :8, :8].reshape(len(part), 64)
        # The mean brightness is no part of the look; the median of the others is near zero.
        bits = low > np.median(low[:, 1:], axis=1, keepdims=True)
        out[start : start + CHUNK] = np.packbits(bits, axis=1).view(">u8")[:, 0]
    return out


def _mask(band: int) -> int:
    low, high = band * 64 // BANDS, (band + 1) * 64 // BANDS
    return (1 << high) - (1 << low)


def _neighbours(
    hashes: UInt64[np.ndarray, " n"], mask: int
) -> Iterator[tuple[Int[np.ndarray, " m"], Int[np.ndarray, " m"]]]:
    """Yields pairs that agree under a mask and differ in at most `MAX_BITS`."""
    keys = hashes & np.uint64(mask)
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    for step in range(1, WINDOW + 1):
        same = np.flatnonzero(keys[step:] == keys[:-step])
        a, b = order[same], order[same + step]
        close = np.bitwise_count(hashes[a] ^ hashes[b]) <= MAX_BITS
        yield a[close], b[close]


def _alike(
    thumbnails: UInt8[np.ndarray, "n side side"],
    a: Int[np.ndarray, " m"],
    b: Int[np.ndarray, " m"],
) -> Int[np.ndarray, "2 k"]:
    """Returns those pairs whose thumbnails correlate."""
    alike: list[Bool[np.ndarray, " c"]] = [np.zeros(0, bool)]
    for start in range(0, len(a), CHUNK):
        x, y = (_standardised(thumbnails[i[start : start + CHUNK]]) for i in (a, b))
        alike.append((x * y).sum(axis=1) >= ALIKE)
    chosen = np.concatenate(alike)
    return np.stack([a[chosen], b[chosen]])


def _standardised(thumbnails: UInt8[np.ndarray, "m side side"]) -> np.ndarray:
    """Returns rows of mean 0 and length 1; those of one grey level stay 0."""
    rows = thumbnails.reshape(len(thumbnails), -1).astype(np.float32)
    rows -= rows.mean(axis=1, keepdims=True)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
