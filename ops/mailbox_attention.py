"""`mailbox_attention`: attention of nodes over the mails in their mailboxes, with absorbed key and value projections."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gnnaccel.ops._library import autograd, define, fake, impl, once_differentiable
from gnnaccel.ops.temporal_attention import SLOPES, acc_dtype, attend, attend_backward, time_gradient

_INPUTS = "Tensor mail, Tensor mail_time, Tensor has_mail, Tensor nodes, Tensor times, Tensor time_w, Tensor time_b"
_OPTIONS = "float scale, float slope, float dropout, SymInt seed"
# mail [N, S, M], mail_time and has_mail [N, S]; the third result, the logits u.x + c [P, H, S], is what the backward pass
# starts from
define(f"mailbox_attention(Tensor u, Tensor c, {_INPUTS}, {_OPTIONS}) -> (Tensor, Tensor, Tensor)")
define(
    f"mailbox_attention_backward(Tensor grad_z, Tensor grad_s, Tensor u, {_INPUTS}, Tensor logit, {_OPTIONS})"
    " -> (Tensor, Tensor, Tensor, Tensor)"
)


@impl("mailbox_attention", "CUDA")
def _cuda(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    from gnnaccel.kernels.triton.mailbox_attention import mailbox_attention_fwd

    return mailbox_attention_fwd(*args)


@impl("mailbox_attention_backward", "CUDA")
def _cuda_backward(*args: Any) -> tuple[Tensor, ...]:
    from gnnaccel.kernels.triton.mailbox_attention import mailbox_attention_bwd

    return mailbox_attention_bwd(*args)


class _Rows:
    """x `[P, S, F]` in the accumulation dtype, zero in empty slots. For the plain-torch fallback only."""

    def __init__(
        self,
        u: Tensor,
        mail: Tensor,
        mail_time: Tensor,
        has_mail: Tensor,
        nodes: Tensor,
        times: Tensor,
        time_w: Tensor,
        time_b: Tensor,
    ) -> None:
        N = mail.shape[0]
        if nodes.device.type == "cpu" and nodes.numel():
            low, high = (int(v) for v in nodes.aminmax())
            if low < 0 or high >= N:
                raise ValueError(f"mailbox_attention: nodes must be in [0, {N}), got {low if low < 0 else high}")
        nodes, acc = nodes.long(), acc_dtype(u)
        self.live = has_mail[nodes]
        self.dt = torch.where(self.live, times.unsqueeze(1) - mail_time[nodes], 0).to(torch.float64)
        self.angle = self.dt.unsqueeze(-1) * time_w.to(torch.float64) + time_b.to(torch.float64)
        x = torch.cat([mail[nodes].to(acc), torch.cos(self.angle).to(acc)], dim=-1)
        self.x = x.masked_fill(~self.live.unsqueeze(-1), 0)


@impl("mailbox_attention", "CompositeExplicitAutograd")
def _composite(u: Tensor, c: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
    *state, scale, slope, dropout, seed = args
    rows = _Rows(u, *state)
    return attend(u, c, rows.x, rows.live, scale, slope, dropout, seed)


@impl("mailbox_attention_backward", "CompositeExplicitAutograd")
def _composite_backward(grad_z: Tensor, grad_s: Tensor, u: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    *state, logit, scale, slope, dropout, seed = args
    mail, time_w, time_b = state[0], state[-2], state[-1]
    rows = _Rows(u, *state)
    du, dc, dx = attend_backward(grad_z, grad_s, u, rows.x, rows.live, logit, scale, slope, dropout, seed)
    return du, dc, *time_gradient(dx[..., mail.shape[2] :], rows.angle, rows.dt, rows.live, time_w, time_b)


@fake("mailbox_attention")
def _fake(u: Tensor, c: Tensor, mail: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
    P, H, F = u.shape
    logit = u.new_empty((P, H, mail.shape[1]), dtype=acc_dtype(u))
    return u.new_empty((P, H, F)), u.new_empty((P, H)), logit


@fake("mailbox_attention_backward")
def _fake_backward(grad_z: Tensor, grad_s: Tensor, u: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    time_w, time_b = args[5], args[6]
    return u.new_empty(u.shape), u.new_empty(u.shape[:2]), torch.empty_like(time_w), torch.empty_like(time_b)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    u, _, *state = inputs[:9]
    ctx.mark_non_differentiable(output[2])
    ctx.save_for_backward(u, *state, output[2])
    ctx.options = inputs[9:]


def _backward(ctx: Any, grad_z: Tensor, grad_s: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    du, dc, dw, db = torch.ops.gnnaccel.mailbox_attention_backward(grad_z, grad_s, *ctx.saved_tensors, *ctx.options)
    return du, dc, None, None, None, None, None, dw, db, None, None, None, None


autograd("mailbox_attention", _backward, _setup)
once_differentiable("mailbox_attention_backward")


def mailbox_attention(
    u: Tensor,
    c: Tensor,
    mail: Tensor,
    mail_time: Tensor,
    has_mail: Tensor,
    nodes: Tensor,
    times: Tensor,
    time_w: Tensor,
    time_b: Tensor,
    scale: float = 1.0,
    activation: str = "none",
    dropout: float = 0.0,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Attention of P nodes over the mails in their mailboxes, without projecting or gathering the mails.

    Row p is node n = nodes[p] at time t = times[p], and `x_pm = [mail[n, m] | cos((t - mail_time[n, m]) * time_w + time_b)]`
    in `R^F`, F = M + T. Over the slots m that have mail:

        logit_phm = act(scale * (u_ph . x_pm + c_ph))
        p_phm     = dropout(softmax of logit_phm over these slots)
        z_ph      = sum_m p_phm x_pm,    s_ph = sum_m p_phm

    Attention with keys `Wk_h x + bk_h` and values `Wv_h x + bv_h` is the same function for `u_ph = Wk_h^T q_ph`,
    `c_ph = q_ph . bk_h` and `out_ph = Wv_h z_ph + s_ph bv_h`, as in `temporal_attention`
    (`gnnaccel.nn.MailboxAttention` does these products). This is the updater of APAN (Wang et al., SIGMOD 2021, eq. 3 to 5),
    but for the mail's time, encoded where APAN encodes its position, as TGL does; TGL attends empty slots as if they were
    mails of zeros.

    Args:
        u: Queries in the space of x, `[P, H, F]`, floating; any strides of P and H. Half types accumulate in float32.
        c: Constant of the logits, `[P, H]`, dtype of `u`.
        mail: Mails, `[N, S, M]`, or `[N, M]` for one slot; any floating dtype.
        mail_time: Time of each mail, `[N, S]` or `[N]`, int64 or float64.
        has_mail: Whether a slot holds a mail, `[N, S]` or `[N]`, bool. Slots without one are not looked at.
        nodes: Node of each row, `[P]`, int64 or int32; nodes may repeat. Not checked on CUDA.
        times: Query time of each row, `[P]`, dtype of `mail_time`. Differences are taken in it, then in float64.
        time_w, time_b: Frequencies (radians per unit of time) and phases (radians), `[T]`, floating. Angles are reduced in
            float64, see `time_encode`.
        scale: Factor of the logits.
        activation: "none" or "leaky_relu" (slope 0.2, as in TGL), applied to the scaled logits.
        dropout: Rate in `[0, 1)`; kept weights are scaled by `1 / (1 - dropout)`.
        seed: Seed of the dropout: the mask is a function of (seed, row, head, slot), the same on every device.

    Returns:
        z `[P, H, F]` and s `[P, H]`, dtype of `u`. A node without mail has z = 0 and s = 0.

    Gradients: `u`, `c`, `time_w`, `time_b`; once differentiable. Mail is state: it gets none, and is read again in the backward
    pass, so change it after that.

    Determinism: bitwise reproducible, on CPU for any number of threads and whatever the other rows are.

    Raises:
        TypeError: An argument has an unsupported dtype.
        ValueError: Shapes disagree, an option is out of its range, `mail` or a time requires grad, or (CPU) a node is out of
            range.
    """

    def check(name: str, ok: bool, expected: str, given: Any, error: type[Exception] = ValueError) -> None:
        if not ok:
            raise error(f"mailbox_attention: {name} must be {expected}, got {given}")

    check("u", u.dtype.is_floating_point, "floating", u.dtype, TypeError)
    check("c", c.dtype == u.dtype, f"{u.dtype} like u", c.dtype, TypeError)
    check("mail", mail.dtype.is_floating_point, "floating", mail.dtype, TypeError)
    check("mail_time", mail_time.dtype in (torch.int64, torch.float64), "int64 or float64", mail_time.dtype, TypeError)
    check("has_mail", has_mail.dtype == torch.bool, "bool", has_mail.dtype, TypeError)
    check("nodes", nodes.dtype in (torch.int32, torch.int64), "int32 or int64", nodes.dtype, TypeError)
    check("times", times.dtype == mail_time.dtype, f"{mail_time.dtype} like mail_time", times.dtype, TypeError)
    check("time_w", time_w.dtype.is_floating_point, "floating", time_w.dtype, TypeError)
    check("time_b", time_b.dtype == time_w.dtype, f"{time_w.dtype} like time_w", time_b.dtype, TypeError)
    check("u", u.dim() == 3, "[P, H, F]", list(u.shape))
    check("mail", mail.dim() in (2, 3), "[N, S, M] or [N, M]", list(mail.shape))
    slots = mail.shape[:-1]
    check("mail_time", mail_time.shape == slots, f"{list(slots)} like mail", list(mail_time.shape))
    check("has_mail", has_mail.shape == slots, f"{list(slots)} like mail", list(has_mail.shape))
    check("time_w", time_w.dim() == 1, "[T]", list(time_w.shape))
    check("time_b", time_b.shape == time_w.shape, "[T] like time_w", list(time_b.shape))
    P, width = u.shape[0], mail.shape[-1] + time_w.shape[0]
    check("u", u.shape[2] == width, f"[P, H, {width}] (columns of mail and time_w)", list(u.shape))
    check("c", c.shape == u.shape[:2], "[P, H] of u", list(c.shape))
    check("nodes", nodes.dim() == 1 and nodes.shape[0] == P, "[P] with P of u", list(nodes.shape))
    check("times", times.dim() == 1 and times.shape[0] == P, "[P] with P of u", list(times.shape))
    for name, state in (("mail", mail), ("mail_time", mail_time), ("times", times)):
        check(name, not state.requires_grad, "without grad (it is data)", "a tensor that requires it; detach it")
    check("activation", activation in SLOPES, f"one of {sorted(SLOPES)}", repr(activation))
    check("dropout", 0.0 <= dropout < 1.0, "in [0, 1)", dropout)
    if mail.dim() == 2:
        mail, mail_time, has_mail = mail.unsqueeze(1), mail_time.unsqueeze(1), has_mail.unsqueeze(1)
    z, s, _ = torch.ops.gnnaccel.mailbox_attention(
        u, c, mail, mail_time, has_mail, nodes, times, time_w, time_b, scale, SLOPES[activation], dropout, seed
    )
    return z, s
