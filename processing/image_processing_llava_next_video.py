"""Images for LLaVA-NeXT-Video: an overview and tiles (anyres), or one square.

Sources: `process_anyres_image`, `process_images` and `expand2square` in llava/mm_utils.py of LLaVA-NeXT.
"""

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as tvF
from transformers import BatchFeature
from transformers.image_processing_backends import TorchvisionBackend
from transformers.image_processing_utils import get_patch_output_size, select_best_resolution
from transformers.image_transforms import divide_to_patches, group_images_by_shape, reorder_images
from transformers.image_utils import ChannelDimension, SizeDict
from transformers.processing_utils import ImagesKwargs

from ..modeling.configuration_llava_next_video import MAX_TILES
from ..reading.picture_values import is_own_scale
from ..reading.pictures import read_picture, rgb_picture
from ..reading.video_sources import is_video_source
from .checked_settings import PixelSettingsMixin
from .exact_pixels import ExactPixelsMixin
from .pixel_bounds import check_intermediate_size, check_preparation, memory_errors


class LlavaNextVideoImageProcessorKwargs(ImagesKwargs, total=False):
    """
    image_grid_pinpoints (`list[list[int]]`): sizes (height, width) in pixels that an image may be padded to.
    image_aspect_ratio (`str`): `"anyres"`, `"anyres_max_N"`, `"pad"` or `"square"`, as in the model's config.
    """

    image_grid_pinpoints: list[list[int]]
    image_aspect_ratio: str


