"""What each rule is there for, and what happens without it.

The rules below were each bought with a failure: without it mail was lost, sent twice, or stuck. A rule in a small world
is called ``world: protection``; one test holds that the world with all of its protections breaks no promise, and one
that it does with this protection taken out, and which promise (``pytest -rP`` prints the shortest way there). Rules of
SQL's own (locks, halves, cleaned text) are held by tests against the databases, which are named in their place.

Enqueue

    Enqueue writes no lane row; callers wait for each other only if their keys are equal; bulk calls sort their keys
        tests/integration/ledger/test_enqueue.py::test_for_the_same_two_grants_in_opposite_order_never_wait_or_deadlock
        tests/integration/ledger/test_enqueue.py::test_with_other_keys_or_none_do_not_wait
        tests/integration/ledger/test_enqueue.py::test_with_the_same_keys_in_opposite_order_do_not_deadlock
    New jobs bring a wake row in their own transaction
        wakes: a wake row for each call

Dispatch

    A turn is created by compare and set on "no open turn"
        turns: a turn is offered by compare and set
    Its fence only grows, and turn ids are never used again
        turns: the fence only grows
    A change of a lane locks its row in one statement and works out the next time in a later one
        wakes: lock the lane, then look for its jobs
        tests/integration/ledger/test_races.py::test_would_be_forgotten_by_one_statement_that_locks_and_scans
        tests/integration/ledger/test_races.py::test_is_not_forgotten_whichever_statements_of_the_end_it_comes_between
    New rows are never "those with an id above the last one seen": lower ids commit later
        wakes: lower ids may commit later
        wakes: a look at everything now and then
    No waiting job stands before its lane's mark
        wakes: a wake lowers the mark
        wakes: a return lowers the mark

Work

    A message that is delivered twice claims nothing the second time
        turns: a turn is claimed by compare and set
    Jobs for one object run strictly one after another
        objects: one call at a time for an object
        objects: behind one that waits for its retry
        objects: a call in vain keeps its object
    A lane never has more than its width begun without a committed outcome
        widths: a claim begins no more than the width
        widths: begins are committed with the outcome
        widths: what is being begun counts as open
    Directly before the call: the lease holds, by the monotonic and by the wall clock, ending before the rescuer's
        leases: lease before the wire
        leases: the monotonic clock
        leases: the wall clock
        leases: it ends before the rescuer's patience
        leases: it counts from a beat's beginning
        leases: a beat takes back the silence before it
        tests/integration/loops/test_rescuer.py::test_begins_anew_with_a_beat
    Directly before the call: the key is young enough
        keys: key's age before the wire
    Directly before the call: the job was not cancelled, and is not over
        keys: cancellation as it begins
        keys: expiry before the wire

Record

    Text from outside is cleaned; a group that is refused is halved down to the guilty outcome
        tests/integration/loops/test_recorder.py::test_with_a_row_that_the_ledger_refuses_loses_its_text_and_nothing_else
        tests/integration/loops/test_recorder.py::test_that_cannot_be_recorded_at_all_keeps_nobody_else_waiting
        tests/unit/test_failure.py::test_survive_nowhere_in_a_failure
    Outcomes carry their own id: to repeat a commit changes nothing
        facts: outcomes carry an id
    Facts are never fenced: a late "sent" closes its job, a late hold holds
        facts: facts are never fenced
        holds: a late hold counts
    A late "sent" alerts if a newer generation went out, and only then
        facts: what went out names its generation
        facts: one key is one mail
    The lane's slot and the return to the queue need the turn's fence
        turns: an end needs its fence
        facts: a return needs its fence

Rescue

    What was begun when a worker died may have gone out
        keys: begun may have gone out
    Only begun jobs count a worker's death; after two a job runs alone, and only a death there makes it poison
        deaths: only begun jobs are blamed
        deaths: after two deaths it runs alone
        deaths: only a death alone makes it poison
    What the broker loses, and what the dead hold, comes back
        turns: unclaimed turns are taken back
        turns: the dead are buried

Nothing twice

    After an unknown outcome the same key goes again, and it is as old as its first use
        keys: same key after an unknown outcome
        keys: a key counts from its first use
    After an unknown outcome only a replayed refusal proves that nothing went out, whoever the refusal comes from
        keys: only a replayed refusal is definite
        keys: a final refusal closes nothing
        tests/unit/test_decide.py::test_no_refusal_is_definite_whoever_it_comes_from
        tests/integration/processes/test_proof.py::test_refused_once_goes_out_once
    A status 2xx is no proof: the answer has the form of the API's success, or its outcome is unknown
        tests/unit/test_failure.py::test_was_not_written_by_the_api_whatever_its_headers
        tests/integration/processes/test_proof.py::test_pages_of_a_proxy_are_not_booked_as_sent
    A throttle that may have come after the message went out is settled by one listing, and a draft is no message
        tests/integration/processes/test_proof.py::test_a_throttle_that_may_have_come_too_late_costs_one_listing
        tests/integration/loops/test_reconciler.py::test_is_not_sent_if_it_left_a_draft
    What cannot be known is not rounded: no expiry, no cancellation of what may have gone out
        keys: no expiry in doubt
        keys: no cancellation in doubt
    Nothing is looked for in earnest before the key's hour is over and the index has had its time
        doubts: the key's hour is over
        doubts: the index has had its time
    Either mark is enough; a missing metadata pair alone decides nothing, content alone decides nothing
        doubts: either mark is enough
        doubts: alike is not found
    Absent is what a listing does not show that shows a later message by the same mark, twice
        doubts: the index is alive
        doubts: a later message shows the same mark
        doubts: absence is proven twice
    A doubt is taken up and looked for, whatever put the job there
        doubts: doubts are taken up
    The ledger keeps the highest time seen; while the clock runs behind it, every open key counts as expired
        keys: highest time
        keys: open keys fall into doubt
    A ledger that has lost something deals out nothing until what may have gone out is in doubt
        restores: a ledger that has lost something is shut
        restores: what nobody remembers is not trusted
        restores: a repaired key is as old as the loss
        restores: Redis remembers
        restores: workers remember
        restores: a claim looks too
        restores: a new worker asks Redis
        restores: recovered is not sent before it is looked for
        restores: a recovered key is as young as the recovery

Faults that were met on the way

    A claim whose answer was lost left its lane to a worker that knew nothing of it
        turns: strays are taken back
        turns: in hand before it is claimed
    So did a round of the dispatcher that claims what it offers
        turns: a round without an answer looks for strays
        tests/integration/loops/test_engine.py::test_are_closed_and_begun_again_if_the_answer_to_the_commit_was_lost
    A second message of that turn, being claimed just then, made the stray look as if it were in hand
        turns: a claim in vain looks for strays
    A worker that was taken for dead woke up, claimed a turn and died: nobody looked for it any more
        turns: turns of the forgotten are taken back
    An outcome that could not be recorded left its job begun for ever
        turns: orphans are taken back
    Answers to calls that were on the wire when a hold fell lengthened it, or undid the probe after it
        holds: one incident, one step
        holds: an end does not undo the probe
    A turn went on calling inside a hold that came from elsewhere
        holds: a held turn begins nothing more
    A call from before closed a lane again whose owner had just signed in
        holds: what was begun before does not close again
    A cancellation that came while the job was on the wire was forgotten with its return
        keys: cancellation on the wire
    A clock that was set back kept the dispatcher from looking at everything, and the leader from leading
        wakes: a clock that was set back
        tests/integration/loops/test_dispatcher.py::test_is_renewed_though_the_clock_was_set_back
        tests/integration/loops/test_dispatcher.py::test_of_a_leader_that_died_runs_out_though_its_clock_was_a_day_ahead
    A look with a clock that was ahead counted too early
        doubts: by the slower of two clocks
    A look that another leader had begun settled the next generation's doubt
        doubts: a look is of one generation
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.model.deaths import Deaths
from tests.model.doubts import Doubts
from tests.model.explorer import World, explore
from tests.model.facts import Facts
from tests.model.holds import Holds
from tests.model.keys import Keys
from tests.model.leases import Leases
from tests.model.objects import Objects
from tests.model.restores import Restores
from tests.model.turns import Turns
from tests.model.wakes import Wakes
from tests.model.widths import Widths

ROOT = Path(__file__).parents[2]

WORLDS: dict[str, type[World[Any]]] = {
    "keys": Keys,
    "turns": Turns,
    "leases": Leases,
    "wakes": Wakes,
    "facts": Facts,
    "doubts": Doubts,
    "holds": Holds,
    "objects": Objects,
    "widths": Widths,
    "restores": Restores,
    "deaths": Deaths,
}

PROTECTIONS = [(name, protection) for name, world in WORLDS.items() for protection in world.protections]


class TestAWorldWithAllItsProtections:
    @pytest.mark.parametrize("name", WORLDS)
    def test_keeps_every_promise(self, name: str) -> None:
        explored = explore(WORLDS[name]())
        assert explored.violation is None, str(explored.violation)
        print(f"{name}: {explored.states} states")


class TestAWorldWithoutOne:
    @pytest.mark.parametrize(("name", "protection"), PROTECTIONS)
    def test_breaks_the_promise_that_rests_on_it(self, name: str, protection: str) -> None:
        world = WORLDS[name]
        promise = world.protections[protection]
        violation = explore(world(protection), promise=promise).violation
        assert violation is not None, f"{promise.value}, also without: {protection}"
        print(f"without {protection!r}, {violation}")


class TestTheTable:
    def test_names_every_protection_once_and_none_that_is_not_there(self) -> None:
        named = re.findall(rf"^ {{8}}({'|'.join(WORLDS)}): (.+)$", __doc__ or "", re.MULTILINE)
        assert sorted(named) == sorted(PROTECTIONS)

    def test_names_tests_that_are_there(self) -> None:
        named = re.findall(r"^ {8}(tests/\S+)::(\w+)$", __doc__ or "", re.MULTILINE)
        assert named
        missing = [(path, name) for path, name in named if f"def {name}(" not in (ROOT / path).read_text("utf-8")]
        assert missing == []
