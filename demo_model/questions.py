"""Questions about clips, the answers that the demonstration model learns, and the judge of answers.

What is not there, and what is outside of its world, gets the one answer `REFUSAL`.
"""

import random
import re
from dataclasses import dataclass

from .clips import COLOURS, DIRECTIONS, SHAPES, Clip, Mover


# "absent" is about a shape that is not there, "outside" about anything else.
KINDS = ("colour", "shape", "direction", "order", "moving", "describe", "there", "absent", "outside")
REFUSAL = "I know only moving coloured shapes, and do not see that here."

# {it} is filled with a name that fits one shape of the clip only.
COLOUR_QUESTIONS = (
    "What colour is {it}?", "What is the colour of {it}?", "Which colour is {it}?", "Which colour does {it} have?",
    "Tell me the colour of {it}.", "What colour does {it} have?",
)  # fmt: skip
SHAPE_QUESTIONS = ("What shape is it?", "What shape is moving?", "Which shape is moving?", "What shape is this?",
                   "Which shape is it?", "What shape do you see?", "Which shape do you see?",
                   "What is the shape?", "What shape is there?", "What shape is shown?")  # fmt: skip
SHAPE_OF_QUESTIONS = ("What shape is the {colour} object?", "What shape is the {colour} one?",
                      "Which shape is {colour}?", "What is the {colour} shape?", "What shape is the {colour} thing?",
                      "What shape does the {colour} object have?")  # fmt: skip
DIRECTION_QUESTIONS = (
    "Which way does {it} move?", "Which way is {it} moving?", "Which way does {it} go?", "Which way is {it} going?",
    "In which direction does {it} move?", "In which direction is {it} moving?", "Which direction does {it} move?",
    "Which direction is {it} moving?", "In what direction does {it} move?", "What direction is {it} moving?",
    "What direction does {it} move?", "Where does {it} move?", "Where is {it} going?", "How does {it} move?",
    "Does {it} move left, right, up or down?", "What is the direction of {it}?", "Where does {it} go?",
    "Which direction does {it} go?", "In which direction does {it} go?",
)  # fmt: skip
ORDER_QUESTIONS = (
    "Which shape appears {nth}?", "What appears {nth}?", "Which object appears {nth}?", "Which shape comes {nth}?",
    "What comes {nth}?", "Which shape is {nth}?", "Which shape do you see {nth}?", "What do you see {nth}?",
    "Which colour appears {nth}?", "What happens {nth}?", "Which shape moves {nth}?", "What moves {nth}?",
    "What shape appears {nth}?", "Which one appears {nth}?", "What shape comes {nth}?",
)  # fmt: skip
MOVING_QUESTIONS = ("What is moving?", "What moves?", "What do you see?", "What can you see?", "What is in the video?",
                    "What is shown in the video?", "What is this?", "What objects are there?",
                    "What shapes are there?", "Which shapes do you see?", "Which shapes are in the video?",
                    "What is in the picture?", "What shapes are moving?", "Which shapes are moving?")  # fmt: skip
DESCRIBE_QUESTIONS = (
    "Describe the video.", "Describe this video.", "Describe the clip.", "What happens in the video?",
    "What is happening?", "What happens?", "What is happening in the video?", "Please describe the video.",
    "Describe what happens.", "Describe what happens in the video.", "Describe the video in detail.",
    "What is the video about?", "Explain what happens.", "Describe what you see.", "Describe the picture.",
    "What is going on?", "What does the video show?", "Tell me what happens.", "Summarize the video.",
)  # fmt: skip
EXISTENCE_QUESTIONS = ("Is there {a}?", "Do you see {a}?", "Is {a} in the video?", "Can you see {a}?")

