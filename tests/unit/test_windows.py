"""Windows: which hours they mean, whatever the clocks do, and which are refused."""

from __future__ import annotations

import pickle
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from sendq import InvalidArgument, Window
from sendq.clock import SECOND, Micros, micros, moment
from sendq.rules.windows import DAYS, next_opening, put_off_until, read_window
from tests.support.facts import claimed_job, lane

MINUTE = 60 * SECOND
DAY = 24 * 60 * MINUTE


def at(utc: str) -> Micros:
    return micros(datetime.fromisoformat(utc).replace(tzinfo=UTC))


def spans(window: Window, begin: str, end: str) -> list[tuple[str, str]]:
    return [
        (f"{moment(first):%d %H:%M}", f"{moment(last):%d %H:%M}") for first, last in window.spans(at(begin), at(end))
    ]


# The window, the zone, a time of UTC, and from then on when it is open (by UTC) within a day.
CLOCK_CHANGES = [
    # Europe/Berlin, 2026-03-29: 02:00 becomes 03:00 (at 01:00 UTC).
    ("02:15-02:45", "Europe/Berlin", "2026-03-28 12:00", [], "lies within the hour that is skipped"),
    ("02:30-04:00", "Europe/Berlin", "2026-03-28 12:00", [("29 01:00", "29 02:00")], "opens when it is over"),
    ("01:00-02:30", "Europe/Berlin", "2026-03-28 12:00", [("29 00:00", "29 01:00")], "closes when it begins"),
    ("01:00-02:00", "Europe/Berlin", "2026-03-28 12:00", [("29 00:00", "29 01:00")], "ends where it begins"),
    ("03:00-04:00", "Europe/Berlin", "2026-03-28 12:00", [("29 01:00", "29 02:00")], "begins where it ends"),
    ("09:00-17:30", "Europe/Berlin", "2026-03-28 12:00", [("28 12:00", "28 16:30"), ("29 07:00", "29 12:00")], "day"),
    ("22:00-06:00", "Europe/Berlin", "2026-03-28 12:00", [("28 21:00", "29 04:00")], "7 h"),
    # 2026-10-25: 03:00 becomes 02:00 (at 01:00 UTC).
    ("02:15-02:45", "Europe/Berlin", "2026-10-24 12:00", [("25 00:15", "25 00:45"), ("25 01:15", "25 01:45")], "twice"),
    ("01:30-02:30", "Europe/Berlin", "2026-10-24 12:00", [("24 23:30", "25 00:30"), ("25 01:00", "25 01:30")], "twice"),
    ("02:30-03:30", "Europe/Berlin", "2026-10-24 12:00", [("25 00:30", "25 01:00"), ("25 01:30", "25 02:30")], "twice"),
    ("03:00-04:00", "Europe/Berlin", "2026-10-24 12:00", [("25 02:00", "25 03:00")], "after the second"),
    ("22:00-06:00", "Europe/Berlin", "2026-10-24 12:00", [("24 20:00", "25 05:00")], "9 h"),
    # Australia/Sydney, southern: 2026-04-05 back (16:00 UTC of the 4th), 2026-10-04 forward (16:00 UTC of the 3rd).
    ("02:00-03:00", "Australia/Sydney", "2026-04-04 12:00", [("04 15:00", "04 17:00")], "twice, without a gap"),
    ("02:30-03:30", "Australia/Sydney", "2026-10-03 12:00", [("03 16:00", "03 16:30")], "opens when it is over"),
    # Australia/Lord_Howe changes by half an hour: 2026-10-04 forward, 02:00 becomes 02:30 (15:30 UTC of the 3rd).
    ("02:10-02:20", "Australia/Lord_Howe", "2026-10-03 12:00", [], "lies within the half hour that is skipped"),
    ("02:15-02:45", "Australia/Lord_Howe", "2026-10-03 12:00", [("03 15:30", "03 15:45")], "opens when it is over"),
    # … and back on 2026-04-05, 02:00 becomes 01:30 (15:00 UTC of the 4th).
    ("01:30-02:00", "Australia/Lord_Howe", "2026-04-04 12:00", [("04 14:30", "04 15:30")], "twice, without a gap"),
    # Asia/Kolkata and Asia/Kathmandu never change; half an hour, and three quarters.
    ("09:00-10:00", "Asia/Kolkata", "2026-06-01 00:00", [("01 03:30", "01 04:30")], "half"),
    ("09:00-10:00", "Asia/Kathmandu", "2026-06-01 00:00", [("01 03:15", "01 04:15")], "3/4"),
    # America/New_York, 2026-03-08 forward at 07:00 UTC.
    ("00:00-24:00", "America/New_York", "2026-03-08 00:00", [("08 00:00", "09 00:00")], "the whole day, always"),
    # America/Havana, 2026-11-01: 01:00 becomes 00:00 (at 05:00 UTC); the hour after midnight comes twice.
    ("00:00-00:30", "America/Havana", "2026-10-31 18:00", [("01 04:00", "01 04:30"), ("01 05:00", "01 05:30")], "2x"),
    # America/Santiago, 2026-09-06: 00:00 becomes 01:00 (at 04:00 UTC); midnight is skipped.
    ("00:00-02:00", "America/Santiago", "2026-09-05 12:00", [("06 04:00", "06 05:00")], "opens when it is over"),
    # Pacific/Apia skipped 2011-12-30 whole: Thursday the 29th was followed by Saturday the 31st.
    ("09:00-10:00", "Pacific/Apia", "2011-12-30 00:00", [("30 19:00", "30 20:00")], "the 31st"),
    ("23:00-01:00", "Pacific/Apia", "2011-12-30 00:00", [("30 09:00", "30 11:00")], "nights"),
]  # fmt: skip


