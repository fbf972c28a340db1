"""LyCORIS's algorithms for one layer: LoHa (a product element by element) and LoKr (a Kronecker product)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from detour.adapters.layers import Kind
from detour.errors import ShapeMismatch


@dataclass(frozen=True, kw_only=True)
class LohaLayer:
    """Two low-rank matrices multiplied element by element: ``ΔW = (alpha / rank) · (w1_a w1_b) ∘ (w2_a w2_b)``.

    Attributes:
        w1_a, w2_a: float32, (out, rank); in Tucker form (rank, out).
        w1_b, w2_b: float32, (rank, in · kh · kw); in Tucker form (rank, in).
        t1, t2: float32, (rank, rank, kh, kw) in Tucker form, else None.
        alpha: numerator of the scale.

    Source: Hyeon-Woo et al. 2021, arXiv:2108.06098; names and Tucker form as in LyCORIS.
    """

    w1_a: Tensor
    w1_b: Tensor
    w2_a: Tensor
    w2_b: Tensor
    alpha: float
    t1: Tensor | None = None
    t2: Tensor | None = None

    def __post_init__(self) -> None:
        first, second = (self.w1_a, self.w1_b, self.t1), (self.w2_a, self.w2_b, self.t2)
        same = [tuple(a.shape) for a in first[:2] if a is not None] == [
            tuple(b.shape) for b in second[:2] if b is not None
        ]
        if not (same and _is_product(*first) and _is_product(*second)):
            raise ShapeMismatch(f"{_shapes(self.tensors)} do not make one LoHa layer.")
        if (self.t1 is None) != (self.t2 is None) or (
            self.t1 is not None and self.t2 is not None and self.t1.shape != self.t2.shape
        ):
            raise ShapeMismatch(f"{_shapes(self.tensors)}: t1 and t2 do not belong together.")

    @property
    def kind(self) -> Kind:
        """Name of the algorithm, ``"loha"``."""
        return "loha"

    @property
    def rank(self) -> int:
        """Rank of each of the two matrices; that of their product is up to its square."""
        return int(self.w1_b.shape[0])

    @property
    def in_features(self) -> int:
        """Inputs, times kh·kw outside of Tucker form."""
        return int(self.w1_b.shape[1])

    @property
    def out_features(self) -> int:
        """Output features or channels of the adapted layer."""
        return int(self.w1_a.shape[0 if self.t1 is None else 1])

    @property
    def kernel(self) -> tuple[int, int]:
        """Kernel in Tucker form, else (1, 1)."""
        return (1, 1) if self.t1 is None else (int(self.t1.shape[2]), int(self.t1.shape[3]))

    @property
    def knows_kernel(self) -> bool:
        """Whether the factors tell the kernel: true in Tucker form."""
        return self.t1 is not None

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """The factors by their names in LyCORIS files, without ``hada_``."""
        return _present(self, ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2"))

    @property
    def num_parameters(self) -> int:
        """Count the numbers in all factors."""
        return sum(tensor.numel() for tensor in self.tensors.values())

    def delta(self, base: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """(out, in · kh · kw), or (out, in, kh, kw) in Tucker form; ``base`` is not read."""
        first = _product(self.w1_a, self.w1_b, self.t1)
        return first * _product(self.w2_a, self.w2_b, self.t2) * (self.alpha / self.rank)


@dataclass(frozen=True, kw_only=True)
class LokrLayer:
    """Kronecker product of two matrices, each whole or in factors: ``ΔW = scale · w1 ⊗ w2``.

    The scale is ``alpha / rank`` with the rank of the factors. LyCORIS scales by 1 where both are whole, PEFT by
    alpha / r: then ``rank`` is the smaller side of ``w2`` here, and ``alpha`` is the scale times that.

    Attributes:
        w1: float32, (out1, in1), or None and ``w1_a`` (out1, rank), ``w1_b`` (rank, in1).
        w2: float32, (out2, in2) or (out2, in2, kh, kw), or None and ``w2_a`` (out2, rank), ``w2_b``
            (rank, in2 · kh · kw), or in Tucker form ``t2`` (rank, rank, kh, kw), ``w2_a`` (rank, out2), ``w2_b``
            (rank, in2).
        alpha: numerator of the scale.

    Source: Yeh et al. 2023, arXiv:2309.14859; names as in LyCORIS.
    """

    alpha: float
    w1: Tensor | None = None
    w1_a: Tensor | None = None
    w1_b: Tensor | None = None
    w2: Tensor | None = None
    w2_a: Tensor | None = None
    w2_b: Tensor | None = None
    t2: Tensor | None = None

    def __post_init__(self) -> None:
        first, second = (_is_one_form(form) for form in self._forms)
        whole = self.w1 is None or self.w1.ndim == 2
        whole = whole and (self.w2 is None or self.w2.ndim in (2, 4))
        if not (first and second and whole) or any(t.numel() == 0 for t in self.tensors.values()):
            raise ShapeMismatch(f"{_shapes(self.tensors)} do not make one LoKr layer.")

    @property
    def kind(self) -> Kind:
        """Name of the algorithm, ``"lokr"``."""
        return "lokr"

    @property
    def is_whole(self) -> bool:
        """Whether neither matrix is in factors."""
        return self.w1 is not None and self.w2 is not None

    @property
    def rank(self) -> int:
        """Rank of the factors: of the second matrix, else of the first; see above where both are whole."""
        if self.w2 is not None and self.w1 is not None:
            return min(int(size) for size in self.w2.shape[:2])
        factor = self.w2_b if self.w2_b is not None else self.w1_b
        assert factor is not None
        return int(factor.shape[0])

    @property
    def in_features(self) -> int:
        """Inputs, times kh·kw where the kernel is not known."""
        return self._size(1)

    @property
    def out_features(self) -> int:
        """Output features or channels of the adapted layer."""
        return self._size(0)

    @property
    def kernel(self) -> tuple[int, int]:
        """Kernel where ``w2`` is whole or in Tucker form, else (1, 1)."""
        carrier = self.w2 if self.w2 is not None else self.t2
        if carrier is None or carrier.ndim == 2:
            return (1, 1)
        return (int(carrier.shape[2]), int(carrier.shape[3]))

    @property
    def knows_kernel(self) -> bool:
        """False where ``w2`` is in two factors, or whole and flat."""
        return self.t2 is not None or (self.w2 is not None and self.w2.ndim == 4)

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """The matrices and factors by their names in LyCORIS files, without ``lokr_``."""
        return _present(self, ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2"))

    @property
    def num_parameters(self) -> int:
        """Numbers in all matrices and factors."""
        return sum(tensor.numel() for tensor in self.tensors.values())

    def delta(self, base: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """(out, in), (out, in · kh · kw) or (out, in, kh, kw); ``base`` is not read."""
        first, second = self.matrices
        if second.ndim == 4:
            first = first[:, :, None, None]
        return torch.kron(first, second.contiguous()) * (self.alpha / self.rank)

    @property
    def matrices(self) -> tuple[Tensor, Tensor]:
        """Multiply out both matrices in float32 where they are in factors; the second may have a kernel."""
        first, second = (_form_matrix(form) for form in self._forms)
        return first, second

    @property
    def _forms(self) -> "tuple[_Form, _Form]":
        return (self.w1, self.w1_a, self.w1_b, None), (self.w2, self.w2_a, self.w2_b, self.t2)

    def _size(self, side: int) -> int:
        """Product of both matrices' sizes on one side (0 outputs, 1 inputs), from shapes alone."""
        first, second = self._forms
        return _form_size(first, side) * _form_size(second, side)


