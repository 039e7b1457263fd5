"""The rules that enqueue, dispatcher and `why` share: job states, pace, fair share, preflight. Pure."""