class LlavaNextVideoImageProcessor(PixelSettingsMixin, ExactPixelsMixin, TorchvisionBackend):
    """Turns images into `pixel_values` (images, tiles, 3, height, width), float32, and `image_sizes` (images, 2).

    With `image_aspect_ratio="anyres"` (or `"anyres_max_N"`) the first tile is an overview of the whole image, and the
    others are cut from the image after it was padded to the best of `image_grid_pinpoints`; images with fewer tiles
    are filled up with zeros (`do_pad`). With `"pad"` and `"square"` there is one tile.

    `exact_pixels=True`, given to `from_pretrained`, computes pixels to the last bit as the original does, more slowly.

    `limits` say how much reading one picture may cost, as in [`LlavaNextVideoVideoProcessor`].

    It is saved as the built-in's `LlavaNextImageProcessor`, so that the built-in can read it.
    """

    model_input_names = ("pixel_values", "image_sizes")
    valid_kwargs = LlavaNextVideoImageProcessorKwargs

    do_pad = True
    image_grid_pinpoints = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
    image_aspect_ratio = "anyres"

    def to_dict(self) -> dict:
        return {**super().to_dict(), "image_processor_type": "LlavaNextImageProcessor"}

    def fetch_images(self, image_url_or_urls):
        """Read pictures given as paths, URLs, data URIs, base64, bytes or file objects, within the limits."""
        if isinstance(image_url_or_urls, list | tuple):
            return [self.fetch_images(image) for image in image_url_or_urls]
        if is_video_source(image_url_or_urls):
            return read_picture(image_url_or_urls, self.limits)
        return image_url_or_urls

    def _prepare_images_structure(self, images, expected_ndims: int = 3) -> list:
        """A list of pictures from whatever users pass: one picture, a list, a list per prompt, an array of several."""
        pictures = as_list_of_pictures(self.fetch_images(images))
        if not pictures:
            raise ValueError("The image processor got an empty list where a picture was expected. Pass pictures.")
        return pictures

    def process_image(
        self, image, input_data_format=None, device=None, do_rescale=None, rescale_factor=None, **kwargs
    ) -> torch.Tensor:
        """A PIL image or array as RGB (3, h, w), on the scale that `do_rescale` expects."""
        own_scale = is_own_scale(do_rescale, rescale_factor)
        image = rgb_picture(image, self.limits, own_scale, input_data_format)
        self.check_exact(image, own_scale)
        return image.contiguous().to(device)

    def preprocess(self, images, *args, **kwargs) -> BatchFeature:
        """Read and prepare pictures.

        Raises:
            VideoReadError: one cannot be read, or memory runs out; `VideoLimitError` if it would cost more than the
                limits allow.
            ValueError, TypeError: one is not a picture, or a setting is impossible.
        """
        with memory_errors("given to the image processor"):
            return super().preprocess(images, *args, **kwargs)

    def _preprocess(
        self, images: list[torch.Tensor], do_pad: bool, disable_grouping: bool | None, return_tensors, **settings
    ) -> BatchFeature:
        tiles_of_images = [self.tiles_of(image, **settings) for image in images]
        for tiles in tiles_of_images:
            for height, width in {tuple(tile.shape[-2:]) for tile in tiles}:
                check_preparation(len(tiles), (height, width), self.limits, **settings)
        grouped, positions = group_images_by_shape(
            [tile for tiles in tiles_of_images for tile in tiles], disable_grouping=disable_grouping
        )
        for shape, tiles in grouped.items():  # (tiles of this shape, 3, h, w)
            grouped[shape] = self.prepare_pixels(tiles, **settings)  # (tiles of this shape, 3, height, width)
        num_tiles = [len(tiles) for tiles in tiles_of_images]
        all_tiles = torch.stack(reorder_images(grouped, positions))  # (tiles of all images, 3, height, width)
        pixel_values = list(all_tiles.split(num_tiles))  # (tiles, 3, height, width) of each image
        if do_pad:
            padded = torch.nn.utils.rnn.pad_sequence(pixel_values, batch_first=True)
            pixel_values = list(padded)  # (most tiles, 3, height, width) of each image
        image_sizes = [tuple(image.shape[-2:]) for image in images]
        return BatchFeature({"pixel_values": pixel_values, "image_sizes": image_sizes}, tensor_type=return_tensors)

    def tiles_of(
        self,
        image: torch.Tensor,
        size: SizeDict,
        resample,
        do_center_crop: bool,
        crop_size: SizeDict,
        image_mean,
        image_grid_pinpoints: list[list[int]],
        image_aspect_ratio: str,
        **kwargs,
    ) -> list[torch.Tensor]:
        """The tiles (3, h, w) of an image (3, h, w), before they are brought to their final size: an overview and the
        pieces of the image, or the image itself, padded or not."""
        if image_aspect_ratio.startswith("anyres"):
            overview_size = SizeDict(height=size.height or size.shortest_edge, width=size.width or size.shortest_edge)
            tile_side = crop_size.height if do_center_crop else overview_size.height
            overview = self.resize(image, overview_size, resample=resample)  # (3, overview height, overview width)
            return [overview, *self.cut_tiles(image, image_grid_pinpoints, tile_side, resample)]
        if image_aspect_ratio == "pad":
            height, width = image.shape[-2:]
            check_intermediate_size(max(height, width), max(height, width), (height, width), self.limits)
            return [pad_to_square(image, image_mean)]  # (3, side, side)
        return [image]

    def cut_tiles(
        self, image: torch.Tensor, grid_pinpoints: list[list[int]], tile_side: int, resample
    ) -> list[torch.Tensor]:
        """Fit an image (3, h, w) into the best of `grid_pinpoints`, pad it with black and cut it, row by row."""
        target_height, target_width = select_best_resolution(tuple(image.shape[-2:]), grid_pinpoints)
        if target_height % tile_side or target_width % tile_side:
            raise ValueError(
                f"An image would be padded to {target_height}x{target_width} pixels, one of image_grid_pinpoints, and "
                f"cut into tiles of {tile_side}x{tile_side}, but that does not divide. Give the image processor "
                "image_grid_pinpoints that are multiples of its crop_size (or, without cropping, of its size)."
            )
        if target_height * target_width > self.limits.max_frame_pixels:
            raise ValueError(
                f"An image would be padded to {target_height}x{target_width} pixels, one of image_grid_pinpoints, "
                f"which is over max_frame_pixels={self.limits.max_frame_pixels}. The checkpoint's image_grid_pinpoints "
                "are damaged; or raise this limit of the image processor (`limits`)."
            )
        if (target_height // tile_side) * (target_width // tile_side) > MAX_TILES:
            raise ValueError(
                f"An image would be padded to {target_height}x{target_width} pixels, one of image_grid_pinpoints, and "
                f"cut into tiles of {tile_side}x{tile_side}, which are more than {MAX_TILES}. Correct "
                "crop_size or image_grid_pinpoints, which are damaged."
            )
        height, width = get_patch_output_size(image, (target_height, target_width), ChannelDimension.FIRST)
        top, left = (target_height - height) // 2, (target_width - width) // 2
        resized = self.resize(image, SizeDict(height=height, width=width), resample=resample)
        padded = tvF.pad(resized, [left, top, target_width - width - left, target_height - height - top])
        return divide_to_patches(padded, tile_side)  # pyright: ignore  # tensors in, tensors out


def pad_to_square(image: torch.Tensor, image_mean: list[float]) -> torch.Tensor:
    """Pad an image (3, h, w) of 0..255 on both sides of its shorter dimension with the mean colour."""
    height, width = image.shape[-2:]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    colour = [int(255 * channel) for channel in image_mean]
    return tvF.pad(image, [left, top, side - width - left, side - height - top], fill=colour)


def as_list_of_pictures(images) -> list:
    """Flatten pictures, lists of them and arrays of several into a list of single pictures.

    Raises:
        TypeError: something in it is not a picture.
    """
    num_dimensions = images.ndim if isinstance(images, np.ndarray | torch.Tensor) else 0
    if isinstance(images, list | tuple) or num_dimensions > 3:
        return [picture for item in images for picture in as_list_of_pictures(item)]
    if isinstance(images, Image.Image) or num_dimensions in (2, 3):
        return [images]
    raise TypeError(
        f"A picture cannot be made of {type(images).__name__}"
        f"{list(images.shape) if hasattr(images, 'shape') else ''}. Pass a path, a URL, bytes, a file object, a PIL "
        "image, or an array (height, width, 3)."
    )
