from __future__ import annotations

import pytest

from deployments.image.sizes import GUIDED, DecoderSizes, DenoiserSizes, Sizes, sizes_of, sizes_told

MB = 10**6
QWEN = {"base_dim": 96, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2}


@pytest.mark.parametrize(
    ("decoder", "side", "measured"),
    [
        pytest.param(DecoderSizes((128, 256, 512, 512)), 256, 290, id="SDXL's at 256"),
        pytest.param(DecoderSizes((128, 256, 512, 512)), 384, 740, id="SDXL's at 384"),
        pytest.param(DecoderSizes((8, 8, 8, 8)), 512, 64, id="a narrow one at 512"),
        pytest.param(DecoderSizes((96, 192, 384, 384), 6), 256, 791, id="Qwen-Image's at 256"),
        pytest.param(DecoderSizes((96, 192, 384, 384), 6), 384, 1503, id="Qwen-Image's at 384"),
    ],
)
def test_decoding_is_expected_to_take_what_was_measured(decoder: DecoderSizes, side: int, measured: int) -> None:
    expected = decoder.bytes(side**2, 4, on_card=False) / MB
    assert 1.0 < 1.1 * expected / measured < 1.3, f"{expected:.0f} MB for {measured}"


def test_a_decoder_of_videos_is_told_by_its_class() -> None:
    sizes = sizes_of(QWEN, "AutoencoderKLQwenImage", {}, 1024)
    assert sizes.decoder == DecoderSizes((96, 192, 384, 384), 6)
    assert sizes_of({}, "AutoencoderKLQwenImage", {}, 1024).decoder == sizes.decoder, "its class has these defaults"
    assert sizes_told({"pipelines": {"text2image": "QwenImagePipeline"}}).decoder == sizes.decoder
    assert sizes_told({}).decoder == DecoderSizes()
    loaded = sizes_of({"block_out_channels": (4, 8)}, "AutoencoderKL", {"block_out_channels": (32, 64)}, None)
    assert loaded == sizes_of({"block_out_channels": [4, 8]}, "AutoencoderKL", {"block_out_channels": [32, 64]}, None)
    assert loaded.decoder.channels == (4, 8) and loaded.denoiser == DenoiserSizes(12.0, 0, GUIDED)


@pytest.mark.parametrize("wrong", ["wide", -1, [], [0], [1] * 20, {"a": 1}, True])
def test_sizes_that_make_no_sense_are_not_believed(wrong: object) -> None:
    vae = {"block_out_channels": wrong, "sample_size": wrong, "base_dim": wrong, "dim_mult": wrong}
    sizes = sizes_of(vae, "AutoencoderKL", {"block_out_channels": wrong, "num_attention_heads": wrong}, 64)
    assert sizes == Sizes(side=64)


def test_a_pass_has_as_many_samples_as_the_largest_picture_has_memory_for() -> None:
    sizes, most = Sizes(denoiser=DenoiserSizes(120, 0, GUIDED)), 1024**2

    def samples(pixels: int, **more: bool) -> int:
        return sizes.samples(pixels, most, 4, on_card=False, **{"in_tiles": False, **more})

    assert samples(most) == 1280 * most // (120 * most) == 10
    assert samples(most // 4) == 4 * samples(most) + 2
    assert samples(most, in_tiles=True) == GUIDED, "what one picture takes"
