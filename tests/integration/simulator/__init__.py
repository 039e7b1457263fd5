"""The simulated Nylas API, held against the official specification."""
