"""Watchers: who looks at a training run at this moment, and the newest frame for them.

No frame is taken when nobody looks. Frames come at a bounded rate, and less often when taking one costs much of a step.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from convscope.training.frames import Frame

INTEREST_SECONDS = 3.0
FASTEST = 20.0
SHARE = 0.25  # of the time that frames may cost


class Watchers:
    """The newest frame, and a counter that goes up whenever anything changed."""

    def __init__(self, frames_per_second: float) -> None:
        self.version = 0
        self.latest: Frame | None = None
        self._interval = 1.0 / min(max(frames_per_second, 0.1), FASTEST)
        self._asked = -INTEREST_SECONDS
        self._due = 0.0
        self._plain = 0.0  # seconds that a step without a frame takes, a running mean
        self._news = threading.Condition()

    def wants_frame(self) -> bool:
        """Whether the step about to be taken should bring a frame."""
        now = time.monotonic()
        return now - self._asked < INTEREST_SECONDS and now >= self._due

    def stepped(self, seconds: float) -> None:
        """A step without a frame was taken."""
        self._plain = seconds if not self._plain else 0.9 * self._plain + 0.1 * seconds

    def show(self, frame: Frame, seconds: float) -> None:
        """A new frame is there; its step took so long."""
        extra = max(0.0, seconds - self._plain)
        self._due = time.monotonic() + max(self._interval - seconds, extra * (1 - SHARE) / SHARE)
        with self._news:
            self.latest = frame
            self.version += 1
            self._news.notify_all()

    def changed(self) -> None:
        """Something else changed: the state, a setting."""
        with self._news:
            self.version += 1
            self._news.notify_all()

    def forget(self) -> None:
        """There is no frame any more."""
        with self._news:
            self.latest = None

    def frame(self, after: int, timeout: float) -> Frame | None:
        """The newest frame of a step after ``after``, once there is one; None after ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        with self._news:
            while True:
                self._asked = time.monotonic()
                if self.latest is not None and self.latest.step > after:
                    return self.latest
                rest = deadline - time.monotonic()
                if rest <= 0:
                    return None
                self._news.wait(min(rest, 0.5))

    def wait(self, version: int, timeout: float) -> int:
        """Wait until anything changed since ``version``; the version now."""
        deadline = time.monotonic() + timeout
        with self._news:
            while self.version == version and (rest := deadline - time.monotonic()) > 0:
                self._news.wait(rest)
            return self.version


__all__ = ["Watchers"]
