"""The quantiser of the bundled codec, whose encoder is ``vocos_onnx_export.modules.STFTEncoder``.

It has the geometry of vocos-encodec-24khz: 24 kHz, hop 320 (75 frames/s), up to 16 codebooks of 1024.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

BINS = 1024


class ResidualQuantizer(nn.Module):
    """Residual vector quantiser whose codebooks are moving averages of the vectors assigned to them.

    Each entry is the running mean of its vectors (decay 0.99). An entry whose running count falls under ``dead`` is
    restarted from a random vector of the current batch: van den Oord et al. (arXiv 1711.00937, appendix A), and the
    restart of Dhariwal et al. (arXiv 2005.00341).
    """

    codebooks: Tensor
    sums: Tensor
    counts: Tensor
    started: Tensor

    def __init__(self, num_codebooks: int, code_dim: int, decay: float = 0.99, dead: float = 0.2) -> None:
        super().__init__()
        self.decay, self.dead = decay, dead
        self.register_buffer("codebooks", torch.zeros(num_codebooks, BINS, code_dim))
        self.register_buffer("sums", torch.zeros(num_codebooks, BINS, code_dim))
        self.register_buffer("counts", torch.zeros(num_codebooks, BINS))
        self.register_buffer("started", torch.tensor(False))

    def load_codebooks(self, codebooks: Tensor) -> None:
        """Continue from codebooks (K, BINS, C) whose running sums are unknown."""
        self.codebooks.copy_(codebooks)
        self.sums.copy_(codebooks)
        self.counts.fill_(1)
        self.started.fill_(True)

    def encode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, T) -> codes (K, B, T), each the entry nearest to the residual of the preceding codebooks."""
        batch, channels, frames = latents.shape
        residual = latents.transpose(1, 2).reshape(-1, channels)
        codes = []
        for codebook in self.codebooks:
            codes.append(nearest(residual, codebook))
            residual = residual - codebook[codes[-1]]
        return torch.stack(codes).view(-1, batch, frames)

    def forward(self, latents: Tensor, num_codebooks: Tensor) -> tuple[Tensor, Tensor]:
        """Train: latents (B, C, T), number of codebooks of each item (B,) -> quantised latents, commitment loss.

        The gradient is passed straight through. The commitment loss is the mean, over the codebooks that an item uses,
        of the squared distance to the quantised value (the latents have unit variance).
        """
        x = latents.transpose(1, 2)
        flat = x.detach().reshape(-1, x.shape[-1])
        if not self.started:
            self._start(flat)
        residual, quantised = flat, torch.zeros_like(x)
        loss = x.new_zeros(())
        for level in range(len(self.codebooks)):
            codes = nearest(residual, self.codebooks[level])
            value = self.codebooks[level][codes]
            used = (num_codebooks > level).to(x.dtype)[:, None, None]
            quantised = quantised + used * value.view_as(x)
            loss = loss + ((x - quantised).square() * used / num_codebooks[:, None, None]).mean()
            self._update(level, residual, codes)
            residual = residual - value
        return (x + (quantised - x).detach()).transpose(1, 2), loss

    @torch.no_grad()
    def _start(self, flat: Tensor) -> None:
        """Initialize every codebook with random residuals of the first batch."""
        residual = flat
        for level in range(len(self.codebooks)):
            picks = residual[torch.randint(len(residual), (BINS,), device=flat.device)]
            self.codebooks[level], self.sums[level] = picks, picks
            residual = residual - picks[nearest(residual, picks)]
        self.counts.fill_(1)
        self.started.fill_(True)

    @torch.no_grad()
    def _update(self, level: int, vectors: Tensor, codes: Tensor) -> None:
        counts = torch.bincount(codes, minlength=BINS).to(vectors.dtype)
        sums = torch.zeros_like(self.sums[level]).index_add_(0, codes, vectors)
        self.counts[level].lerp_(counts, 1 - self.decay)
        self.sums[level].lerp_(sums, 1 - self.decay)
        # A candidate for every entry, so the number of dead ones need not be known here.
        picks = vectors[torch.randint(len(vectors), (BINS,), device=vectors.device)]
        dead = self.counts[level] < self.dead
        self.sums[level] = torch.where(dead[:, None], picks, self.sums[level])
        self.counts[level] = torch.where(dead, 1.0, self.counts[level])
        self.codebooks[level] = self.sums[level] / self.counts[level][:, None]


@torch.no_grad()
def nearest(vectors: Tensor, codebook: Tensor) -> Tensor:
    """Index of the nearest entry (BINS, C) of each vector (N, C): argmin |c|^2 - 2 v.c, the same as for |v - c|^2."""
    return torch.addmm(codebook.square().sum(1)[None], vectors, codebook.T, alpha=-2).argmin(1)
