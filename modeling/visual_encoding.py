"""From pixels to tokens: the vision tower, the projector, the pooler of frames, and the order of the tokens.

Frames and tiles go through in chunks, or all in one call (`takes_one_call`).

Shape letters: F frames, T image tiles, h x w grid of patches (h' x w' when pooled), D channels of the language model,
D_vision those of the tower, N tokens.
"""

from collections.abc import Sequence

import torch

from .model_inputs import join_tiles
from .placement import gathers_weights
from .visual_grid import tile_grid
from .visual_tokens import lay_out_image, lay_out_slow_fast_video, lay_out_video


class VisualEncodingMixin:
    """The part of [`LlavaNextVideoModel`] that sees."""

    def takes_one_call(self) -> bool:
        """Whether all tiles and frames of a batch go through the tower in one call.

        Where its weights are gathered from other processes at each call, all processes have to make the same number of
        calls, although their batches differ. Where it is trained, chunks save nothing, as everything is kept for the
        gradients, and `DistributedDataParallel` fails at a part that reentrant checkpointing runs twice.
        """
        is_trained = torch.is_grad_enabled() and any(weight.requires_grad for weight in self.vision_tower.parameters())
        return is_trained or gathers_weights(self.vision_tower, self.multi_modal_projector, self.vision_resampler)

    def encode_pixels(
        self, pixels: torch.Tensor, num_tiles: int, layers: int | list[int] | None, strategy: str | None
    ) -> list[torch.Tensor]:
        """Make features of image tiles and video frames.

        Args:
            pixels (`torch.Tensor` of shape (T + F, 3, H, W)): tiles, then frames. Both only if `takes_one_call`.
            num_tiles: T.
            layers, strategy: as in `encode_frames`.

        Returns:
            Where there are tiles, theirs, (T, h, w, D). Where there are frames, theirs, pooled, (F, h', w', D), and, of
            slow-fast videos, the same pooled twice as coarsely.
        """
        if self.takes_one_call():
            chunks = [pixels]
        else:
            chunks = pixels.split(self.config.vision_chunk_size or self.vision_tower.frames_at_once())
        grids = [self.encode_chunk(chunk, min(num_tiles, len(chunk)), layers, strategy) for chunk in chunks]
        return [torch.cat(of_chunks) for of_chunks in zip(*grids)]

    def encode_chunk(
        self, pixels: torch.Tensor, num_tiles: int, layers: int | list[int] | None, strategy: str | None
    ) -> list[torch.Tensor]:
        """`encode_pixels` by one call of the tower and one of the projector."""
        features = self.encode_frames(pixels, layers, strategy)  # (T + F, h, w, D_vision)
        pools_first = self.config.spatial_pool_position == "before_projector"
        if not pools_first:
            features = self.multi_modal_projector(features)  # (T + F, h, w, D)
        tiles, frames = features[:num_tiles], features[num_tiles:]
        grids = [tiles] if len(tiles) else []
        if len(frames) or not grids:
            grids.append(self.vision_resampler(frames))  # (F, h', w', ...)
            if self.config.slow_frame_stride is not None:
                grids.append(self.vision_resampler(frames, stride_factor=2))
        return self.project(grids) if pools_first else grids

    def encode_frames(
        self, pixel_values: torch.Tensor, layers: int | list[int] | None = None, strategy: str | None = None
    ) -> torch.Tensor:
        """Call the vision tower, up to the last layer needed, (F, 3, H, W) -> (F, h, w, D_vision)."""
        layers = self.config.vision_feature_layer if layers is None else layers
        strategy = self.config.vision_feature_select_strategy if strategy is None else strategy
        states = self.vision_tower(pixel_values, wanted_states=self.config.vision_states(layers))
        features = torch.cat(states, dim=-1) if len(states) > 1 else states[0]  # (F, P, D_vision)
        if strategy == "default":
            features = features[:, 1:]  # (F, h * w, D_vision): without the class token
        return features.unflatten(1, (self.config.patches_per_side, -1))  # (F, h, w, D_vision)

    def project(self, grids: list[torch.Tensor]) -> list[torch.Tensor]:
        """Call the projector once for grids of different sizes, each (F, h, w, D_vision) -> (F, h, w, D)."""
        if len(grids) == 1:
            return [self.multi_modal_projector(grids[0])]
        rows = torch.cat([grid.flatten(0, 2) for grid in grids])  # (sum of F * h * w, D_vision)
        projected = self.multi_modal_projector(rows).split([grid.shape[:3].numel() for grid in grids])
        return [rows.unflatten(0, grid.shape[:3]) for rows, grid in zip(projected, grids)]

    def join_images(
        self, pixel_values: torch.Tensor | Sequence[torch.Tensor], image_sizes: torch.Tensor | Sequence[Sequence[int]]
    ) -> tuple[torch.Tensor, list[tuple[int, int]]]:
        """All tiles of all images, (sum of T, 3, H, W), and the sizes as pairs of numbers. Arguments as in
        [`LlavaNextVideoModel.get_image_features`]."""
        sizes = [tuple(size) for size in (image_sizes.tolist() if hasattr(image_sizes, "tolist") else image_sizes)]
        num_tiles = [rows * columns + 1 for rows, columns in self.tile_grids(sizes)]
        return join_tiles(pixel_values, num_tiles, sizes), sizes  # pyright: ignore[reportReturnType]

    def tile_grids(self, image_sizes: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Rows and columns of the tiles, besides the overview, of images of these heights and widths in pixels."""
        side, ratio = self.config.vision_config.image_size, self.config.image_aspect_ratio
        return [tile_grid(size, side, self.config.image_grid_pinpoints, ratio) for size in image_sizes]

    def lay_out_images(self, features: torch.Tensor, image_sizes: list[tuple[int, int]]) -> tuple[torch.Tensor, ...]:
        """Order the tokens of images: features of all their tiles -> a tensor (N, D) for each."""
        newline, _ = self.learned_vectors()
        grids, ratio = self.tile_grids(image_sizes), self.config.image_aspect_ratio
        images = features.split([rows * columns + 1 for rows, columns in grids])  # each (T, h, w, D)
        return tuple(
            lay_out_image(image, newline, size, grid, ratio) for image, size, grid in zip(images, image_sizes, grids)
        )

    def lay_out_videos(self, features: list[torch.Tensor], num_frames: list[int]) -> tuple[torch.Tensor, ...]:
        """Order the tokens of videos: features of all their frames, as `encode_pixels` returns them -> a tensor (N, D)
        for each."""
        newline, frame_end = self.learned_vectors()
        pooled = [grids.split(num_frames) for grids in features]  # for each video (F, h', w', D)
        if self.config.slow_frame_stride is None:
            position = self.config.video_newline_position
            return tuple(lay_out_video(video, newline, position) for [video] in zip(*pooled))
        stride = self.config.slow_frame_stride
        return tuple(lay_out_slow_fast_video(slow, fast, newline, frame_end, stride) for slow, fast in zip(*pooled))

    def learned_vectors(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`image_newline` and `faster_token`, (D,). Where accelerate keeps them on disk, it loads them for `forward`
        only, but `generate` calls the feature getters outside of it."""
        vectors, hook = (self.image_newline, self.faster_token), getattr(self, "_hf_hook", None)
        if hook is not None and self.image_newline.device.type == "meta":
            hook.pre_forward(self)
            vectors = (self.image_newline, self.faster_token)
            hook.post_forward(self, None)
        return vectors