class TestAWindow:
    @pytest.mark.parametrize(("hours", "tz", "begin", "open_at", "what"), CLOCK_CHANGES)
    def test_follows_the_clock_on_the_wall(
        self, hours: str, tz: str, begin: str, open_at: list[tuple[str, str]], what: str
    ) -> None:
        end = moment(at(begin) + DAY).replace(tzinfo=None).isoformat()
        assert spans(Window(hours, tz=tz), begin, end) == open_at, what

    def test_is_open_on_its_days_only(self) -> None:
        window = Window("09:00-17:30", days="mon-fri", tz="Europe/Berlin")
        friday = at("2026-11-27 16:30")
        assert not window.is_open(friday)
        assert window.is_open(friday - 1)
        assert window.opens_at(friday) == at("2026-11-30 08:00")
        assert window.clock(at("2026-11-30 08:00")) == "09:00 Mon 2026-11-30 in Europe/Berlin"

    def test_over_midnight_belongs_to_the_day_on_which_it_opens(self) -> None:
        window = Window("22:00-06:00", days="fri", tz="UTC")
        assert spans(window, "2026-11-23 00:00", "2026-11-30 00:00") == [("27 22:00", "28 06:00")]

    def test_does_not_open_on_holidays(self) -> None:
        closed = [date(2026, 12, 25), date(2026, 12, 26)]
        window = Window("09:00-17:30", days="mon-fri", tz="Europe/Berlin", holidays=closed)
        assert window.opens_at(at("2026-12-24 17:00")) == at("2026-12-28 08:00")
        night = Window("22:00-06:00", tz="UTC", holidays=[date(2026, 12, 25)])
        assert spans(night, "2026-12-24 12:00", "2026-12-27 12:00") == [
            ("24 22:00", "25 06:00"),
            ("26 22:00", "27 06:00"),
        ]

    def test_knows_leap_days(self) -> None:
        window = Window("09:00-10:00", tz="UTC")
        assert window.opens_at(at("2028-02-28 10:00")) == at("2028-02-29 09:00")
        assert Window("09:00-10:00", tz="UTC", holidays=[date(2028, 2, 29)]).opens_at(at("2028-02-28 10:00")) == at(
            "2028-03-01 09:00"
        )

    def test_of_holidays_alone_does_not_open(self) -> None:
        every_monday = [date(2026, 11, 30) + timedelta(weeks=week) for week in range(60)]
        window = Window("09:00-10:00", days="mon", tz="UTC", holidays=every_monday)
        assert window.opens_at(at("2026-11-30 00:00")) is None

    @pytest.mark.parametrize(
        ("days", "written"),
        [("mon-fri", "mon-fri"), ("Sat, Sun", "sat-sun"), ("fri-mon", "mon,fri-sun"), ("sun-sat", "mon-sun"),
         ("wed,mon,wed-fri", "mon,wed-fri")],
    )  # fmt: skip
    def test_names_its_days_in_one_way(self, days: str, written: str) -> None:
        assert Window("09:00-10:00", days=days, tz="UTC").days == written

    def test_is_written_and_read_again(self) -> None:
        window = Window(
            "09:00-17:30", days="mon-fri", tz="Europe/Berlin", holidays=[date(2026, 12, 26), date(2026, 12, 25)]
        )
        assert str(window) == "09:00-17:30 mon-fri Europe/Berlin 2026-12-25,2026-12-26"
        assert read_window(str(window)) == window == pickle.loads(pickle.dumps(window))
        assert read_window("09:00-17:30 UTC") == Window("09:00-17:30", tz="UTC")
        assert window.says == "09:00-17:30 mon-fri Europe/Berlin, except on 2 holidays"


