"""Fetching data by name, from a mirror and from a server on this machine that also misbehaves."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import http.server
import io
import json
import shutil
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pooch
import pytest
from scipy.io import savemat

from ulmpaper.io.fetch import REGISTRY, fetch, registry_table, unpack
from ulmpaper.io.files import only_writer


def archive() -> bytes:
    """A sound zip archive, as of those that Zenodo holds."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as made:
        made.writestr(zipfile.ZipInfo("a.bin"), bytes(range(256)) * 2000)
    return content.getvalue()


CONTENT = archive()
SHA256 = hashlib.sha256(CONTENT).hexdigest()
KIDNEY = REGISTRY["rat-kidney"].files[0].name


class Handler(http.server.BaseHTTPRequestHandler):
    """``/good`` sends the content, ``/other`` something else, ``/cut`` only half of it."""

    def do_GET(self) -> None:
        self.server.paths.append(self.path)
        if self.path == "/missing":
            self.send_error(404)
            return
        body = b"<html>log in first</html>" if self.path == "/other" else CONTENT
        body, has_length = self.server.bodies.get(self.path, (body, True))
        self.send_response(200)
        if has_length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if self.path == "/cut" else body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[http.server.ThreadingHTTPServer]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.paths = []
        running.bodies = {}
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ULMPAPER_DATA_MIRROR", raising=False)
    monkeypatch.delenv("ULMPAPER_DATA_DIR", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def serve(server: http.server.ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch):
    """Point every file of a set to a path of the server, under the checksum given."""

    def point(name: str, path: str, sha256: str | None = SHA256) -> None:
        url = f"http://127.0.0.1:{server.server_port}/{path}"
        files = tuple(dataclasses.replace(f, url=url, sha256=sha256) for f in REGISTRY[name].files)
        monkeypatch.setitem(REGISTRY, name, dataclasses.replace(REGISTRY[name], files=files))
        server.paths.clear()

    return point


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_downloads_once(serve, server, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    serve("rat-kidney", "good")
    path = fetch("rat-kidney", tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / KIDNEY
    assert path.read_bytes() == CONTENT
    assert fetch("rat-kidney", tmp_path / "new" / "folder") == path
    assert server.paths == ["/good"]
    assert names_in(tmp_path) == [KIDNEY]
    assert "100%" in capsys.readouterr().err


def test_progress_bar_can_be_silenced(serve, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    serve("rat-kidney", "good")
    fetch("rat-kidney", tmp_path, progress=False)
    assert capsys.readouterr() == ("", "")


def test_sets_of_several_files_get_a_folder(serve, tmp_path: Path) -> None:
    serve("rat-brain-map", "good")
    folder = fetch("rat-brain-map", tmp_path, progress=False)
    assert folder == tmp_path / "rat-brain-map"
    assert names_in(folder) == sorted(file.name for file in REGISTRY["rat-brain-map"].files)


def test_folder_comes_from_the_argument_before_the_environment(
    serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve("rat-kidney", "good")
    monkeypatch.chdir(tmp_path)
    assert fetch("rat-kidney", progress=False) == Path("data") / KIDNEY
    monkeypatch.setenv("ULMPAPER_DATA_DIR", str(tmp_path / "environment"))
    assert fetch("rat-kidney", progress=False) == tmp_path / "environment" / KIDNEY
    assert (
        fetch("rat-kidney", str(tmp_path / "argument"), progress=False)
        == tmp_path / "argument" / KIDNEY
    )


@pytest.mark.parametrize("sha256", [SHA256, None])
def test_a_cut_connection_leaves_nothing_and_can_be_tried_again(
    serve, sha256: str | None, tmp_path: Path
) -> None:
    name = "rat-kidney" if sha256 else "pala-insilico"
    serve(name, "cut", sha256)
    with pytest.raises(
        ConnectionError, match=r"cannot download http.*try again.*by hand to .*MIRROR"
    ):
        fetch(name, tmp_path)
    assert names_in(tmp_path) == []
    serve(name, "good", sha256)
    assert fetch(name, tmp_path, progress=False).read_bytes() == CONTENT


def test_a_download_that_fails_leaves_no_folder(serve, tmp_path: Path) -> None:
    for folder in (tmp_path / "data", tmp_path / "far" / "below"):
        serve("rat-kidney", "missing")
        with pytest.raises(ConnectionError):
            fetch("rat-kidney", folder, progress=False)
        assert names_in(tmp_path) == []
    serve("rat-kidney", "good")
    assert fetch("rat-kidney", tmp_path / "data", progress=False).is_file()


def test_missing_page_is_named_with_its_status(serve, tmp_path: Path) -> None:
    serve("rat-kidney", "missing")
    with pytest.raises(ConnectionError, match="the server answers 404"):
        fetch("rat-kidney", tmp_path, progress=False)
    assert names_in(tmp_path) == []


def test_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = dataclasses.replace(REGISTRY["rat-kidney"].files[0], url="http://127.0.0.1:9/nobody")
    monkeypatch.setitem(
        REGISTRY, "rat-kidney", dataclasses.replace(REGISTRY["rat-kidney"], files=(file,))
    )
    with pytest.raises(
        ConnectionError, match=r"cannot download http://127.0.0.1:9/nobody \(ConnectionError\)"
    ) as info:
        fetch("rat-kidney", tmp_path, progress=False)
    assert info.value.__suppress_context__, "the user sees one message, not the library's traceback"


def test_interruption_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: object, url: str, output_file: str, pooch: object) -> None:
        Path(output_file).write_bytes(CONTENT[:10])
        raise KeyboardInterrupt

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch("rat-kidney", tmp_path, progress=False)
    assert names_in(tmp_path) == []


def test_download_with_a_wrong_checksum_is_refused(serve, tmp_path: Path) -> None:
    serve("rat-kidney", "other")
    with pytest.raises(
        ValueError,
        match=rf"{KIDNEY} has the wrong checksum: expected {SHA256}, got .*nothing was kept",
    ):
        fetch("rat-kidney", tmp_path, progress=False)
    assert names_in(tmp_path) == []


def test_a_damaged_file_is_an_error_and_stays(serve, server, tmp_path: Path) -> None:
    serve("rat-kidney", "good")
    (tmp_path / KIDNEY).write_bytes(CONTENT[:-1])
    with pytest.raises(ValueError, match=rf"expected {SHA256}, got .*delete it and fetch again"):
        fetch("rat-kidney", tmp_path, progress=False)
    assert names_in(tmp_path) == [KIDNEY]
    assert server.paths == []


def test_unpublished_checksum_is_reported_kept_and_held(serve, tmp_path: Path) -> None:
    serve("pala-insilico", "good", None)
    messages: list[str] = []
    path = fetch("pala-insilico", tmp_path, progress=False, notify=messages.append)
    assert "about 4.4 GB" in messages[0]
    assert SHA256 in messages[1]
    note = path.with_name(path.name + ".sha256.json")
    assert json.loads(note.read_text())["sha256"] == SHA256
    assert fetch("pala-insilico", tmp_path, progress=False, notify=messages.append) == path
    assert len(messages) == 2

    path.write_bytes(b"changed")
    with pytest.raises(
        ValueError, match=rf"expected {SHA256}.*delete it and fetch again.*delete .*sha256\.json"
    ):
        fetch("pala-insilico", tmp_path, progress=False, notify=messages.append)
    path.unlink()
    serve("pala-insilico", "other", None)
    with pytest.raises(ValueError, match=f"expected {SHA256}"):
        fetch("pala-insilico", tmp_path, progress=False, notify=messages.append)
    note.write_text("{")
    with pytest.raises(ValueError, match="to accept the new checksum, delete"):
        fetch("pala-insilico", tmp_path, progress=False, notify=messages.append)
    note.unlink()
    serve("pala-insilico", "good", None)
    assert fetch("pala-insilico", tmp_path, progress=False, notify=messages.append).is_file()


def mat5() -> bytes:
    content = io.BytesIO()
    savemat(content, {"a": np.ones((9, 9)), "IQ": np.ones((9, 9, 3))})
    return content.getvalue()


def hdf5() -> bytes:
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file["IQ"] = np.ones((9, 9, 3))
    return content.getvalue()


def npy() -> bytes:
    content = io.BytesIO()
    np.save(content, np.ones((9, 9, 3)))
    return content.getvalue()


PAGE = b"<!DOCTYPE html><html><body>log in first</body></html>"
WHOLE = {"a.zip": archive(), "a.mat": mat5(), "b.mat": hdf5(), "a.h5": hdf5(), "a.npy": npy()}


@pytest.mark.parametrize("name", [*WHOLE, "a.bin"])
@pytest.mark.parametrize("what", ["page", "spaced page", "empty", "cut", "other"])
@pytest.mark.parametrize("length", [True, False])
def test_what_is_not_whole_or_of_another_kind_is_not_noted_as_right(
    server, name: str, what: str, length: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = WHOLE.get(name, b"12345" * 99)
    sent = {
        "page": PAGE,
        "spaced page": b"\xef\xbb\xbf\n  " + PAGE.lower(),
        "empty": b"",
        "cut": whole[: 2 * len(whole) // 3],
        "other": b"not what was asked for",
    }[what]
    if name == "a.bin" and what in ("cut", "other"):
        pytest.skip("nobody can tell")
    server.bodies = {"/kind": (sent, length)}
    file = dataclasses.replace(
        REGISTRY["rat-kidney"].files[0],
        name=name,
        url=f"http://127.0.0.1:{server.server_port}/kind",
        sha256=None,
    )
    monkeypatch.setitem(
        REGISTRY, "rat-kidney", dataclasses.replace(REGISTRY["rat-kidney"], files=(file,))
    )
    messages: list[str] = []
    with pytest.raises(ValueError, match=rf"{name} is not what is wanted.*nothing was kept"):
        fetch("rat-kidney", tmp_path / "new", progress=False, notify=messages.append)
    assert list(tmp_path.iterdir()) == []
    server.bodies = {"/kind": (whole, length)}
    fetch("rat-kidney", tmp_path / "new", progress=False, notify=messages.append)
    assert (tmp_path / "new" / name).read_bytes() == whole
    (tmp_path / "new" / name).write_bytes(sent)
    (tmp_path / "new" / f"{name}.sha256.json").unlink()
    with pytest.raises(ValueError, match="delete it and fetch again"):  # put there by hand
        fetch("rat-kidney", tmp_path / "new", progress=False, notify=messages.append)
    assert not (tmp_path / "new" / f"{name}.sha256.json").exists()


def test_an_error_has_a_line_of_its_own(
    serve, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    serve("rat-kidney", "cut")
    with pytest.raises(ConnectionError):
        fetch("rat-kidney", tmp_path)
    assert capsys.readouterr().err.endswith("\n")


def test_messages_go_to_standard_error(
    serve, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    serve("pala-insilico", "good", None)
    fetch("pala-insilico", tmp_path, progress=False)
    out, err = capsys.readouterr()
    assert out == ""
    assert "4.4 GB" in err
    assert SHA256 in err


def test_file_put_in_place_by_hand_gets_its_checksum_recorded(tmp_path: Path) -> None:
    (tmp_path / REGISTRY["pala-insilico"].files[0].name).write_bytes(CONTENT)
    messages: list[str] = []
    fetch("pala-insilico", tmp_path, notify=messages.append)
    assert [SHA256 in message for message in messages] == [True]


def test_some_files_of_a_set(serve, tmp_path: Path) -> None:
    serve("pala-ratbrain", "good")
    folder = fetch("pala-ratbrain", tmp_path, progress=False)
    assert names_in(folder) == ["IQ_001_to_025.zip", "param.mat"]
    fetch("pala-ratbrain", tmp_path, files="IQ_226_to_250.zip", progress=False)
    fetch("pala-ratbrain", tmp_path, files=["IQ_026_to_050.zip"], progress=False)
    assert names_in(folder) == [
        "IQ_001_to_025.zip",
        "IQ_026_to_050.zip",
        "IQ_226_to_250.zip",
        "param.mat",
    ]
    assert (
        registry_table(tmp_path).set_index("name").loc["pala-ratbrain", "fetched"]
        == "4 of 11 files"
    )
    with pytest.raises(
        ValueError, match=r"unknown file of pala-ratbrain 'IQ_026.zip': did you mean"
    ):
        fetch("pala-ratbrain", tmp_path, files=["IQ_026.zip"])


def test_all_files_of_a_set_by_one_command(serve, run, tmp_path: Path) -> None:
    serve("pala-ratbrain", "good")
    code, out, _ = run("fetch", "pala-ratbrain", "--all", "--data-dir", tmp_path)
    assert (code, out.strip()) == (0, f"pala-ratbrain: {tmp_path / 'pala-ratbrain'}")
    assert registry_table(tmp_path).set_index("name").loc["pala-ratbrain", "fetched"] == "yes"


def test_unknown_name() -> None:
    with pytest.raises(ValueError, match="unknown data set 'rat-kidny': did you mean 'rat-kidney'"):
        fetch("rat-kidny")


class TestMirror:
    """A folder that is searched before the network."""

    @pytest.fixture
    def mirror(self, serve, server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        serve("rat-kidney", "good")
        folder = tmp_path / "mirror"
        folder.mkdir()
        monkeypatch.setenv("ULMPAPER_DATA_MIRROR", str(folder))
        return folder

    def test_comes_before_the_network(self, mirror: Path, server, tmp_path: Path) -> None:
        (mirror / KIDNEY).write_bytes(CONTENT)
        assert fetch("rat-kidney", tmp_path / "data").read_bytes() == CONTENT
        assert server.paths == []

    def test_network_for_what_it_lacks(self, mirror: Path, server, tmp_path: Path) -> None:
        assert fetch("rat-kidney", tmp_path / "data", progress=False).read_bytes() == CONTENT
        assert server.paths == ["/good"]

    def test_wrong_checksum(self, mirror: Path, server, tmp_path: Path) -> None:
        (mirror / KIDNEY).write_bytes(b"wrong")
        got = hashlib.sha256(b"wrong").hexdigest()
        with pytest.raises(
            ValueError, match=rf"expected {SHA256}, got {got}; replace .*mirror.*{KIDNEY}"
        ):
            fetch("rat-kidney", tmp_path / "data")
        assert names_in(tmp_path / "data") == []
        assert server.paths == []

    def test_not_a_folder(
        self, mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ULMPAPER_DATA_MIRROR", str(tmp_path / "nowhere"))
        with pytest.raises(
            ValueError, match=r"ULMPAPER_DATA_MIRROR is .*nowhere', which is not a folder"
        ):
            fetch("rat-kidney", tmp_path / "data")

    @pytest.mark.parametrize("name", [name for name, data in REGISTRY.items() if data.small])
    def test_the_real_files(
        self, name: str, data_mirror: Path, tmp_path: Path, monkeypatch
    ) -> None:
        monkeypatch.undo()
        monkeypatch.setenv("ULMPAPER_DATA_MIRROR", str(data_mirror))
        fetch(name, tmp_path)
        assert names_in(tmp_path) == sorted(file.name for file in REGISTRY[name].files)
        assert registry_table(tmp_path).set_index("name").loc[name, "fetched"] == "yes"


class TestDisk:
    """What can go wrong on the disk."""

    def test_folder_that_cannot_be_made(self, serve, tmp_path: Path) -> None:
        serve("rat-kidney", "good")
        (tmp_path / "taken").write_text("a file")
        with pytest.raises(OSError, match=rf"cannot write .*{KIDNEY}.*ULMPAPER_DATA_DIR"):
            fetch("rat-kidney", tmp_path / "taken", progress=False)

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
    def test_writing_fails(
        self, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fails(self: object, url: str, output_file: str, pooch: object) -> None:
            Path(output_file).write_bytes(b"part")
            raise OSError(number, "the system's words")

        monkeypatch.setattr(pooch.HTTPDownloader, "__call__", fails)
        with pytest.raises(
            OSError, match=r"cannot write .*the system's words.*make room or set ULMPAPER_DATA_DIR"
        ):
            fetch("rat-kidney", tmp_path, progress=False)
        assert names_in(tmp_path) == []

    def test_mirror_onto_a_full_disk(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(source: Path, target: Path) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        (tmp_path / KIDNEY).write_bytes(CONTENT)
        monkeypatch.setenv("ULMPAPER_DATA_MIRROR", str(tmp_path))
        monkeypatch.setattr(shutil, "copyfile", full)
        with pytest.raises(OSError, match="No space left"):
            fetch("rat-kidney", tmp_path / "data")


class TestUnpack:
    """Archives."""

    @pytest.fixture
    def archive(self, tmp_path: Path) -> Path:
        path = tmp_path / "IQ.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
            out.writestr("IQ/a.bin", CONTENT)
            out.writestr("../../escaped.bin", b"must stay inside")
        return path

    def test_once_and_inside(self, archive: Path) -> None:
        folder = unpack(archive)
        assert folder == archive.with_suffix("")
        assert (folder / "IQ" / "a.bin").read_bytes() == CONTENT
        assert names_in(archive.parent) == ["IQ.zip", "a.bin", "escaped.bin"]
        assert (folder / "escaped.bin").is_file()
        (folder / "IQ" / "a.bin").unlink()
        assert unpack(str(archive)) == folder
        assert not (folder / "IQ" / "a.bin").exists(), "done once, not again"

    def test_what_python_cannot_unpack(self, archive: Path) -> None:
        content = archive.read_bytes()
        central = content.index(b"PK\x01\x02")
        for local, far, value in ((6, 8, 1), (8, 10, 97)):  # encrypted; an unknown method
            changed = bytearray(content)
            changed[local] = changed[central + far] = value
            archive.write_bytes(changed)
            with pytest.raises(ValueError, match=r"IQ\.zip cannot be unpacked .*other means"):
                unpack(archive)
            assert names_in(archive.parent) == ["IQ.zip"]

    def test_a_second_one_at_once_is_refused(self, archive: Path) -> None:
        with (
            only_writer(archive.with_suffix("")),
            pytest.raises(OSError, match="another run is writing"),
        ):
            unpack(archive)

    def test_damaged(self, archive: Path) -> None:
        content = archive.read_bytes()
        archive.write_bytes(content[:60] + b"\0" * 40 + content[100:])
        with pytest.raises(ValueError, match="not a sound zip archive"):
            unpack(archive)
        archive.write_bytes(content[:100])
        with pytest.raises(ValueError, match="not a sound zip archive"):
            unpack(archive)
        assert names_in(archive.parent) == ["IQ.zip"]

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(
            FileNotFoundError, match=r"there is no file .*nothing\.zip: fetch it first"
        ):
            unpack(tmp_path / "nothing.zip")


class TestRegistry:
    """What is registered."""

    def test_table(self, tmp_path: Path) -> None:
        table = registry_table(tmp_path)
        assert table["name"].tolist() == list(REGISTRY)
        assert set(table.columns) == {
            "name",
            "what",
            "size",
            "licence",
            "address",
            "small",
            "fetched",
        }
        assert (table["fetched"] == "no").all()
        assert (table[["what", "size", "licence", "address"]].map(len) > 0).all(axis=None)

    @pytest.mark.parametrize("name", REGISTRY)
    def test_addresses_are_pinned(self, name: str) -> None:
        data = REGISTRY[name]
        for file in data.files:
            if file.url.startswith("https://github.com/"):
                assert len(file.url.split("/raw/")[1].split("/")[0]) == 40, "a full commit"
                assert file.sha256 is not None
                assert len(file.sha256) == 64
            else:
                assert file.url.startswith("https://zenodo.org/records/")
        assert set(data.default) <= {file.name for file in data.files}
        assert data.small == all(file.sha256 for file in data.files), (
            "small sets are safe to fetch unasked"
        )

    def test_file_names_are_unique(self) -> None:
        names = [file.name for data in REGISTRY.values() for file in data.files]
        assert len(names) == len(set(names)), "a mirror is searched by name alone"

    def test_archives_of_the_rat_brain_follow_each_other(self) -> None:
        names = [file.name for file in REGISTRY["pala-ratbrain"].files]
        assert names[:2] == ["IQ_001_to_025.zip", "IQ_026_to_050.zip"]
        assert names[9:] == ["IQ_226_to_250.zip", "param.mat"]

    def test_readme_lists_every_set(self) -> None:
        text = (Path(__file__).parents[2] / "data" / "README.md").read_text(encoding="utf-8")
        for name, data in REGISTRY.items():
            assert f"`{name}`" in text
            assert data.address.removeprefix("https://doi.org/") in text
            assert all(file.sha256 is None or file.sha256 in text for file in data.files)
