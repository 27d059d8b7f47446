"""Single files of releases, fetched from the user's package index without installing anything."""

import shutil
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from pypi_simple import NoSuchProjectError, PyPISimple, UnsupportedContentTypeError

from cnncompress.downloads import (
    TIMEOUT,
    Session,
    cache_folder,
    download,
    has_checksum,
    reason,
    without_password,
    writable,
)
from cnncompress.errors import DownloadError
from cnncompress.events import Reporter, silent
from cnncompress.package_index import IndexSettings, index_settings


def fetch_release_file(
    project: str,
    filename: str,
    *,
    sha256: str,
    folder: Path,
    settings: IndexSettings | None = None,
    report: Reporter = silent,
) -> Path:
    """Fetch one file of a project's release from the user's package index; nothing is installed.

    A file of that name and checksum in the cache folder, or in one of pip's ``find-links`` folders, is
    copied before any index is asked.

    Args:
        project: name of the project on the index.
        filename: name of the file, for example ``"demo-1.0.tar.gz"``.
        sha256: the checksum the file must have, 64 hexadecimal digits.
        folder: where the file is put.
        settings: the indexes to ask; pip's by default.
        report: receives progress in bytes.

    Returns:
        The file, its checksum verified.

    Raises:
        DownloadError: no index could deliver the file.
    """
    settings = index_settings() if settings is None else settings
    target = folder / filename
    for local in (cache_folder(), *settings.folders):
        if has_checksum(local / filename, sha256):
            return _copy(local / filename, target)
    tried = []
    for index in settings.indexes:
        try:
            url = _file_url(index, project, filename, settings)
            return download(url, target, sha256=sha256, settings=settings, report=report)
        except (NoSuchProjectError, UnsupportedContentTypeError, LookupError):
            tried.append(f"{without_password(index)}: has no such file")
        except DownloadError as error:
            tried.append(str(error))
        except OSError as error:  # a transfer's, or a file of certificates that isn't there
            tried.append(f"{without_password(index)}: {reason(error)}")
    asked = "; ".join(tried) or "pip's settings name no http index"
    raise DownloadError(
        f"{filename} can't be fetched ({asked}); set PIP_INDEX_URL, PIP_PROXY or PIP_CERT as for pip, "
        f"or put the file into {cache_folder()}"
    )


def _file_url(index: str, project: str, filename: str, settings: IndexSettings) -> str:
    with Session(settings) as session:
        page = PyPISimple(index, session=session).get_project_page(project, timeout=TIMEOUT)
    for package in page.packages:
        if filename in {package.filename, urlsplit(package.url).path.rpartition("/")[2]}:
            return _with_login(package.url, index)
    raise LookupError(filename)


def _with_login(url: str, index: str) -> str:
    # A private index answers with absolute addresses on the same host, without the login it was asked with.
    login, _, host = urlsplit(index).netloc.rpartition("@")
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{login}@{host}")) if login and parts.netloc == host else url


def _copy(source: Path, target: Path) -> Path:
    with writable(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        if not (target.exists() and target.samefile(source)):
            shutil.copyfile(source, target)
    return target
