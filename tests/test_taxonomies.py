"""The surveys' taxonomies: every system of the weights home has a place in each, and no key is made up."""

from __future__ import annotations

import pytest

from recollect.catalogue import SYSTEMS
from recollect.errors import NotFound
from recollect.taxonomies import TAXONOMIES, taxonomy

COMING = {
    "rehearsal-free",
    "refresh",
    "cl-thesis",
    "scole",
    "mos",
    "ecotta",
    "prompttpp",
    "mac",
    "cmt",
    "i-lora",
    "control-llm",
    "continual-pretraining",
} | {*("ste", "l2mac", "hiagent", "omnilive", "longmem")}


@pytest.mark.parametrize("survey", TAXONOMIES, ids=lambda survey: survey.key)
def test_every_learning_system_has_a_place_and_no_key_is_made_up(survey):
    placed = {key for classes in survey.axes.values() for keys in classes.values() for key in keys}
    known = {system.key for system in SYSTEMS}
    assert placed <= known | COMING
    for system in SYSTEMS:
        if system.home == "weights":
            assert survey.places(system.key), system.key


def test_the_lifelong_survey_has_its_twelve_scenarios():
    scenarios = [
        name for axis, classes in taxonomy("lifelong").axes.items() for name in classes if axis.startswith("scenario")
    ]
    assert [int(name.split()[0]) for name in scenarios] == list(range(1, 13))
    assert taxonomy("lifelong").places("wise") == {
        "scenario: knowledge in the model, fine-tuning": ["9 knowledge editing"],
        "technique": ["architecture"],
    }


def test_a_taxonomy_is_found_by_the_beginning_of_its_key():
    assert taxonomy("cl-rev").key == "cl-review"
    with pytest.raises(NotFound, match="did you mean lifelong-survey"):
        taxonomy("lifelong-survy")
    with pytest.raises(NotFound, match="use one of cl-llm-survey"):
        taxonomy("")
