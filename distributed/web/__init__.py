"""Status pages over HTTP: read-only, on a port of their own, for those who hold the token in the printed link.

Tornado is imported here and nowhere else, and only by a daemon that was asked for a page.
"""
