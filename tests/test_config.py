"""Settings come from the strongest place that has them, say where that was, and never show a key."""

from __future__ import annotations

from pathlib import Path

import pytest

from recollect import config
from recollect.config import load_settings, write_default
from recollect.errors import Conflict, InvalidInput, NotFound, StorageFailed


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty project folder to work in, and an environment whose user folders lie beside it."""
    project = tmp_path / "project" / "inner"
    project.mkdir(parents=True)
    (tmp_path / "config" / "recollect").mkdir(parents=True)
    monkeypatch.chdir(project)
    environ = {"XDG_DATA_HOME": str(tmp_path / "data"), "XDG_CONFIG_HOME": str(tmp_path / "config")}
    return tmp_path, project, environ


def test_defaults_need_nothing(place):
    root, _, environ = place
    settings = load_settings(environ=environ)
    assert settings.db == str(root / "data" / "recollect" / "memory.db")
    assert (settings.user, settings.method, settings.embedder, settings.lm_model) == ("default", None, None, None)
    assert set(settings.origins.values()) == {"default"}
    assert settings.files == ()


def test_the_stronger_place_wins_and_is_named(place):
    root, project, environ = place
    own = root / "config" / "recollect" / "recollect.toml"
    own.write_text('user = "own"\nagent = "own"\nmethod = "own"\ndb = "own.db"\n')
    near = project.parent / "recollect.toml"
    near.write_text('user = "near"\nagent = "near"\nmethod = "near"\n[lm]\nmodel = "m"\ntimeout_s = 5\n')
    settings = load_settings(
        environ=environ | {"RECOLLECT_USER": "env", "RECOLLECT_AGENT": "env"}, user="given", agent=None
    )
    assert (settings.user, settings.agent, settings.method) == ("given", "env", "near")
    assert settings.db == str(own.parent / "own.db")
    assert settings.lm_timeout_s == 5.0
    origins = settings.origins
    assert [origins[name] for name in ("user", "agent", "method", "db", "embedder")] == [
        "argument",
        "RECOLLECT_AGENT",
        str(near),
        str(own),
        "default",
    ]
    assert settings.files == (near, own)


def test_the_nearest_folder_above_counts(place):
    _, project, environ = place
    (project.parent / "recollect.toml").write_text('user = "far"\n')
    (project / "recollect.toml").write_text('agent = "near"\n')
    settings = load_settings(environ=environ)
    assert (settings.user, settings.agent) == ("default", "near")


def test_a_given_file_replaces_the_others(place):
    root, project, environ = place
    (project / "recollect.toml").write_text('user = "found"\n')
    (root / "given.toml").write_text('agent = "given"\n')
    settings = load_settings(root / "given.toml", environ)
    assert (settings.user, settings.agent) == ("default", "given")
    with pytest.raises(NotFound, match="there is no file"):
        load_settings(root / "none.toml", environ)


@pytest.mark.parametrize(
    ("given", "expected"),
    [("notes.db", "notes.db"), ("/srv/notes.db", "/srv/notes.db"), ("postgresql://host/db", "postgresql://host/db")],
)
def test_database_places(place, given, expected):
    _, project, environ = place
    assert load_settings(environ=environ | {"RECOLLECT_DB": given}).db == expected
    (project.parent / "recollect.toml").write_text(f'db = "{given}"\n')
    absolute = str(project.parent / given) if given == "notes.db" else expected
    assert load_settings(environ=environ).db == absolute


def test_home_in_a_database_path(place, monkeypatch):
    root, _, environ = place
    monkeypatch.setenv("HOME", str(root))
    assert load_settings(environ=environ, db="~/x.db").db == str(root / "x.db")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('usr = "ana"', ["usr:", "did you mean user"]),
        ('[lm]\nmodle = "x"', ["lm.modle:", "did you mean lm.model"]),
        ('model = "x"', ["model:", "did you mean lm.model"]),
        ('xyz = "x"', ["xyz:", "those that are: db, user"]),
        ('embedder = "minilm"', ["embedder:", "must be a table"]),
        ("user = 3", ["user:", "gives int", "text in quotes"]),
        ('[lm]\nmax_retries = "3"', ["lm.max_retries:", "a whole number"]),
        ("[lm]\nmax_retries = true", ["lm.max_retries:", "gives bool"]),
        ("[lm]\nmax_retries = -1", ["lm.max_retries:", "0 or more"]),
        ("[lm]\ntimeout_s = 0", ["lm.timeout_s:", "above 0"]),
        ("[lm]\ntimeout_s = nan", ["lm.timeout_s:", "above 0"]),
        ('user = ""', ["user:", "empty"]),
        ('[lm]\nbase_url = "localhost:1"', ["lm.base_url:", "not an address"]),
        ("user = ", ["is not valid TOML"]),
    ],
)
def test_a_wrong_file_is_explained(place, text, words):
    _, project, environ = place
    (project / "recollect.toml").write_text(text)
    with pytest.raises(InvalidInput) as caught:
        load_settings(environ=environ)
    assert all(word in str(caught.value) for word in words), caught.value


def test_wrong_values_elsewhere_are_explained(place):
    _, project, environ = place
    with pytest.raises(InvalidInput, match="RECOLLECT_LM_TIMEOUT_S: 'soon'"):
        load_settings(environ=environ | {"RECOLLECT_LM_TIMEOUT_S": "soon"})
    with pytest.raises(InvalidInput, match="usr: there is no such setting; did you mean user"):
        load_settings(environ=environ, usr="ana")
    (project / "recollect.toml").write_bytes(b'user = "\xff"')
    with pytest.raises(InvalidInput, match="not valid TOML"):
        load_settings(environ=environ)


def test_keys_are_never_shown(place):
    _, _, environ = place
    settings = load_settings(environ=environ | {"RECOLLECT_LM_API_KEY": "k-1", "RECOLLECT_EMBEDDER_API_KEY": "k-2"})
    assert (settings.lm_api_key, settings.embedder_api_key) == ("k-1", "k-2")
    assert "k-1" not in repr(settings)
    assert "k-2" not in repr(settings)


OPENAI = {"OPENAI_API_KEY": "k-openai"}


@pytest.mark.parametrize(
    ("more", "key", "address"),
    [
        ({}, None, None),
        ({"RECOLLECT_LM_MODEL": "m"}, "k-openai", None),
        ({"RECOLLECT_LM_MODEL": "m", "RECOLLECT_LM_API_KEY": "k"}, "k", None),
        ({"RECOLLECT_LM_MODEL": "m", "OPENAI_BASE_URL": "http://a/v1"}, "k-openai", "http://a/v1"),
        ({"RECOLLECT_LM_MODEL": "m", "RECOLLECT_LM_BASE_URL": "http://b/v1"}, None, "http://b/v1"),
        (
            {"RECOLLECT_LM_MODEL": "m", "RECOLLECT_LM_BASE_URL": "http://api.openai.com/v1"},
            None,
            "http://api.openai.com/v1",
        ),
        ({"RECOLLECT_LM_MODEL": "m", "RECOLLECT_LM_BASE_URL": config.OPENAI_URL}, "k-openai", config.OPENAI_URL),
        ({"OPENAI_BASE_URL": "http://a/v1"}, None, None),
    ],
)
def test_the_openai_key_goes_only_where_it_belongs(place, more, key, address):
    settings = load_settings(environ=place[2] | OPENAI | more)
    assert (settings.lm_api_key, settings.lm_base_url) == (key, address)


def test_the_written_file_says_the_defaults(place):
    _, project, environ = place
    before = load_settings(environ=environ)
    path = write_default(project)
    assert path == project / "recollect.toml"
    after = load_settings(environ=environ)
    assert after.files == (path,)
    assert {name: getattr(after, name) for name in after.origins} == {
        name: getattr(before, name) for name in before.origins
    }
    with pytest.raises(Conflict, match="exists"):
        write_default(project)
    with pytest.raises(StorageFailed, match="cannot be written"):
        write_default(Path("no/such/folder/recollect.toml"))


def test_every_line_that_is_off_can_be_switched_on(place):
    _, project, environ = place
    lines = config.TEMPLATE.splitlines()
    on = [line.removeprefix("# ") if " = " in line else line for line in lines]
    (project / "recollect.toml").write_text("\n".join(on))
    settings = load_settings(environ=environ)
    assert settings.db == str(project / "memory.db")
    assert [name for name, origin in settings.origins.items() if origin == "default"] == []
