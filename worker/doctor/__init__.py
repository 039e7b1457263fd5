"""`sendq check` and `sendq health`: does a worker have everything it needs, and does the system work?"""
