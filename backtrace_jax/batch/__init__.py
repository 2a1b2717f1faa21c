"""Which axis of each value runs over examples, followed through the graph.

The engine explains a graph that was lowered for one example. That is right only where the model does the same to each
example of a batch, whatever the others are. So the model is lowered once more at the size of the batch (nothing is
compiled), and the examples are followed through that graph, operation by operation (`walk`, by the table in `rules`):
each value either holds the examples along one axis, or none. An operation that would combine examples, or tell them
apart by their position, is refused by name. What is left is compared with the graph for one example (`terms`): both
must be the same terms of the same inputs, so that a batch size that is used as a number, or a rank that depends on it,
does not pass.
"""

from .places import Place
from .proving import Leaving, leaving_of, no_batch, proven
from .walk import TOGETHER

__all__ = ["TOGETHER", "Leaving", "Place", "leaving_of", "no_batch", "proven"]
