"""Where bfloat16 is worth using."""


def fast_bfloat16(gpu):
    """Whether bfloat16 matrix products are faster than float32 ones here, by the hardware's features alone.

    gpu: whether the work runs on the GPU. On CPUs only the tile unit (AMX) counts: with AVX512-BF16 alone,
    oneDNN's products were measured at half the float32 speed for matrices of the size of the recipes' models.
    """
    import torch

    if gpu:
        return torch.cuda.is_available() and torch.cuda.get_device_capability()[0] >= 8
    return torch.cpu._is_amx_tile_supported()
