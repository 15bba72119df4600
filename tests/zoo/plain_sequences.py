"""Recurrent networks, temporal convolutions and state spaces."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from tests.zoo import Made, Maker


class RecurrentClassifier(nn.Module):
    """Embeds tokens, runs a recurrent layer, and classifies its last position."""

    def __init__(self, cell: type[nn.RNNBase], pool: str = "last", **options: Any) -> None:
        super().__init__()
        self.pool = pool
        self.embed = nn.Embedding(50, 12)
        self.rnn = cell(12, 16, batch_first=True, **options)
        width = (options.get("proj_size") or 16) * (2 if options.get("bidirectional") else 1)
        self.head = nn.Sequential(nn.Linear(width, 10), nn.ReLU(), nn.Linear(10, 4))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        out, state = self.rnn(self.embed(tokens))
        if self.pool == "mean":
            return self.head(out.mean(1))
        if self.pool == "state":
            state = state[0] if isinstance(state, tuple) else state
            return self.head(torch.cat([state[-2], state[-1]], -1))
        return self.head(out[:, -1])


class PackedClassifier(nn.Module):
    """Packs sequences of unequal lengths before the recurrent layer, and unpacks them behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 12)
        self.rnn = nn.LSTM(12, 16, batch_first=True)
        self.head = nn.Linear(16, 4)

    def forward(self, tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(self.embed(tokens), lengths, batch_first=True, enforce_sorted=False)
        out, _ = nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True)
        return self.head(out.sum(1) / lengths[:, None])


