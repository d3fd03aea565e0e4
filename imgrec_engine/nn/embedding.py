"""Tables of vectors."""

from __future__ import annotations

from imgrec_engine import functional as F
from imgrec_engine.creation import zeros
from imgrec_engine.nn import init
from imgrec_engine.nn.module import Module, Parameter
from imgrec_engine.tensor import Tensor


class Embedding(Module):
    """Looks up a vector for each index: integers (...) to (..., embedding_dim).

    ``weight`` is (num_embeddings, embedding_dim), standard normal at first.

    >>> import imgrec_engine as ie
    >>> ie.nn.Embedding(10, 4)(ie.tensor([[1, 2, 3]])).shape
    (1, 3, 4)
    """

    def __init__(self, num_embeddings: int, embedding_dim: int) -> None:
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.weight = Parameter(zeros((num_embeddings, embedding_dim)))
        init.normal_(self.weight)

    def forward(self, indices: Tensor) -> Tensor:
        """The vectors of the indices."""
        return F.embedding(indices, self.weight)

    def extra_repr(self) -> str:
        """The table's size."""
        return f"{self.num_embeddings}, {self.embedding_dim}"
