"""The demo's machinery around the shop: its processes, a browser, a mail server, a judge.

Nothing here is needed in a project that uses Pillarbox; `shop` is what there is to read.
"""
