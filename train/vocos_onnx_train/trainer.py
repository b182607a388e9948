"""Adversarial training of a Vocos: Siuzdak (arXiv 2306.00814), as in upstream's experiment.py."""

from __future__ import annotations

import contextlib
import copy
import csv
import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.compiler.config
from torch import Tensor, nn
from torch._functorch import config as functorch
from torch.utils.data import DataLoader, Dataset

from vocos_onnx import EncodecONNX
from vocos_onnx.evaluate import metrics
from vocos_onnx.model.bundled import BUNDLED_CODEC, find_model
from vocos_onnx_export import export, export_encodec
from vocos_onnx_export.modules import STFTEncoder
from vocos_onnx_export.recovery import recover
from vocos_onnx_export.trained_codec import ENCODER_WEIGHTS

from .checkpoint import init_from, save, write_checkpoint, write_weights
from .config import TrainConfig, load_config
from .data import Clips
from .discriminators import (
    Discriminator,
    DiscriminatorOutput,
    MultiPeriodDiscriminator,
    MultiResolutionDiscriminator,
    STFTDiscriminators,
)
from .generator import FrozenCodec, Generator, TrainableCodec
from .losses import (
    HeadLoss,
    LoudnessLoss,
    MelLoss,
    STFTLoss,
    discriminator_loss,
    feature_matching_loss,
    generator_loss,
    mel_scales,
)
from .progress import Heartbeat, duration
from .stop import Stop
from .token_cache import TokenCache, encode

LAST, BEST, LOG, WEIGHTS = "last.pt", "best.pt", "log.csv", "weights.safetensors"
BETAS = (0.8, 0.9)
AUDIO_IN_TENSORBOARD = 3  # clips
SMALL = "stftdisc"
KINDS = {"multiperioddisc": "period", "multiresddisc": "resolution", SMALL: "spectrum"}  # -> their names in the log


class Drawn(NamedTuple):
    """The batch of a step: audio (B, N), its level (B, 1), bandwidth ids (B,) and codes (K, B, T), or None."""

    audio: Tensor
    level: Tensor
    ids: Tensor | None
    codes: Tensor | None


class Drawer(Dataset[Drawn]):
    """Draws batches in the processes of a DataLoader, whose indices are the steps."""

    def __init__(self, draw: Callable[[int], Drawn]) -> None:
        self.draw = draw

    def __getitem__(self, step: int) -> Drawn:
        return self.draw(step)


class Captured:
    """A step as a CUDA graph: one launch for some thousand kernels, whose single launches would take longer than they.

    The first steps run as they are, since what is captured must not initialize anything any more.
    """

    def __init__(self, step: Callable[..., dict[str, Tensor]]) -> None:
        self.step, self.before = step, 3
        self.given: tuple[Tensor | None, ...] = ()
        self.losses: dict[str, Tensor] = {}
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, given: tuple[Tensor | None, ...]) -> dict[str, Tensor]:
        if self.before:
            self.before -= 1
            stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                losses = self.step(*given)
            torch.cuda.current_stream().wait_stream(stream)
            return losses
        if self.graph is None:
            self.given = tuple(x if x is None else x.clone() for x in given)
            torch.cuda.synchronize()
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):  # the DataLoader's thread goes on
                self.losses = self.step(*self.given)
        for mine, new in zip(self.given, given, strict=True):
            if mine is not None and new is not None:
                mine.copy_(new)
        self.graph.replay()
        return self.losses


