"""Pixels that are equal to the original's to the last bit: PIL's resizing and its order of arithmetic, image by image.
Slower than torchvision's, which differ by at most 2 of 255 levels.

Sources: `resize`, `rescale` and `normalize` in transformers/image_transforms.py, which the original's CLIP and SigLIP
processors call.
"""

import numpy as np
import torch
from PIL import Image
from transformers.image_utils import SizeDict


class ExactPixelsMixin:
    """Mixin for a torchvision-backed processor; `exact_pixels=True` switches the exact arithmetic on."""

    exact_pixels = False

    def check_exact(self, values: torch.Tensor, own_scale: bool):
        """Check that exact pixels can be computed from these values, which PIL resizes as bytes.

        Raises:
            ValueError: they are floats on the caller's own scale.
        """
        if self.exact_pixels and own_scale and values.is_floating_point():
            raise ValueError(
                f"The processor with exact_pixels=True got {values.dtype} and do_rescale=False or its own "
                "rescale_factor; the original prepares 8-bit pictures only. Pass those, or exact_pixels=False."
            )

    def prepare_pixels(self, pixels: torch.Tensor, **settings) -> torch.Tensor:
        """Resize, crop, rescale and normalize pictures of one size: (n, 3, h, w) -> (n, 3, height, width), float32."""
        return self.prepare_values(self.to_size(pixels, **settings), **settings)

    def to_size(
        self,
        pixels: torch.Tensor,
        do_resize: bool,
        size: SizeDict,
        resample,
        do_center_crop: bool,
        crop_size: SizeDict,
        **kwargs,
    ) -> torch.Tensor:
        """Resize and crop pictures of one size: (n, 3, h, w) -> (n, 3, height, width). The result for each does not
        depend on the others."""
        if do_resize:
            pixels = self.resize(pixels, size, resample=resample)  # (n, 3, *resized_sides(h, w, size))
        if do_center_crop:
            pixels = self.center_crop(pixels, crop_size)  # (n, 3, crop_size.height, crop_size.width)
        return pixels

    def prepare_values(
        self,
        pixels: torch.Tensor,
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean,
        image_std,
        **kwargs,
    ) -> torch.Tensor:
        """Rescale and normalize pictures of their final size: (n, 3, height, width), to float32."""
        # Channels first in memory too, as the tower needs them; while the values are bytes, the copy is small.
        pixels = pixels.contiguous()
        return self.rescale_and_normalize(pixels, do_rescale, rescale_factor, do_normalize, image_mean, image_std)

    def resize(self, image: torch.Tensor, size: SizeDict, resample=None, **kwargs) -> torch.Tensor:
        """Resize (..., 3, h, w), uint8."""
        if not self.exact_pixels:
            return super().resize(image, size, resample=resample, **kwargs)
        height, width = resized_sides(*image.shape[-2:], size)
        pictures = image.movedim(-3, -1).reshape(-1, *image.shape[-2:], 3).to(torch.uint8).cpu().numpy()
        resized = [Image.fromarray(picture).resize((width, height), resample) for picture in pictures]
        resized = torch.from_numpy(np.stack(resized)).to(image.device)
        return resized.movedim(-1, -3).reshape(*image.shape[:-2], height, width)

    def rescale_and_normalize(
        self, images: torch.Tensor, do_rescale, rescale_factor, do_normalize, image_mean, image_std
    ) -> torch.Tensor:
        if not self.exact_pixels:
            return super().rescale_and_normalize(
                images, do_rescale, rescale_factor, do_normalize, image_mean, image_std
            )
        if do_rescale:
            images = (images.double() * rescale_factor).float()
        if do_normalize:
            mean, std = (images.new_tensor(values, dtype=torch.float32) for values in (image_mean, image_std))
            images = (images - mean[:, None, None]) / std[:, None, None]
        return images


def resized_sides(height: int, width: int, size: SizeDict) -> tuple[int, int]:
    """Height and width that `size` asks for: both sides, or the shorter one with the longer one rounded down.

    >>> resized_sides(720, 1280, SizeDict(shortest_edge=336))
    (336, 597)
    """
    if size.shortest_edge is None:
        return size.height, size.width  # pyright: ignore  # then both sides are given
    short, long = sorted((height, width))
    longer = int(size.shortest_edge * long / short)
    return (size.shortest_edge, longer) if height <= width else (longer, size.shortest_edge)
