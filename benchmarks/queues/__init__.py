"""The queues that are compared, each configured as an expert would.

Every module is a program that fills its queue, and says how its worker is started. What they have in common is in
`role` (for Python) and ``node/role.mjs``: the same letters, the same calls, the same pace.
"""
