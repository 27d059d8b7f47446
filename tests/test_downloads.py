"""Files come from the index pip would use, whole and with the right checksum, or not at all."""

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cnncompress.downloads import cache_folder, download, is_reachable, without_password
from cnncompress.errors import DownloadError
from cnncompress.events import Event, Note, StageAdvanced, StageDone, StageStarted
from cnncompress.package_index import DEFAULT_INDEX, IndexSettings, index_settings
from cnncompress.releases import fetch_release_file

CONTENT = bytes(range(256)) * 4096
SHA256 = hashlib.sha256(CONTENT).hexdigest()
NAME = "demo_pkg-1.0.tar.gz"
CERTIFICATES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")


class FakeIndex(ThreadingHTTPServer):
    """A simple index with one file, which breaks off or lies the first few times it is asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.breaks = 0
        self.requests: list[str] = []
        self.logins: list[str | None] = []

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: FakeIndex

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.end_headers()

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        self.server.logins.append(self.headers.get("Authorization"))
        if self.path == "/simple/demo-pkg/":
            link = f"{self.server.root}/files/{NAME}#sha256={SHA256}"
            self._answer(f'<html><body><a href="{link}">{NAME}</a></body></html>'.encode(), "text/html")
        elif self.path == f"/files/{NAME}":
            broken = self.server.breaks > 0
            self.server.breaks -= 1
            self._answer(CONTENT, "application/octet-stream", cut=len(CONTENT) // 2 if broken else None)
        else:
            self.send_error(404)

    def _answer(self, body: bytes, kind: str, cut: int | None = None) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:cut])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeIndex]:
    monkeypatch.setenv("CNNCOMPRESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the pauses between trials
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    server = FakeIndex()
    # serve_forever polls with select, not with the sleep replaced above.
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def settings_of(server: FakeIndex) -> IndexSettings:
    return IndexSettings(indexes=(f"{server.root}/simple",))


def test_a_release_file_is_found_by_name_and_reported_in_bytes(index: FakeIndex, tmp_path: Path) -> None:
    events: list[Event] = []
    file = fetch_release_file(
        "demo.pkg", NAME, sha256=SHA256, folder=tmp_path, settings=settings_of(index), report=events.append
    )
    assert file.read_bytes() == CONTENT
    assert events[0] == StageStarted(f"download {NAME}", len(CONTENT), "bytes")
    assert sum(event.steps for event in events if isinstance(event, StageAdvanced)) == len(CONTENT)
    assert isinstance(events[-1], StageDone)


def test_a_broken_transfer_is_tried_again_and_said(index: FakeIndex, tmp_path: Path) -> None:
    index.breaks = 1
    events: list[Event] = []
    file = fetch_release_file(
        "demo-pkg", NAME, sha256=SHA256, folder=tmp_path, settings=settings_of(index), report=events.append
    )
    assert file.read_bytes() == CONTENT
    assert any(isinstance(event, Note) and "again" in event.message for event in events)


def test_a_transfer_that_always_breaks_leaves_nothing(index: FakeIndex, tmp_path: Path) -> None:
    index.breaks = 100
    folder = tmp_path / "target"
    with pytest.raises(DownloadError, match=r"broke off.*PIP_INDEX_URL") as caught:
        fetch_release_file("demo-pkg", NAME, sha256=SHA256, folder=folder, settings=settings_of(index))
    assert "\n" not in str(caught.value)
    assert list(folder.iterdir()) == []


def test_a_wrong_checksum_is_refused_and_leaves_nothing(index: FakeIndex, tmp_path: Path) -> None:
    folder = tmp_path / "target"
    with pytest.raises(DownloadError, match="sha256"):
        fetch_release_file("demo-pkg", NAME, sha256="0" * 64, folder=folder, settings=settings_of(index))
    assert list(folder.iterdir()) == []


def test_the_next_index_is_asked_and_all_are_named_when_none_has_it(index: FakeIndex, tmp_path: Path) -> None:
    empty, full = f"{index.root}/nothing", f"{index.root}/simple"
    both = IndexSettings(indexes=(empty, full))
    assert fetch_release_file("demo-pkg", NAME, sha256=SHA256, folder=tmp_path, settings=both).is_file()
    with pytest.raises(DownloadError, match=r"/nothing: has no such file; .*/simple: has no such file"):
        fetch_release_file("demo-pkg", "other-2.0.tar.gz", sha256=SHA256, folder=tmp_path, settings=both)


def test_an_unreachable_index_is_named_without_its_password(tmp_path: Path, index: FakeIndex) -> None:
    closed = IndexSettings(indexes=("http://user:secret@127.0.0.1:9/simple",))
    with pytest.raises(DownloadError, match=r"127\.0\.0\.1:9/simple: no connection") as caught:
        fetch_release_file("demo-pkg", NAME, sha256=SHA256, folder=tmp_path, settings=closed)
    assert "secret" not in str(caught.value)


def test_an_absent_file_of_certificates_is_named(index: FakeIndex, tmp_path: Path) -> None:
    settings = IndexSettings(indexes=("https://127.0.0.1:9/simple",), certificate="/no/such.pem")
    with pytest.raises(DownloadError, match=r"/no/such\.pem"):
        fetch_release_file("demo-pkg", NAME, sha256=SHA256, folder=tmp_path, settings=settings)
    assert not is_reachable("https://127.0.0.1:9/", settings)


def test_the_index_login_goes_with_the_file(index: FakeIndex, tmp_path: Path) -> None:
    private = IndexSettings(indexes=(f"http://user:word@127.0.0.1:{index.server_port}/simple",))
    fetch_release_file("demo-pkg", NAME, sha256=SHA256, folder=tmp_path, settings=private)
    assert len(index.logins) == 2
    assert all(login and login.startswith("Basic ") for login in index.logins)


@pytest.mark.parametrize("place", ["cache", "find-links"])
def test_a_file_the_user_put_there_needs_no_index(
    place: str, index: FakeIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, target = tmp_path / "local", tmp_path / "target"
    folder.mkdir()
    (folder / NAME).write_bytes(CONTENT)
    if place == "cache":
        monkeypatch.setenv("CNNCOMPRESS_CACHE", str(folder))
    settings = IndexSettings(indexes=(), folders=(folder,) if place == "find-links" else ())
    file = fetch_release_file("demo-pkg", NAME, sha256=SHA256, folder=target, settings=settings)
    assert file.parent == target
    assert (folder / NAME).read_bytes() == file.read_bytes() == CONTENT
    assert index.requests == []


def test_a_checksum_may_be_given_by_its_first_digits(index: FakeIndex, tmp_path: Path) -> None:
    url = f"{index.root}/files/{NAME}"
    assert download(url, tmp_path / NAME, sha256=SHA256[:8], settings=settings_of(index)).is_file()
    with pytest.raises(DownloadError, match="sha256"):
        download(url, tmp_path / "other", sha256="00000000", settings=settings_of(index))
    assert not (tmp_path / "other").exists()


def test_a_folder_that_cannot_be_written_is_named(index: FakeIndex, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DownloadError, match=r"file.*can't be written.*CNNCOMPRESS_CACHE"):
        download(f"{index.root}/files/{NAME}", tmp_path / "file" / NAME, sha256=SHA256)


def test_reachability(index: FakeIndex) -> None:
    assert is_reachable(index.root, settings_of(index))
    assert not is_reachable("http://127.0.0.1:9/", settings_of(index))


def test_the_cache_folder_can_be_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CNNCOMPRESS_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("CNNCOMPRESS_CACHE")
    assert cache_folder().name == "cnncompress"


def test_messages_show_no_password() -> None:
    assert without_password("https://user:secret@host:1/simple") == "https://host:1/simple"


@pytest.fixture
def pip_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home and a prefix of our own, without the machine's pip settings."""
    monkeypatch.setattr("sys.prefix", str(tmp_path / "prefix"))
    monkeypatch.setattr(
        "cnncompress.package_index.platformdirs.site_config_dir", lambda *a, **k: str(tmp_path / "site")
    )
    monkeypatch.setattr(
        "cnncompress.package_index.platformdirs.user_config_path", lambda *a, **k: tmp_path / "user"
    )
    for folder in ("prefix", "site", "user"):
        (tmp_path / folder).mkdir()
    monkeypatch.setattr("cnncompress.package_index.GLOBAL_FOLDER", tmp_path / "none")
    monkeypatch.setattr("pathlib.Path.home", lambda: tmp_path / "home")
    return tmp_path


