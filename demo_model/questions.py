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

# Of "[a|b c]" in a wording, one is said; of "[|a]", it may be nothing.
# {it} is filled with a name that fits one shape of the clip only.
COLOUR_QUESTIONS = (
    "[What|Which] colour [is {it}|does {it} have]?",
    "[What|Which] colour [is|was] {it}?",
    "What is the colour of {it}?",
    "[Tell me|Name] the colour of {it}.",
    "[Tell me|Can you tell me|Say] what colour {it} is.",
    "{it} is what colour?",
    "{it} colour?",
    "Colour of {it}?",
)
SHAPE_QUESTIONS = (
    "[What|Which] [|kind of ]shape is [it|this|that|there|shown|shown here|visible]?",
    "[What|Which] shape is in the [video|clip|picture]?",
    "[What|Which] [shape|object|thing] [do you see|can you see|moves|is moving|appears]?",
    "What is the shape[|| in the video| in this clip]?",
    "[Tell me|Name] the shape.",
    "[Tell me|Can you tell me] what shape [it|this|that] is.",
    "Is it a circle, a square, a triangle or a star?",
)
SHAPE_OF_QUESTIONS = (
    "[What|Which] [|kind of ]shape is the {colour} [object|one|thing|figure]?",
    "[What|Which] shape does the {colour} [object|one|thing] have?",
    "[What|Which] [shape|object|thing|one] is {colour}?",
    "What is the {colour} [shape|object|one|thing]?",
    "What is the shape of the {colour} [object|one|thing]?",
    "[Tell me|Name] the {colour} shape.",
    "[Tell me|Can you tell me] what shape the {colour} [object|one|thing] is.",
    "The {colour} [object|one|thing] is what shape?",
)
WAY = "[Which way|What way|Where|How|In which direction|In what direction|Which direction|What direction]"
DIRECTION_QUESTIONS = (
    f"{WAY} [does|does|did] {{it}} [move|go|travel]?",
    f"{WAY} is {{it}} [moving|going|heading|headed]?",
    "[What|Which] direction is {it} [moving|going] in?",
    "[Does|Did] {it} [move|go] [left, right, up or down|left or right or up or down|up, down, left or right]?",
    "Is {it} [moving|going] [left, right, up or down|left or right or up or down|up, down, left or right]?",
    "What is the direction of {it}?",
    "[Tell me|Can you tell me] [where|which way|in which direction] {it} [moves|goes|is moving|is going].",
)
# {when} stands for the first, or for the second of two.
ORDER_QUESTIONS = (
    "[What|Which shape|What shape|Which object|Which thing|Which one|Which colour] [appears|comes|moves] {when}?",
    "[What|Which shape|Which object|Which one] [shows up|appeared|came|is|was] {when}?",
    "[What|Which shape|What shape|Which object] "
    "[do you see|do we see|can you see|is shown|is seen|can be seen] {when}?",
    "[What|Which] [is|was] the {nth} [shape|object|thing]?",
    "What is the {nth} [shape|object|thing] you see?",
    "What [happens|appears|comes] {when}[| in the video| in the clip]?",
    "[Tell me|Name] the {nth} shape.",
)
WHEN = {
    "first": "[first|first|first|at the start|at the beginning]",
    "last": "[last|last|last|at the end]",
    "second": "second",
}
PLACE = "[|| in the video| in this video| in the clip| in this clip| in the picture| here]"
MOVING_QUESTIONS = (
    f"What [is moving|moves]{PLACE}?",
    f"[What|Which] [things|shapes|objects|figures] [are moving|move|are there|do you see|can you see]{PLACE}?",
    "[What|Which] [things|shapes|objects] are [shown|visible|in the video|in the clip|in the picture|here]?",
    "What is [this|there|in it|in the video|in the clip|in the picture|shown in the video]?",
    "[Tell me|Name|List] [|all ]the [shapes|objects|things][|| you see| you can see].",
)
DESCRIBE_QUESTIONS = (
    "Describe [the|this] [video|clip|scene|picture][|| in detail| briefly| in one sentence].",
    "[Please|Can you] describe [the video|the clip|what you see].",
    f"What [happens|is happening|is going on|do you see|can you see|can be seen]{PLACE}?",
    "[Describe|Explain|Tell me] what [happens|is happening|you see|you can see][|| in the video].",
    "What does the [video|clip|picture] show?",
    "What is [the|this] [video|clip|picture] about?",
    "[Summarize|Summarise|Explain|Tell me about|Give me a summary of] [the|this] [video|clip].",
)
EXISTENCE_QUESTIONS = (
    "[Is there|Was there|Do you see|Can you see] {a}[|| in the video| in this clip| here]?",
    "Is {a} in the video?",
    "Does [the video have|the video show|this clip show] {a}?",
    "Does {a} appear?",
)