def _product(a: Tensor, b: Tensor, tucker: Tensor | None) -> Tensor:
    """``a @ b``, or in Tucker form (rank, out), (rank, in), (rank, rank, kh, kw) → (out, in, kh, kw)."""
    if tucker is None:
        return a.float() @ b.float()
    inner = torch.einsum("ijkl,jp->ipkl", tucker.float(), b.float())
    return torch.einsum("ipkl,io->opkl", inner, a.float())


def _is_product(a: Tensor, b: Tensor, tucker: Tensor | None) -> bool:
    if a.ndim != 2 or b.ndim != 2 or 0 in a.shape or 0 in b.shape:
        return False
    if tucker is None:
        return a.shape[1] == b.shape[0]
    return tucker.ndim == 4 and 0 not in tucker.shape and tucker.shape[:2] == (a.shape[0], b.shape[0])


_Form = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]
"""A matrix whole, or its factors a and b, with a Tucker core or without."""


def _is_one_form(form: _Form) -> bool:
    """Either the whole matrix or its factors, never both."""
    whole, a, b, tucker = form
    if whole is not None:
        return a is None and b is None and tucker is None
    return a is not None and b is not None and _is_product(a, b, tucker)


def _form_matrix(form: _Form) -> Tensor:
    whole, a, b, tucker = form
    if whole is not None:
        return whole.float()
    assert a is not None
    assert b is not None
    return _product(a, b, tucker)


def _form_size(form: _Form, side: int) -> int:
    whole, a, b, tucker = form
    if whole is not None:
        return int(whole.shape[side])
    carrier, place = (b, 1) if side == 1 else (a, 0 if tucker is None else 1)
    assert carrier is not None
    return int(carrier.shape[place])


def _present(layer: object, names: tuple[str, ...]) -> dict[str, Tensor]:
    return {name: tensor for name in names if (tensor := getattr(layer, name)) is not None}


def _shapes(tensors: Mapping[str, Tensor]) -> str:
    return ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items())
