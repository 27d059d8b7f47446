"""Files fetched over the network, checked by their sha256 and kept in the user's cache folder."""

import logging
import os
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import platformdirs
import requests

from cnncompress.errors import DownloadError
from cnncompress.events import Note, Reporter, StageAdvanced, StageDone, StageStarted, silent
from cnncompress.package_index import IndexSettings, index_settings

with warnings.catch_warnings():
    # it tries tqdm, whose bars we don't use; in notebooks without ipywidgets that warns
    warnings.filterwarnings("ignore", message="IProgress not found")
    import pooch

TIMEOUT = (10.0, 60.0)  # seconds to connect, seconds without a byte
_CHUNK = 1 << 18  # bytes; fewer, larger progress events than pooch's 1 KiB
_RETRIES = 2


def cache_folder() -> Path:
    """Where downloads are kept.

    Returns:
        The folder in ``CNNCOMPRESS_CACHE`` if that is set, else the user's cache folder; it may not
        exist yet.
    """
    chosen = os.environ.get("CNNCOMPRESS_CACHE")
    return (
        Path(chosen).expanduser() if chosen else platformdirs.user_cache_path("cnncompress", appauthor=False)
    )


class Session(requests.Session):
    """Session that lets pip's settings win over the environment's."""

    def __init__(self, settings: IndexSettings) -> None:
        super().__init__()
        self._settings = settings

    def merge_environment_settings(self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any) -> Any:
        """Put pip's proxy and certificates before what `requests` finds by itself.

        Args:
            url: the address asked.
            proxies: of the one request.
            stream: passed on.
            verify: replaced.
            cert: passed on.

        Returns:
            The settings of the request.
        """
        return super().merge_environment_settings(
            url, proxies or self._settings.proxies or {}, stream, self._settings.verify(url), cert
        )


def download(
    url: str,
    target: Path,
    *,
    sha256: str,
    settings: IndexSettings | None = None,
    report: Reporter = silent,
) -> Path:
    """Download one file, trying again when the transfer breaks off; it appears complete or not at all.

    Args:
        url: http or https address.
        target: the file to write; its folder is made if need be.
        sha256: the checksum, or its first hexadecimal digits.
        settings: proxy and certificates; pip's by default.
        report: receives progress in bytes.

    Returns:
        ``target``.

    Raises:
        DownloadError: the address can't be reached, the checksum is another, or the folder can't be
            written.
    """
    settings = index_settings() if settings is None else settings
    fetch = pooch.HTTPDownloader(
        progressbar=_Progress(f"download {target.name}", report),
        chunk_size=_CHUNK,
        timeout=TIMEOUT,
        verify=settings.verify(url),
        proxies=settings.proxies,
    )

    def fetch_and_check(url: str, output_file: str, owner: object) -> None:
        fetch(url, output_file, owner)
        if not has_checksum(Path(output_file), sha256):
            raise ValueError("its sha256 isn't the expected one")  # pooch tries again on ValueError

    keeper = pooch.create(
        path=target.parent,
        base_url="",
        registry={target.name: None},
        urls={target.name: url},
        retry_if_failed=_RETRIES,
    )
    with writable(target.parent), _quiet(pooch.get_logger()):
        try:
            target.unlink(missing_ok=True)  # pooch would keep what is there
            keeper.fetch(target.name, downloader=fetch_and_check)
        except (requests.RequestException, ValueError) as error:
            raise DownloadError(f"{without_password(url)}: {reason(error)}") from None
    return target


class _Progress:
    """What pooch takes for a progress bar; turns its calls into events."""

    def __init__(self, stage: str, report: Reporter) -> None:
        self._stage = stage
        self._report = report
        self._total = 0
        self._done = 0
        self._start: float | None = None

    @property
    def total(self) -> int:
        """Bytes to come; 0 if the server doesn't say."""
        return self._total

    @total.setter
    def total(self, count: int) -> None:
        if self._start is not None:
            self._report(Note(f"{self._stage}: the transfer broke off, trying again"))
        self._start = time.perf_counter()
        self._total, self._done = count, 0
        self._report(StageStarted(self._stage, count or None, "bytes"))

    def update(self, count: int) -> None:
        # Pooch counts whole chunks, and once more everything at the end.
        step = min(count, self._total - self._done) if self._total else count
        if step > 0:
            self._done += step
            self._report(StageAdvanced(self._stage, step))

    def reset(self) -> None:
        """Nothing: `update` never passes the total."""

    def close(self) -> None:
        self._report(StageDone(self._stage, time.perf_counter() - (self._start or 0.0)))


def is_reachable(url: str, settings: IndexSettings | None = None) -> bool:
    """Whether a server answers for an address within a few seconds.

    Args:
        url: http or https address.
        settings: proxy and certificates; pip's by default.

    Returns:
        True if a request for the file's head succeeds.
    """
    try:
        with Session(index_settings() if settings is None else settings) as session:
            return session.head(url, timeout=(3.05, 5.0), allow_redirects=True).ok
    except OSError:  # a transfer's, or a file of certificates that isn't there
        return False


def reason(error: Exception) -> str:
    """A transfer error in a few words.

    Args:
        error: what `requests` or pooch raised.

    Returns:
        Words without addresses, which may hold passwords.
    """
    words: Mapping[type[Exception], str] = {
        requests.exceptions.ProxyError: "the proxy refused",
        requests.exceptions.SSLError: "its certificate can't be verified",
        requests.exceptions.Timeout: "no answer in time",
        requests.exceptions.ConnectionError: "no connection",
        requests.exceptions.ChunkedEncodingError: "the transfer broke off",
    }
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"HTTP status {error.response.status_code}"
    for kind, text in words.items():
        if isinstance(error, kind):
            return text
    return type(error).__name__ if isinstance(error, requests.RequestException) else str(error)


def without_password(url: str) -> str:
    """An address fit for messages.

    Args:
        url: any address.

    Returns:
        The address without user name and password.
    """
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def has_checksum(file: Path, sha256: str) -> bool:
    """Whether a file is there and has a checksum.

    Args:
        file: may be absent.
        sha256: the checksum, or its first hexadecimal digits.

    Returns:
        True if the file exists and its checksum begins so.
    """
    return file.is_file() and str(pooch.file_hash(str(file))).startswith(sha256)


@contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Turn the errors of a folder that can't be written into one that says what to do.

    Args:
        folder: the folder, for the message.

    Yields:
        Nothing.

    Raises:
        DownloadError: the block raised an `OSError` that isn't a transfer's.
        OSError: a transfer's error, passed on.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, (DownloadError, requests.RequestException)):
            raise
        raise DownloadError(
            f"{folder}: can't be written ({error.strerror or error}); set CNNCOMPRESS_CACHE to another folder"
        ) from None


@contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    # Pooch tells the terminal what it fetches; here the events do that.
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
