"""Device functions of the time encoding, shared by every kernel that encodes time. Same polynomial as baselines/cpp/simd.h."""

import triton
import triton.language as tl


@triton.jit
def turns(dt, w, b):
    """The angle dt * w + b in turns, reduced to [-1/2, 1/2]; dt, w, b float64, broadcast against each other."""
    t = (dt * w + b) * 0.15915494309189533577
    return t - tl.floor(t + 0.5)


@triton.jit
def _sin_quarter(g):
    """sin(2 pi g), |g| <= 1/4. The library's sine keeps a stack frame for arguments that cannot occur here."""
    g2 = g * g
    p = 3.8199526 * g2 - 15.0946426
    p = p * g2 + 42.0586940
    p = p * g2 - 76.7058598
    p = p * g2 + 81.6052493
    p = p * g2 - 41.3417022
    p = p * g2 + 6.28318531
    return p * g


@triton.jit
def cos_turns(f, ACC: tl.constexpr):
    """cos(2 pi f) for |f| <= 1/2, absolute error about 1e-7 in float32."""
    # else: the compiler wants one type of all returns that it comes to
    if ACC == tl.float64:
        return tl.cos(f.to(tl.float64) * 6.283185307179586)
    else:
        return _sin_quarter(0.25 - tl.abs(f.to(tl.float32)))


@triton.jit
def sin_turns(f, ACC: tl.constexpr):
    """sin(2 pi f) for |f| <= 1/2, absolute error about 1e-7 in float32."""
    if ACC == tl.float64:
        return tl.sin(f.to(tl.float64) * 6.283185307179586)
    else:
        g = tl.abs(f.to(tl.float32))
        s = _sin_quarter(tl.minimum(g, 0.5 - g))
        return tl.where(f < 0, -s, s)