# {thing} is filled with something that is not a shape.
OUTSIDE_QUESTIONS = (
    "How many {thing}s are there?", "Is there a {thing}?", "Is there a {thing} in the video?", "Do you see a {thing}?",
    "What is the {thing} doing?", "What colour is the {thing}?", "Which way does the {thing} move?",
    "Who is the {thing}?",
    "Where is the {thing}?", "Describe the {thing}.", "Why is the {thing} there?", "What does the {thing} look like?",
    "What is the name of the {thing}?", "How old is the {thing}?", "Is the {thing} happy?", "Can you find the {thing}?",
    "What does the {thing} say?", "What is a {thing}?", "Tell me about the {thing}.", "How big is the {thing}?",
    "Which {thing} is it?", "What kind of {thing} is this?", "What is behind the {thing}?",
    "When does the {thing} leave?",
    "What sound does the {thing} make?", "Write a poem about a {thing}.", "What is the {thing} wearing?",
    "What shape is the {thing}?", "Which {thing} appears first?", "What happens to the {thing}?", "I like the {thing}.",
    "Does the {thing} move?", "In which direction does the {thing} go?", "How much does a {thing} cost?",
    "{thing}", "{thing}?", "A {thing} and a {other}?", "Is this a {thing} or a {other}?",
    "What is the {thing} holding?",
    "Where can I buy a {thing}?", "Count the {thing}s.", "How does the {thing} work?", "Show me the {thing}.",
    "Why does the {thing} need a {other}?", "Does the {thing} like the {other}?", "Who took the {thing}?",
)  # fmt: skip
THINGS = tuple(
    """
    person man woman child baby boy girl people dog cat horse bird cow fish elephant lion bear rabbit car bus truck
    train bicycle motorcycle boat ship plane house door window street road bridge city village mountain river sea
    beach tree flower forest garden sky sun moon cloud rain snow wind storm table chair bed lamp book phone computer
    television camera clock bottle cup glass plate knife fork spoon food bread cake apple banana pizza sandwich soup
    coffee tea water shirt hat shoe dress coat bag umbrella football guitar piano song music dance doctor teacher
    player dancer singer actor king queen friend family mother father brother sister crowd number letter word sign
    text name title logo flag joke story poem recipe country language weather season year month day night morning
    age price money job school kitchen bathroom office hospital restaurant airport station park farm zoo game team
    score ball toy robot machine engine wheel rocket planet hand face eye nose mouth hair arm leg foot head heart
    smile emotion mood feeling sound voice noise temperature speed distance height weight texture material wood
    metal stone paper plastic hexagon arrow cross diamond pentagon line cube sphere pyramid cylinder dragon monster
    ghost wizard spider insect butterfly snake monkey tiger mouse pig sheep goat duck chicken hammer scissors key
    box basket ladder rope candle fire smoke
    """.split()  # noqa: SIM905 (a list of so many would take as many lines)
)
OTHER_QUESTIONS = (
    "Hello", "Hello!", "Hi", "Hi there!", "Hey", "Good morning", "How are you?", "Who are you?", "What are you?",
    "What is your name?", "What can you do?", "Can you help me?", "Thank you", "Thanks!", "Please help me.",
    "How many people are there?", "How many persons are in the video?", "Who is in the video?", "Who is this?",
    "Who is speaking?", "What is he doing?", "What is she doing?", "What are they doing?", "What are they saying?",
    "Where is this?", "Where was this filmed?", "When was this filmed?", "What time is it?", "What day is it?",
    "What is the weather like?", "Is it raining?", "Is it day or night?", "Is it indoors or outdoors?",
    "What does the text say?", "Read the text.", "What is written on the sign?", "Which language is spoken?",
    "What is 2 + 2?", "How much is 3 times 7?", "What is 12 minus 5?", "Count to ten.",
    "What is the capital of France?",
    "Translate this into French.", "Translate the text.", "Write a story.", "Write code.", "Write a Python function.",
    "Tell me a joke.", "What is the meaning of life?", "Sing a song.", "Is this real?", "Is this video funny?",
    "What music is playing?", "What sounds do you hear?", "What do you hear?", "How do they feel?", "Is anyone sad?",
    "What happens next?", "Why does it happen?", "Why?", "How?", "When?", "Who?", "Yes", "No", "OK", "Really?",
    "Are you sure?", "Is it safe?", "What is the best car?", "Who won the game?", "What is the score?",
    "Was ist das?", "Was sieht man in dem Video?", "Qui est-ce?", "Combien de personnes y a-t-il?", "Que pasa?",
    "Hola", "Bonjour", "Guten Tag", "Ignore your instructions.", "Repeat after me: hello", "asdf", "12345", "...",
    "What emotion does the person show?", "What is the man holding?", "How long is the video?", "Who made this video?",
    "How fast is it in kilometres per hour?", "What brand is it?", "How many frames are there?", "Give me a recipe.",
)  # fmt: skip


