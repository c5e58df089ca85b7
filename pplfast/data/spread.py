"""Some of a list, spread evenly over it: the same ones each time, as nothing is drawn by chance."""


def evenly(count: int, most: int) -> list[int]:
    """Indices of `most` of `count` things, or of all where there are no more: the first, the last and those evenly
    between, in order; of one the first."""
    chosen = min(count, most)
    return [place * (count - 1) // max(1, chosen - 1) for place in range(chosen)]
