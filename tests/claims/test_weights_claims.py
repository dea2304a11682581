"""The rules of the claims of the weights home decide both ways, on made rows."""

from __future__ import annotations

import pytest

from recollect.claims.claim import Row, load

HOLDS: dict[str, dict[str, dict[str, float]]] = {
    "rehearsal-free": {
        "nothing but the local loss": {"accuracy": 0.2},
        "prediction": {"accuracy": 0.3},
        "prediction + L2": {"accuracy": 0.4},
        "prediction + EWC": {"accuracy": 0.38},
        "prediction + features": {"accuracy": 0.41},
        "prediction + L2, attention only": {"accuracy": 0.4},
        "digits: loss over all classes": {"accuracy": 0.2},
        "digits: local loss": {"accuracy": 0.5},
    },
}
BREAKS = [  # key, row, what it is instead
    ("rehearsal-free", "prediction + EWC", {"accuracy": 0.4}),
    ("rehearsal-free", "prediction + L2", {"accuracy": 0.43}),
    ("rehearsal-free", "prediction", {"accuracy": 0.36}),
    ("rehearsal-free", "digits: local loss", {"accuracy": 0.4}),
]


def rows_of(key: str, name: str = "", values: dict[str, float] | None = None) -> dict[str, Row]:
    rows = {each: Row(each, "baseline", figures) for each, figures in HOLDS[key].items()}
    if values is not None:
        rows[name] = Row(name, "baseline", {**HOLDS[key][name], **values})
    return rows


@pytest.mark.parametrize("key", HOLDS)
def test_a_claim_holds_where_its_rule_is_met(key):
    assert load(key).decide(rows_of(key))


@pytest.mark.parametrize(("key", "name", "values"), BREAKS)
def test_and_fails_where_one_part_of_it_is_not(key, name, values):
    assert not load(key).decide(rows_of(key, name, values))