BAD = {
    "window.hours: is not of the form": {"hours": "9-17"},
    "window.hours: is not of the form HH:MM-HH:MM; ": {"hours": "\u0660\u0669:00-17:00"},
    "window.hours: is not a string": {"hours": 9},
    "window.hours: is empty: it never opens": {"hours": "09:00-09:00"},
    "window.hours: has a time that does not exist": {"hours": "09:00-24:30"},
    "window.hours: has a time that does not exist; ": {"hours": "24:00-02:00"},
    "window.days: is empty: it never opens": {"days": " "},
    "window.days: has a day other than": {"days": "mon-freitag"},
    "window.days: is not a string": {"days": ["mon"]},
    "window.tz: is not a known time zone": {"tz": "Europe/Atlantis"},
    "window.tz: is not a known time zone; ": {"tz": "../../etc/passwd"},
    "window.tz: is not the name of a time zone": {"tz": ZoneInfo("Europe/Berlin")},
    "window.holidays: is not a list of dates": {"holidays": "2026-12-25"},
    "window.holidays: is not a list of dates; ": {"holidays": date(2026, 12, 25)},
    "window.holidays[0]: is not a date": {"holidays": ["2026-12-25"]},
    "window.holidays[1]: is not a date": {"holidays": [date(2026, 12, 25), datetime(2026, 12, 26, tzinfo=UTC)]},
    "window.holidays: has more than 100 days": {"holidays": [date(2026, 1, 1) + timedelta(day) for day in range(101)]},
}


class TestABadWindow:
    @pytest.mark.parametrize(("says", "given"), BAD.items())
    def test_is_refused_with_its_field(self, says: str, given: dict[str, object]) -> None:
        with pytest.raises(InvalidArgument) as caught:
            Window(**{"hours": "09:00-17:30", "tz": "Europe/Berlin"} | given)  # type: ignore[arg-type]
        assert isinstance(caught.value, ValueError)
        assert [str(problem).startswith(says) for problem in caught.value.problems] == [True]

    def test_names_all_that_is_wrong(self) -> None:
        with pytest.raises(InvalidArgument) as caught:
            Window("9-17", days="", tz="nowhere", holidays=[7])  # type: ignore[list-item]
        assert [one.field for one in caught.value.problems] == [
            "window.hours", "window.days", "window.tz", "window.holidays[0]",
        ]  # fmt: skip

    @pytest.mark.parametrize(
        "text", ["", "09:00-17:30", "09:00-17:30 mon-fri UTC 2026-12-25 x", "09:00-17:30 mon-fri UTC x"]
    )
    def test_is_not_read(self, text: str) -> None:
        with pytest.raises(InvalidArgument):
            read_window(text)


ZONES = ["UTC", "Europe/Berlin", "Europe/Dublin", "America/New_York", "America/Santiago", "America/Havana",
         "Australia/Lord_Howe", "Australia/Sydney", "Asia/Kathmandu", "Asia/Tehran", "Africa/Casablanca",
         "Pacific/Apia", "Pacific/Chatham", "America/St_Johns"]  # fmt: skip
minutes = st.integers(0, 24 * 60 - 1)


