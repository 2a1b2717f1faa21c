"""What comes back: relevance and its books, how they are drawn, described, stored and read again."""

from .explanation import Explanation
from .ledger import COLUMNS, Channel, Ledger

__all__ = ["COLUMNS", "Channel", "Explanation", "Ledger"]
