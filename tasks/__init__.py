"""What a worker does with one job: a turn of its lane, call by call."""