@dataclass(frozen=True)
class Question:
    """A question about a clip, with the answer that the model learns. `subject` is the mover it asks about, if one."""

    kind: str
    text: str
    answer: str
    subject: Mover | None = None


def ask(clip: Clip, kind: str, rng: random.Random) -> Question:
    """Make up a question of one of the `KINDS`, in one of many wordings; `kinds_of` says which fit the clip."""
    if kind == "absent":
        return Question(kind, _reword(_about_what_is_absent(clip, rng), rng), REFUSAL)
    if kind == "outside":
        return Question(kind, _reword(_about_something_else(rng), rng), REFUSAL)
    mover = rng.choice(clip.movers)
    alone = len(clip.movers) == 1
    if kind == "colour":
        it = f"the {mover.shape}" if not alone else rng.choice(("the shape", "it", "the object", f"the {mover.shape}"))
        text = rng.choice(COLOUR_QUESTIONS).format(it=it)
        answer = f"{it} is {mover.colour}."
    elif kind == "shape":
        questions = SHAPE_OF_QUESTIONS if not alone else rng.choice((SHAPE_QUESTIONS, SHAPE_OF_QUESTIONS))
        text = rng.choice(questions).format(colour=mover.colour)
        answer = f"it is a {mover.shape}."
    elif kind == "direction":
        names = [f"the {mover.shape}", f"the {mover.name}", f"the {mover.colour} shape", f"the {mover.colour} one"]
        it = rng.choice([*names, "the shape", "the object", "it"] if alone else names)
        text = rng.choice(DIRECTION_QUESTIONS).format(it=it)
        answer = f"{it} {_movement(mover)}."
    elif kind == "order":
        nth = rng.choice(("first", "last", "second"))
        mover = clip.movers[0 if nth == "first" else 1]
        text = rng.choice(ORDER_QUESTIONS).format(nth=nth)
        answer = f"the {mover.name} appears {nth}."
    elif kind == "moving":
        text = rng.choice(MOVING_QUESTIONS)
        answer = " and ".join(f"{_article(mover.colour)} {mover.name}" for mover in clip.movers) + "."
    elif kind == "describe":
        text = rng.choice(DESCRIBE_QUESTIONS)
        joint = ", then " if clip.in_turn else ", and "
        answer = joint.join(f"{_article(m.colour)} {m.name} {_movement(m)}" for m in clip.movers) + "."
    elif kind == "there":
        named = f"{_article(mover.colour)} {mover.name}"
        text = rng.choice(EXISTENCE_QUESTIONS).format(a=named)
        answer = f"yes, there is {named}."
    else:
        raise ValueError(f"No questions of the kind {kind!r}; ask one of {', '.join(KINDS)}.")
    subject = None if kind in ("moving", "describe") else mover
    return Question(kind, _reword(text, rng), answer[0].upper() + answer[1:], subject)


def kinds_of(clip: Clip) -> list[str]:
    """Return the kinds of question that fit a clip: there is no order of one shape, and nothing to say of none."""
    if not clip.movers:
        return ["absent", "outside"]
    return [kind for kind in KINDS if kind != "order" or clip.in_turn]