class CellLoop(nn.Module):
    """Steps through time in Python, with the state made from the batch's size."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.hidden_size = kind, 16
        self.inputs = nn.Linear(6, 10)
        self.cell = {"lstm": nn.LSTMCell, "gru": nn.GRUCell, "rnn": nn.RNNCell}[kind](10, self.hidden_size)
        self.out = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.inputs(x))
        state = x.new_zeros(x.size(0), self.hidden_size)
        memory, outputs = torch.zeros_like(state), []
        for step in x.unbind(1):
            if self.kind == "lstm":
                state, memory = self.cell(step, (state, memory))
            else:
                state = self.cell(step, state)
            outputs.append(state)
        return self.out(torch.stack(outputs, 1))


class HandWrittenLSTM(nn.Module):
    """Gates from one linear layer each way, cut with chunk."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.width = width
        self.x2h, self.h2h = nn.Linear(6, 4 * width), nn.Linear(width, 4 * width, bias=False)
        self.out = nn.Linear(width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = c = torch.zeros(x.shape[0], self.width, dtype=x.dtype, device=x.device)
        for t in range(x.shape[1]):
            i, f, g, o = (self.x2h(x[:, t]) + self.h2h(h)).chunk(4, -1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
        return self.out(h)


class Seq2Seq(nn.Module):
    """A bidirectional encoder, additive attention and a decoder cell that is fed its own context."""

    def __init__(self) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(40, 12), nn.Embedding(40, 12)
        self.encoder = nn.GRU(12, 8, bidirectional=True, batch_first=True)
        self.bridge = nn.Linear(16, 20)
        self.decoder = nn.GRUCell(12 + 16, 20)
        self.query, self.key, self.energy = nn.Linear(20, 14), nn.Linear(16, 14), nn.Linear(14, 1, bias=False)
        self.out = nn.Linear(20 + 16, 40)

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        memory, last = self.encoder(self.source(source))
        state = torch.tanh(self.bridge(torch.cat((last[0], last[1]), dim=1)))
        keys, logits = self.key(memory), []
        for step in range(target.size(1)):
            scores = self.energy(torch.tanh(self.query(state).unsqueeze(1) + keys)).squeeze(-1)
            context = torch.bmm(F.softmax(scores, -1).unsqueeze(1), memory).squeeze(1)
            state = self.decoder(torch.cat([self.target(target[:, step]), context], -1), state)
            logits.append(self.out(torch.cat([state, context], -1)))
        return torch.stack(logits, dim=1)


class WaveNet(nn.Module):
    """Dilated causal convolutions with gated activations, residuals and summed skips."""

    def __init__(self, channels: int = 12, skip: int = 10) -> None:
        super().__init__()
        self.front = nn.Conv1d(4, channels, 1)
        self.dilations = [1, 2, 4]
        self.gated = nn.ModuleList(nn.Conv1d(channels, 2 * channels, 2, dilation=d) for d in self.dilations)
        self.mix = nn.ModuleList(nn.Conv1d(channels, channels + skip, 1) for _ in self.dilations)
        self.channels, self.skip = channels, skip
        self.end = nn.Sequential(nn.ReLU(), nn.Conv1d(skip, skip, 1), nn.ReLU(), nn.Conv1d(skip, 4, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x, total = self.front(x), 0
        for dilation, gated, mix in zip(self.dilations, self.gated, self.mix, strict=True):
            signal, gate = gated(F.pad(x, (dilation, 0))).chunk(2, dim=1)
            residual, skip = torch.split(mix(torch.tanh(signal) * torch.sigmoid(gate)), [self.channels, self.skip], dim=1)
            x, total = x + residual, total + skip
        return self.end(total)


class TemporalBlock(nn.Module):
    """Two weight-normalised causal convolutions, cropped at the end, with a residual."""

    def __init__(self, inputs: int, outputs: int, dilation: int) -> None:
        super().__init__()
        self.crop = 2 * dilation
        self.first = nn.utils.parametrizations.weight_norm(nn.Conv1d(inputs, outputs, 3, padding=self.crop, dilation=dilation))
        self.second = nn.utils.parametrizations.weight_norm(
            nn.Conv1d(outputs, outputs, 3, padding=self.crop, dilation=dilation)
        )
        self.down = nn.Conv1d(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.first(x)[:, :, : -self.crop].contiguous())
        y = F.relu(self.second(y)[:, :, : -self.crop])
        return F.relu(y + (x if self.down is None else self.down(x)))


class TCN(nn.Module):
    """Temporal blocks with growing dilations, and a classifier of the last position."""

    def __init__(self) -> None:
        super().__init__()
        widths = [4, 8, 12, 12]
        self.blocks = nn.Sequential(*(TemporalBlock(widths[k], widths[k + 1], 2**k) for k in range(3)))
        self.head = nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(x)[:, :, -1])


class SpectralStateSpace(nn.Module):
    """A diagonal state space whose kernel is convolved through the FFT, as S4D does."""

    def __init__(self, width: int = 12, states: int = 8) -> None:
        super().__init__()
        self.encode = nn.Linear(5, width)
        self.log_dt = nn.Parameter(torch.rand(width))
        self.log_a, self.a_imag = nn.Parameter(torch.zeros(width, states)), nn.Parameter(torch.randn(width, states))
        self.c = nn.Parameter(torch.randn(width, states, 2))
        self.skip = nn.Parameter(torch.randn(width))
        self.gate = nn.Linear(width, 2 * width)
        self.decode = nn.Linear(width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        u = self.encode(x).transpose(-1, -2)
        length = u.size(-1)
        dt, a = torch.exp(self.log_dt), -torch.exp(self.log_a) + 1j * self.a_imag
        dta = a * dt.unsqueeze(-1)
        c = torch.view_as_complex(self.c) * (torch.exp(dta) - 1.0) / a
        powers = dta.unsqueeze(-1) * torch.arange(length, device=a.device)
        kernel = 2 * torch.einsum("hn,hnl->hl", c, torch.exp(powers)).real
        y = torch.fft.irfft(torch.fft.rfft(u, n=2 * length) * torch.fft.rfft(kernel, n=2 * length), n=2 * length)[..., :length]
        y = F.gelu(y + u * self.skip.unsqueeze(-1)).transpose(-1, -2)
        return self.decode(F.glu(self.gate(y), dim=-1))


class SelectiveScan(nn.Module):
    """A small Mamba block: input-dependent steps, a depthwise convolution, and the scan as a Python loop."""

    def __init__(self, width: int = 12, inner: int = 24, states: int = 4, rank: int = 3) -> None:
        super().__init__()
        self.rank, self.states = rank, states
        self.embed = nn.Linear(5, width)
        self.inputs = nn.Linear(width, 2 * inner, bias=False)
        self.conv = nn.Conv1d(inner, inner, 3, padding=2, groups=inner)
        self.project = nn.Linear(inner, rank + 2 * states, bias=False)
        self.steps = nn.Linear(rank, inner)
        self.log_a = nn.Parameter(torch.log(torch.arange(1.0, states + 1).repeat(inner, 1)))
        self.d = nn.Parameter(torch.ones(inner))
        self.out = nn.Linear(inner, width, bias=False)
        self.head = nn.Linear(width, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.embed(x)
        batch, length, _ = h.shape
        u, gate = self.inputs(h).chunk(2, dim=-1)
        u = F.silu(self.conv(u.transpose(1, 2))[..., :length].transpose(1, 2))
        step, b, c = self.project(u).split([self.rank, self.states, self.states], dim=-1)
        step = F.softplus(self.steps(step))
        decay = torch.exp(step.unsqueeze(-1) * -torch.exp(self.log_a))
        drive = step.unsqueeze(-1) * b.unsqueeze(2) * u.unsqueeze(-1)
        state, outputs = u.new_zeros(batch, u.size(2), self.states), []
        for t in range(length):
            state = decay[:, t] * state + drive[:, t]
            outputs.append((state * c[:, t].unsqueeze(1)).sum(-1))
        y = (torch.stack(outputs, 1) + u * self.d) * F.silu(gate)
        return self.head(h + self.out(y))


class NeuralODE(nn.Module):
    """Euler steps of a learned vector field that also takes the time."""

    def __init__(self, width: int = 10, hidden: int = 16) -> None:
        super().__init__()
        self.lift = nn.Linear(4, width)
        self.field = nn.Sequential(nn.Linear(width + 1, hidden), nn.Tanh(), nn.Linear(hidden, width))
        self.head = nn.Linear(width, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z, steps = self.lift(x), 4
        for k in range(steps):
            t = torch.full((z.shape[0], 1), k / steps, dtype=z.dtype)
            z = z + self.field(torch.cat([z, t], 1)) / steps
        return self.head(z)


def tokens(*shape: int) -> torch.Tensor:
    """Random token numbers."""
    return torch.randint(0, 40, shape)


def classifier(cell: type[nn.RNNBase], pool: str = "last", **options: Any) -> Maker:
    """A maker of a recurrent classifier."""
    return lambda: (RecurrentClassifier(cell, pool, **options).eval(), (tokens(2, 7),), {})


def made(kind: type[nn.Module], /, *shape: int, **options: Any) -> Maker:
    """A maker of a module and one random input."""

    def make() -> Made:
        return kind(**options).eval(), (torch.randn(*shape),), {}

    return make


MODELS: dict[str, Maker] = {
    "rnn_classifier": classifier(nn.RNN),
    "lstm_classifier": classifier(nn.LSTM, "mean", num_layers=2),
    "gru_bidirectional": classifier(nn.GRU, "state", bidirectional=True),
    "lstm_bidirectional_2": classifier(nn.LSTM, "last", bidirectional=True, num_layers=2),
    "lstm_projected": classifier(nn.LSTM, "mean", proj_size=6),
    "lstm_packed": lambda: (PackedClassifier().eval(), (tokens(3, 7), torch.tensor([7, 3, 5])), {}),
    "lstm_cell_loop": made(CellLoop, 2, 5, 6, kind="lstm"),
    "gru_cell_loop": made(CellLoop, 2, 5, 6, kind="gru"),
    "rnn_cell_loop": made(CellLoop, 2, 5, 6, kind="rnn"),
    "lstm_by_hand": made(HandWrittenLSTM, 2, 5, 6),
    "seq2seq_attention": lambda: (Seq2Seq().eval(), (tokens(2, 6), tokens(2, 4)), {}),
    "wavenet": made(WaveNet, 2, 4, 20),
    "tcn": made(TCN, 2, 4, 20),
    "s4d": made(SpectralStateSpace, 2, 9, 5),
    "selective_scan": made(SelectiveScan, 2, 6, 5),
    "neural_ode": made(NeuralODE, 3, 4),
}