class Trainer:
    """One run: ``train()`` continues from the last saved step, if there is one, to the last step of the config.

    Args:
        config: what to train, see ``load_config``.
        out: folder of the run, created if missing. last.pt is the state to resume from, best.pt the best state by
            ``mix`` on the validation files, log.csv has a line for each validation, and checkpoint/ is written at the
            end with the best weights in the layout of the official checkpoints. weights.safetensors has the weights of
            last.pt and of the discriminators in half precision, for another run to start from. TensorBoard events are
            written there too.
        encoder: .onnx of the tokens' encoder, for a model of tokens.
        token_cache: folder for the tokens of whole files; by default crops are encoded as they are drawn.
        checkpoint: initial weights; see ``init_from``. ``revision`` is its branch, tag or commit on the hub.
        device: "cpu", "cuda" or "auto"; by default the config's, or the CPU if that is a GPU and there is none.
        compile: whether to use torch.compile; by default not.
        report: called with each line of progress.

    Raises ValueError if config, files, encoder or checkpoint do not fit together, and FileNotFoundError.
    """

    def __init__(
        self,
        config: TrainConfig,
        out: Path,
        *,
        encoder: str | None = None,
        token_cache: Path | None = None,
        checkpoint: str | None = None,
        revision: str | None = None,
        device: str | None = None,
        compile: bool = False,
        report: Callable[[str], None] = print,
    ) -> None:
        self.config, self.out, self.report = config, out, report
        self.device = choose_device(device, config.run.accelerator, report)
        on_cuda = self.device.type == "cuda"
        self.encoder = EncodecONNX(encoder, threads=torch.get_num_threads()) if encoder else None
        torch.manual_seed(config.seed)
        frozen = None
        if encoder and self.encoder and self.encoder.config.codec == BUNDLED_CODEC:
            frozen = STFTEncoder()
            frozen.load_state_dict(recover(find_model(encoder)).state, strict=False)
        self.generator = Generator(config, self.encoder, frozen)
        bandwidths = len(self.generator.counts) or None
        experiment = config.experiment
        if channels := experiment.stft_discriminator_channels:
            kinds: dict[str, nn.Module] = {SMALL: STFTDiscriminators(bandwidths, channels)}
            if experiment.period_width:
                kinds["multiperioddisc"] = MultiPeriodDiscriminator(bandwidths, experiment.period_width)
        else:
            kinds = {
                "multiperioddisc": MultiPeriodDiscriminator(bandwidths, experiment.discriminator_width),
                "multiresddisc": MultiResolutionDiscriminator(bandwidths, experiment.discriminator_width),
            }
        self.discriminators = nn.ModuleDict(kinds)
        rate, head = experiment.sample_rate, self.generator.head
        self.losses = nn.ModuleDict(
            {
                "mel": MelLoss(rate) if config.melspec_loss is None else MelLoss(*config.melspec_loss),
                "multi_scale_mel": MelLoss(rate, *mel_scales(rate, experiment.mel_sizes)),
                "stft": STFTLoss(rate, experiment.phase_below),
                "loudness": LoudnessLoss(rate),
                "head": HeadLoss(head.n_fft, head.hop_length, head.padding),
            }
        )
        if (experiment.log_amplitude_coeff or experiment.consistency_coeff) and head.kind != "istft":
            raise ValueError("log_amplitude_coeff and consistency_coeff are for an ISTFTHead; set them to 0")
        out.mkdir(parents=True, exist_ok=True)
        self.step, self.seconds, self.best = 0, 0.0, -math.inf
        self.validates = False  # whether this step has still to be validated
        resumes = (out / LAST).exists()
        if checkpoint and not resumes:
            with_discriminators = init_from(self.generator, self.discriminators, checkpoint, revision)
            report(f"weights of {checkpoint}" + (", with its discriminators" if with_discriminators else ""))
        for module in (self.generator, self.discriminators, self.losses):
            module.to(self.device)
        # This network is validated and exported.
        self.average = copy.deepcopy(self.generator).requires_grad_(False) if experiment.ema else self.generator
        self.autocast = (config.precision or ("bfloat16" if on_cuda else "float32")) == "bfloat16"
        if on_cuda:
            torch.set_float32_matmul_precision("high")
            torch.backends.cudnn.benchmark = True
        betas = tuple(config.experiment.betas or BETAS)
        self.optimizers = {
            name: torch.optim.AdamW(
                module.parameters(),
                lr=config.experiment.initial_learning_rate,
                betas=betas,
                weight_decay=config.experiment.weight_decay,
                fused=True,
            )
            for name, module in (("generator", self.generator), ("discriminators", self.discriminators))
        }
        if resumes:
            self._load()
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:  # a state may have been saved on another device
                value = float(group["lr"])
                group["lr"] = torch.tensor(value, device=self.device) if on_cuda else value  # a captured step reads it
                group["capturable"] = on_cuda
        if compile:
            # Each discriminator of a kind, with and without gradients, compiles the same code once more.
            torch.compiler.config.recompile_limit = 64
            functorch.donated_buffer = False  # ``_judge`` traverses their graph twice
            self.generator.backbone.compile()
            for part in self.discriminators.modules():
                if isinstance(part, Discriminator):
                    part.compile()
        cache = TokenCache(token_cache, self._tokenizer(), max(self.generator.counts), report) if token_cache else None
        for name in ("speed", "eq_db", "augment"):
            if cache and getattr(config.train, name):
                raise ValueError(f"{name} changes the audio, and the token cache holds tokens of whole files; give one")
        # A batch takes longer to draw than a step on a GPU, so other processes do it.
        self.drawn_elsewhere = on_cuda and cache is None and config.train.num_workers > 0
        self.clips = Clips(config.train, torch.device("cpu") if self.drawn_elsewhere else self.device, report, cache)
        extractor = self.generator.feature_extractor
        waits = isinstance(extractor, TrainableCodec) or (bool(self.generator.counts) and not self._encodes())
        self.captures = on_cuda and cache is None and not waits and not experiment.decay_mel_coeff
        self.captured: dict[bool, Captured] = {}
        self.valid = Clips(config.valid, torch.device("cpu"), report)
        self.clips.fill_cache()
        weights = self._by_bandwidth("bandwidth_weights")
        self.bandwidth_probability = weights / weights.sum() if bandwidths else None
        self.phase = torch.from_numpy(self._by_bandwidth("bandwidth_phase")).float().to(self.device)

    def _by_bandwidth(self, name: str) -> npt.NDArray[np.float64]:
        """A setting of the config with one number per bandwidth, by default all 1."""
        given, count = getattr(self.config.experiment, name), len(self.generator.counts)
        numbers = np.array(given or [1] * count, np.float64)
        if len(numbers) != count or not (numbers >= 0).all() or (count and not numbers.sum()):
            raise ValueError(f"{name} is {given}, expected {count} numbers of 0 or more, not all 0")
        return numbers

    def _tokenizer(self) -> EncodecONNX:
        if self.encoder is None:
            raise ValueError("a token cache is for a model of tokens, with an encoder")
        return self.encoder

    def train(self) -> None:
        """Trains to the last step.

        SIGINT (Ctrl-C), SIGTERM and SIGHUP end it after the current step and save the state, from which the same run
        continues to the same weights. A second signal ends it at once.

        Raises KeyboardInterrupt after SIGINT and SystemExit (143, 129) after the others; FloatingPointError if a loss
        is not finite; OSError if the state cannot be saved. The last saved state stays intact.
        """
        run, steps = self.config.run, self.config.steps
        generator, discriminators = (
            sum(weight.numel() for weight in module.parameters() if weight.requires_grad) / 1e6
            for module in (self.generator, self.discriminators)
        )
        self.report(
            f"{generator:.1f}M parameters, discriminators {discriminators:.1f}M; "
            f"{self.device}, {'bfloat16' if self.autocast else 'float32'}; steps {self.step} to {steps}"
        )
        with self._board() as board, Stop(self.report) as stop:
            # Kept on the device, so no step has to wait for a value.
            sums: dict[str, Tensor] = {}
            bad = torch.full((), -1, device=self.device)
            began, since = time.perf_counter(), self.step
            saved, whole = self.step, True
            first = self.step + 1
            beat = Heartbeat(self.report)
            try:
                if self.validates:
                    self._validate(board, stop)
                for drawn in self._batches():
                    whole = False
                    losses = self.train_step(drawn)
                    finite = torch.isfinite(torch.stack(list(losses.values()))).all()
                    bad = torch.where((bad < 0) & ~finite, self.step, bad)
                    for name, value in losses.items():
                        sums[name] = sums.get(name, 0) + value
                    self.step += 1
                    self.validates = self.step % run.val_check_interval == 0 or self.step == steps
                    whole = True
                    # The first step shows that it works, and how long it will take.
                    due = self.step % run.log_every_n_steps == 0 or self.step == first or beat.due()
                    if due or self.validates:
                        self._check(int(bad))
                        count, took = self.step - since, time.perf_counter() - began
                        self._log(board, {k: v.item() / count for k, v in sums.items()}, count / took)
                        self.seconds += took
                        sums, since = {}, self.step
                        began = time.perf_counter()
                        if self.validates and not stop.requested:
                            self._validate(board, stop)
                            saved = self.step
                            began = time.perf_counter()
                        beat.restart()
                    if run.save_every_n_steps and self.step % run.save_every_n_steps == 0 and self.step > saved:
                        self._check(int(bad))
                        self.save(self.out / LAST)
                        saved = self.step
                    stop.check()
            except (KeyboardInterrupt, SystemExit, OSError):  # OSError if nobody reads the output any more
                if whole and (self.step > saved or self.validates) and int(bad) < 0:
                    self.seconds += time.perf_counter() - began
                    self.save(self.out / LAST)
                    saved = self.step
                with contextlib.suppress(OSError):
                    self.report(f"stopped at step {saved}; the same command goes on from there")
                raise
        if (self.out / BEST).exists():
            self.average.load_state_dict(self._read(BEST)["average" if self.config.experiment.ema else "generator"])
        write_checkpoint(self.average, self.config, self.out / "checkpoint")
        self.report(f"wrote {self.out / 'checkpoint'}: the best weights, with a score of {self.best:.3f}")

    def _batches(self) -> Iterator[Drawn]:
        """The batches of the steps that are left."""
        left = range(self.step, self.config.steps)
        if not self.drawn_elsewhere:
            return map(self.draw, left)
        return iter(
            DataLoader(
                Drawer(self.draw),
                batch_size=None,
                sampler=left,
                num_workers=self.config.train.num_workers,
                pin_memory=self.device.type == "cuda",
                prefetch_factor=4,
                worker_init_fn=ignore_signals,
            )
        )

    def draw(self, step: int) -> Drawn:
        """The batch of a step. It is seeded by the step, so a run that resumes sees what one without a stop sees."""
        rng = np.random.default_rng((self.config.seed, step))
        audio, codes, level = self.clips.batch(rng)
        ids = None
        if self.bandwidth_probability is not None:
            drawn = rng.choice(len(self.bandwidth_probability), len(audio), p=self.bandwidth_probability)
            ids = torch.from_numpy(drawn)
        return Drawn(audio, level, ids, codes)

    def train_step(self, drawn: Drawn | None = None) -> dict[str, Tensor]:
        """One step of the generator and, after pretrain_mel_steps, one of the discriminators. Returns the losses.

        ``drawn`` is its batch, by default ``draw(self.step)``.
        """
        experiment = self.config.experiment
        drawn = drawn or self.draw(self.step)
        torch.manual_seed(self.config.seed * 1_000_003 + self.step)
        audio, level, ids, codes = (x if x is None else x.to(self.device, non_blocking=True) for x in drawn)
        assert audio is not None and level is not None
        if ids is not None and codes is None:
            codes = self._codes(audio)
        drawn = Drawn(audio, level, ids, codes)
        rate = self.learning_rate(self.step)
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(rate)
                else:
                    group["lr"] = rate
        adversarial = self.step >= experiment.pretrain_mel_steps
        if self.captures:
            if adversarial not in self.captured:
                self.captured[adversarial] = Captured(lambda *given: self._learn(Drawn(*given), adversarial))
            losses = self.captured[adversarial](drawn)
        else:
            losses = self._learn(drawn, adversarial)
        if experiment.ema:
            self._follow(min(experiment.ema, (1 + self.step) / (10 + self.step)))
        return losses

    def _learn(self, drawn: Drawn, adversarial: bool) -> dict[str, Tensor]:
        """The part of a step that runs on the device alone. Returns the losses."""
        experiment, (optimize_g, optimize_d) = self.config.experiment, self.optimizers.values()
        audio, level, ids, codes = drawn
        losses: dict[str, Tensor] = {}
        with self._precision():
            made, commitment, spectrum = self.generator(audio, ids, codes)
        if experiment.same_level:
            made, audio, spectrum = made / level, audio / level, spectrum / level[:, :, None, None]
        estimate, target = self._heard(made), self._heard(audio)
        total = commitment
        losses["commitment"] = commitment
        for name, weight in self._weights().items():
            if weight and name not in losses:
                if name in ("log_amplitude", "consistency"):
                    losses |= self.losses["head"](spectrum, made, audio, experiment.context_frames)
                else:
                    losses |= self._reconstruction(name, estimate, target, ids)
            total = total + weight * losses.get(name, 0)
        if adversarial:
            judged, adversarial_losses = self._judge(estimate, target, ids, optimize_d)
            losses |= adversarial_losses
            total = total + judged
        losses["total"] = total
        losses["grad_norm"] = self._update(optimize_g, self.generator, total)
        return {name: value.detach().float() for name, value in losses.items()}

    def _judge(
        self, estimate: Tensor, target: Tensor, ids: Tensor | None, optimizer: torch.optim.Optimizer
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """A discriminator step. Returns the generator's loss, differentiable in the estimate, and all losses.

        Both come from a single pass through the discriminators as they were before the step.
        """
        experiment = self.config.experiment
        copied = estimate.detach().requires_grad_()
        losses: dict[str, Tensor] = {}
        total_d = total_g = estimate.new_zeros(())
        relative = SMALL in self.discriminators
        with self._precision():
            for name, discriminators in self.discriminators.items():
                short, weight = KINDS[name], experiment.mrd_loss_coeff if name == "multiresddisc" else 1.0
                both = discriminators(torch.cat([target, copied]), ids if ids is None else ids.repeat(2))
                real, fake = halves(both, 0), halves(both, 1)
                of_d = losses[f"d_{short}"] = discriminator_loss(real, fake)
                score = losses[f"g_{short}"] = generator_loss(fake)
                real = [(scores.detach(), [m.detach() for m in maps]) for scores, maps in real]
                match = losses[f"match_{short}"] = feature_matching_loss(real, fake, relative)
                total_d = total_d + weight * of_d
                total_g = total_g + weight * (experiment.adversarial_coeff * score + experiment.matching_coeff * match)
        (slope,) = torch.autograd.grad(total_g, copied, retain_graph=True)
        self._update(optimizer, self.discriminators, total_d)
        value = total_g.detach()
        return value + (slope * (estimate - copied.detach())).sum(), losses

    def _heard(self, audio: Tensor) -> Tensor:
        """Audio (B, N) without the frames at its ends that the losses ignore."""
        samples = self.config.experiment.context_frames * self.generator.hop_length
        return audio[:, samples : audio.shape[1] - samples]

    @torch.no_grad()
    def _follow(self, decay: float) -> None:
        """Moves the average towards the weights; copies the buffers."""
        pairs = zip(self.average.parameters(), self.generator.parameters(), strict=True)
        averages, weights = zip(*((average, weight) for average, weight in pairs if weight.requires_grad), strict=True)
        torch._foreach_lerp_(averages, weights, 1 - decay)
        for mine, buffer in zip(self.average.buffers(), self.generator.buffers(), strict=True):
            mine.copy_(buffer)

    def _weights(self) -> dict[str, float]:
        """The weights of the reconstruction losses at this step."""
        experiment = self.config.experiment
        return {
            "mel": experiment.mel_loss_coeff * self._mel_decay(),
            "multi_scale_mel": experiment.multi_scale_mel_coeff,
            "stft": experiment.stft_coeff,
            "compressed_stft": experiment.compressed_stft_coeff,
            "compressed_magnitude": experiment.compressed_magnitude_coeff,
            "loudness": experiment.loudness_coeff,
            "log_amplitude": experiment.log_amplitude_coeff,
            "consistency": experiment.consistency_coeff,
        }

    def _reconstruction(self, name: str, estimate: Tensor, audio: Tensor, ids: Tensor | None) -> dict[str, Tensor]:
        if "mel" in name or name == "loudness":
            return {name: self.losses[name](estimate, audio)}
        phase = 1.0 if ids is None else self.phase[ids]
        distances: dict[str, Tensor] = self.losses["stft"](estimate, audio, phase)
        return distances

    def learning_rate(self, step: int) -> float:
        """Linear warm-up over num_warmup_steps, then a cosine to zero at the last step."""
        experiment = self.config.experiment
        return experiment.initial_learning_rate * self._cosine(step, warm_up=True)

    def _cosine(self, step: int, warm_up: bool) -> float:
        warmup, steps = self.config.experiment.num_warmup_steps, self.config.steps
        if step < warmup:
            return step / warmup if warm_up else 1.0
        return (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup)))) / 2

    def _mel_decay(self) -> float:
        return self._cosine(self.step + 1, warm_up=False) if self.config.experiment.decay_mel_coeff else 1.0

    def _update(self, optimizer: torch.optim.Optimizer, module: nn.Module, loss: Tensor) -> Tensor:
        """One optimizer step. Returns the norm of the gradient before clipping."""
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss, inputs=[weight for weight in module.parameters() if weight.requires_grad])
        norm = nn.utils.clip_grad_norm_(module.parameters(), self.config.run.gradient_clip_val or math.inf)
        optimizer.step()
        return norm

    def _precision(self) -> Any:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast)

    def _check(self, bad: int) -> None:
        if bad >= 0:
            state = self.out / LAST
            kept = f"{state} is the last good state" if state.exists() else "no state had been saved"
            raise FloatingPointError(f"a loss is not finite at step {bad}; {kept}. Try a lower initial_learning_rate")

    def _log(self, board: Any, losses: dict[str, float], rate: float) -> None:
        text = " ".join(f"{name} {value:.4g}" for name, value in losses.items() if name != "commitment" or value)
        left = duration((self.config.steps - self.step) / rate)
        self.report(f"step {self.step}/{self.config.steps} {text} {rate:.2f} steps/s, {left} left")
        for name, value in losses.items():
            board.add_scalar(f"train/{name}", value, self.step)
        board.add_scalar("train/learning_rate", self.learning_rate(self.step - 1), self.step)
        board.add_scalar("train/steps_per_second", rate, self.step)

    def _validate(self, board: Any, stop: Stop) -> None:
        figures = self.validate(board, stop)
        self.validates = False
        score = mix(figures)
        better = score > self.best
        self.best = max(self.best, score)
        self.save(self.out / LAST)
        if better:
            self.save(self.out / BEST)
        path = self.out / LOG
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.writer(file)
            kbps = self._bandwidths()
            if new:
                writer.writerow(["step", "seconds", *(f"{name}{suffix}" for name in figures for suffix in kbps)])
            writer.writerow([self.step, round(self.seconds), *(f"{v:.4f}" for row in figures.values() for v in row)])
        for name, row in figures.items():
            for suffix, value in zip(kbps, row, strict=True):
                board.add_scalar(f"valid/{name}{suffix}", value, self.step)
        text = ", ".join(f"{name} {' / '.join(f'{v:.3f}' for v in row)}" for name, row in figures.items())
        self.report(f"step {self.step}: {text}{' (best)' if better else ''}")

    def _bandwidths(self) -> list[str]:
        bandwidths = getattr(self.generator.features, "bandwidths", ())
        return [f"_{kbps:g}kbps" for kbps in bandwidths] or [""]

    def validate(self, board: Any = None, stop: Stop | None = None) -> dict[str, list[float]]:
        """Returns the mean of each figure over the validation files, as a list with one value per bandwidth.

        The figures are STOI and mel distance; with ``evaluate_pesq`` also PESQ-WB; and with ``evaluate_sound`` also
        DNSMOS P.808, harmonicity from 1 to 2 kHz and the line at the frame rate.
        """
        self.average.eval()
        try:
            return self._measure(board, stop)
        finally:
            self.average.train()

    def _measure(self, board: Any, stop: Stop | None) -> dict[str, list[float]]:
        limit = self.config.run.limit_val_batches
        count = (
            len(self.valid.clips) if limit is None else min(len(self.valid.clips), limit * self.config.valid.batch_size)
        )
        rate = self.config.experiment.sample_rate
        names: dict[str, Callable[[Any, Any, int], float]] = {}
        if self.config.experiment.evaluate_pesq:
            names["pesq"] = metrics.pesq_wb
        names |= {"stoi": metrics.stoi, "mel_distance": metrics.mel_distance}
        if self.config.experiment.evaluate_sound:
            names["p808"] = lambda audio, row, rate: metrics.dnsmos(row, rate)["p808"]
            names["harmonicity"] = lambda audio, row, rate: metrics.harmonicity(row, rate, 1000, 2000)
            names["line"] = self._line
        table = []
        beat = Heartbeat(self.report)
        for i in range(count):
            if stop is not None:
                stop.check()
            beat(f"validated {i} of {count} files")
            audio = self.valid.whole(i)
            rows = self.reconstruct(audio)
            table.append([[measure(audio, row, rate) for row in rows] for measure in names.values()])
            if board is not None and i < AUDIO_IN_TENSORBOARD:
                board.add_audio(f"{i}/original", audio[None], self.step, rate)
                for suffix, row in zip(self._bandwidths(), rows, strict=True):
                    board.add_audio(f"{i}/copy{suffix}", row[None].clip(-1, 1), self.step, rate)
        means = np.nanmean(np.array(table), axis=0)
        return {name: [float(v) for v in row] for name, row in zip(names, means, strict=True)}

    def _line(self, audio: npt.NDArray[np.float32], copy: npt.NDArray[np.float32], rate: int) -> float:
        """By how many dB the line at the frame rate exceeds the recording's."""
        lines = [metrics.frame_rate_line(x, rate, rate / self.generator.hop_length) for x in (copy, audio)]
        return lines[0] - lines[1]

    @torch.no_grad()
    def reconstruct(self, audio: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Audio (N,) -> its copies (max(1, number of bandwidths), N)."""
        hop = self.generator.hop_length
        padded = np.pad(audio, (0, -len(audio) % hop))
        copies = max(1, len(self.generator.counts))
        batch = torch.from_numpy(padded).to(self.device).expand(copies, -1)
        ids = torch.arange(copies, device=self.device) if self.generator.counts else None
        codes = self._codes(batch[:1])
        if codes is not None:
            codes = codes.expand(-1, copies, -1)
        made: npt.NDArray[np.float32] = self.average(batch, ids, codes).audio[:, : len(audio)].cpu().numpy()
        return made

    def _codes(self, audio: Tensor) -> Tensor | None:
        """Audio (B, N) -> codes (K, B, T) of the highest bandwidth, on the device; None if the generator encodes."""
        if self._encodes():
            return None
        codes = encode(self._tokenizer(), audio.cpu().numpy(), max(self.generator.counts))
        return torch.from_numpy(codes).to(self.device)

    def _modules(self) -> tuple[tuple[str, nn.Module], ...]:
        average = (("average", self.average),) if self.config.experiment.ema else ()
        return (("generator", self.generator), ("discriminators", self.discriminators), *average)

    def _encodes(self) -> bool:
        """Whether the generator makes its features from audio by itself."""
        extractor = self.generator.feature_extractor
        return not isinstance(extractor, FrozenCodec) or extractor.encoder is not None

    def save(self, path: Path) -> None:
        state: dict[str, Any] = {"step": self.step, "seconds": self.seconds, "best": self.best}
        state["validates"] = self.validates
        state |= {name: module.state_dict() for name, module in self._modules()}
        state["optimizers"] = {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}
        save(state, path)
        if path.name == LAST:
            write_weights(self.average, self.discriminators, self.out / WEIGHTS)

    def _read(self, name: str) -> dict[str, Any]:
        try:
            state: dict[str, Any] = torch.load(self.out / name, map_location=self.device, weights_only=True)
        except Exception as error:
            raise ValueError(f"cannot read {self.out / name}: {error}") from error
        return state

    def _load(self) -> None:
        state = self._read(LAST)
        try:
            for name, module in self._modules():
                module.load_state_dict(state[name])
            for name, optimizer in self.optimizers.items():
                optimizer.load_state_dict(state["optimizers"][name])
        except (RuntimeError, ValueError, KeyError) as error:
            raise ValueError(
                f"{self.out / LAST} is of another geometry than the config: {' '.join(str(error).split())[:500]}. "
                "Choose another --out"
            ) from None
        self.step, self.seconds, self.best = state["step"], state["seconds"], state["best"]
        self.validates = state.get("validates", False)
        self.report(f"going on from step {self.step}")

    @contextlib.contextmanager
    def _board(self) -> Iterator[Any]:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        from torch.utils.tensorboard import SummaryWriter

        board = SummaryWriter(str(self.out), purge_step=self.step)
        try:
            board.add_text("config", f"```\n{asdict(self.config)}\n```", self.step)
            yield board
        finally:
            board.close()


def mix(figures: dict[str, list[float]]) -> float:
    """The score that selects the best state: PESQ-WB or, if that is not measured, the negative mel distance.

    If measured, DNSMOS P.808 is added, and a tenth of the line (dB, if positive) is subtracted, since PESQ does not
    detect a buzz. All are means over the bandwidths.
    """
    means = {name: float(np.mean(values)) for name, values in figures.items()}
    score = means["pesq"] if "pesq" in means else -means["mel_distance"]
    return score + means.get("p808", 0.0) - 0.1 * max(0.0, means.get("line", 0.0))


def ignore_signals(worker: int) -> None:
    """Leaves the signals that end a run to its main process, which ends the others."""
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)


def halves(both: list[DiscriminatorOutput], half: int) -> list[DiscriminatorOutput]:
    """The first (0) or the second half (1) of the items of a batch."""
    return [(scores.chunk(2)[half], [m.chunk(2)[half] for m in maps]) for scores, maps in both]


def choose_device(given: str | None, accelerator: str, report: Callable[[str], None]) -> torch.device:
    """The given device, or else the config's accelerator, or the CPU if that is a GPU and there is none.

    Raises ValueError if a GPU is given and there is none.
    """
    name = given or accelerator
    if name not in ("auto", "cpu", "gpu", "cuda"):
        raise ValueError(f"device is {name!r}, expected auto, cpu or cuda")
    if name == "cpu":
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda")
    if given in ("gpu", "cuda"):
        raise ValueError(f"device is {given!r}, and torch finds no CUDA device; pass --device cpu, or leave it out")
    if name != "auto":
        report(f"the config's accelerator is {accelerator}, and torch finds no CUDA device: training on the CPU")
    return torch.device("cpu")


def train(
    config: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    train: str | Sequence[str] | None = None,
    valid: str | Sequence[str] | None = None,
    steps: int | None = None,
    encoder: str | None = None,
    token_cache: str | os.PathLike[str] | None = None,
    checkpoint: str | None = None,
    revision: str | None = None,
    device: str | None = None,
    compile: bool = False,
    model: str | os.PathLike[str] | None = None,
    report: Callable[[str], None] = print,
) -> None:
    """Train as a config says; it is a path or the name of a bundled one. See ``Trainer``.

    ``train``, ``valid`` and ``steps`` change the config, as in ``load_config``.

    ``model`` is the path of the .onnx to export at the end; if the encoder of the bundled codec was trained too, it is
    written beside it, with "-encoder" in its name.
    """
    if model is not None and not Path(model).parent.is_dir():
        raise FileNotFoundError(f"no folder {Path(model).parent} to write {Path(model).name} to; create it first")
    read = load_config(Path(config), train=train, valid=valid, steps=steps)
    for name in ("evaluate_utmos", "evaluate_periodicty"):
        if getattr(read.experiment, name):
            report(f"{name}: not measured here; PESQ-WB, STOI and the mel distance are")
    trainer = Trainer(
        read,
        Path(out),
        encoder=encoder,
        token_cache=Path(token_cache) if token_cache is not None else None,
        checkpoint=checkpoint,
        revision=revision,
        device=device,
        compile=compile,
        report=report,
    )
    trainer.train()
    if model is not None:
        folder = Path(out) / "checkpoint"
        export(str(folder), model, report=report)
        if (folder / ENCODER_WEIGHTS).exists():
            path = Path(model)
            export_encodec(str(folder), path.with_name(f"{path.stem}-encoder{path.suffix}"), report=report)
