"""Where a transport kernel can run: data, and the reason where it cannot."""

MAX_ANCHORS = 128
"""The k x k system is solved on chip by elimination."""

MAX_PAYLOAD = 8
"""So many columns are averaged without writing the plan."""
