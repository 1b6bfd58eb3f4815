"""The errors that t3flow shows to people: one line each, saying what, why and what to do."""


class T3flowError(Exception):
    """Base of every error whose text may be shown to a person as it is. Its text is one clear line a problem."""
