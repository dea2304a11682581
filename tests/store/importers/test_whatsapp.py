"""WhatsApp exports of several phones, in small samples of the same form."""

from __future__ import annotations

import zipfile
from datetime import datetime

import pytest

from recollect.errors import InvalidInput
from recollect.store.importers import whatsapp
from recollect.store.importers.files import Tally

ANDROID = """12/05/2024, 09:30 - Messages and calls are end-to-end encrypted. Only people in this chat can read them.
12/05/2024, 09:30 - Ana created group "Lisbon"
12/05/2024, 09:31 - Ana: I moved!
Second line: with a colon

and a blank one before this
12/05/2024, 09:31 - Bob: <Media omitted>
12/05/2024, 09:32 - Bob: IMG-20240512.jpg (file attached)
what a view
13/05/2024, 21:05 - Ana: This message was deleted
13/05/2024, 21:06 - +44 7700 900123: ok
13/05/2024, 21:06 - +44 7700 900123: ok
"""
IPHONE = (
    "\ufeff[5/12/24, 9:30:15\u202fAM] Lisbon: \u200eMessages and calls are end-to-end encrypted.\n"
    "[5/12/24, 9:30:20\u202fAM] ~\u202fAna: I moved!\n"
    "\u200e[5/12/24, 12:05:00\u202fPM] Bob: \u200eimage omitted\n"
    "[5/13/24, 12:00:01\u202fAM] Bob: nice <This message was edited>\n"
)


def write(tmp_path, text, name="WhatsApp Chat with Lisbon.txt"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_android_with_several_lines_system_lines_and_media(tmp_path):
    tally = Tally()
    items = list(whatsapp.read(write(tmp_path, ANDROID), tally=tally))
    assert [(item["speaker"], item["text"]) for item in items] == [
        ("Ana", "I moved!\nSecond line: with a colon\n\nand a blank one before this"),
        ("Bob", "what a view"),
        ("+44 7700 900123", "ok"),
        ("+44 7700 900123", "ok"),
    ]
    assert items[0]["at"].replace(tzinfo=None) == datetime(2024, 5, 12, 9, 31)
    assert items[0]["session"] == "Lisbon 2024-05-12"
    assert len({item["source_id"] for item in items}) == 4
    assert (tally.kept, tally.skipped, tally.damaged) == (4, 4, 0)


def test_iphone_with_am_and_pm_and_direction_marks(tmp_path):
    items = list(whatsapp.read(write(tmp_path, IPHONE, "_chat.txt"), time_zone="Europe/Lisbon"))
    assert [(item["speaker"], item["text"]) for item in items] == [("Ana", "I moved!"), ("Bob", "nice")]
    assert [item["at"].isoformat() for item in items] == ["2024-05-12T09:30:20+01:00", "2024-05-13T00:00:01+01:00"]


@pytest.mark.parametrize(
    ("lines", "order"),
    [
        ("13/05/24, 10:00 - A: x", "dmy"),
        ("05/13/24, 10:00 - A: x", "mdy"),
        ("2024-05-12, 10:00 - A: x", "ymd"),
        ("12.5.2024, 10.00 - A: x", "dmy"),
        ("1/2/24, 10:00 - A: x\n1/3/24, 10:00 - A: x\n2/1/24, 10:00 - A: x", "mdy"),
        ("1/2/24, 10:00 - A: x\n2/2/24, 10:00 - A: x\n1/3/24, 10:00 - A: x", "dmy"),
        ("1/2/24, 10:00 - A: x", "dmy"),
        ("1/2/24, 10:00 PM - A: x", "mdy"),
        ("1/2/24, 10:00 p. m. - A: x", "mdy"),
    ],
)
def test_the_order_of_day_month_and_year_is_found(tmp_path, lines, order):
    assert whatsapp.detect_order(write(tmp_path, lines + "\n")) == order


def test_the_order_can_be_given_and_a_date_that_does_not_fit_is_noted(tmp_path):
    text = "1/2/24, 10:00 - A: one\n1/30/24, 10:00 - A: two\n"
    tally = Tally()
    (item,) = whatsapp.read(write(tmp_path, text), tally=tally, date_order="dmy")
    assert item["at"].month == 2
    assert tally.problems == ["WhatsApp Chat with Lisbon.txt: line 2: 1/30/24 10:00 is no time in the order dmy."]


def test_source_ids_stay_when_the_chat_grows(tmp_path):
    first = [item["source_id"] for item in whatsapp.read(write(tmp_path, ANDROID))]
    more = ANDROID + "14/05/2024, 08:00 - Ana: morning\n"
    assert [item["source_id"] for item in whatsapp.read(write(tmp_path, more))][:-1] == first


def test_the_archive_around_the_text_is_read(tmp_path):
    path = tmp_path / "WhatsApp Chat - Lisbon.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("_chat.txt", IPHONE)
        archive.writestr("photo.jpg", b"\xff\xd8")
    assert next(iter(whatsapp.read(path)))["session"] == "Lisbon 2024-05-12"


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("Dear diary\n", {}, "no line looks like a WhatsApp message"),
        ("13/13/24, 10:00 - A: x\n", {}, "fit no order"),
        (ANDROID, {"date_order": "dym"}, "date_order: 'dym' is not one of dmy, mdy, ymd"),
        (ANDROID, {"time_zone": "Mars/Olympus"}, "time_zone: there is no zone"),
    ],
)
def test_what_cannot_be_read_says_why(tmp_path, text, options, message):
    with pytest.raises(InvalidInput, match=message):
        list(whatsapp.read(write(tmp_path, text), **options))
