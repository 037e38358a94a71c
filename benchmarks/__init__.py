"""Measures Pillarbox beside what people use today: ``python -m benchmarks --help``.

A *subject* is a way to queue and deliver mail, a *scenario* is what is measured. Every subject of
a scenario runs in the same run, in an order that turns round with each round, on servers that the
benchmark starts for itself. It is no part of the package and imports nothing of the tests.
"""