@st.composite
def windows(draw: st.DrawFn) -> Window:
    begin, end = draw(minutes), draw(minutes)
    assume(begin != end)
    hours = f"{begin // 60:02}:{begin % 60:02}-{end // 60:02}:{end % 60:02}"
    days = ",".join(draw(st.sets(st.sampled_from(DAYS), min_size=1)))
    holidays = draw(st.lists(st.dates(date(2026, 1, 1), date(2027, 1, 1)), max_size=5))
    return Window(hours, days=days, tz=draw(st.sampled_from(ZONES)), holidays=holidays)


times = st.integers(at("2026-01-01 00:00") // MINUTE, at("2027-01-01 00:00") // MINUTE).map(
    lambda minute: minute * MINUTE
)


def shows_an_open_hour(window: Window, instant: Micros) -> bool:
    """By the words of the documentation: what a clock in the zone shows."""
    local = moment(instant).astimezone(ZoneInfo(window.tz))
    begin, _, end = window.hours.partition("-")
    clock, today, yesterday = f"{local:%H:%M}", local.date(), local.date() - timedelta(1)
    named: set[int] = set()
    for part in window.days.split(","):
        first, _, last = part.partition("-")
        named |= set(range(DAYS.index(first), DAYS.index(last or first) + 1))
    opens = [day.weekday() in named and day not in tuple(window.holidays) for day in (today, yesterday)]
    if begin < end:
        return opens[0] and begin <= clock < end
    return (opens[0] and clock >= begin) or (opens[1] and clock < end)


class TestTheNextOpening:
    @given(windows(), times)
    def test_is_open_never_past_and_the_first(self, window: Window, now: Micros) -> None:
        opens_at = window.opens_at(now)
        assert opens_at is not None
        assert opens_at >= now
        assert window.is_open(opens_at)
        if opens_at > now:
            assert not window.is_open(opens_at - 1)
            probes = range(now, opens_at, max(MINUTE, (opens_at - now) // 50 // MINUTE * MINUTE))
            assert not any(window.is_open(instant) for instant in probes)

    @given(windows(), times)
    @example(Window("01:30-02:30", tz="Europe/Berlin"), at("2026-10-25 00:45"))
    def test_is_what_the_clock_shows(self, window: Window, now: Micros) -> None:
        assert window.is_open(now) == shows_an_open_hour(window, now)

    @given(windows(), times)
    def test_begins_one_of_the_spans(self, window: Window, now: Micros) -> None:
        found = list(window.spans(now, now + 3 * DAY))
        assert all(first < last for first, last in found)
        assert all(earlier[1] < later[0] for earlier, later in pairwise(found))
        for first, last in found:
            assert window.is_open(first)
            assert window.is_open(last - 1)
            assert last == now + 3 * DAY or not window.is_open(last)
            assert first == now or not window.is_open(first - 1)


OPEN, CLOSED = "00:00-24:00 mon-sun UTC", "09:00-10:00 mon UTC"
NOW = at("2026-11-27 12:00")
MONDAY = at("2026-11-30 09:00")


class TestAJob:
    def test_waits_for_its_own_window_or_that_of_its_lane(self) -> None:
        def until(own: str | None, of_lane: str | None) -> Micros | None:
            return put_off_until(claimed_job(time_window=own), lane(time_window=of_lane), now=NOW)

        assert until(None, None) is None
        assert until(CLOSED, None) == MONDAY
        assert until(None, CLOSED) == MONDAY
        assert until(OPEN, CLOSED) is None
        assert until(CLOSED, OPEN) == MONDAY

    def test_that_may_have_gone_out_is_not_put_off(self) -> None:
        sent = claimed_job(time_window=CLOSED, doubt_at=NOW - SECOND)
        assert put_off_until(sent, lane(), now=NOW) is None
        changed = claimed_job(operation="modify", form=None, time_window=CLOSED, doubt_at=NOW - SECOND)
        assert put_off_until(changed, lane(), now=NOW) == MONDAY

    def test_with_a_window_that_this_version_cannot_read_is_looked_at_again(self) -> None:
        assert next_opening("every full moon", NOW) == NOW + MINUTE
        assert next_opening(None, NOW) == NOW
