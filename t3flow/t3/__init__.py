"""Everything that t3flow knows about t3: the only room that names t3's files, tables, endpoints, and cookies.

Each module answers one question: which files are the state (`files`), which schema a database has (`ledger`), whether an agent is working
(`activity`), what the endpoints return (`http`), which rows a client must see (`rows`), what the commands print (`commands`), which processes are
the server (`processes`), and how versions are ordered (`versions`). Where generations of t3 differ, a module decides by what it finds (tables, files,
responses), never by version number.

Programs that run as a home's owner or inside a cell import this room. Except for `versions`, it needs only the standard library.
"""
