"""Maps the repository's folders to import names: `package/` is `llava_next_video`, `modeling/` is
`llava_next_video.modeling`, and so on. Everything else about the build is in `pyproject.toml`."""

from setuptools import find_packages, setup


FOLDERS = {
    "llava_next_video": "package",
    "llava_next_video.modeling": "modeling",
    "llava_next_video.processing": "processing",
    "llava_next_video.conversion": "conversion",
}
SUBPACKAGES = find_packages(include=["modeling*", "processing*", "conversion*"])

setup(
    package_dir=FOLDERS,
    packages=["llava_next_video", *(f"llava_next_video.{name}" for name in SUBPACKAGES)],
    package_data={
        "llava_next_video": ["demo_checkpoint/*", "model_card.md.jinja", "*.pyi", "py.typed"],
        "llava_next_video.processing": ["chat_templates/*.jinja"],
    },
)
