"""Tiny Shakespeare: only the very text is taken, from a file or from the network, and refusals say what to do."""

import io
import urllib.error

import pytest
from real_data import real_data

from gptloom.config.errors import UserError
from gptloom.data import shakespeare
from gptloom.data.shakespeare import shakespeare_corpus


@pytest.fixture
def network(monkeypatch):
    """Replaces the network: a text to be sent, or an error to be raised."""

    def answer(reply):
        def urlopen(url, timeout):
            assert url == shakespeare.URL and timeout == 10
            if isinstance(reply, Exception):
                raise reply
            return io.BytesIO(reply)

        monkeypatch.setattr("urllib.request.urlopen", urlopen)

    return answer


def test_a_local_copy_is_checked_and_kept(tmp_path, network):
    local = real_data("tinyshakespeare/input.txt")
    network(AssertionError("no download is needed"))
    kept = shakespeare_corpus(tmp_path, local)
    assert kept.read_bytes() == local.read_bytes()
    assert shakespeare_corpus(tmp_path) == kept


def test_another_text_is_refused_with_its_checksum(tmp_path):
    (tmp_path / "input.txt").write_bytes(b"To be")
    with pytest.raises(UserError, match=f"expected {shakespeare.SHA256}"):
        shakespeare_corpus(tmp_path, tmp_path / "input.txt")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.txt: there is no such file"):
        shakespeare_corpus(tmp_path, tmp_path / "nowhere.txt")


def test_without_a_network_the_place_for_the_file_is_told(tmp_path, network):
    network(urllib.error.URLError("no route"))
    with pytest.raises(UserError) as raised:
        shakespeare_corpus(tmp_path)
    assert "no route" in str(raised.value)
    assert str(tmp_path / "shakespeare.txt") in raised.value.problems[0].mend


def test_a_download_of_something_else_is_not_kept(tmp_path, network):
    network(b"<html>moved</html>")
    with pytest.raises(UserError, match="another text"):
        shakespeare_corpus(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_good_download_is_written(tmp_path, network, monkeypatch):
    monkeypatch.setattr(shakespeare, "SHA256", shakespeare.sha256(b"To be\n").hexdigest())
    network(b"To be\n")
    assert shakespeare_corpus(tmp_path / "new").read_bytes() == b"To be\n"
