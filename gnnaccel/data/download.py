"""Downloads that survive interruptions: HTTPS, resume, size and sha256 checks, atomic rename."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import http.client
import json
import logging
import os
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from tqdm import tqdm

__all__ = ["DownloadError", "download", "sha256_of"]

log = logging.getLogger("gnnaccel.data")

_CHUNK = 1 << 18


class DownloadError(RuntimeError):
    """A download that failed, told in one line with the address and a remedy."""


class _Final(Exception):
    """Not worth another try at this address."""


def sha256_of(path: Path) -> str:
    """The sha256 of a file's bytes, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while block := f.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _check_scheme(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in ("localhost", "127.0.0.1", "::1")):
        return
    raise _Final(f"{url}: only https is allowed")


class _SafeRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        _check_scheme(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[IO[bytes]]:
    """The partial file, opened for appending, ours alone."""
    with open(path, "ab") as f:
        busy = DownloadError(f"{path}: another process is downloading this; wait for it")
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Between opening and locking, the other process may have renamed it: then it is not ours to write to
            same = os.path.samestat(os.fstat(f.fileno()), os.stat(path))
        except OSError:
            raise busy from None
        if not same:
            raise busy
        yield f


def download(
    urls: str | Sequence[str],
    dest: str | Path,
    *,
    sha256: str | None = None,
    size: int | None = None,
    progress: bool = True,
    retries: int = 5,
    backoff: float = 1.0,
    timeout: float = 30.0,
) -> str:
    """Fetch one file.

    Data goes to `dest` + ".part", which a later call continues where the server can (HTTP Range, guarded by If-Range, so a file
    that changed at the source starts anew). When size and hash are right it is renamed to `dest`: that file is never
    incomplete.

    Args:
        urls: Addresses of the same file, tried in order. HTTPS only, localhost excepted.
        dest: Where to put it; folders are made.
        sha256, size: Expected; None is not checked (the size against what the server announces always is).
        progress: Show a bar with bytes/s and remaining time, if stderr is a terminal.
        retries: Tries in a row without any progress before an address is given up.
        backoff: Seconds before the second such try, doubled each time.
        timeout: Seconds without an answer or data.

    Returns:
        The sha256 of the file.

    Raises:
        DownloadError: One line: address, problem, remedy.
    """
    dest = Path(dest)
    urls = [urls] if isinstance(urls, str) else list(urls)
    failures = []
    try:
        dest.parent.mkdir(parents=True, exist_ok=True)
        part = dest.with_name(dest.name + ".part")
        with _locked(part) as f:
            for url in urls:
                try:
                    _fetch(url, f, part, size, dest.name if progress else None, retries, backoff, timeout)
                    break
                except _Final as e:
                    failures.append(str(e))
            else:
                raise DownloadError(
                    "; ".join(failures) + "; check the network, or put the file there yourself: " + str(dest)
                )
            f.flush()
            digest = sha256_of(part)
            if sha256 is not None and digest != sha256.lower():
                _forget(part)
                raise DownloadError(
                    f"{url}: sha256 is {digest}, not {sha256.lower()}; damaged, or changed at the source"
                )
            # On the disk before the name says that it is whole
            os.fsync(f.fileno())
            os.replace(part, dest)
            _meta(part).unlink(missing_ok=True)
        return digest
    except OSError as e:
        raise DownloadError(
            f"{dest}: cannot be written ({e.strerror or e}); set GNNACCEL_DATA to a folder with room"
        ) from None


def _meta(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _meta(part).unlink(missing_ok=True)


def _fetch(
    url: str, f: IO[bytes], part: Path, size: int | None, bar: str | None, retries: int, backoff: float, timeout: float
) -> None:
    _check_scheme(url)
    opener = urllib.request.build_opener(_SafeRedirect)
    failed = 0
    while True:
        before = f.seek(0, os.SEEK_END)
        try:
            _attempt(opener, url, f, part, size, bar, timeout)
            return
        except urllib.error.HTTPError as e:
            e.close()
            problem = f"HTTP {e.code} {e.reason}"
            if e.code == 416:
                # The partial file is no beginning of what is there now
                f.truncate(0)
            elif e.code < 500 and e.code not in (408, 425, 429):
                raise _Final(f"{url}: {problem}") from None
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as e:
            reason = getattr(e, "reason", None) or e
            problem = str(reason) or type(e).__name__
            if isinstance(reason, ssl.SSLCertVerificationError):
                raise _Final(f"{url}: {problem}") from None
        failed = 1 if f.seek(0, os.SEEK_END) > before else failed + 1
        if failed >= retries:
            raise _Final(f"{url}: {problem} ({retries} tries)") from None
        pause = backoff * 2 ** (failed - 1)
        log.warning("%s: %s; trying again in %.3g s", url, problem, pause)
        time.sleep(pause)


def _attempt(
    opener: Any, url: str, f: IO[bytes], part: Path, size: int | None, bar: str | None, timeout: float
) -> None:
    have = f.seek(0, os.SEEK_END)
    known: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(_meta(part).read_text())
    headers = {"User-Agent": "gnnaccel", "Accept-Encoding": "identity"}
    if have and known.get("url") == url:
        headers["Range"] = f"bytes={have}-"
        if known.get("validator"):
            headers["If-Range"] = known["validator"]
    with opener.open(urllib.request.Request(url, headers=headers), timeout=timeout) as r:
        total = None
        if r.status == 206:
            span = r.headers.get("Content-Range", "")
            first, _, total_text = span.removeprefix("bytes ").partition("/")
            total = int(total_text) if total_text.isdigit() else None
            if not first.startswith(f"{have}-") or (total is not None and known.get("total") not in (None, total)):
                f.truncate(0)
                raise http.client.HTTPException(f"the server sent another range ({span})")
        else:
            f.truncate(0)
            have = 0
            length = r.headers.get("Content-Length")
            total = int(length) if length and length.isdigit() else None
        if size is not None and total is not None and total != size:
            raise _Final(f"{url}: the file has {total} bytes, not {size}")
        tag = r.headers.get("ETag", "")
        validator = tag if tag and not tag.startswith("W/") else r.headers.get("Last-Modified")
        _meta(part).write_text(json.dumps({"url": url, "validator": validator, "total": total}))
        f.seek(have)
        shown = tqdm(
            total=total,
            initial=have,
            unit="B",
            unit_scale=True,
            desc=bar,
            disable=None if bar is not None else True,
            leave=False,
        )
        with shown:
            while block := r.read(_CHUNK):
                f.write(block)
                shown.update(len(block))
        got = f.seek(0, os.SEEK_END)
    wanted = total if total is not None else size
    if wanted is not None and got != wanted:
        if got > wanted:
            f.truncate(0)
        raise http.client.HTTPException(f"the connection ended at {got} of {wanted} bytes")
