"""How far it has come, where there is much to do: on a terminal, else in the log now and then."""

import logging
import time
from collections.abc import Iterable, Iterator
from typing import TextIO

logger = logging.getLogger(__name__)

terminal: TextIO | None = None  # of a command line: a line there is written over by the next one

_SAY_EVERY = 5.0  # seconds
_SHOW_EVERY = 0.2  # on a terminal
_LOOK_EVERY = 256  # rows


def saying_how_far(rows: Iterable[int], total: int, called: str) -> Iterator[int]:
    """The same rows; what they are called, and how many there are, goes into the lines."""
    begun = said = time.monotonic()
    every = _SHOW_EVERY if terminal else _SAY_EVERY
    for done, row in enumerate(rows, start=1):
        yield row
        if done % _LOOK_EVERY == 0 and (now := time.monotonic()) - said >= every:
            said = now
            left = (now - begun) / done * (total - done)
            line = f"{done} of {total} {called} converted, about {left:.0f} s left"
            if terminal:
                terminal.write(f"{line}\x1b[K\r")  # clear what is behind it, and go back
                terminal.flush()
            else:
                logger.info(line)
    if terminal:
        terminal.write("\x1b[K")
