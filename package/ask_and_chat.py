"""The commands `ask` and `chat`."""

import argparse
import json

from llava_next_video.inference.chat import VideoChat, converse
from llava_next_video.inference.pipeline_video_text_to_text import VideoTextToTextPipeline
from llava_next_video.model_for_answers import load_pipeline, sampling_arguments
from llava_next_video.named_videos import TYPED_LIMITS, opened_videos
from llava_next_video.question_files import answer_questions, facts_of_model
from llava_next_video.waiting import AnswerStreamer, Waiting, is_shown


def ask(args: argparse.Namespace):
    """Answer a question about a video, streaming the answer, or as one line of JSON; or the questions of a file."""
    if args.questions is not None:
        answer_questions(args)
        return
    videos = opened_videos(args.video)
    pipe = load_pipeline(args, TYPED_LIMITS, videos[0])
    with Waiting("reading the video") as waiting:
        [answer] = pipe(
            videos if len(videos) > 1 else videos[0],
            args.question,
            return_full_text=False,
            **streamer_arguments(pipe, waiting, prints=not args.json),
            **call_arguments(args),
        )
    if args.json:
        video = args.video if len(args.video) > 1 else args.video[0]
        record = {"video": video, "question": args.question, "answer": answer["generated_text"]}
        print(json.dumps(record | facts_of_model(args), ensure_ascii=False))


def chat(args: argparse.Namespace):
    """Talk about a video: one question a line, answered with those before in mind. The video is encoded once."""
    videos = opened_videos(args.video)
    pipe = load_pipeline(args, TYPED_LIMITS, videos[0])
    converse(ShownChat(pipe, videos if len(videos) > 1 else videos[0], **call_arguments(args)))


class ShownChat(VideoChat):
    """A chat that shows on a terminal what it is doing, until the answer comes."""

    def ask(self, question: str, **kwargs) -> str:
        with Waiting("reading the question" if self.messages else "reading the video") as waiting:
            streamer = AnswerStreamer(self.pipe.tokenizer, waiting, prints=True)
            return super().ask(question, **{**kwargs, "streamer": streamer})


def streamer_arguments(pipe: VideoTextToTextPipeline, waiting: Waiting, prints: bool) -> dict:
    """The streamer that prints the answer as it is generated, or counts its tokens on a terminal; none otherwise."""
    if not prints and (not is_shown() or (pipe.model.generation_config.num_beams or 1) > 1):  # beams have no stream
        return {}
    return {"streamer": AnswerStreamer(pipe.tokenizer, waiting, prints)}


def call_arguments(args: argparse.Namespace) -> dict:
    """Arguments of a call of the pipeline."""
    return {"max_new_tokens": args.max_new_tokens, **sampling_arguments(args)}
