"""Triton kernels of patch_pool."""

from .backend import tl, triton
from .layout import SIZES, elements, patch_row, tile
from .tail import act_slope, act_value, load_channels


# Bytes, E = size of an element, N = B*C*H*W:
#   forward   read N: E * N, plus 4 * B*C*(K*K + 1) for the results (below 1% at 14 x 14 cells a patch)
#   backward  read N, write N (P with padding): E * 2 N
# Eager reads and writes N for the affine map, for the activation and for the pooling: about E * 5 N forward.
@triton.jit(do_not_specialize=SIZES)
def pool_kernel(
    x, scale, shift, per_patch, pooled, arg, K, h, w, H, W, C, sharpness,
    ACT: tl.constexpr, MODE: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """One program: one image, BC channels, all patches in turn, so that the aggregate needs neither atomics nor a
    second pass, and repeated runs agree bit by bit."""
    image = tl.program_id(0).to(tl.int64)
    o_c = tl.program_id(1) * BC + tl.arange(0, BC)
    m_c = o_c < C
    b_scale = load_channels(scale, o_c, m_c, 1.0)
    b_shift = load_channels(shift, o_c, m_c, 0.0)
    K2 = K * K
    LOW = -3e38  # finite, so that the difference of two is 0, not NaN
    total = tl.zeros([BC], tl.float32)  # mean: sum; lse: sum of exp(sharpness * z - top)
    top = tl.full([BC], LOW, tl.float32)  # max and lse: largest so far
    winner = tl.zeros([BC], tl.int32)  # max: patch that holds it

    for p in range(K2):
        ky = p // K
        kx = p % K
        rows = tl.maximum(tl.minimum(H - ky * h, h), 0)
        columns = tl.maximum(tl.minimum(W - kx * w, w), 0)
        cells = rows * columns
        first = (image * K2 + p) * h * w
        b_sum = tl.zeros([BP, BC], tl.float32)
        b_top = tl.full([BP, BC], LOW, tl.float32)
        b_arg = tl.zeros([BP, BC], tl.int32)
        for start in range(0, cells, BP):
            o_cell = start + tl.arange(0, BP)
            y = o_cell // columns
            column = o_cell - y * columns
            m_x = (o_cell < cells)[:, None] & m_c[None, :]
            o_x = ((first + y * w + column) * C)[:, None] + o_c[None, :]
            b_x = tl.load(x + o_x, mask=m_x, other=0.0).to(tl.float32)  # [BP, BC]
            b_z = act_value(b_x * b_scale[None, :] + b_shift[None, :], ACT)
            if MODE == "mean":
                b_sum += tl.where(m_x, b_z, 0.0)
            elif MODE == "max":
                better = m_x & ((b_z > b_top) | (b_z != b_z))  # NaN wins and stays, as in torch.max
                b_arg = tl.where(better, o_cell[:, None], b_arg)
                b_top = tl.where(better, b_z, b_top)
            else:
                b_u = tl.where(m_x, b_z * sharpness, LOW)
                b_new = tl.where(b_u > b_top, b_u, b_top)
                b_sum = b_sum * tl.exp(b_top - b_new) + tl.where(m_x, tl.exp(b_u - b_new), 0.0)
                b_top = b_new

        o_out = (image * K2 + p) * C + o_c
        if MODE == "mean":
            value = tl.sum(b_sum, 0)
            total += value
            result = value / tl.maximum(cells, 1)
        elif MODE == "max":
            result = tl.max(b_top, 0)
            first_here = tl.where(b_top == result[None, :], b_arg, 2147483647)  # of equal maxima, the first cell
            first_here = tl.min(first_here, 0)
            columns = tl.maximum(columns, 1)
            place = first_here // columns * w + first_here % columns  # with the patch's own pitch
            tl.store(arg + (image * (K2 + 1) + p) * C + o_c, place, mask=m_c)
            result = tl.where(tl.max((b_top != b_top).to(tl.int32), 0) > 0, float("nan"), result)
            wins = (cells > 0) & ((result > top) | (result != result))
            winner = tl.where(wins, p, winner)
            top = tl.where(wins, result, top)
        else:
            peak = tl.max(b_top, 0)
            value = tl.sum(b_sum * tl.exp(b_top - peak[None, :]), 0)
            result = (peak + tl.log(tl.where(value == 0, 1.0, value) / tl.maximum(cells, 1))) / sharpness
            new = tl.maximum(peak, top)
            total = total * tl.exp(top - new) + value * tl.exp(peak - new)
            top = new
        tl.store(per_patch + o_out, tl.where(cells > 0, result, 0.0), mask=m_c)

    if MODE == "mean":
        top = total / (H * W)
    elif MODE == "max":
        tl.store(arg + (image * (K2 + 1) + K2) * C + o_c, winner, mask=m_c)
    else:
        top = (top + tl.log(tl.where(total == 0, 1.0, total) / (H * W))) / sharpness
    tl.store(pooled + image * C + o_c, top, mask=m_c)


@triton.jit(do_not_specialize=SIZES)
def pool_backward_kernel(
    grad_patch, grad_pooled, x, grad_x, scale, shift, per_patch, pooled, arg, K, h, w, H, W, C, sharpness,
    ACT: tl.constexpr, MODE: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    patch_pixel, _, inside, y, patch = patch_row(tl.program_id(0), K, h, w, H, W)
    o_p, o_c = tile(BP, BC)
    m_c = o_c < C
    K2 = K * K
    p = patch % K2
    image = (patch // K2).to(tl.int64)
    rows = tl.maximum(tl.minimum(H - p // K * h, h), 0)
    cells = tl.maximum(rows * inside, 1)  # inside is 0 in rows outside: they get no gradient
    o_patch = patch.to(tl.int64) * C + o_c
    o_image = image * C + o_c
    own = load_channels(grad_patch, o_patch, m_c, 0.0)  # [BC]
    shared = load_channels(grad_pooled, o_image, m_c, 0.0)

    m_x = (o_p < inside)[:, None] & m_c[None, :]
    o_x = elements(patch_pixel, o_p, o_c, C)
    m_out = (o_p < w)[:, None] & m_c[None, :]  # cells outside get 0
    b_scale = load_channels(scale, o_c, m_c, 1.0)
    b_shift = load_channels(shift, o_c, m_c, 0.0)
    b_z = tl.load(x + o_x, mask=m_x, other=0.0).to(tl.float32) * b_scale[None, :] + b_shift[None, :]  # [BP, BC]
    if MODE == "mean":
        b_grad = (own / cells + shared / (H * W))[None, :]
    elif MODE == "max":
        place = tl.load(arg + (image * (K2 + 1) + p) * C + o_c, mask=m_c, other=-1)
        winner = tl.load(arg + (image * (K2 + 1) + K2) * C + o_c, mask=m_c, other=-1)
        best = own + tl.where(winner == p, shared, 0.0)
        b_grad = tl.where((y * w + o_p)[:, None] == place[None, :], best[None, :], 0.0)
    else:
        value = tl.load(per_patch + o_patch, mask=m_c, other=0.0)
        whole = tl.load(pooled + o_image, mask=m_c, other=0.0)
        b_y = act_value(b_z, ACT)
        b_grad = (own / cells)[None, :] * tl.exp((b_y - value[None, :]) * sharpness)
        b_grad += (shared / (H * W))[None, :] * tl.exp((b_y - whole[None, :]) * sharpness)
    b_grad = tl.where(m_x, act_slope(b_grad * b_scale[None, :], b_z, ACT), 0.0)
    tl.store(grad_x + o_x, b_grad.to(grad_x.dtype.element_ty), mask=m_out)
