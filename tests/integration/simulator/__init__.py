"""The simulated Nylas API, compared with the official specification."""
