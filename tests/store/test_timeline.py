"""Time expressions: hand-written cases, each read as said on Friday 12 May 2023 at 09:30 unless it says otherwise."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest

from recollect.store.timeline import describe, find_times
from recollect.store.windows import Window, query_window

NOW = datetime(2023, 5, 12, 9, 30, tzinfo=UTC)  # a Friday


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


ABSOLUTE = [
    ("on 7 May 2023", "7 May 2023", "2023-05-07", "2023-05-08", "day"),
    ("on May 7th", "May 7th", "2023-05-07", "2023-05-08", "day"),
    ("on May 7, 2022.", "May 7, 2022", "2022-05-07", "2022-05-08", "day"),
    ("the 7th of May 2021", "the 7th of May 2021", "2021-05-07", "2021-05-08", "day"),
    ("8 May, 2023", "8 May, 2023", "2023-05-08", "2023-05-09", "day"),
    ("the second of May", "the second of May", "2023-05-02", "2023-05-03", "day"),
    ("on the twenty-first of May 2021", "the twenty-first of May 2021", "2021-05-21", "2021-05-22", "day"),
    ("The shop opens on the second of September.", "the second of September", "2023-09-02", "2023-09-03", "day"),
    ("on 2023-05-07", "2023-05-07", "2023-05-07", "2023-05-08", "day"),
    ("2023/5/7", "2023/5/7", "2023-05-07", "2023-05-08", "day"),
    ("2023-05-07 18:05", "2023-05-07 18:05", "2023-05-07T18:05", "2023-05-07T18:06", "minute"),
    ("12/5/2023", "12/5/2023", "2023-12-05", "2023-12-06", "day"),
    ("25/5/2023", "25/5/2023", "2023-05-25", "2023-05-26", "day"),
    ("12.5.2023", "12.5.2023", "2023-05-12", "2023-05-13", "day"),
    ("3/4/21", "3/4/21", "2021-03-04", "2021-03-05", "day"),
    ("Sept. 3, 2020", "Sept. 3, 2020", "2020-09-03", "2020-09-04", "day"),
    ("in May 2021", "May 2021", "2021-05-01", "2021-06-01", "month"),
    ("May of 2021", "May of 2021", "2021-05-01", "2021-06-01", "month"),
    ("December, 2022", "December, 2022", "2022-12-01", "2023-01-01", "month"),
    ("in 2022", "2022", "2022-01-01", "2023-01-01", "year"),
    ("since 2016", "2016", "2016-01-01", "2017-01-01", "year"),
    ("the summer of 2021", "summer of 2021", "2021-06-01", "2021-09-01", "season"),
    ("summer 2021", "summer 2021", "2021-06-01", "2021-09-01", "season"),
    ("in winter 2021", "winter 2021", "2021-12-01", "2022-03-01", "season"),
    ("in the '90s", "the '90s", "1990-01-01", "2000-01-01", "decade"),
    ("in the 1980s", "the 1980s", "1980-01-01", "1990-01-01", "decade"),
    ("in the seventies", "the seventies", "1970-01-01", "1980-01-01", "decade"),
    ("early 2022", "early 2022", "2022-01-01", "2022-05-01", "year"),
    ("late June 2022", "late June 2022", "2022-06-21", "2022-07-01", "month"),
    ("in mid-August 2022", "mid-August 2022", "2022-08-11", "2022-08-21", "month"),
    ("at the end of October 2022", "the end of October 2022", "2022-10-21", "2022-11-01", "month"),
    ("the first week of June 2022", "the first week of June 2022", "2022-06-01", "2022-06-08", "week"),
    ("the last weekend of June 2022", "the last weekend of June 2022", "2022-06-25", "2022-06-27", "weekend"),
    ("the second Monday of June 2022", "the second Monday of June 2022", "2022-06-13", "2022-06-14", "day"),
    ("Christmas 2020", "Christmas 2020", "2020-12-25", "2020-12-26", "day"),
    ("Thanksgiving 2022", "Thanksgiving 2022", "2022-11-24", "2022-11-25", "day"),
    ("the Saturday before 25 May 2023", "the Saturday before 25 May 2023", "2023-05-20", "2023-05-21", "day"),
    ("Saturday after 11 September 2023", "Saturday after 11 September 2023", "2023-09-16", "2023-09-17", "day"),
    ("the week before 9 June 2023", "the week before 9 June 2023", "2023-06-02", "2023-06-09", "week"),
    ("the week of 23 August 2023", "the week of 23 August 2023", "2023-08-21", "2023-08-28", "week"),
    ("the weekend before 17 July 2023", "the weekend before 17 July 2023", "2023-07-15", "2023-07-17", "weekend"),
    ("two days before 10 May 2022", "two days before 10 May 2022", "2022-05-08", "2022-05-09", "day"),
    ("a few days before 24 May 2023", "a few days before 24 May 2023", "2023-05-19", "2023-05-23", "day"),
    ("the day after 4 May 2022", "the day after 4 May 2022", "2022-05-05", "2022-05-06", "day"),
    ("the month before June 2022", "the month before June 2022", "2022-05-01", "2022-06-01", "month"),
    ("1:56 pm on 8 May, 2023", "1:56 pm on 8 May, 2023", "2023-05-08T13:56", "2023-05-08T13:57", "minute"),
    ("8 May 2023 at 7 pm", "8 May 2023 at 7 pm", "2023-05-08T19:00", "2023-05-08T20:00", "hour"),
]

RELATIVE = [
    ("I ran yesterday.", "yesterday", "2023-05-11", "2023-05-12", "day"),
    ("Yesterday's run", "Yesterday", "2023-05-11", "2023-05-12", "day"),
    ("today", "today", "2023-05-12", "2023-05-13", "day"),
    ("tomorrow", "tomorrow", "2023-05-13", "2023-05-14", "day"),
    ("the day before yesterday", "the day before yesterday", "2023-05-10", "2023-05-11", "day"),
    ("the day after tomorrow", "the day after tomorrow", "2023-05-14", "2023-05-15", "day"),
    ("last night was fun", "last night", "2023-05-11T18:00", "2023-05-12T06:00", "part"),
    ("tonight", "tonight", "2023-05-12T18:00", "2023-05-13T06:00", "part"),
    ("this morning", "this morning", "2023-05-12T05:00", "2023-05-12T12:00", "part"),
    ("yesterday afternoon", "yesterday afternoon", "2023-05-11T12:00", "2023-05-11T17:00", "part"),
    ("the night of 7 May", "the night of 7 May", "2023-05-07T18:00", "2023-05-08T06:00", "part"),
    ("yesterday at 7:15 p.m.", "yesterday at 7:15 p.m.", "2023-05-11T19:15", "2023-05-11T19:16", "minute"),
    ("tomorrow at noon", "tomorrow at noon", "2023-05-13T12:00", "2023-05-13T13:00", "hour"),
    ("last week", "last week", "2023-05-01", "2023-05-08", "week"),
    ("this week", "this week", "2023-05-08", "2023-05-15", "week"),
    ("next week", "next week", "2023-05-15", "2023-05-22", "week"),
    ("last month", "last month", "2023-04-01", "2023-05-01", "month"),
    ("next month", "next month", "2023-06-01", "2023-07-01", "month"),
    ("last year", "last year", "2022-01-01", "2023-01-01", "year"),
    ("later this year", "this year", "2023-01-01", "2024-01-01", "year"),
    ("the end of last year", "the end of last year", "2022-09-01", "2023-01-01", "year"),
    ("last May", "last May", "2022-05-01", "2022-06-01", "month"),
    ("last April", "last April", "2023-04-01", "2023-05-01", "month"),
    ("next March", "next March", "2024-03-01", "2024-04-01", "month"),
    ("this June", "this June", "2023-06-01", "2023-07-01", "month"),
    ("last Friday", "last Friday", "2023-05-05", "2023-05-06", "day"),
    ("last Tues.", "last Tues.", "2023-05-09", "2023-05-10", "day"),
    ("this past Sunday", "this past Sunday", "2023-05-07", "2023-05-08", "day"),
    ("this Saturday", "this Saturday", "2023-05-13", "2023-05-14", "day"),
    ("next Friday", "next Friday", "2023-05-19", "2023-05-20", "day"),
    ("next Monday", "next Monday", "2023-05-15", "2023-05-16", "day"),
    ("On Monday I got good news.", "Monday", "2023-05-08", "2023-05-09", "day"),
    ("I'm going to see her on Monday.", "Monday", "2023-05-15", "2023-05-16", "day"),
    ("Friday night", "Friday night", "2023-05-05T18:00", "2023-05-06T06:00", "part"),
    ("the Friday before last", "the Friday before last", "2023-04-28", "2023-04-29", "day"),
    ("the week before last", "the week before last", "2023-04-24", "2023-05-01", "week"),
    ("last summer", "last summer", "2022-06-01", "2022-09-01", "season"),
    ("next summer", "next summer", "2023-06-01", "2023-09-01", "season"),
    ("last winter", "last winter", "2022-12-01", "2023-03-01", "season"),
    ("over the summer", "summer", "2022-06-01", "2022-09-01", "season"),
    ("last weekend", "last weekend", "2023-05-06", "2023-05-08", "weekend"),
    ("over the weekend", "the weekend", "2023-05-06", "2023-05-08", "weekend"),
    ("this weekend", "this weekend", "2023-05-13", "2023-05-15", "weekend"),
    ("next weekend", "next weekend", "2023-05-13", "2023-05-15", "weekend"),
    ("two weekends ago", "two weekends ago", "2023-04-29", "2023-05-01", "weekend"),
    ("two weeks ago", "two weeks ago", "2023-04-24", "2023-05-01", "week"),
    ("a couple of days ago", "a couple of days ago", "2023-05-10", "2023-05-11", "day"),
    ("a few days ago", "a few days ago", "2023-05-07", "2023-05-11", "day"),
    ("several months ago", "several months ago", "2022-10-01", "2023-03-01", "month"),
    ("ten years ago", "ten years ago", "2013-01-01", "2014-01-01", "year"),
    ("3 months ago", "3 months ago", "2023-02-01", "2023-03-01", "month"),
    ("a year and a half ago", "a year and a half ago", "2021-11-01", "2021-12-01", "month"),
    ("20 minutes ago", "20 minutes ago", "2023-05-12T09:10", "2023-05-12T09:11", "minute"),
    ("an hour ago", "an hour ago", "2023-05-12T08:00", "2023-05-12T09:00", "hour"),
    ("I leave in three days", "in three days", "2023-05-15", "2023-05-16", "day"),
    ("two weeks from now", "two weeks from now", "2023-05-22", "2023-05-29", "week"),
    ("the last two weeks", "the last two weeks", "2023-04-28", "2023-05-12T09:30", "week"),
    ("the past year", "the past year", "2022-05-12", "2023-05-12T09:30", "year"),
    ("In December we met.", "December", "2022-12-01", "2023-01-01", "month"),
    ("We will meet in December.", "December", "2023-12-01", "2024-01-01", "month"),
    ("in May", "May", "2023-05-01", "2023-06-01", "month"),
    ("We met on 3 June.", "3 June", "2022-06-03", "2022-06-04", "day"),
    ("on February 29", "February 29", "2020-02-29", "2020-03-01", "day"),
    ("last Christmas", "last Christmas", "2022-12-25", "2022-12-26", "day"),
    ("on New Year's Eve", "New Year's Eve", "2022-12-31", "2023-01-01", "day"),
    ("at the beginning of March", "the beginning of March", "2023-03-01", "2023-03-11", "month"),
]


@pytest.mark.parametrize(("text", "words", "start", "end", "grain"), ABSOLUTE + RELATIVE, ids=lambda value: str(value))
def test_an_expression_and_its_interval(text, words, start, end, grain):
    [span] = find_times(text, NOW)
    assert (span.text, span.start, span.end, span.grain) == (words, at(start), at(end), grain)
    assert text[span.start_char : span.end_char] == words


@pytest.mark.parametrize(
    ("said", "text", "start", "end"),
    [
        ("2023-01-20T16:04", "We perform next month.", "2023-02-01", "2023-03-01"),
        ("2023-07-17T14:31", "We camped two weekends ago.", "2023-07-08", "2023-07-10"),
        ("2023-07-17T14:31", "Last weekend I joined.", "2023-07-15", "2023-07-17"),
        ("2023-10-20T18:55", "that roadtrip this past weekend", "2023-10-14", "2023-10-16"),
        ("2023-05-14T20:00", "We rested over the weekend.", "2023-05-13", "2023-05-15"),
        ("2023-05-15T08:00", "What a great time we had this weekend!", "2023-05-13", "2023-05-15"),
        ("2023-05-15T08:00", "What will you do this weekend?", "2023-05-20", "2023-05-22"),
        ("2024-01-07T17:24", "On Friday, I got great news.", "2024-01-05", "2024-01-06"),
        ("2023-12-26T15:35", "the camp last summer", "2023-06-01", "2023-09-01"),
        ("2023-12-09T13:45", "We're planning a reunion next summer", "2024-06-01", "2024-09-01"),
        ("2024-01-15T10:00", "in winter", "2023-12-01", "2024-03-01"),
        ("2024-03-31T10:00", "a month ago", "2024-02-01", "2024-03-01"),
        ("2024-02-29T10:00", "a year ago", "2023-01-01", "2024-01-01"),
        ("2024-01-01T00:10", "yesterday", "2023-12-31", "2024-01-01"),
    ],
)
def test_said_on_other_days(said, text, start, end):
    [span] = find_times(text, at(said))
    assert (span.start, span.end) == (at(start), at(end))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no time at all",
        "You may march on.",
        "I may go. She will march.",
        "every Friday and each summer",
        "I have known her for 4 years.",
        "It cost 2000 dollars and 12.5 euros.",
        "I learned it in two weeks.",
        "twice in a year",
        "He fell in love; the sun sat low.",
        "flight 2023 left gate 12",
        "Room 7/8, version 1.2",
        "9999 years ago and in 9999 decades",
        "2023-13-45",
    ],
)
def test_what_is_no_time(text):
    assert find_times(text, NOW) == []


def test_several_in_one_text():
    text = (
        "Yesterday I met Ana, whom I had last seen in May 2021; next week we leave for the '90s party on 3 June 2023."
    )
    assert [span.text for span in find_times(text, NOW)] == [
        "Yesterday",
        "May 2021",
        "next week",
        "the '90s",
        "3 June 2023",
    ]


@pytest.mark.parametrize("zone", [timezone(timedelta(hours=9, minutes=30)), ZoneInfo("Europe/Lisbon"), None])
def test_intervals_lie_in_the_timezone_of_the_reference(zone):
    [span] = find_times("yesterday", datetime(2023, 3, 27, 0, 30, tzinfo=zone))
    assert span.start == datetime(2023, 3, 26, tzinfo=zone)
    assert (span.start.tzinfo, span.end.hour) == (zone, 0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("yesterday", "11 May 2023"),
        ("yesterday at 7:15 pm", "11 May 2023, 19:15"),
        ("yesterday at 7 pm", "11 May 2023, about 19:00"),
        ("last night", "the night of 11 May 2023"),
        ("this morning", "the morning of 12 May 2023"),
        ("last weekend", "the weekend of 6 May 2023"),
        ("last week", "the week of 1 May 2023"),
        ("last month", "April 2023"),
        ("early May 2022", "early May 2022"),
        ("the end of October 2022", "late October 2022"),
        ("last summer", "summer 2022"),
        ("last winter", "winter 2022"),
        ("late summer 2022", "late summer 2022"),
        ("in 2022", "2022"),
        ("mid 2022", "mid 2022"),
        ("the '90s", "the 1990s"),
        ("a few days ago", "7 May 2023 to 10 May 2023"),
        ("a few months ago", "December 2022 to March 2023"),
        ("several years ago", "2016 to 2020"),
        ("the past year", "2022 to 2023"),
    ],
)
def test_describe(text, words):
    assert describe(find_times(text, NOW)[0]) == words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("last week", "the week before 12 May 2023"),
        ("next week", "the week after 12 May 2023"),
        ("this week", "the week of 12 May 2023"),
        ("last weekend", "the weekend before 12 May 2023"),
        ("a few days ago", "a few days before 12 May 2023"),
        ("several years ago", "several years before 12 May 2023"),
        ("two weeks ago", "the week of 24 April 2023"),
        ("last Friday", "5 May 2023"),
        ("the week of 1 May 2023", "the week of 1 May 2023"),
    ],
)
def test_describe_from_the_day_it_was_said(text, words):
    assert describe(find_times(text, NOW)[0], said_at=NOW) == words


def window(start=None, end=None, anchor=None, relation=None):
    return Window(start and at(start), end and at(end), anchor, relation)


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("Where did Ana go last May?", window("2022-05-01", "2022-06-01")),
        ("What did I do two weeks ago?", window("2023-04-24", "2023-05-01")),
        ("Where did I live before 2022?", window(None, "2022-01-01")),
        ("What has changed since March?", window("2023-03-01")),
        ("What did we plan after 3 April 2023?", window("2023-04-04")),
        ("What was done by the end of April?", window(None, "2023-05-01")),
        ("Where was I between May and July 2022?", window("2022-05-01", "2022-08-01")),
        ("What happened from November to February?", window("2022-11-01", "2023-03-01")),
        ("What did I read in 2021 or 2022?", window("2021-01-01", "2023-01-01")),
        ("How much did I run over the past two weeks?", window("2023-04-28", "2023-05-12T09:30")),
        ("Where did I live before I moved to Porto?", window(anchor="I moved to Porto", relation="before")),
        ("What did Melanie realize after the charity race?", window(anchor="the charity race", relation="after")),
        ("How did Ana feel when she won, and why?", window(anchor="she won", relation="during")),
        ("Who came during the trip to Rome?", window(anchor="the trip to Rome", relation="during")),
        ("What has Ana done since her divorce?", window(anchor="her divorce", relation="after")),
        ("What did I do before I moved in 2020?", window(None, "2021-01-01", "I moved in 2020", "before")),
        ("When did Ana move?", window()),
        ("Who looks after the kids?", window()),
        ("Who is the dog named after?", window()),
        ("Had she been there before?", window()),
        ("Where does Ana live?", window()),
    ],
)
def test_what_a_question_says_about_when(question, expected):
    assert query_window(question, NOW) == expected


@pytest.mark.parametrize(
    "question",
    [
        "How many days after I moved into the new flat was it that I handed in my thesis?",
        "How many days before Christmas did I order the cake?",
        "How long after the wedding did Ana leave for Rome?",
        "How long before I quit smoking did I break my wrist?",
        "How many weeks between the race and the operation?",
        "How many weeks passed between 3 April and the party?",
        "How many days are there between 3 May 2022 and 10 June 2022?",
        "How many months have passed since I adopted the cat?",
        "How many days had passed since the 3rd of May when I called?",
        "How many days did it take until the parcel came?",
        "How much time went by between the two trips?",
        "How much later did Ana move?",
        "How long had I been in the choir before I sang alone?",
        "How many weeks had I taken lessons when I bought my own banjo?",
        "How long is it since my divorce?",
    ],
)
def test_the_time_between_two_events_is_no_limit(question):
    assert query_window(question, NOW) == Window()


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("How many days did I run in May 2022?", window("2022-05-01", "2022-06-01")),
        ("How many hours have I slept since 8 May 2023?", window("2023-05-08")),
        ("How many hours did I work between May and July 2022?", window("2022-05-01", "2022-08-01")),
        ("How many hours did I wait last week before the race?", window("2023-05-01", "2023-05-08")),
        ("How long did we queue during the trip to Rome?", window(anchor="the trip to Rome", relation="during")),
        ("How many concerts did I go to after I moved?", window(anchor="I moved", relation="after")),
    ],
)
def test_an_amount_within_a_time_is_limited_to_it(question, expected):
    assert query_window(question, NOW) == expected


@pytest.mark.parametrize(
    "piece", ["how many days ", "last ", "a few ", "12/", "1 May, ", "the week before ", "in 3 days ", " ", "7:"]
)
def test_hostile_text_is_read_in_time_linear_in_its_length(piece):
    def seconds(size):
        text = piece * (size // len(piece))
        start = time.process_time()
        find_times(text, NOW)
        query_window(text, NOW)
        return time.process_time() - start

    seconds(1_000)
    assert seconds(20_000) < 40 * max(seconds(2_000), 0.005)


def test_long_texts_are_read_and_long_questions_are_not():
    text = "the the week before 7:12 a few " * 5_000
    assert find_times(text, NOW) == []
    text = "x" * 1_000_000 + " yesterday"
    assert [span.text for span in find_times(text, NOW)] == ["yesterday"]
    assert query_window("word " * 1_000 + "yesterday", NOW) == Window()
