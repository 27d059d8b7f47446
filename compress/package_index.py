"""Where the user's pip looks for packages: its indexes, folders, proxy and certificates.

pip's own options are read the way pip reads them: configuration files (global, then user, then the
environment's), in each the section of a command over ``[global]``, and the ``PIP_*`` environment
variables over all files. pip itself isn't called.
"""

import configparser
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import platformdirs

from cnncompress.errors import DownloadError

DEFAULT_INDEX = "https://pypi.org/simple"
GLOBAL_FOLDER = Path("/etc")  # on Unix, besides the XDG ones

# Later sections win; "download" is the pip command nearest to what we do.
_SECTIONS = ("global", "install", "download")
_CERTIFICATE_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")


@dataclass(frozen=True, kw_only=True)
class IndexSettings:
    """What is needed to fetch a file from where pip would fetch it.

    Attributes:
        indexes: URLs of simple indexes, best first; user names and passwords may be part of them.
        folders: local folders of archives (pip's ``find-links``).
        proxy: URL of a proxy for http and https; None leaves it to the usual environment variables.
        certificate: file with certificate authorities; None means the default ones.
        trusted_hosts: ``host`` or ``host:port`` whose certificates aren't checked.
    """

    indexes: tuple[str, ...] = (DEFAULT_INDEX,)
    folders: tuple[Path, ...] = ()
    proxy: str | None = None
    certificate: str | None = None
    trusted_hosts: tuple[str, ...] = ()

    def verify(self, url: str) -> str | bool:
        """How the certificate behind a URL is checked.

        Args:
            url: an http or https address.

        Returns:
            False for trusted hosts, else the file of authorities, else True for the default ones.
        """
        parts = urlsplit(url)
        if parts.hostname in self.trusted_hosts or f"{parts.hostname}:{parts.port}" in self.trusted_hosts:
            return False
        return self.certificate or True

    @property
    def proxies(self) -> dict[str, str] | None:
        """The proxy as `requests` wants it; None leaves it to the environment."""
        return {"http": self.proxy, "https": self.proxy} if self.proxy else None


def index_settings(environ: Mapping[str, str] | None = None) -> IndexSettings:
    """Read pip's settings.

    Args:
        environ: environment variables; the process's own by default.

    Returns:
        The settings; indexes with ``file:`` addresses are left out.

    Raises:
        DownloadError: one of pip's configuration files can't be parsed.
    """  # noqa: DOC502  # raised by _options
    environ = os.environ if environ is None else environ
    options = _options(environ)
    urls = [options.get("index-url", DEFAULT_INDEX), *options.get("extra-index-url", "").split()]
    if options.get("no-index", "").lower() in {"1", "true", "yes", "on", "y", "t"}:
        urls = []
    authorities = (options.get("cert"), *(environ.get(name) for name in _CERTIFICATE_VARIABLES))
    return IndexSettings(
        indexes=tuple(url for url in urls if urlsplit(url).scheme in {"http", "https"}),
        folders=tuple(_folders(options.get("find-links", ""))),
        proxy=options.get("proxy") or None,
        certificate=next((path for path in authorities if path), None),
        trusted_hosts=tuple(options.get("trusted-host", "").split()),
    )


def _options(environ: Mapping[str, str]) -> dict[str, str]:
    sections: dict[str, dict[str, str]] = {name: {} for name in _SECTIONS}
    for file in config_files(environ):
        parser = configparser.RawConfigParser()
        try:
            parser.read(file)
        except (configparser.Error, UnicodeDecodeError) as error:
            reason = str(error).splitlines()[0]
            raise DownloadError(
                f"{file}: not a pip configuration file ({reason}); mend it or remove it"
            ) from None
        for name in _SECTIONS:
            if parser.has_section(name):
                sections[name].update((_canonical(key), value) for key, value in parser.items(name))
    sections["environment"] = {
        _canonical(key.removeprefix("PIP_")): value
        for key, value in environ.items()
        if key.startswith("PIP_") and value
    }
    return {key: value for section in sections.values() for key, value in section.items()}


def _canonical(key: str) -> str:
    return key.lower().replace("_", "-").removeprefix("--")


def config_files(environ: Mapping[str, str]) -> Iterator[Path]:
    """Name pip's configuration files in the order in which they override each other.

    Args:
        environ: environment variables.

    Yields:
        Paths, whether or not there is such a file.
    """
    given = environ.get("PIP_CONFIG_FILE")
    if given == os.devnull:  # pip's documented way to switch all files off
        return
    name = "pip.ini" if sys.platform == "win32" else "pip.conf"
    if given:
        yield Path(given)
    shared = platformdirs.site_config_dir("pip", appauthor=False, multipath=True).split(os.pathsep)
    yield from (Path(folder) / name for folder in shared)
    if sys.platform not in {"win32", "darwin"}:
        yield GLOBAL_FOLDER / name
    if not (given and Path(given).exists()):
        yield Path.home() / ("pip" if sys.platform == "win32" else ".pip") / name
        own = platformdirs.user_config_path("pip", appauthor=False, roaming=True)
        yield (own if own.is_dir() or sys.platform != "darwin" else Path.home() / ".config" / "pip") / name
    yield Path(sys.prefix) / name


def _folders(links: str) -> Iterator[Path]:
    for link in links.split():
        parts = urlsplit(link)
        if parts.scheme == "file":
            yield Path(unquote(parts.path))
        elif parts.scheme not in {"http", "https"}:
            yield Path(link).expanduser()
