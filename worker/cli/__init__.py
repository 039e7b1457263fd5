"""The command line, ``sendq`` (from a checkout: ``./dev sendq``, or ``python -m worker.cli``).

`main` ties it together, `output` is how it speaks, `given` how people put durations and times, `finding` how they say
which jobs, `door` how it comes to settings and ledger; the commands stand in `reading` (what is going on), `listing`
(jobs and dead letters), `batching`, `acting` (change something), `holding` (leave something alone), `reviving` (dead
letters), `doubting`, `forgetting`, `sealing`, `telling`, `policies` (what would happen), `running` (processes) and
`health`.
Command modules import what they need inside the command: ``--help`` and ``explain`` answer at once.
"""
