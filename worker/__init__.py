"""The thin join: messages and settings in, `pipeline` and `db` put to work, tasks and commands out.

Must stay empty, or the client that other services import gets heavy.
"""
