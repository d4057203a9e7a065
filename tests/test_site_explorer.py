"The columns of a frame that one can click, driven from Python: what is chosen, shown, changed, undone and saved."
import csv, html, re
import numpy as np, pytest
pytest.importorskip("anywidget", reason="the app's packages are not installed: pip install 'microscopygpt[app]'")
from jarvis.core.atoms import Atoms
from microscopygpt.build import supercell
from microscopygpt.crystal import monolayer
from microscopygpt.explore import Explorer
from microscopygpt.micrograph import Micrograph
from microscopygpt.noise import Noise, add_noise
from microscopygpt.site_calls import CallError, atoms_after, change_in_words, is_true, name_of, numbers_of, share_in_words
from microscopygpt.site_explorer import BY_HAND, NOT_A_SITE, SiteExplorer, SitesSection, flagged, neighbours, patch_around, ranked_options
from microscopygpt.sites import CALLS, sites
from microscopygpt.stem import simulate
from microscopygpt.widgets import WorkRow

MOS2, SIZE, PIXEL = monolayer("MoS2"), 256, .1

def with_vacancy():
    "A frame of MoS2 without the Mo atom that was nearest to its middle, and where that was in pixels."
    sheet = supercell(MOS2, 45)
    xy, elements = np.array(sheet.cart_coords)[:, :2], np.array(sheet.elements)
    middle = xy.mean(0)
    shift = SIZE*PIXEL/2 - middle
    gone = np.where(elements == "Mo", np.linalg.norm(xy - middle, axis=1), np.inf).argmin()
    kept = np.arange(len(xy)) != gone
    atoms = Atoms(lattice_mat=sheet.lattice_mat, coords=np.array(sheet.frac_coords)[kept], elements=list(elements[kept]), cartesian=False)
    image = simulate(atoms, pixel_size=PIXEL, size=SIZE, shift=tuple(shift))
    return Micrograph(add_noise(image, Noise(blur=.05, dose=3000), PIXEL, 1), PIXEL, "MoS2"), (xy[gone] + shift)/PIXEL

@pytest.fixture(scope="module")
def frame(): return with_vacancy()

@pytest.fixture(scope="module")
def found(frame): return sites(frame[0], MOS2, elements="W,Se")

@pytest.fixture
def explorer(found, tmp_path): return SiteExplorer(found, tmp_path/"out")

def near(found, place): return int(np.linalg.norm(found.xy/PIXEL - place, axis=1).argmin())

def said(part): return html.unescape(re.sub("<[^>]+>", "", part.message.value))

def lines_of(folder):
    with open(folder/"sites.csv", newline="") as file: return list(csv.DictReader(file))

# Words and atoms

@pytest.mark.parametrize("text, numbers", [("S2", (16, 16)), ("S, Se", (34, 16)), ("S Se", (34, 16)), ("SSe", (34, 16)), ("", ()), ("Mo", (42,)), ("C+O", (8, 6))])
def test_a_column_is_read_as_a_chemist_writes_it(text, numbers): assert numbers_of(text) == numbers

@pytest.mark.parametrize("text", ["Xx", "s2", "S0", "S100", "S-2", "X", "Mo/W", "vacancy", "42"])
def test_what_is_no_column_is_said(text):
    with pytest.raises(CallError, match="no column of atoms"): numbers_of(text)

def test_a_name_reads_back():
    for column in ((16, 16), (34, 16), (42,), (74, 42, 16, 16)): assert numbers_of(name_of(column)) == column
    assert name_of(()) == "nothing"

@pytest.mark.parametrize("column, call, named, atoms", [
    ((42,), "vacancy", "", ()), ((16, 16), "vacancy", "Se", ()), ((16, 16), "expected", "Se", (16, 16)), ((16, 16), "partial", "", (16,)), ((16, 16, 16), "partial", "S", (16,)),
    ((42,), "substitution", "W", (74,)), ((16, 16), "substitution", "Se", (34, 16)), ((16, 16), "substitution", "Se2", (34, 34)), ((49, 34), "substitution", "In,S", (49, 16)),
    ((42,), "antisite", "S2", (16, 16)), ((), "adatom", "Mo", (42,)), ((42,), "adatom", "S", (42, 16)), ((42,), "adatom", "Mo,S", (42, 16))])
