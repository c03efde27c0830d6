"""Takes the features of labelled images.

Gives the transferability scores of the literature, as diagnostics: no decision hangs on them.
Knows nothing of networks, probes or plans.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pipeline.errors import SnapshotInvalid
from pipeline.learning import draws

#: distortion of the rate in TransRate (Huang et al. 2022)
EPSILON = 1e-4
#: rounds of LogME's fixed point at most; it takes two to five
MAX_ROUNDS = 1000


def logme(features: Tensor, targets: Tensor, *, tolerance: float = 1e-3) -> float:
    """Give the log maximum evidence per image, mean over classes (You et al. ICML 2021).

    `features` [N, D], `targets` [N] class numbers. `tolerance` is the relative change that ends the iteration; the
    reference implementation stops at 1 %. Rotating or scaling the features changes nothing.
    """
    energies, left = _left_vectors(features.double())
    evidences = []
    for number in _numbers(targets):
        hits = (targets == number).double()
        projected = (left.T @ hits).square()
        rest = float((hits.square().sum() - projected.sum()).clamp(min=0))
        evidences.append(_evidence(energies, projected, rest, len(hits), features.shape[1], tolerance))
    return sum(evidences) / len(evidences)


def _left_vectors(features: Tensor) -> tuple[Tensor, Tensor]:
    # By the smaller of the Gram matrices: several times as quick as a singular value decomposition.
    num, dim = features.shape
    energies, vectors = torch.linalg.eigh(features.T @ features if dim <= num else features @ features.T)
    kept = energies > energies[-1] * 1e-12
    energies, vectors = energies[kept], vectors[:, kept]
    return energies, features @ vectors / energies.sqrt() if dim <= num else vectors


def _evidence(energies: Tensor, projected: Tensor, rest: float, num: int, dim: int, tolerance: float) -> float:
    alpha = beta = balance = 1.0
    size = error = 0.0
    for _ in range(MAX_ROUNDS):
        gamma = float((energies / (energies + balance)).sum())
        size = float((energies * projected / (energies + balance).square()).sum())
        error = float((balance**2 * projected / (energies + balance).square()).sum()) + rest
        # Clamped: features that fit a class exactly would give it infinite evidence.
        alpha = gamma / max(size, 1e-300)
        beta = max(num - gamma, 1e-10) / max(error, 1e-10)
        before, balance = balance, alpha / beta
        if abs(balance - before) <= tolerance * before:
            break
    determinant = float((alpha + beta * energies).log().sum()) + (dim - len(energies)) * math.log(alpha)
    fit = dim * math.log(alpha) + num * math.log(beta) - num * math.log(2 * math.pi)
    return (fit - determinant - beta * error - alpha * size) / 2 / num


def hscore(features: Tensor, targets: Tensor, *, is_shrunk: bool = True) -> float:
    """Give tr(cov(f)^+ cov(E[f|y])) (Bao et al. ICIP 2019), by default with Ledoit-Wolf shrinkage.

    `features` [N, D], `targets` [N]. Shrunk, the between-class term is scaled by 1 - shrinkage too (Ibrahim et al.
    2021). Not shrunk it is C - 1 for any data with N <= D, so it raises SnapshotInvalid there.
    """
    num, dim = features.shape
    if not is_shrunk and num <= dim:
        raise SnapshotInvalid(f"The plain H-score of {num} images with {dim} features says nothing; shrink it.")
    centred = _centred(features)
    shrinkage = _shrinkage(centred) if is_shrunk else 0.0
    between = _class_means(centred, targets)
    covariance = centred.T @ centred / num
    shrunk = (1 - shrinkage) * covariance
    shrunk.diagonal().add_(shrinkage * covariance.diagonal().mean())
    inverse = torch.linalg.pinv(shrunk, hermitian=True, rtol=1e-13)
    return float((1 - shrinkage) * (inverse * (between.T @ between / num)).sum())


def leep(probabilities: Tensor, targets: Tensor) -> float:
    """Give the log expected empirical prediction (Nguyen et al. ICML 2020), at most 0.

    `probabilities` [N, Z] of the classes the network was trained on, rows adding up to 1; `targets` [N].
    """
    theta = probabilities.double()
    joint = torch.stack([theta[targets == number].sum(0) for number in _numbers(targets)]) / len(theta)
    # A source class that nothing is taken for says nothing; 0 / 0 would say nan.
    conditional = joint / joint.sum(0).clamp(min=torch.finfo(torch.float64).tiny)
    return float((conditional[draws.renumbered(targets)] * theta).sum(1).log().mean())


def transrate(features: Tensor, targets: Tensor) -> float:
    """Give R(F) - sum_c n_c / N R(F_c), R the coding rate of centred features (Huang et al. ICML 2022).

    `features` [N, D], `targets` [N].
    """
    centred = _centred(features)
    within = 0.0
    for number in _numbers(targets):
        rows = centred[targets == number]
        within += len(rows) / len(centred) * _rate(rows)
    return _rate(centred) - within


def cka(left: Tensor, right: Tensor) -> float:
    """Give the linear CKA of two sets of features of the same images, 0..1 (Kornblith et al. ICML 2019).

    `left` [N, D], `right` [N, E]. For the drift of representations between versions, not for transfer.
    """
    left, right = _centred(left), _centred(right)
    cross = torch.linalg.matrix_norm(left.T @ right).square()
    return float(cross / torch.linalg.matrix_norm(left.T @ left) / torch.linalg.matrix_norm(right.T @ right))


def frechet(left: Tensor, right: Tensor) -> float:
    """Give the Frechet distance of Gaussians fitted to two sets of features.

    `left` [N, D], `right` [M, D]. Biased upward below 10 D images: compare with a split of `left` of the same size.
    """
    first, second = torch.cov(left.double().T), torch.cov(right.double().T)
    shift = (left.double().mean(0) - right.double().mean(0)).square().sum()
    root = _root(first)
    cross = torch.linalg.eigvalsh(root @ second @ root).clamp(min=0).sqrt().sum()
    return float(shift + first.trace() + second.trace() - 2 * cross)


def _root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    root: Tensor = vectors * values.clamp(min=0).sqrt() @ vectors.T
    return root


def _rate(rows: Tensor) -> float:
    num, dim = rows.shape
    # logdet(I + F^T F) = logdet(I + F F^T): take the smaller.
    gram = rows.T @ rows if dim <= num else rows @ rows.T
    gram = gram / (num * EPSILON)
    gram.diagonal().add_(1)
    return float(torch.logdet(gram)) / 2


def _shrinkage(centred: Tensor) -> float:
    # Ledoit & Wolf 2004, with the sums over images factored, so that nothing of size N x D x D is made.
    num, dim = centred.shape
    covariance = centred.T @ centred / num
    mean = covariance.trace() / dim
    spread = covariance.square().sum() - dim * mean**2
    noise = centred.square().sum(1).square().sum() / num - covariance.square().sum()
    return float((noise / num / spread).clamp(0, 1)) if spread > 0 else 0.0


def _class_means(centred: Tensor, targets: Tensor) -> Tensor:
    means = torch.zeros_like(centred)
    for number in _numbers(targets):
        means[targets == number] = centred[targets == number].mean(0)
    return means


def _centred(features: Tensor) -> Tensor:
    values = features.double()
    return values - values.mean(0)


def _numbers(targets: Tensor) -> list[int]:
    return [number for number, num in enumerate(torch.bincount(targets).tolist()) if num]
