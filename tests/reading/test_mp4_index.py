"""Headers of MP4 that claim too much are refused before FFmpeg reads them; real ones are counted as FFmpeg counts."""

import zlib
from pathlib import Path

import av
import pytest

from llava_next_video import ReadingLimits, VideoLimitError, VideoReadError, read_video
from llava_next_video.reading import mp4_index
from llava_next_video.reading.mp4_index import Index, boxes_but_mdat, is_mp4
from tests.attacks.__main__ import status
from tests.attacks.indexes import PCM, box, claims, film, fragment, hidden_fragment, numbers, tables, track
from tests.attacks.videos import OPTIONS
from tests.fuzz.corpus import make_corpus


def reader(data: bytes):
    return lambda position, size: data[position : position + size]


def entries(data: bytes) -> int:
    index = Index()
    for part in boxes_but_mdat(reader(data)):
        index.add(part)
    return index.entries


@pytest.mark.parametrize("name", claims(100))
def test_claims_are_refused_before_ffmpeg_believes_them(name):
    """A file of 1.8 KB took 2.8 GB."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the highest VmRSS so far
    before = status("VmRSS")
    with pytest.raises(VideoLimitError, match=r"its header claims .* for each of max_frames=1000000; encode it again"):
        read_video(claims(30_000_000)[name])
    assert status("VmHWM") - before < 80 * 2**20


def test_claims_below_the_limit_take_what_is_documented():
    data = claims(19_900_000)["stsz"]
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    with pytest.raises(VideoReadError, match="damaged"):
        read_video(data)
    assert status("VmHWM") - before < 40 * 20_000_000


def test_more_frames_make_more_room():
    with pytest.raises(VideoReadError, match="damaged"):
        read_video(claims(30_000_000)["trun"], limits=ReadingLimits(max_frames=2_000_000))


def test_pcm_is_counted_as_ffmpeg_lists_it():
    """An hour of PCM claims 172,800,000 samples, which are 168,750 entries; in tracks that are nothing else."""
    sound = track(*tables(172_800_000, stsc=48_000, chunks=3600), kind=b"soun", entry=PCM)
    assert entries(film(sound)) == 3600 * 47
    elsewhere = box(b"skip", sound)  # where nobody can tell what FFmpeg makes of it
    assert entries(film(elsewhere)) > 172_800_000


def test_claims_inside_of_mdat_are_pictures():
    video = film() + box(b"mdat", fragment(2**32 - 1), b"stsz" * 100)
    assert entries(video) == 0
    assert entries(film(behind=fragment(7))) == 7


def test_long_headers_are_refused(monkeypatch):
    monkeypatch.setattr(mp4_index, "MAX_MP4_HEADER_BYTES", 5000)
    with pytest.raises(VideoLimitError, match="its header has more than 5000 bytes; encode the video again"):
        read_video(film(box(b"free", bytes(6000))))
    packed = box(b"cmov", box(b"dcom", b"zlib"), box(b"cmvd", numbers(6000), zlib.compress(bytes(6000))))
    with pytest.raises(VideoLimitError, match="its header has more than 5000 bytes, packed; encode the video again"):
        read_video(film(packed))
    Index().add(box(b"cmov", box(b"cmvd", numbers(9), b"not packed")))


def test_real_files_claim_what_they_have(tmp_path):
    for name, path in make_corpus(tmp_path).items():
        data = path.read_bytes()
        if name.endswith((".mp4", ".mov", ".3gp", ".3g2", ".m4v", ".avif")):
            assert is_mp4(reader(data)), name
            assert entries(data) < 500, name
        elif not name.endswith((".mj2", ".heic")):
            assert not is_mp4(reader(data)), name


def test_files_with_an_index_of_fragments_are_read(tmp_path):
    """FFmpeg would read their boxes while it decodes."""
    path = tmp_path / "dash.mp4"
    with av.open(str(path), "w", options={"movflags": "dash+global_sidx+frag_keyframe"}) as output:
        stream = output.add_stream("libx264", rate=25, options={**OPTIONS["libx264"], "g": "4"})
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for _ in range(20):
            output.mux(stream.encode(av.VideoFrame(64, 48, "yuv420p")))
        output.mux(stream.encode())
    data = path.read_bytes()
    assert b"sidx" in data
    frames, metadata = read_video(data)
    assert (len(frames), metadata.fps) == (20, 25)


def test_boxes_to_which_an_index_of_fragments_points_are_not_read():
    """In `mdat`, where nobody counts them: FFmpeg took 1 GB."""
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    with pytest.raises(VideoReadError, match="damaged"):
        read_video(hidden_fragment(30_000_000))
    assert status("VmHWM") - before < 80 * 2**20