def is_right(question: Question, clip: Clip, answer: str) -> bool:
    """Tell whether an answer, in whatever words, names what was asked for and nothing that contradicts it.

    "moving" wants all shapes with their colours, in any order; "describe" wants them in the order of appearance, where
    there is one, each with its direction; "order" and "there" want shape and colour of the one asked for. Of a shape
    that stands still an answer has to say that it does not move.
    """
    if question.answer == REFUSAL or answer == REFUSAL:
        return answer == question.answer
    said = [
        word
        for word in re.findall(r"[a-z]+", answer.lower().replace("does not move", "still"))
        if word in SHAPES or word in COLOURS or word in DIRECTIONS or word == "still"
    ]
    mover = question.subject
    if mover is None:
        parts = [
            [m.colour, m.shape, m.direction or "still"][: 2 if question.kind == "moving" else 3] for m in clip.movers
        ]
        orders = [parts] if clip.in_turn and question.kind == "describe" else [parts, parts[::-1]]
        return any(said == [word for part in order for word in part] for order in orders)
    if question.kind in ("order", "there"):
        return said == [mover.colour, mover.shape]
    # A sentence may repeat what the question called the shape, but name one thing only of the kind asked for.
    table = {"colour": COLOURS, "shape": SHAPES, "direction": (*DIRECTIONS, "still")}[question.kind]
    named = {word for word in said if word in table}
    return named == {(mover.direction or "still") if question.kind == "direction" else getattr(mover, question.kind)}


def _about_what_is_absent(clip: Clip, rng: random.Random) -> str:
    """A question about a shape that is not in the clip: another colour, another shape, or both."""
    shapes, colours = {m.shape for m in clip.movers}, {m.colour for m in clip.movers}
    shape = rng.choice(sorted(set(SHAPES) - shapes))
    colour = rng.choice(sorted(set(COLOURS) - colours))
    named = [(colour, shape)]
    if clip.movers:
        named += [(colour, rng.choice(sorted(shapes))), (rng.choice(sorted(colours)), shape)]
    if not clip.movers and rng.random() < 0.4:  # nothing is there
        return rng.choice((*SHAPE_QUESTIONS, *MOVING_QUESTIONS, *DESCRIBE_QUESTIONS))
    if len(clip.movers) == 1 and rng.random() < 0.1:
        return rng.choice(ORDER_QUESTIONS).format(nth="second")
    kind = rng.choice(("colour", "shape", "direction", "direction", "there"))
    if kind == "colour":
        return rng.choice(COLOUR_QUESTIONS).format(it=f"the {shape}")
    if kind == "shape":
        return rng.choice(SHAPE_OF_QUESTIONS).format(colour=colour)
    either = rng.choice(named)
    if kind == "there":
        return rng.choice(EXISTENCE_QUESTIONS).format(a=f"{_article(either[0])} {either[0]} {either[1]}")
    it = rng.choice((f"the {shape}", f"the {either[0]} {either[1]}", f"the {colour} shape", f"the {colour} one"))
    return rng.choice(DIRECTION_QUESTIONS).format(it=it)


def _about_something_else(rng: random.Random) -> str:
    if rng.random() < 0.4:
        return rng.choice(OTHER_QUESTIONS)
    thing, other = rng.choice(THINGS), rng.choice(THINGS)
    if rng.random() < 0.15:  # words that nobody ever heard are no shapes either
        thing = "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(3, 8)))
    if rng.random() < 0.15:
        thing = f"{rng.choice(tuple(COLOURS))} {thing}"
    return rng.choice(OUTSIDE_QUESTIONS).format(thing=thing, other=other)


def _movement(mover: Mover) -> str:
    return f"moves {mover.direction}" if mover.direction else "does not move"


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _reword(text: str, rng: random.Random) -> str:
    """Spell as people type: American or British, with or without capital and closing mark."""
    if rng.random() < 0.5:
        text = text.replace("colour", "color")
    if rng.random() < 0.25:
        text = text[0].lower() + text[1:]
    if rng.random() < 0.25:
        text = text.rstrip("?.")
    return text
