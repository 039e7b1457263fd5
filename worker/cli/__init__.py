"""The command line, ``sendq`` (from a checkout: ``./dev sendq``, or ``python -m worker.cli``).

One file per command, named like it; `main` puts them together. Beside them stand `output` (JSON, tables, sentences),
`params` (durations, times, rates, author and reason), `filters` (options that choose jobs), `scopes` (what a hold
concerns), `connection` (settings and ledger), `batch_text`, `held_text`, `rule_texts`, `policy_file` and `passed_on`.
Commands import what they need inside the command: ``--help`` and ``explain`` answer at once.
"""