def test_without_settings_the_index_is_pypi(pip_files: Path) -> None:
    assert index_settings({}) == IndexSettings(indexes=(DEFAULT_INDEX,))


def test_files_and_environment_override_each_other_as_in_pip(pip_files: Path) -> None:
    (pip_files / "site" / "pip.conf").write_text(
        "[global]\nindex-url = https://site/simple\ncert = /site.pem\n"
    )
    (pip_files / "user" / "pip.conf").write_text(
        "[global]\nindex_url = https://user/simple\nproxy = http://p:1\n"
    )
    assert index_settings({}).indexes == ("https://user/simple",)
    (pip_files / "prefix" / "pip.conf").write_text("[install]\nindex-url = https://prefix/simple\n")
    settings = index_settings({"SSL_CERT_FILE": "/other.pem"})
    assert settings.indexes == ("https://prefix/simple",)
    assert settings.certificate == "/site.pem"
    assert settings.proxies == {"http": "http://p:1", "https": "http://p:1"}
    assert index_settings({"PIP_INDEX_URL": "https://env/simple"}).indexes == ("https://env/simple",)


def test_a_chosen_file_replaces_the_users_and_the_null_device_all(pip_files: Path) -> None:
    (pip_files / "user" / "pip.conf").write_text("[global]\nindex-url = https://user/simple\n")
    chosen = pip_files / "chosen.conf"
    chosen.write_text("[download]\nindex-url = https://chosen/simple\n")
    assert index_settings({"PIP_CONFIG_FILE": str(chosen)}).indexes == ("https://chosen/simple",)
    assert index_settings({"PIP_CONFIG_FILE": "/dev/null"}).indexes == (DEFAULT_INDEX,)


