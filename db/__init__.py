"""The ledger: jobs, shards, outcomes, versions and workers as rows, and the few transactions that move them.

Every function takes a `Session` first and runs inside the caller's transaction (`session.transaction`).
SQLite and PostgreSQL behave alike. Times are epoch seconds of the database's clock, never of this machine's.
"""
