from __future__ import annotations

import fcntl
import hashlib
import io
import json
import shutil
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from gnnaccel.data.download import DownloadError, download, sha256_of
from tests.data.localhost import Server

BODY = np.random.default_rng(0).bytes(700_001)
SHA = hashlib.sha256(BODY).hexdigest()


@pytest.fixture(autouse=True)
def body(server: Server) -> None:
    server.files["/f.bin"] = BODY


def get(server: Server, dest: Path, **kw: object) -> str:
    options: dict = {"progress": False, "backoff": 0.001, "timeout": 10.0, **kw}
    return download(server.url + "/f.bin", dest, **options)


def files(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_plain(server: Server, tmp_path: Path) -> None:
    dest = tmp_path / "deep" / "f.bin"
    assert get(server, dest, sha256=SHA.upper(), size=len(BODY)) == SHA
    assert dest.read_bytes() == BODY and files(dest.parent) == ["f.bin"] and sha256_of(dest) == SHA
    assert server.headers[0]["User-Agent"] == "gnnaccel" and server.spans() == [""]


def test_cut_connections_are_resumed(server: Server, tmp_path: Path) -> None:
    server.cut = [300_000, 100_000, 1]
    get(server, tmp_path / "f.bin", sha256=SHA)
    assert (tmp_path / "f.bin").read_bytes() == BODY and files(tmp_path) == ["f.bin"]
    assert server.spans() == ["", "bytes=300000-", "bytes=400000-", "bytes=400001-"]
    assert all(h["If-Range"] == '"one"' for h in server.headers[1:])


def test_a_later_call_continues(server: Server, tmp_path: Path) -> None:
    dest = tmp_path / "f.bin"
    server.cut = [200_000]
    with pytest.raises(
        DownloadError, match=r"/f.bin: the connection ended at 200000 of 700001 bytes \(1 tries\); check"
    ):
        get(server, dest, retries=1)
    # What is there does not look complete
    assert not dest.exists() and files(tmp_path) == ["f.bin.part", "f.bin.part.json"]
    assert (tmp_path / "f.bin.part").stat().st_size == 200_000
    get(server, dest, sha256=SHA, retries=1)
    assert server.spans() == ["", "bytes=200000-"] and dest.read_bytes() == BODY


def test_a_changed_file_starts_anew(server: Server, tmp_path: Path) -> None:
    dest = tmp_path / "f.bin"
    server.cut = [200_000]
    with pytest.raises(DownloadError):
        get(server, dest, retries=1)
    server.files["/f.bin"], server.etag = BODY[::-1], '"two"'
    get(server, dest)
    assert dest.read_bytes() == BODY[::-1] and server.spans() == ["", "bytes=200000-"]


def test_a_shorter_file_and_no_validator(server: Server, tmp_path: Path) -> None:
    dest = tmp_path / "f.bin"
    server.etag, server.cut = None, [200_000]
    with pytest.raises(DownloadError):
        get(server, dest, retries=1)
    server.files["/f.bin"] = BODY[:1000]
    get(server, dest)
    assert dest.read_bytes() == BODY[:1000] and server.spans() == ["", "bytes=200000-", ""]


def test_a_longer_file_and_no_validator(server: Server, tmp_path: Path) -> None:
    dest = tmp_path / "f.bin"
    server.etag, server.cut = None, [200_000]
    with pytest.raises(DownloadError):
        get(server, dest, retries=1)
    server.files["/f.bin"] = BODY[::-1] + b"more"
    get(server, dest)
    assert dest.read_bytes() == BODY[::-1] + b"more"


def test_server_without_ranges(server: Server, tmp_path: Path) -> None:
    server.ranges, server.cut = False, [300_000]
    get(server, tmp_path / "f.bin", sha256=SHA)
    assert (tmp_path / "f.bin").read_bytes() == BODY and len(server.headers) == 2


def test_server_that_sends_another_range(server: Server, tmp_path: Path) -> None:
    server.shift, server.cut = 5, [300_000]
    get(server, tmp_path / "f.bin", sha256=SHA)
    assert (tmp_path / "f.bin").read_bytes() == BODY and server.spans() == ["", "bytes=300000-", ""]


def test_part_of_another_file_is_not_continued(server: Server, tmp_path: Path) -> None:
    (tmp_path / "f.bin.part").write_bytes(b"x" * 1000)
    (tmp_path / "f.bin.part.json").write_text(json.dumps({"url": "https://elsewhere.invalid/f", "total": 5}))
    get(server, tmp_path / "f.bin", sha256=SHA)
    (tmp_path / "g.bin.part").write_bytes(b"x" * 1000)
    (tmp_path / "g.bin.part.json").write_text("{")
    get(server, tmp_path / "g.bin", sha256=SHA)
    assert server.spans() == ["", ""]


def test_length_unknown(server: Server, tmp_path: Path) -> None:
    server.length, server.cut = False, [300_000]
    get(server, tmp_path / "f.bin", size=len(BODY), sha256=SHA)
    assert (tmp_path / "f.bin").read_bytes() == BODY


def test_wrong_hash_leaves_nothing(server: Server, tmp_path: Path) -> None:
    (tmp_path / "f.bin").write_bytes(b"the good old one")
    with pytest.raises(DownloadError, match=rf"/f.bin: sha256 is {SHA}, not 0+; damaged, or changed") as e:
        get(server, tmp_path / "f.bin", sha256="0" * 64)
    assert "\n" not in str(e.value) and files(tmp_path) == ["f.bin"]
    assert (tmp_path / "f.bin").read_bytes() == b"the good old one"


def test_wrong_size(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="the file has 700001 bytes, not 5"):
        get(server, tmp_path / "f.bin", size=5)
    assert not (tmp_path / "f.bin").exists() and len(server.headers) == 1


def test_client_errors_are_not_tried_again(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"/gone: HTTP 404 Not Found; check the network, or put the file there"):
        download(server.url + "/gone", tmp_path / "f.bin", progress=False)
    assert len(server.headers) == 1 and not (tmp_path / "f.bin").exists()


def test_server_errors_are_tried_again(server: Server, tmp_path: Path) -> None:
    server.status = [(503, {}), (429, {}), (500, {})]
    get(server, tmp_path / "f.bin", sha256=SHA)
    assert len(server.headers) == 4
    server.status = [(503, {})] * 9
    with pytest.raises(DownloadError, match=r"HTTP 503 Service Unavailable \(3 tries\)"):
        get(server, tmp_path / "g.bin", retries=3)


def test_mirrors(server: Server, tmp_path: Path) -> None:
    urls = [server.url + "/gone", server.url + "/f.bin"]
    assert download(urls, tmp_path / "f.bin", progress=False) == SHA
    with pytest.raises(DownloadError, match=r"/gone: HTTP 404 .*; .*/away: HTTP 404"):
        download([server.url + "/gone", server.url + "/away"], tmp_path / "g.bin", progress=False)


def test_mirror_continues_another_ones_part_anew(server: Server, tmp_path: Path) -> None:
    server.files["/g.bin"], server.cut = BODY, [1000]
    urls = [server.url + "/f.bin", server.url + "/g.bin"]
    assert download(urls, tmp_path / "f.bin", progress=False, retries=1) == SHA
    assert server.spans() == ["", ""]


def test_redirects(server: Server, tmp_path: Path) -> None:
    server.status = [(302, {"Location": server.url + "/f.bin"})]
    assert download(server.url + "/moved", tmp_path / "f.bin", progress=False) == SHA
    server.status = [(302, {"Location": "http://example.invalid/f.bin"})]
    with pytest.raises(DownloadError, match=r"http://example.invalid/f.bin: only https is allowed"):
        download(server.url + "/moved", tmp_path / "g.bin", progress=False)


def test_only_https(tmp_path: Path) -> None:
    for url in ("http://example.invalid/x", "ftp://example.invalid/x", "file:///etc/passwd"):
        with pytest.raises(DownloadError, match="only https is allowed"):
            download(url, tmp_path / "x", progress=False)


def test_nobody_there(tmp_path: Path) -> None:
    s = Server()
    s.http.shutdown()
    s.http.server_close()
    with pytest.raises(DownloadError, match=r"refused.* \(2 tries\)"):
        get(s, tmp_path / "f.bin", retries=2)


def test_no_answer_in_time(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "answer", lambda h: time.sleep(0.3))
    with pytest.raises(DownloadError, match=r"timed out \(1 tries\)"):
        get(server, tmp_path / "f.bin", timeout=0.05, retries=1)


def test_one_at_a_time(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open(tmp_path / "f.bin.part", "ab") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        with pytest.raises(DownloadError, match="another process is downloading this; wait for it"):
            get(server, tmp_path / "f.bin")
    # The other one finished, and renamed the file, between our opening and our locking it
    lock = fcntl.flock

    def late(*args: object) -> None:
        (tmp_path / "f.bin.part").rename(tmp_path / "f.bin")
        (tmp_path / "f.bin.part").write_bytes(b"")
        lock(*args)

    (tmp_path / "f.bin.part").write_bytes(BODY)
    with monkeypatch.context() as m:
        m.setattr(fcntl, "flock", late)
        with pytest.raises(DownloadError, match="another process"):
            get(server, tmp_path / "f.bin")
    assert (tmp_path / "f.bin").read_bytes() == BODY
    get(server, tmp_path / "f.bin", sha256=SHA)


def test_folder_that_cannot_be_made(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DownloadError, match=r"cannot be written .*; set GNNACCEL_DATA to a folder with room"):
        get(server, tmp_path / "file" / "f.bin")


def test_bar(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True)
    monkeypatch.setattr("sys.stderr", screen)
    get(server, tmp_path / "f.bin", progress=True)
    assert "f.bin" in screen.getvalue() and "B/s" in screen.getvalue()


def test_killed_and_called_again(server: Server, tmp_path: Path) -> None:
    dest = tmp_path / "f.bin"
    server.cut, server.hold = [300_000], threading.Event()
    code = f"from gnnaccel.data.download import download; download({server.url + '/f.bin'!r}, {str(dest)!r})"
    child = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    part = tmp_path / "f.bin.part"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (part.exists() and part.stat().st_size >= 1 << 18):
        time.sleep(0.01)
    child.kill()
    child.wait()
    assert not dest.exists() and 0 < part.stat().st_size <= 300_000
    server.hold.set()
    server.hold = None
    get(server, dest, sha256=SHA)
    assert dest.read_bytes() == BODY and server.spans()[-1].startswith("bytes=") and files(tmp_path) == ["f.bin"]


def test_https(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl to make a certificate with")
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = (
        f"{openssl} req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    )
    subprocess.run([*command.split(), "-keyout", key, "-out", cert], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    server.http.socket = context.wrap_socket(server.http.socket, server_side=True)
    url = f"https://localhost:{server.http.server_port}/f.bin"
    # A certificate that nobody vouches for is not a matter of trying again
    with pytest.raises(DownloadError, match=r"certificate verify failed"):
        download(url, tmp_path / "f.bin", progress=False, backoff=60)
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))
    assert download(url, tmp_path / "f.bin", progress=False) == SHA


def test_trying_again_is_told(server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    server.status = [(503, {})]
    get(server, tmp_path / "f.bin")
    assert "/f.bin: HTTP 503 Service Unavailable; trying again in 0.001 s" in caplog.text
