"""Axes: round tick values, and where a value lies along an axis."""

import math


def ticks(low, high, most=6):
    """At most `most` round numbers, equally spaced, that enclose `low` to `high`.

    Steps are 1, 2, 2.5 or 5 times a power of ten.
    """
    if high <= low:
        high = low + (abs(low) or 1.0)
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    for factor in (1, 2, 2.5, 5, 10, 20, 25, 50):
        step = factor * power
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        if last - first < most:
            break
    # Through text, so that 3 * 0.1 is 0.3.
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def tick_label(value):
    """A tick value as text, without a superfluous fraction."""
    return f"{value:g}"


def position(value, marks, start=0.0, end=100.0):
    """where `value` lies between `start` and `end` on the axis of `marks`, to 2 decimals."""
    share = (value - marks[0]) / (marks[-1] - marks[0])
    return round(start + share * (end - start), 2)
