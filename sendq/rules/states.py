"""The state machine of a job, as one table.

Everything that can move a job is here; a move that is not in the table raises and changes nothing. Waiting for a time,
being held and waiting for reauth are not states of a job but of its lane (or its due time): a lane with 50,000
jobs is held by writing one row.
"""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """The state of a job."""

    #                           what it means                             who moves it on
    QUEUED = "queued"  #        its turn has not come                     the dispatcher, through a worker
    SENDING = "sending"  #      begun; its outcome is not recorded yet    that worker, else the rescuer
    IN_DOUBT = "in_doubt"  #    it may or may not have gone out           reconciliation, else an operator
    SENT = "sent"  #            the API accepted it                       the API, if it reports a later failure
    DEAD = "dead"  #            given up, kept as evidence                an operator, by hand
    CANCELLED = "cancelled"  #  cancelled before it went out              -
    EXPIRED = "expired"  #      its time was over before it went out      an operator, by hand

    @classmethod
    def _missing_(cls, value: object) -> State | None:
        """A state that a newer version wrote: shown as it is, with no moves. Only the newer version moves it on."""
        if not isinstance(value, str):
            return None
        foreign = str.__new__(cls, value)
        foreign._name_, foreign._value_ = value.upper(), value
        return foreign


class Event(StrEnum):
    """What can happen to a job."""

    BEGIN = "begin"  #      a worker is about to make the call
    ACCEPT = "accept"  #    the API accepted it (or a late report says so)
    RETURN = "return"  #    back to the queue: retry, requeue, reauth, a turn that ended, a worker that died
    DOUBT = "doubt"  #      the outcome is unknown, and its key no longer makes a repeat safe
    GIVE_UP = "give_up"  #  dead letter
    CANCEL = "cancel"
    EXPIRE = "expire"
    RETRY = "retry"  #      an operator retries a dead letter, or a job that expired
    FAIL_LATER = "fail_later"  # the API accepted it, and reports later that it never went out


MOVES: dict[State, dict[Event, State]] = {
    State.QUEUED: {
        Event.BEGIN: State.SENDING,
        Event.ACCEPT: State.SENT,  # a late report: the worker was presumed dead but was alive
        Event.DOUBT: State.IN_DOUBT,  # its key ran out while it waited
        Event.GIVE_UP: State.DEAD,
        Event.CANCEL: State.CANCELLED,
        Event.EXPIRE: State.EXPIRED,
    },
    State.SENDING: {
        Event.ACCEPT: State.SENT,
        Event.RETURN: State.QUEUED,
        Event.DOUBT: State.IN_DOUBT,
        Event.GIVE_UP: State.DEAD,
        Event.CANCEL: State.CANCELLED,  # requested while its call was in flight, and the answer was "not sent"
        Event.EXPIRE: State.EXPIRED,  # likewise
    },
    State.IN_DOUBT: {
        Event.ACCEPT: State.SENT,
        Event.RETURN: State.QUEUED,
        Event.GIVE_UP: State.DEAD,
    },
    # Facts are never rejected: a mail that went out has gone out, whatever was assumed before.
    State.DEAD: {Event.RETRY: State.QUEUED, Event.ACCEPT: State.SENT},
    State.CANCELLED: {Event.ACCEPT: State.SENT},
    State.EXPIRED: {Event.RETRY: State.QUEUED, Event.ACCEPT: State.SENT},
    State.SENT: {Event.FAIL_LATER: State.DEAD},
}

FINAL = frozenset({State.SENT, State.DEAD, State.CANCELLED, State.EXPIRED})
WAITING = frozenset({State.QUEUED, State.SENDING, State.IN_DOUBT})


class IllegalMove(Exception):
    """A move that is not in the table: a bug in sendq."""


def move(state: State, event: Event) -> State:
    """The state after ``event``. Raises `IllegalMove` if the table has none."""
    try:
        return MOVES[state][event]
    except KeyError:
        raise IllegalMove(f"no move {event.value!r} from {state.value!r}") from None
