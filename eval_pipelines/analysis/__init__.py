"""The published record as people ask for it: one model against another, a family over its training, one answer.

Everything here reads: a connection to the published database in, plain rows out, best or earliest first.
"""
