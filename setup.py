"""Maps the repository's folders to import names: `package/` is `llava_next_video`, `modeling/` is
`llava_next_video.modeling`, and so on. Everything else about the build is in `pyproject.toml`.

Tests, docs and tools read the list of rooms from here; it goes from the lowest floor to the highest, and no room
imports from one above it (`tests/test_rooms.py`).
"""

ROOMS = (
    "modeling",
    "reading",
    "processing",
    "training",
    "inference",
    "evaluation",
    "hub",
    "conversion",
    "serving",
    "package",
)
FOLDERS = {f"llava_next_video.{room}".removesuffix(".package"): room for room in ROOMS}

if __name__ == "__main__":
    from setuptools import setup

    setup(
        package_dir=FOLDERS,
        packages=list(FOLDERS),
        py_modules=["llava_next_video_program"],
        package_data={
            "llava_next_video": ["demo_checkpoint/*", "*.pyi", "py.typed"],
            "llava_next_video.evaluation": ["*.yaml"],
            "llava_next_video.processing": ["chat_templates/*.jinja"],
            "llava_next_video.hub": ["model_card.md.jinja"],
            "llava_next_video.serving": ["web_examples/*.mp4"],  # links to demo_model/samples, files in a wheel
        },
    )
