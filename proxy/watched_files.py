"""Whether files have been written anew, by looking at them now and then."""

from collections.abc import Sequence
from pathlib import Path

Looks = tuple[tuple[int, int, int], ...]


class WatchedFiles:
    """Files as they were when they were last found changed."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._known = self._last = self._look()

    def _look(self) -> Looks | None:
        """Inode, size and time of each; None while one is missing, as it is for a moment to some editors."""
        try:
            found = [path.stat() for path in self._paths]
        except OSError:
            return None
        return tuple((one.st_ino, one.st_size, one.st_mtime_ns) for one in found)

    def changed(self) -> bool:
        """Whether they are other than before, and as they were at the last look: so whole, most likely."""
        before, self._last = self._last, self._look()
        if self._last is None or self._last != before or self._last == self._known:
            return False
        self._known = self._last
        return True
