"""An output folder appears whole, and never takes the place of somebody else's."""

from __future__ import annotations

import pytest

from partbox.visualization.whole_folder import OutputError, check_output, whole_folder, write_record


def fill(output, text, **options):
    with whole_folder(output, overwrite=options.get("overwrite", False)) as folder:
        (folder / text).write_text(text)
        assert not (output / text).exists()
        write_record(folder, {"what": text})


def test_a_folder_appears_whole(tmp_path):
    fill(tmp_path / "deep" / "new", "one")
    assert {path.name for path in (tmp_path / "deep" / "new").iterdir()} == {"one", "visualization.json"}
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["new"]
    assert (tmp_path / "deep" / "new").stat().st_mode & 0o444 == 0o444


def test_an_error_leaves_nothing_behind(tmp_path):
    def broken():
        with whole_folder(tmp_path / "new", overwrite=False) as folder:
            (folder / "half").write_text("half")
            raise KeyError("in the middle")

    with pytest.raises(KeyError):
        broken()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_replaced_only_when_asked_and_then_whole(tmp_path):
    fill(tmp_path / "new", "one")
    with pytest.raises(OutputError, match="exists: choose another folder, or add --overwrite"):
        fill(tmp_path / "new", "two")
    assert (tmp_path / "new" / "one").exists()
    fill(tmp_path / "new", "two", overwrite=True)
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"two", "visualization.json"}
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_an_error_while_replacing_keeps_the_old_folder(tmp_path):
    fill(tmp_path / "new", "one")

    def broken():
        with whole_folder(tmp_path / "new", overwrite=True):
            raise KeyError("in the middle")

    with pytest.raises(KeyError):
        broken()
    assert (tmp_path / "new" / "one").exists()


def test_somebody_elses_folder_is_never_replaced(tmp_path):
    (tmp_path / "mine").mkdir()
    check_output(tmp_path / "mine", overwrite=False)  # empty
    (tmp_path / "mine" / "thesis.tex").write_text("years")
    with pytest.raises(OutputError, match="was not made by this tool"):
        fill(tmp_path / "mine", "one", overwrite=True)
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years"
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is no folder"):
        fill(tmp_path / "file", "one", overwrite=True)
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    with pytest.raises(OutputError, match="is no folder"):
        fill(tmp_path / "link", "one", overwrite=True)


def test_what_somebody_puts_there_meanwhile_stays(tmp_path):
    def meanwhile():
        with whole_folder(tmp_path / "new", overwrite=True) as folder:
            write_record(folder, {})
            (tmp_path / "new").mkdir()
            (tmp_path / "new" / "thesis.tex").write_text("years")

    with pytest.raises(OutputError, match="was not made by this tool"):
        meanwhile()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["thesis.tex"]
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_a_folder_that_cannot_be_made_is_an_error_in_words(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="new cannot be written: "):
        fill(tmp_path / "file" / "new", "one")
