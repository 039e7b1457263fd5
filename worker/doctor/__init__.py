"""`sendq check` and `sendq health`: is everything there that a worker needs, and does it work?"""
