"""The built page: a closed list of files, read once. No part of a request ever becomes a path."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

STATIC = Path(__file__).parent / "static"
MISSING = "The page isn't built yet: run `make demo` in the project's folder, then reload."

# Only what a build makes; anything else that lies in the folder isn't served.
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".webp": "image/webp",
    ".woff2": "font/woff2",
}


@dataclass(frozen=True)
class BuiltFile:
    """One file of the built page."""

    content: bytes
    media_type: str
    etag: str


class Bundle:
    """The files of one build, by their address: "/" and "/assets/index-3f2a.js"."""

    def __init__(self, folder: Path = STATIC) -> None:
        self._folder = folder
        self._built = 0.0
        self._files: dict[str, BuiltFile] = {}

    def find(self, address: str) -> BuiltFile | None:
        """The file at this address, or None. A new build is noticed when the page itself is asked for."""
        if address == "/":
            self._refresh()
        return self._files.get(address)

    def _refresh(self) -> None:
        index = self._folder / "index.html"
        built = index.stat().st_mtime if index.is_file() else 0.0
        if built == self._built:
            return
        self._built = built
        self._files = {}
        if not built:
            return
        for path in sorted(self._folder.rglob("*")):
            if path.suffix in _TYPES and path.is_file() and not path.is_symlink():
                content = path.read_bytes()
                etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
                address = "/" + path.relative_to(self._folder).as_posix()
                self._files["/" if path == index else address] = BuiltFile(content, _TYPES[path.suffix], etag)


__all__ = ["MISSING", "BuiltFile", "Bundle"]
