import av
import numpy as np
import pytest

from tests.stranger_clips import (
    CONTRAST,
    DIRECTIONS,
    OUTSIDE,
    StrangerClip,
    draw_background,
    named,
    names_all,
    names_only,
    signed_distance,
)


CLIPS = [StrangerClip.from_seed(seed) for seed in range(300)]
SMALL = [clip for clip in CLIPS if clip.width * clip.height < 60_000]


def right_answer(clip, question):
    first, last = clip.shapes[0], clip.shapes[-1]
    about = next(
        (shape for shape in clip.shapes if shape.shape in question.text or shape.colour in question.text), first
    )
    if question.kind in ("absent", "outside"):
        return "I know only moving coloured shapes, and do not see that here."
    if question.kind == "direction":
        return "The shape does not move." if clip.still else f"To the {about.direction}."
    if question.kind in ("colour", "shape"):
        return f"The {about.shape} is {about.colour}."
    if question.kind == "order":
        return f"The {(first if 'first' in question.text else last).shape}"
    ways = [f"A {shape.colour} {shape.shape}" + f" moves {shape.direction}" * (not clip.still) for shape in clip.shapes]
    return ", then ".join(ways) + "."


def test_shapes_stay_on_the_canvas_apart_and_move_one_way():
    for clip in CLIPS:
        assert clip.width % 2 == clip.height % 2 == 0
        visible = [~np.isnan(shape.path[:, 0]) for shape in clip.shapes]
        for shape, seen in zip(clip.shapes, visible):
            path = shape.path[seen]
            assert (path >= shape.reach).all()
            assert (path <= np.array((clip.width, clip.height)) - shape.reach).all()
            steps = np.diff(path, axis=0)
            if clip.still:
                assert not steps.any()
                continue
            axis, sign = DIRECTIONS[shape.direction]
            assert (sign * steps[:, axis] > -1e-9).all()
            assert not steps[:, 1 - axis].any()
            assert abs(steps[:, axis].sum()) >= 0.0999 * (clip.width, clip.height)[axis]
        if len(clip.shapes) == 2:
            first, second = clip.shapes
            assert first.colour != second.colour
            assert first.shape != second.shape
            assert clip.still or visible[0].argmax() < visible[1].argmax()
            apart = np.abs(first.path - second.path).max(axis=1)[visible[0] & visible[1]]
            assert (apart >= first.reach + second.reach).all()


def test_each_choice_occurs():
    for name in ("still", "aspect", "background", "style", "edge", "codec"):
        assert len({getattr(clip, name) for clip in CLIPS}) == {"aspect": 6, "background": 4, "codec": 3}.get(name, 2)


@pytest.mark.parametrize("shape", ["circle", "square", "triangle", "star"])
def test_a_shape_is_as_wide_as_its_box(shape):
    y, x = np.mgrid[-150:151, -150:151].astype(np.float32)
    inside = signed_distance(shape, x, y, 100, 0.45) <= 0
    rows, columns = inside.any(axis=1).nonzero()[0] - 150, inside.any(axis=0).nonzero()[0] - 150
    assert (columns.min(), columns.max()) == pytest.approx((-100, 100), abs=2)
    assert rows.min() == pytest.approx(-rows.max(), abs=2)
    assert 80 <= rows.max() <= 100


def test_frames_show_the_shapes_and_nothing_else_that_moves():
    for clip in [clip for clip in SMALL if clip.background != "noisy"][:12]:
        background = draw_background(clip, np.random.default_rng(clip.seed))
        for shape in clip.shapes:
            assert np.linalg.norm(background - shape.rgb, axis=2).min() > CONTRAST - 10  # checked at every fourth pixel
        for number, frame in enumerate(clip.frames()):
            drawn = np.abs(frame - background).max(axis=2) > 2
            for shape in clip.shapes:
                if not np.isnan(shape.path[number, 0]):
                    (x, y), reach = shape.path[number], shape.reach + 1
                    box = drawn[
                        max(int(y - reach), 0) : int(y + reach) + 1, max(int(x - reach), 0) : int(x + reach) + 1
                    ]
                    assert box.any()
                    box[:] = False
            assert not drawn.any()


@pytest.mark.parametrize("codec", ["libx264", "mpeg4", "libvpx-vp9"])
def test_the_written_file_has_the_frames(codec, tmp_path):
    clip = next(clip for clip in SMALL if clip.codec == codec and not clip.still and clip.background == "plain")
    path = tmp_path / f"clip{clip.suffix}"
    clip.write(path)
    with av.open(str(path)) as container:
        assert container.streams.video[0].average_rate == clip.fps
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    drawn = list(clip.frames())
    assert len(decoded) == clip.frame_count == len(drawn)
    assert decoded[0].shape == (clip.height, clip.width, 3)
    assert np.abs(np.stack(decoded).astype(int) - np.stack(drawn)).mean() < 8


def test_nothing_moves_in_a_still():
    clip = next(clip for clip in SMALL if clip.still and clip.background == "noisy")
    assert clip.one_frame().shape == (1, clip.height, clip.width, 3)
    assert all((frame == clip.one_frame()[0]).all() for frame in clip.frames())


def test_a_seed_gives_the_same_clip_again():
    again = StrangerClip.from_seed(SMALL[0].seed)
    assert all((one == other).all() for one, other in zip(SMALL[0].frames(), again.frames(), strict=True))
    assert [question.text for question in again.questions] == [question.text for question in SMALL[0].questions]
    fixed = StrangerClip.from_seed(5, shape_count=2, still=True)
    assert (len(fixed.shapes), fixed.still) == (2, True)


def test_the_judge_accepts_right_answers_and_no_others():
    kinds = set()
    for clip in CLIPS:
        for question in clip.questions:
            kinds.add(question.kind)
            if question.kind == "absent":
                there = [{shape.colour, shape.shape} for shape in clip.shapes]
                assert not any(set(named(question.text, "colour", "shape")) <= pair for pair in there)
            assert question.is_right(right_answer(clip, question)), (question.text, right_answer(clip, question))
            assert not question.is_right("")
            assert not question.is_right("red green blue circle square star left right up down")
    assert kinds == {"colour", "shape", "direction", "order", "moving", "describe", "absent", "outside"}
    assert len(set(OUTSIDE)) >= 40


def test_the_judge_reads_words_and_their_order():
    clip = next(clip for clip in CLIPS if len(clip.shapes) == 2 and not clip.still)
    one, two = [f"a {shape.colour} {shape.shape} moves {shape.direction}" for shape in clip.shapes]
    in_order = names_all(clip.shapes, "colour", "shape", "direction", in_order=True)
    assert in_order(f"First {one}, then {two}.")
    assert not in_order(f"First {two}, then {one}.")
    assert not in_order(one)
    any_order = names_all(clip.shapes, "colour", "shape", in_order=False)
    assert any_order(f"{two} and {one}")
    assert not any_order("a {0.colour} {1.shape} and a {1.colour} {0.shape}".format(*clip.shapes))
    assert names_only("direction", "up")("It goes UPWARDS.")
    assert not names_only("direction", "up")("It goes up and left.")
    assert not names_only("colour", "red")("It is coloured.")