# {thing} is filled with something that is not a shape.
OUTSIDE_QUESTIONS = (
    "How many {thing}s are [there|in the video]?",
    "[Is|Was] there a {thing}[| in the video| here]?",
    "[Do|Can] you see [a|any|the] {thing}[|s]?",
    "What [is|was] the {thing} doing?",
    "[What|Which] colour [is|was] the {thing}?",
    "[Which way|Where|How] [does|did] the {thing} [move|go]?",
    "[Which way|Where|In which direction] is the {thing} [moving|going]?",
    "[Who|Where|How old|How big|What] is the {thing}?",
    "Why is the {thing} [there|moving|here]?",
    "[Describe|Explain|Count|Show me|Find|Name|Tell me about|List] [the|a|all] {thing}[|s].",
    "What does the {thing} [look like|say|have|show|do]?",
    "What is the [name|size|age|meaning|sound|brand] of the {thing}?",
    "Is the {thing} [happy|old|new|real|a {other}]?",
    "Can you [find|describe|tell me about|hear] the {thing}?",
    "[What|Who] is a {thing}?",
    "[What|Which] {thing} [is it|is this|do you see|appears first|moves|is there]?",
    "What kind of {thing} is [this|it|that]?",
    "What is [behind|under|on|next to] the {thing}?",
    "When does the {thing} [leave|start|end]?",
    "What sound does the {thing} make?",
    "Write a [poem|story|song] about a {thing}.",
    "What is the {thing} [wearing|holding|saying|eating]?",
    "What [shape|object|thing] is the {thing}?",
    "What happens to the {thing}?",
    "[I like|I see|Look at] the {thing}.",
    "[Does|Did] the {thing} [move|appear|fall|speak]?",
    "How much does a {thing} cost?",
    "[|A |The ]{thing}[|?]",
    "[|Is this ]a {thing} [and|or] a {other}?",
    "Where can I buy a {thing}?",
    "How does the {thing} work?",
    "[Why|Does|How] does the {thing} [need|like|help] the {other}?",
    "Who [took|made|is behind|likes] the {thing}?",
    "[Tell me|Can you tell me] [what|where|who] the {thing} is.",
    "Which {thing} is {other}?",
)
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

