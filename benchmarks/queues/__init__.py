"""The queues that are measured beside each other, each as somebody who knows it well would write it.

Every module is a program that fills its queue, and says how its worker is started. What they have in common is in
`role` (for Python) and ``node/role.mjs``: the same letters, the same calls, the same pace.
"""
