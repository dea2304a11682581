"""Keys: made, shown once, kept as hashes, refused at once when revoked."""

from __future__ import annotations

import json
import sys

import pytest

from recollect.cli.main import main
from recollect.errors import InvalidInput, NotFound
from recollect.server.keys import KeyRing


def test_a_key_is_found_by_its_secret_only_and_only_its_hash_is_kept(tmp_path):
    ring = KeyRing(tmp_path / "memory.db")
    assert ring.find("rk_a_b") is None
    assert not (tmp_path / "memory.db-keys").exists(), "looking for a key makes no file"
    key, token = ring.create("ana", ["write", "read"])
    assert key.scopes == ("read", "write")
    assert ring.find(token) == key
    for wrong in (
        token[:-1],
        token + "x",
        token.upper(),
        f"rk_{key.id}_",
        f"rk_{key.id}",
        "",
        "rk_",
        "ä",
        "rk_ä_\ud800",
    ):
        assert ring.find(wrong) is None
    secret = token.split("_", 2)[2].encode()
    assert not any(secret in file.read_bytes() for file in tmp_path.iterdir())
    assert (tmp_path / "memory.db-keys").stat().st_mode & 0o077 == 0
    assert "secret" not in repr(key)
    ring.close()


def test_another_process_revokes_at_once(tmp_path):
    ring, other = KeyRing(tmp_path / "m.db"), KeyRing(tmp_path / "m.db")
    key, token = ring.create("ana", ["read"])
    assert other.find(token) == key
    other.revoke(key.id)
    assert ring.find(token) is None
    assert ring.list() == ()
    with pytest.raises(NotFound, match="id"):
        ring.revoke(key.id)
    ring.close()
    other.close()


@pytest.mark.parametrize(
    ("user", "scopes", "field"), [("", ["read"], "user"), ("a", [], "scopes"), ("a", ["all"], "scopes")]
)
def test_wrong_input_makes_no_key(tmp_path, user, scopes, field):
    with pytest.raises(InvalidInput, match=field):
        KeyRing(tmp_path / "m.db").create(user, scopes)
    assert not list(tmp_path.iterdir())


def test_the_commands(tmp_path, monkeypatch, capsys):
    def run(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["recollect", "keys", *words, "--db", str(tmp_path / "m.db")])
        with pytest.raises(SystemExit) as end:
            main()
        assert not end.value.code
        return capsys.readouterr().out

    made = json.loads(run("create", "--user", "ana", "--scopes", "read, admin", "--json"))
    assert made["key"].startswith(f"rk_{made['id']}_")
    listed = run("list")
    assert "ana: read, admin" in listed
    assert made["key"] not in listed
    assert run("create", "--user", "bo").startswith("rk_")
    run("revoke", made["id"])
    assert [key["user"] for key in json.loads(run("list", "--json"))] == ["bo"]


def test_keys_of_a_database_on_a_server_lie_in_it(postgres):
    with postgres.database() as url:
        ring, other = KeyRing(url), KeyRing(url)
        assert ring.find("rk_a_b") is None
        key, token = ring.create("ana", ["write", "read"])
        assert other.find(token) == key
        assert other.list() == (key,)
        for wrong in (token[:-1], "rk_\ud800_x", "rk_'; DROP TABLE keys_x"):
            assert other.find(wrong) is None
        other.revoke(key.id)
        assert ring.find(token) is None
        with pytest.raises(NotFound):
            ring.revoke(key.id)
        ring.close()
        other.close()
