"""A line in the log now and then, while there is much to do."""

import logging
import time

logger = logging.getLogger(__name__)

_SAY_EVERY = 5.0  # seconds
_LOOK_EVERY = 256  # rows


class Progress:
    """How far a conversion has come.

    Args:
        called: What to call the rows.
        total: How many there are.
    """

    def __init__(self, called: str, total: int) -> None:
        """The time counts from here."""
        self.done = 0
        self._called = called
        self._total = total
        self._begun = time.monotonic()
        self._next_line = self._begun + _SAY_EVERY

    def one_more(self) -> None:
        """Count one, and say so if it is time."""
        self.done += 1
        now = time.monotonic() if self.done % _LOOK_EVERY == 0 else 0.0
        if now >= self._next_line:
            self._next_line = now + _SAY_EVERY
            left = (now - self._begun) / self.done * (self._total - self.done)
            logger.info(
                "%d of %d %s converted, about %.0f s left",
                self.done,
                self._total,
                self._called,
                left,
            )