def test_extra_indexes_folders_and_trusted_hosts(pip_files: Path) -> None:
    (pip_files / "user" / "pip.conf").write_text(
        "[global]\nextra-index-url =\n  https://one/simple\n  file:///opt/two/simple\n"
        "trusted-host = one other:8443\nfind-links = /wheels file:///more%20wheels https://page/\n"
    )
    settings = index_settings({})
    assert settings.indexes == (DEFAULT_INDEX, "https://one/simple")
    assert settings.folders == (Path("/wheels"), Path("/more wheels"))
    assert settings.verify("https://one/simple") is False
    assert settings.verify("https://other:8443/x") is False
    assert settings.verify("https://other/x") is True


def test_no_index_asks_none(pip_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNNCOMPRESS_CACHE", str(tmp_path / "cache"))
    settings = index_settings({"PIP_NO_INDEX": "1"})
    assert settings.indexes == ()
    with pytest.raises(DownloadError, match="no http index"):
        fetch_release_file("demo-pkg", NAME, sha256=SHA256, folder=tmp_path, settings=settings)


@pytest.mark.parametrize("variable", CERTIFICATES)
def test_the_usual_certificate_variables_count(variable: str, pip_files: Path) -> None:
    assert index_settings({variable: "/my.pem"}).verify("https://x/") == "/my.pem"
    assert index_settings({variable: "/my.pem", "PIP_CERT": "/pip.pem"}).verify("https://x/") == "/pip.pem"


def test_a_damaged_configuration_file_is_named(pip_files: Path) -> None:
    file = pip_files / "user" / "pip.conf"
    file.write_text("index-url without a section\n")
    with pytest.raises(DownloadError, match=r"pip\.conf: not a pip configuration file"):
        index_settings({})
