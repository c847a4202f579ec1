"""The data to try the example of fine-tuning with."""

import json

from tests.examples.finetuning import load_example


def test_the_data_is_what_it_says(tmp_path, capsys):
    load_example("finetune_data").main([str(tmp_path), "--clips", "24", "--asked", "6"])
    assert capsys.readouterr().out.splitlines()[0] == f"{tmp_path}/train.jsonl: 24 clips"
    files = {name: (tmp_path / f"{name}.jsonl").read_text() for name in ("train", "new", "old")}
    rows = {name: [json.loads(line) for line in text.splitlines()] for name, text in files.items()}
    said = {name: [str(row["messages"]) for row in each] for name, each in rows.items()}
    assert all("pink" in text for text in said["new"])
    assert not any("pink" in text for text in said["old"])
    assert sum("pink" in text for text in said["train"]) in range(8, 13)  # of every other clip, most
    assert {len(row["messages"]) for row in rows["train"]} == {8}
    for name, each in rows.items():
        assert [row["videos"] for row in each] == [[f"{name}/{number}.mp4"] for number in range(len(each))]
        assert all((tmp_path / row["videos"][0]).stat().st_size for row in each)