def test_the_atoms_of_a_call(column, call, named, atoms): assert atoms_after(column, call, named) == atoms

@pytest.mark.parametrize("column, call, named", [((42,), "substitution", ""), ((49, 34), "partial", ""), ((49, 34), "substitution", "W"), ((), "adatom", "")])
def test_a_call_that_leaves_a_choice_asks(column, call, named):
    with pytest.raises(CallError, match="[Nn]ame"): atoms_after(column, call, named)

@pytest.mark.parametrize("atoms, true", [((16, 16), {"expected"}), ((), {"vacancy"}), ((16,), {"partial"}), ((34, 16), {"substitution"}), ((34,), {"substitution"}), ((42, 16), {"antisite"}), ((16, 16, 8), {"adatom"}), ((16,)*3, {"adatom"})])
def test_one_call_is_true_of_what_stands_there(atoms, true): assert {call for call in CALLS if is_true(call, (16, 16), atoms, {42, 16})} == true

def test_between_the_columns_only_an_adatom_is_true(): assert {call for call in CALLS if is_true(call, (), (42,), {42, 16})} == {"adatom"}

def test_changes_in_words():
    assert [change_in_words((16, 16), atoms) for atoms in ((16, 16), (), (16,), (34, 16), (34, 34), (16, 16, 8))] == ["", "S2 missing", "S of S2 missing", "Se for S (of 2)", "Se2 for S2 (of 2)", "O more than S2"]

def test_probabilities_in_words(): assert [share_in_words(p) for p in (.5, .994, .99995, .00001, np.nan)] == ["0.50", "0.9940", "> .9999", "< .0001", "–"]

# A call changed by hand

def test_the_vacancy_is_there(found, frame): assert found.call[near(found, frame[1])] == "vacancy"

def test_a_change_is_recorded_and_the_old_sites_stay(found, frame):
    i = near(found, frame[1])
    new = found.changed(i, "antisite", "S")
    assert (new.call[i], new.detail[i], new.occupants[i]) == ("antisite", "S for Mo, by hand", (16,)) and np.isnan(new.probability[i])
    assert found.call[i] == "vacancy" and np.isfinite(found.probability[i]) and not any(BY_HAND in str(d) for d in found.detail) and len(new.notes) == len(found.notes) + 1
    assert "it was called vacancy" in new.notes[-1] and f"({frame[1][0]:.0f}"[:3] in new.notes[-1]
    others = np.arange(len(found)) != i
    for name in ("call", "detail", "ratio", "z"): assert (getattr(new, name)[others] == getattr(found, name)[others]).all()

def test_what_is_not_a_site_goes(found, frame):
    i = near(found, frame[1])
    new = found.changed(i, NOT_A_SITE)
    assert len(new) == len(found) - 1 == len(new.occupants) == len(new.z) == len(new.expected) and np.linalg.norm(new.xy - found.xy[i], axis=1).min() > 1
    assert new.notes[-1].endswith("is not a site; it was called vacancy.")

def test_back_to_what_was_expected(found, frame):
    i = near(found, frame[1])
    new = found.changed(i, "expected")
    assert (new.call[i], new.detail[i], new.occupants[i]) == ("expected", "by hand", (42,)) and i in flagged(new)

@pytest.mark.parametrize("call, element, says", [("substitution", "S", "none of the crystal's"), ("antisite", "V", "another element of the crystal"), ("partial", "", "some atoms"), ("gone", "", "no call"), ("antisite", "", "Name the atoms"), ("adatom", "Q", "no column"), ("partial", "Mo2", "some atoms")])
def test_a_wrong_change_is_refused(found, frame, call, element, says):
    with pytest.raises(CallError, match=says): found.changed(near(found, frame[1]), call, element)

@pytest.mark.parametrize("i", [-1, 10**6])
def test_a_column_that_is_not_there(found, i):
    with pytest.raises(CallError, match="no column"): found.changed(i, "vacancy")

# What is shown

