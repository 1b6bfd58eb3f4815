"""Everything that t3flow knows about t3, and nothing else: the only place with names of its files, tables, endpoints and cookies.

Each module answers one question: which files are the state (`files`), what schema is a database at (`ledger`), is anybody at work (`activity`),
what do the endpoints say (`http`), which rows must a client see (`rows`), what do the commands print (`commands`), which processes are the server
(`processes`). Where generations of t3 differ, the module picks by what it finds (tables, files, answers), never by version number.

Standard library only, and no import of t3flow outside this package: programs that run as a home's owner, or inside a cell, use it too.
"""
