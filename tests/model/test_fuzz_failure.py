"""Ten seconds of the fuzzer in every run of the tests."""

from __future__ import annotations

from tests import fuzz_failure

SECONDS = 10.0
SEED = 20_261_130  # the same answers in every run; `python -m tests.fuzz_failure` takes others


def test_damaged_answers_lead_to_sound_decisions() -> None:
    fuzz_failure.main(SECONDS, SEED)