def test_the_browser_gets_every_column_and_the_calls(explorer, found):
    shown = explorer.map
    assert len(shown.xy) == 8*len(found) and len(shown.call) == len(found) == len(shown.name) and shown.image[1:4] == b"PNG" and shown.shape == [SIZE, SIZE]
    assert [shown.calls[k] for k in shown.call] == list(found.call) and [r["site"] for r in shown.rows] == list(np.flatnonzero(found.call != "expected"))
    assert np.allclose(np.frombuffer(shown.xy, "<f4").reshape(-1, 2)*PIXEL, found.xy, atol=1e-3)
    assert {shown.names[k] for k in shown.name} == {"Mo", "S2"} and f"{len(found)} columns" in shown.label and "1 vacancy" in shown.label

def test_nothing_is_chosen_at_first(explorer): assert explorer.chosen_part.layout.display == "none" and "Choose a column" in explorer.part["title"].value

def test_any_column_can_be_looked_at(explorer, found):
    for i in (0, len(found)//2, len(found) - 1):
        explorer.map.chosen = i
        assert said(explorer) == "" and explorer.chosen_part.layout.display == "" and explorer.part["call"].value == found.call[i]
        assert f"{found.ratio[i]:.3f}".replace("-", "−") in explorer.part["facts"].value
        assert explorer.part["patches"].value.count("<svg") == 3 and f"z = {found.z[i]:.1f}".replace("-", "−") in explorer.part["facts"].value

def test_the_patch_lies_around_the_column(found, frame):
    i = near(found, frame[1])
    around = patch_around(found, i)
    x, y = ((found.xy[i] - around.corner)/around.step).astype(int)
    assert around.image.shape == around.model.shape and around.image[y, x] < np.percentile(around.image, 30)
    bright = next(j for j, d in neighbours(found, i) if found.columns[found.column[j]].numbers == (42,))
    x, y = ((found.xy[bright] - around.corner)/around.step).astype(int)
    assert around.image[y, x] > np.percentile(around.image, 85) and around.model[y, x] > np.percentile(around.model, 85)

def test_neighbours_are_those_of_the_crystal(found, frame):
    ring = neighbours(found, near(found, frame[1]))
    assert [found.expected[j] for j, _ in ring[:3]] == ["S2"]*3 and ring[0][1] == pytest.approx(3.18/3**.5, abs=.15) and [d for _, d in ring] == sorted(d for _, d in ring)

def test_possibilities_hold_the_call_of_every_column(found):
    for i in range(len(found)): assert found.occupants[i] in [tuple(o.elements) for o, _ in ranked_options(found, i)]

def test_atoms_are_suggested_where_a_call_leaves_a_choice(explorer, found, frame):
    explorer.map.chosen, part = near(found, frame[1]), explorer.part
    assert part["element"].disabled and part["element"].value == ""
    part["call"].value = "substitution"
    assert not part["element"].disabled and set(part["element"].options) >= {"W", "Se"} and part["element"].value in ("W", "Se")

# Changing, undoing, saving

def test_change_undo_save_and_the_file(explorer, found, frame, tmp_path):
    explorer.map.chosen, part = near(found, frame[1]), explorer.part
    assert part["undo"].disabled
    part["call"].value, part["element"].value = "antisite", "S"
    part["change"].click()
    assert said(explorer) == "" and not part["undo"].disabled and "not saved" in part["status"].value and [r["call"] for r in explorer.map.rows if r["by_hand"]] == ["antisite"]
    part["save"].click()
    assert "Saved in" in part["status"].value and 'download="sites.csv"' in part["links"].value
    changed = [line for line in lines_of(tmp_path/"out") if BY_HAND in line["detail"]]
    assert [(line["expected"], line["call"], line["detail"], line["probability"]) for line in changed] == [("Mo", "antisite", "S for Mo, by hand", "")]
    assert np.hypot(float(changed[0]["x_px"]) - frame[1][0], float(changed[0]["y_px"]) - frame[1][1]) < 5
    part["undo"].click()
    assert part["undo"].disabled and "not saved" in part["status"].value and explorer.sites is found and explorer.map.chosen == near(found, frame[1])

def test_what_is_not_a_site_is_undone(explorer, found, frame):
    i = near(found, frame[1])
    explorer.map.chosen, explorer.part["call"].value = i, NOT_A_SITE
    explorer.part["change"].click()
    assert len(explorer.sites) == len(found) - 1 == len(explorer.map.call) and explorer.map.chosen == -1 and explorer.chosen_part.layout.display == "none"
    explorer.part["undo"].click()
    assert len(explorer.map.call) == len(found) and explorer.map.chosen == i and explorer.part["call"].value == "vacancy"

def test_a_wrong_change_is_a_message_and_loses_nothing(explorer, found, frame):
    explorer.map.chosen, part = near(found, frame[1]), explorer.part
    part["call"].value, part["element"].value = "substitution", "Qq"
    part["change"].click()
    assert "no column of atoms" in said(explorer) and explorer.sites is found and not explorer.history
    part["element"].value = "W"; part["change"].click()
    assert said(explorer) == "" and explorer.sites.call[near(found, frame[1])] == "substitution"

def test_an_unusable_folder_is_a_message(explorer, tmp_path):
    (tmp_path/"file").write_text("")
    for folder in ("", str(tmp_path/"file")):
        explorer.part["folder"].value = folder; explorer.part["save"].click()
        assert ("Cannot write" if folder else "Name a folder") in said(explorer) and "Saved in" not in explorer.part["status"].value and not explorer.part["links"].value

def test_an_adatom_is_an_adatom_or_nothing(found):
    from dataclasses import replace
    column, call = found.column.copy(), found.call.copy()
    column[3], call[3] = -1, "adatom"
    explorer = SiteExplorer(replace(found, column=column, call=call, occupants=[*found.occupants[:3], (16,), *found.occupants[4:]]))
    explorer.map.chosen = 3
    assert explorer.part["call"].options == ("adatom", NOT_A_SITE) and said(explorer) == "" and "Between the columns" in explorer.part["facts"].value
    assert explorer.map.names[explorer.map.name[3]] == "between the columns"
    explorer.part["element"].value = "Mo"; explorer.part["change"].click()
    assert explorer.sites.occupants[3] == (42,) and explorer.sites.detail[3] == "Mo, by hand"
    with pytest.raises(CallError, match="not a site"): explorer.sites.changed(3, "vacancy")

# In the app

def test_work_runs_reports_and_is_cancelled():
    got, row = [], WorkRow("Go", lambda: row.run(work, got.append))
    def work(progress):
        progress(.5, "half <way>")
        assert row.cancel_button.disabled is False and row.start_button.disabled and row.doing.value == "half &lt;way&gt;"
        return 7
    row.start_button.click()
    assert got == [7] and row.cancel_button.disabled and not row.start_button.disabled
    def work(progress):
        row.cancel_button.click()
        progress(.5, "half")
        raise AssertionError("the work went on")
    row.start_button.click()
    assert got == [7] and row.doing.value == "Cancelled." and row.message.value == ""
    def work(progress): raise KeyError("oops")
    row.start_button.click()
    assert "should not" in said(row) and isinstance(row.error, KeyError) and not row.start_button.disabled

def test_the_app_finds_every_atom_of_its_frame(frame):
    explorer = Explorer(frame[0], "MoS2")
    explorer._question["by_model"].value, explorer._question["heights"].value = False, "none"
    explorer.ask()
    section = explorer.atoms
    section.elements.value = "Qq"; section.work.start_button.click()
    assert "not a list of elements" in said(section.work) and section.explorer is None
    section.elements.value = ""; section.work.start_button.click()
    assert said(section.work) == "" and section.explorer.page in section.found.children
    i = near(section.explorer.sites, frame[1])
    assert section.explorer.sites.call[i] == "vacancy" and section.explorer.sites.micrograph.pixel_size == pytest.approx(PIXEL, rel=.02)
    explorer.open("graphene")
    assert section.explorer is None and section.found.children == ()

def test_a_search_that_is_cancelled_shows_nothing(found, monkeypatch):
    section = SitesSection(lambda: "a prediction")
    def slow(prediction, elements, progress):
        section.work.cancel_button.click()
        progress(.1, "fitting")
        return found
    monkeypatch.setattr("microscopygpt.site_explorer.sites", slow)
    section.work.start_button.click()
    assert section.explorer is None and "Cancelled" in section.work.doing.value