# Letters that no question about a clip is written in: Chinese, Cyrillic, Japanese, Korean, Arabic, Hindi, Greek.
FOREIGN = ("一龥", "ая", "ぁゖ", "가힣", "اي", "अह", "αω")


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
        names = [f"the {mover.shape}"]
        it = rng.choice([*names, "the shape", "the object", "the thing", "it"] if alone else names)
        text = _word(COLOUR_QUESTIONS, rng).format(it=it)
        answer = f"{it} is {mover.colour}."
    elif kind == "shape":
        questions = SHAPE_OF_QUESTIONS if not alone else rng.choice((SHAPE_QUESTIONS, SHAPE_OF_QUESTIONS))
        text = _word(questions, rng).format(colour=mover.colour)
        answer = f"it is a {mover.shape}."
    elif kind == "direction":
        names = [f"the {mover.shape}", f"the {mover.name}", f"the {mover.colour} shape", f"the {mover.colour} one"]
        it = rng.choice([*names, "the shape", "the object", "the thing", "it"] if alone else names)
        text = _word(DIRECTION_QUESTIONS, rng).format(it=it)
        answer = f"{it} {_movement(mover)}."
    elif kind == "order":
        nth = rng.choice(("first", "last", "second"))
        mover = clip.movers[0 if nth == "first" else 1]
        text = _about_order(nth, rng)
        answer = f"the {mover.name} appears {nth}."
    elif kind == "moving":
        text = _word(MOVING_QUESTIONS, rng)
        answer = " and ".join(f"{_article(mover.colour)} {mover.name}" for mover in clip.movers) + "."
    elif kind == "describe":
        text = _word(DESCRIBE_QUESTIONS, rng)
        joint = ", then " if clip.in_turn else ", and "
        answer = joint.join(f"{_article(m.colour)} {m.name} {_movement(m)}" for m in clip.movers) + "."
    elif kind == "there":
        named = f"{_article(mover.colour)} {mover.name}"
        text = _word(EXISTENCE_QUESTIONS, rng).format(a=named)
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
    if not clip.movers and rng.random() < 0.6:  # nothing is there
        about_it = rng.choice(
            (SHAPE_QUESTIONS, MOVING_QUESTIONS, DESCRIBE_QUESTIONS, COLOUR_QUESTIONS, DIRECTION_QUESTIONS)
        )
        return _word(about_it, rng).format(it=rng.choice(("the shape", "the object", "the thing", "it")))
    if len(clip.movers) == 1 and rng.random() < 0.1:
        return _about_order("second", rng)
    kind = rng.choice(("colour", "shape", "direction", "direction", "there"))
    if kind == "colour":
        return _word(COLOUR_QUESTIONS, rng).format(it=f"the {shape}")
    if kind == "shape":
        return _word(SHAPE_OF_QUESTIONS, rng).format(colour=colour)
    either = rng.choice(named)
    if kind == "there":
        return _word(EXISTENCE_QUESTIONS, rng).format(a=f"{_article(either[0])} {either[0]} {either[1]}")
    it = rng.choice((f"the {shape}", f"the {either[0]} {either[1]}", f"the {colour} shape", f"the {colour} one"))
    return _word(DIRECTION_QUESTIONS, rng).format(it=it)


def _about_order(nth: str, rng: random.Random) -> str:
    return _word(ORDER_QUESTIONS, rng).format(nth=nth, when=_word((WHEN[nth],), rng))


def _about_something_else(rng: random.Random) -> str:
    drawn = rng.random()
    if drawn < 0.04:
        letters = range(*map(ord, rng.choice(FOREIGN)))
        return "".join(chr(rng.choice(letters)) for _ in range(rng.randint(2, 12))) + rng.choice(("", "?"))
    if drawn < 0.4:
        return rng.choice(OTHER_QUESTIONS)
    thing, other = rng.choice(THINGS), rng.choice(THINGS)
    if rng.random() < 0.15:  # words that nobody ever heard are no shapes either
        thing = "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(3, 8)))
    if rng.random() < 0.15:
        thing = f"{rng.choice(tuple(COLOURS))} {thing}"
    return _word(OUTSIDE_QUESTIONS, rng).format(thing=thing, other=other)


def _word(wordings: tuple[str, ...], rng: random.Random) -> str:
    """Say one of the wordings, choosing where it offers a choice."""
    return re.sub(r"\[(.*?)\]", lambda choice: rng.choice(choice[1].split("|")), rng.choice(wordings))


def _movement(mover: Mover) -> str:
    return f"moves {mover.direction}" if mover.direction else "does not move"


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _reword(text: str, rng: random.Random) -> str:
    """Spell as people type: American or British, shortened, in haste, with or without capital and closing mark."""
    if rng.random() < 0.03:
        text = re.sub(r"\b[Tt]he ", "", text)
    text = text[0].upper() + text[1:]
    if rng.random() < 0.5:
        text = text.replace("colour", "color")
    if rng.random() < 0.2:
        text = re.sub(r"\b(What|Where|Who) is\b", rng.choice((r"\1's", r"\1s")), text)
    if rng.random() < 0.25:
        text = text[0].lower() + text[1:]
    if rng.random() < 0.25:
        text = text.rstrip("?.")
    elif text.startswith(("Can", "can")):
        text = text.rstrip("?.") + "?"
    return text
