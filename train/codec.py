"""The small token codec in the box: an STFT encoder, a residual quantiser, and a Vocos as decoder.

Geometry of vocos-encodec-24khz: 24 kHz, hop 320 (75 frames/s), up to 16 codebooks of 1024, four bandwidths.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vocos_onnx_export.modules import ISTFTHead, STFTEncoder, Vocos, VocosBackbone

SAMPLE_RATE, N_FFT, HOP = 24_000, STFTEncoder.n_fft, STFTEncoder.hop_length
NUM_CODEBOOKS, BINS, CODE_DIM = 16, 1024, STFTEncoder.code_dim
BANDWIDTHS = (1.5, 3.0, 6.0, 12.0)  # kbps at 75 frames/s x 10 bits a code
CODEBOOKS_OF = (2, 4, 8, 16)  # by bandwidth id


class ResidualQuantizer(nn.Module):
    """Residual vector quantiser whose codebooks are moving averages of the vectors assigned to them.

    Each entry is the running mean of its vectors (decay 0.99). An entry whose running count falls under ``dead`` is
    restarted from a random vector of the current batch: van den Oord et al. (arXiv 1711.00937, appendix A), and the
    restart of Dhariwal et al. (arXiv 2005.00341).
    """

    def __init__(self, decay: float = 0.99, dead: float = 0.2):
        super().__init__()
        self.decay, self.dead = decay, dead
        self.register_buffer("codebooks", torch.zeros(NUM_CODEBOOKS, BINS, CODE_DIM))
        self.register_buffer("sums", torch.zeros(NUM_CODEBOOKS, BINS, CODE_DIM))
        self.register_buffer("counts", torch.zeros(NUM_CODEBOOKS, BINS))
        self.register_buffer("started", torch.tensor(False))

    def encode(self, latents: Tensor, num_codebooks: int = NUM_CODEBOOKS) -> Tensor:
        """Latents (B, C, T) -> codes (K, B, T), each the nearest entry to what the codebooks before it left over."""
        batch, _, frames = latents.shape
        residual = latents.transpose(1, 2).reshape(-1, CODE_DIM)
        codes = []
        for codebook in self.codebooks[:num_codebooks]:
            codes.append(nearest(residual, codebook))
            residual = residual - codebook[codes[-1]]
        return torch.stack(codes).view(-1, batch, frames)

    def forward(self, latents: Tensor, num_codebooks: Tensor) -> tuple[Tensor, Tensor]:
        """Train: latents (B, C, T) and the codebooks to use of each item (B,) -> quantised latents, commitment loss.

        The gradient passes straight through. The commitment loss is the mean, over the codebooks an item uses, of the
        squared distance to the quantised value (the latents have unit variance).
        """
        x = latents.transpose(1, 2)
        batch, frames, _ = x.shape
        flat = x.detach().reshape(-1, CODE_DIM)
        if not self.started:
            self._start(flat)
        residual, quantised = flat, torch.zeros_like(x)
        loss = x.new_zeros(())
        for level in range(NUM_CODEBOOKS):
            codes = nearest(residual, self.codebooks[level])
            value = self.codebooks[level][codes]
            used = (num_codebooks > level).to(x.dtype)[:, None, None]
            quantised = quantised + used * value.view(batch, frames, CODE_DIM)
            loss = loss + ((x - quantised).square() * used / num_codebooks[:, None, None]).mean()
            self._update(level, residual, codes)
            residual = residual - value
        return (x + (quantised - x).detach()).transpose(1, 2), loss

    @torch.no_grad()
    def _start(self, flat: Tensor) -> None:
        """Every codebook from random residuals of the first batch."""
        residual = flat
        for level in range(NUM_CODEBOOKS):
            picks = residual[torch.randint(len(residual), (BINS,))]
            self.codebooks[level], self.sums[level] = picks, picks
            residual = residual - picks[nearest(residual, picks)]
        self.counts.fill_(1)
        self.started.fill_(True)

    @torch.no_grad()
    def _update(self, level: int, vectors: Tensor, codes: Tensor) -> None:
        counts = torch.bincount(codes, minlength=BINS).to(vectors.dtype)
        sums = torch.zeros(BINS, CODE_DIM).index_add_(0, codes, vectors)
        self.counts[level].lerp_(counts, 1 - self.decay)
        self.sums[level].lerp_(sums, 1 - self.decay)
        dead = self.counts[level] < self.dead
        if dead.any():
            picks = vectors[torch.randint(len(vectors), (int(dead.sum()),))]
            self.sums[level, dead], self.counts[level, dead] = picks, 1.0
        self.codebooks[level] = self.sums[level] / self.counts[level][:, None]


@torch.no_grad()
def nearest(vectors: Tensor, codebook: Tensor) -> Tensor:
    """Index of the nearest entry (BINS, C) of each vector (N, C): argmin |c|^2 - 2 v.c, the same as of |v - c|^2."""
    return torch.addmm(codebook.square().sum(1)[None], vectors, codebook.T, alpha=-2).argmin(1)


class Codec(nn.Module):
    def __init__(self, dim: int = 256, num_layers: int = 6):
        super().__init__()
        self.encoder = STFTEncoder()
        self.quantizer = ResidualQuantizer()
        self.decoder_config = {
            "backbone": {
                "class_path": "vocos.models.VocosBackbone",
                "init_args": {
                    "input_channels": CODE_DIM,
                    "dim": dim,
                    "intermediate_dim": 3 * dim,
                    "num_layers": num_layers,
                    "adanorm_num_embeddings": len(BANDWIDTHS),
                },
            },
            "head": {
                "class_path": "vocos.heads.ISTFTHead",
                "init_args": {"dim": dim, "n_fft": N_FFT, "hop_length": HOP, "padding": "same"},
            },
        }
        backbone, head = self.decoder_config["backbone"], self.decoder_config["head"]
        self.decoder = Vocos(VocosBackbone(**backbone["init_args"]), ISTFTHead(**head["init_args"]))

    def forward(self, audio: Tensor, bandwidth_id: Tensor) -> tuple[Tensor, Tensor]:
        """Audio (B, N) and a bandwidth id for each item (B,) -> reconstruction (B, N // HOP * HOP), commitment loss."""
        latents = self.encoder(audio)
        features, commitment = self.quantizer(latents, torch.tensor(CODEBOOKS_OF)[bandwidth_id])
        hidden = self.decoder.backbone(features, bandwidth_id)
        with torch.autocast("cpu", enabled=False):  # a phase of several radians does not fit bfloat16
            spectrum = self.decoder.head(hidden.float())
        return self.decoder.to_waveform(spectrum), commitment

    @torch.inference_mode()
    def encode(self, audio: Tensor, num_codebooks: int = NUM_CODEBOOKS) -> Tensor:
        """Audio (B, N) -> codes (K, B, ceil(N / HOP)); the last frame is completed with zeros."""
        return self.quantizer.encode(self.encoder(audio), num_codebooks)

    @torch.inference_mode()
    def decode(self, codes: Tensor) -> Tensor:
        """Codes (K, B, T) -> audio (B, T * HOP)."""
        features = sum(book[c] for book, c in zip(self.quantizer.codebooks, codes, strict=False)).transpose(1, 2)
        bandwidth_id = torch.tensor(CODEBOOKS_OF.index(len(codes)))
        return self.decoder.to_waveform(self.decoder(features, bandwidth_id))
