"""A line in the log now and then, while there is much to do."""

import logging
import time
from collections.abc import Iterable, Iterator

logger = logging.getLogger(__name__)

_SAY_EVERY = 5.0  # seconds
_LOOK_EVERY = 256  # rows


def saying_how_far(rows: Iterable[int], total: int, called: str) -> Iterator[int]:
    """The same rows; what they are called, and how many there are, goes into the lines."""
    begun = said = time.monotonic()
    for done, row in enumerate(rows, start=1):
        yield row
        if done % _LOOK_EVERY == 0 and (now := time.monotonic()) - said >= _SAY_EVERY:
            said = now
            left = (now - begun) / done * (total - done)
            logger.info("%d of %d %s converted, about %.0f s left", done, total, called, left)
