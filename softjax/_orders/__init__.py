"""The methods of soft ordering, one file each, and the table that names them."""

from ._base import Order as Order
from .neuralsort import NEURALSORT
from .ot import OT
from .softsort import SOFTSORT

ORDERS: dict[str, Order] = {order.name: order for order in (SOFTSORT, NEURALSORT, OT)}
"""Every method by its public name; what a method can do is data in its entry."""
